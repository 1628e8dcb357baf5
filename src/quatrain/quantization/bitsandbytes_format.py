"""bitsandbytes' form of a 4-bit tensor on disk, which is also ours (checked against 0.50.2).

A weight ``X.weight`` of n elements becomes these tensors, those marked * only with double quantization:

- ``X.weight`` uint8 [⌈n/2⌉, 1]: the codes.
- ``X.weight.absmax`` float32 [blocks], or uint8 [blocks] with double quantization: the scales.
- ``X.weight.quant_map`` float32 [16]: the codebook.
- ``X.weight.nested_absmax``* float32 [⌈blocks/256⌉]: the scales of the scales.
- ``X.weight.nested_quant_map``* float32 [256]: the 8-bit dynamic map.
- ``X.weight.quant_state.bitsandbytes__T`` uint8: JSON with the keys ``quant_type`` (which is T), ``blocksize``,
  ``dtype``, ``shape``, ``nested_blocksize``*, ``nested_dtype``*, ``nested_offset``*, in this order.

INT4 isn't known there; it is stored in the same fields with T = ``int4``, which only Quatrain reads.

Files of others are untrusted: nothing reaches a kernel before every size, type and value has been checked here.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quatrain.errors import QuantizationError
from quatrain.ops.checks import BLOCK_SIZES, check_bytes, check_scales
from quatrain.ops.codebooks import QUANT_TYPES, codebook, dynamic_map
from quatrain.ops.dequantize_4bit import NESTED_BLOCK_SIZE

from .tensor import QuantizedTensor

_STATE = "quant_state.bitsandbytes__"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LONGEST_STATE = 4096
"""Bytes of JSON that are read at most; a real one has about 200."""


def to_bitsandbytes(weight: QuantizedTensor, name: str) -> dict[str, Tensor]:
    """The tensors that ``weight`` is stored as, under ``name`` ("….weight") and names that begin with it."""
    state: dict[str, Any] = {
        "quant_type": weight.quant_type,
        "blocksize": weight.block_size,
        "dtype": str(weight.dtype).removeprefix("torch."),
        "shape": list(weight.shape),
    }
    tensors = {
        name: weight.codes.view(-1, 1),
        f"{name}.absmax": weight.scales,
        f"{name}.quant_map": codebook(weight.quant_type).clone(),
    }
    if weight.nested_scales is not None and weight.offset is not None:
        state |= {
            "nested_blocksize": NESTED_BLOCK_SIZE,
            "nested_dtype": "float32",
            "nested_offset": weight.offset.item(),
        }
        tensors[f"{name}.nested_absmax"] = weight.nested_scales
        tensors[f"{name}.nested_quant_map"] = dynamic_map().clone()
    text = json.dumps(state).encode()
    tensors[f"{name}.{_STATE}{weight.quant_type}"] = torch.tensor(list(text), dtype=torch.uint8)
    return tensors


def from_bitsandbytes(tensors: Mapping[str, Tensor], name: str, *, check_finite: bool = True) -> QuantizedTensor:
    """Read the weight ``name`` from ``tensors`` (a checkpoint, or part of one); its tensors are views where possible.

    Raises QuantizationError if a field is missing or of the wrong type, if sizes contradict each other, if a codebook
    isn't the one that its name promises, or if a scale isn't finite. Seeing the last waits for the device that the
    scales are on; with ``check_finite=False`` it is left to :func:`quatrain.quantization.check_finite_weights`. What
    :func:`is_description` names is read value by value, so it belongs on the CPU.
    """
    state = _read_state(tensors, name)
    numel = math.prod(state["shape"])
    blocks = -(-numel // state["blocksize"])
    # Packed codes may be declared as wider numbers (``bnb_4bit_quant_storage``); the bytes are the same.
    codes = _field(tensors, name).contiguous().view(-1).view(torch.uint8)
    check_bytes(name, codes, (numel + 1) // 2)
    _check_table(tensors, f"{name}.quant_map", codebook(state["quant_type"]))

    scales = _field(tensors, f"{name}.absmax").contiguous().view(-1)
    nested_scales = offset = None
    if "nested_offset" in state:
        check_bytes(f"{name}.absmax", scales, blocks)
        nested_scales = _field(tensors, f"{name}.nested_absmax").contiguous().view(-1)
        check_scales(f"{name}.nested_absmax", nested_scales, -(-blocks // NESTED_BLOCK_SIZE))
        if check_finite:
            _check_finite(f"{name}.nested_absmax", nested_scales)
        _check_table(tensors, f"{name}.nested_quant_map", dynamic_map())
        offset = torch.full((), state["nested_offset"], dtype=torch.float32, device=codes.device)
    else:
        check_scales(f"{name}.absmax", scales, blocks)
        if check_finite:
            _check_finite(f"{name}.absmax", scales)
    return QuantizedTensor(
        codes=codes,
        scales=scales,
        nested_scales=nested_scales,
        offset=offset,
        shape=torch.Size(state["shape"]),
        dtype=_DTYPES[state["dtype"]],
        quant_type=state["quant_type"],
        block_size=state["blocksize"],
    )


def stored_names(tensors: Mapping[str, Any], name: str) -> list[str]:
    """The names in ``tensors`` that belong to the 4-bit weight ``name``; empty if it isn't stored in four bits."""
    if not any(f"{name}.{_STATE}{quant_type}" in tensors for quant_type in QUANT_TYPES):
        return []
    fields = ["absmax", "quant_map", "nested_absmax", "nested_quant_map", *(_STATE + t for t in QUANT_TYPES)]
    return [key for key in (name, *(f"{name}.{field}" for field in fields)) if key in tensors]


