"""A GGUF file written tensor by tensor, and read back.

The package `gguf` writes the header and encodes; it would hold all tensors in memory, so each is encoded, written and
let go here. GGUF wants the table of tensors before their bytes, which sizes alone can fill.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from torch import Tensor

from quatrain.errors import AdapterError, OutputError
from quatrain.models.gguf_header import read_header

_LARGEST_F16 = float(np.finfo(np.float16).max)


class Planned(NamedTuple):
    """A tensor to write."""

    shape: tuple[int, ...]
    """As PyTorch counts: rows first."""
    kind: GGMLQuantizationType
    read: Callable[[], Tensor]
    """Gives its values, float32 on the CPU."""


def write_tensors(
    writer: GGUFWriter, path: Path, tensors: Mapping[str, Planned], progress: Callable[[int, int], object]
) -> None:
    """Write a file whose metadata `writer` has already been told, and compare its bytes with what was meant.

    Raises:
        AdapterError: a value doesn't fit into F16.
        OutputError: the file isn't on the disk as it was written.
        OSError: the disk can't.
    """
    for name, planned in tensors.items():
        elements, width = GGML_QUANT_SIZES[planned.kind]
        nbytes = math.prod(planned.shape) // elements * width
        writer.add_tensor_info(name, planned.shape, np.dtype(np.float32), nbytes, raw_dtype=planned.kind)
    sums = {}
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, encoded in _encoded(tensors):
            writer.write_tensor_data(encoded)
            sums[name] = hashlib.sha256(encoded.data).digest()
            progress(len(sums), len(tensors))
    finally:
        writer.close()
    _compare(path, sums)


def _encoded(tensors: Mapping[str, Planned]) -> Iterator[tuple[str, np.ndarray]]:
    for name, planned in tensors.items():
        values = planned.read().contiguous().numpy()
        assert values.shape == planned.shape
        if planned.kind == GGMLQuantizationType.F16 and np.abs(values).max() > _LARGEST_F16:
            raise AdapterError(
                f"{name} holds numbers that F16 has no room for (beyond {_LARGEST_F16:.0f}); write it in bf16"
            )
        yield name, np.ascontiguousarray(quantize(values, planned.kind))


def _compare(path: Path, sums: Mapping[str, bytes]) -> None:
    try:
        found = read_header(path).tensors
    except ValueError as error:
        raise OutputError(f"{path.name} isn't on the disk as it was written ({error}); is the disk full?") from error
    if {name: hashlib.sha256(np.ascontiguousarray(t.data).data).digest() for name, t in found.items()} != sums:
        raise OutputError(f"{path.name} isn't on the disk as it was written; is the disk full?")
