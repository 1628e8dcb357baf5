"""The header of a GGUF file: its metadata, and where each tensor lies.

The package `gguf` has a reader too. It makes several numpy views for every string of the vocabulary, which takes
seconds where 0.1 s is enough: nothing here needs the vocabulary, so arrays of strings are only stepped over.

    "GGUF" version tensors keys │ key type value … │ name dimensions type offset … │ padding │ tensors' bytes

Files of others are untrusted: every length is checked against the file before it is used. Source: the GGUF
specification (ggml, docs/gguf.md), versions 2 and 3, little-endian.
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

_NUMBERS = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
"""What the specification's numbers for types of values mean, those of fixed size."""
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4


class GgufTensor(NamedTuple):
    """A stored tensor."""

    shape: tuple[int, ...]
    """As PyTorch counts: rows first."""
    kind: GGMLQuantizationType
    data: np.ndarray
    """uint8 [..., bytes of a row], mapped."""


class GgufHeader(NamedTuple):
    """What a file says about itself."""

    fields: dict[str, Any]
    """Metadata by key: numbers, strings, arrays of numbers. Arrays of strings are left out."""
    tensors: dict[str, GgufTensor]
    """By name, in the file's order."""


def read_header(path: Path) -> GgufHeader:
    """Reads the header and maps the tensors.

    Raises:
        ValueError: Not a GGUF file of a known version, or not a whole one.
        OSError: The file can't be read.
    """
    with open(path, "rb") as file:
        # The mapping outlives the file object, for as long as an array of tensor bytes does.
        cursor = _Cursor(np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8))
    if bytes(cursor.take(4)) != b"GGUF":
        raise ValueError("it doesn't begin with GGUF")
    version = cursor.number("<I")
    if version not in (2, 3):
        raise ValueError(f"its version is {version}, and 2 and 3 are known")
    tensor_count, field_count = cursor.number("<Q"), cursor.number("<Q")
    fields = {}
    for _ in range(field_count):
        key, value = cursor.string(), cursor.value(cursor.number("<I"))
        if value is not None:
            fields[key] = value
    entries = [_read_entry(cursor) for _ in range(tensor_count)]
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"its tensors are aligned to {alignment}")
    start = -(-cursor.position // alignment) * alignment
    tensors, taken = {}, start
    for name, offset, shape, kind in sorted(entries, key=lambda entry: entry.offset):
        if name in tensors or start + offset < taken:
            raise ValueError(f"{name} is in it twice, or shares bytes with another tensor")
        tensors[name] = _map(cursor, start + offset, shape, kind)
        taken = cursor.position
    return GgufHeader(fields, {entry.name: tensors[entry.name] for entry in entries})


class _Cursor:
    """A position in a file's bytes that refuses to pass their end."""

    def __init__(self, content: np.ndarray):
        self._content = content
        self._bytes = content.data
        self.position = 0

    def take(self, count: int) -> np.ndarray:
        """The next bytes."""
        end = self.position + count
        if end > len(self._content):
            raise ValueError(f"it ends at byte {len(self._content)}, before byte {end}")
        taken = self._content[self.position : end]
        self.position = end
        return taken

    def number(self, form: str) -> int:
        """The next number, of a format of `struct`."""
        try:
            (value,) = struct.unpack_from(form, self._bytes, self.position)
        except (struct.error, OverflowError) as error:
            raise ValueError(f"it ends at byte {len(self._content)}, within its header") from error
        self.position += struct.calcsize(form)
        return value

    def string(self) -> str:
        return bytes(self.take(self.number("<Q"))).decode("utf-8")

    def value(self, kind: int) -> Any:
        """The next value; None for an array of strings, which is stepped over."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self._numbers(kind, 1)[0].item()
        kind, count = self.number("<I"), self.number("<Q")
        if kind != _STRING:
            return self._numbers(kind, count)
        for _ in range(count):
            length = self.number("<Q")
            self.position += length
        return None

    def _numbers(self, kind: int, count: int) -> np.ndarray:
        if kind not in _NUMBERS:
            raise ValueError(f"it has a value of type {kind}, which isn't known here")
        return self.take(count * _NUMBERS[kind].itemsize).view(_NUMBERS[kind])


class _Entry(NamedTuple):
    """What the header says of a tensor."""

    name: str
    offset: int
    """Among the tensors' bytes."""
    shape: tuple[int, ...]
    kind: GGMLQuantizationType


def _read_entry(cursor: _Cursor) -> _Entry:
    name, dimensions = cursor.string(), cursor.number("<I")
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise ValueError(f"{name} has {dimensions} dimensions, and 1 to {_MOST_DIMENSIONS} are possible")
    shape = tuple(reversed([cursor.number("<Q") for _ in range(dimensions)]))
    if 0 in shape:
        raise ValueError(f"{name} has the shape {shape}, which holds nothing")
    kind = GGMLQuantizationType(cursor.number("<I"))
    return _Entry(name, cursor.number("<Q"), shape, kind)


def _map(cursor: _Cursor, start: int, shape: tuple[int, ...], kind: GGMLQuantizationType) -> GgufTensor:
    elements, width = GGML_QUANT_SIZES[kind]
    if shape[-1] % elements:
        raise ValueError(f"a row of {shape[-1]} isn't made of whole blocks of {elements}")
    row = shape[-1] // elements * width
    cursor.position = start
    return GgufTensor(shape, kind, cursor.take(math.prod(shape[:-1]) * row).reshape(*shape[:-1], row))