def is_description(name: str) -> bool:
    """True for a stored tensor that says what a 4-bit weight's bytes mean: a codebook, a map, the JSON field."""
    return name.rpartition(".")[2].endswith("quant_map") or f".{_STATE}" in name


def _field(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise QuantizationError(
            f"A 4-bit weight needs the tensor {name!r}, and it is missing: an incomplete checkpoint."
        )
    return tensors[name]


def _check_finite(name: str, scales: Tensor) -> None:
    if not scales.isfinite().all():
        raise QuantizationError(f"{name!r} must hold finite scales, and doesn't. The checkpoint is damaged.")


def _check_table(tensors: Mapping[str, Tensor], name: str, expected: Tensor) -> None:
    """Up to float32 rounding: another table would need another kernel, and silently decode to other weights."""
    table = _field(tensors, name)
    same = table.dtype == torch.float32 and table.shape == expected.shape
    if not same or not torch.allclose(table.cpu(), expected, rtol=1e-6, atol=0.0):
        raise QuantizationError(
            f"{name!r} must be the standard table of {len(expected)} float32 values, and it isn't. "
            "The checkpoint was made with a codebook that Quatrain doesn't know; quantize the 16-bit model instead."
        )


def _read_state(tensors: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """The checked content of the JSON field."""
    found = [t for t in QUANT_TYPES if f"{name}.{_STATE}{t}" in tensors]
    if len(found) != 1:
        raise QuantizationError(f"{name!r} needs exactly one {_STATE}<type> field, got {found or 'none'}.")
    key = f"{name}.{_STATE}{found[0]}"
    packed = tensors[key]
    if packed.dtype != torch.uint8 or packed.dim() != 1 or packed.numel() > _LONGEST_STATE:
        raise QuantizationError(f"{key!r} must be a short uint8 vector, got {tuple(packed.shape)} of {packed.dtype}.")
    try:
        state = json.loads(bytes(packed.tolist()))
    except (ValueError, RecursionError) as error:
        raise QuantizationError(f"{key!r} must hold JSON: {error}. The checkpoint is damaged.") from error
    rule = _broken_rule(state, found[0])
    if rule:
        raise QuantizationError(
            f"{key!r} must hold {rule}, got {state!r}. The checkpoint is damaged or of another kind."
        )
    return state


def _broken_rule(state: Any, quant_type: str) -> str | None:
    """What the JSON must hold and doesn't, or None."""

    def is_int(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    if not isinstance(state, dict):
        return "an object"
    shape = state.get("shape")
    rules = {
        f"quant_type {quant_type!r}, as its name says": state.get("quant_type") == quant_type,
        f"a blocksize of {BLOCK_SIZES}": is_int(state.get("blocksize")) and state["blocksize"] in BLOCK_SIZES,
        f"a dtype of {', '.join(_DTYPES)}": isinstance(state.get("dtype"), str) and state["dtype"] in _DTYPES,
        "a shape of positive sizes": isinstance(shape, list) and shape and all(is_int(s) and s > 0 for s in shape),
    }
    if any(key.startswith("nested_") for key in state):
        offset = state.get("nested_offset")
        rules |= {
            f"nested_blocksize {NESTED_BLOCK_SIZE}": state.get("nested_blocksize") == NESTED_BLOCK_SIZE,
            "nested_dtype 'float32'": state.get("nested_dtype") == "float32",
            "a finite nested_offset": isinstance(offset, float) and abs(offset) <= torch.finfo(torch.float32).max,
        }
    return next((rule for rule, holds in rules.items() if not holds), None)


def quantization_config(
    *, quant_type: str, double_quant: bool, compute_dtype: torch.dtype, skip_modules: list[str] | None = None
) -> dict[str, Any]:
    """The ``quantization_config`` of a ``config.json`` whose weights are in this form.

    ``skip_modules`` names the modules whose weights stayed 16-bit.
    """
    return {
        "quant_method": "bitsandbytes",
        "_load_in_4bit": True,
        "_load_in_8bit": False,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_compute_dtype": str(compute_dtype).removeprefix("torch."),
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": double_quant,
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_threshold": 6.0,
        "llm_int8_skip_modules": skip_modules,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
    }
