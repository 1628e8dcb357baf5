"""Checkpoints in four bits: states that contradict their tensors."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from quatrain import load_model, save_quantized
from quatrain.errors import ModelError, QuantizationError
from tests.faults.case import Call, fault, recovers
from tests.faults.place import Place

Tensors = dict[str, torch.Tensor]

WEIGHT = "model.layers.0.self_attn.q_proj.weight"
STATE = f"{WEIGHT}.quant_state.bitsandbytes__nf4"


def _loading(at: Place, spoil: Callable[[Tensors], Any], *, double_quant: bool = True) -> Call:
    """A load of the small Llama in four bits, with tensors spoiled."""
    folder = at.path / "nf4"
    model, tokenizer = load_model(at.originals.model, double_quant=double_quant, device="cpu", compute_dtype="float32")
    save_quantized(model, tokenizer, folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    spoil(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return lambda: load_model(folder, device="cpu", compute_dtype="float32")


def _state(tensors: Tensors, **changes: Any) -> None:
    state = json.loads(bytes(tensors[STATE].tolist())) | changes
    _write(tensors, json.dumps(state))


def _write(tensors: Tensors, text: str) -> None:
    tensors[STATE] = torch.tensor(list(text.encode()), dtype=torch.uint8)


def _change(tensors: Tensors, part: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors[f"{WEIGHT}{part}"] = change(tensors[f"{WEIGHT}{part}"]).contiguous()


recovers("a checkpoint in four bits that is whole", "loaded as it is")(partial(_loading, spoil=lambda tensors: None))

for _words, _says, _changes in (
    ("a block size that doesn't exist", "must hold a blocksize of", {"blocksize": 63}),
    ("a block size that is a text", "must hold a blocksize of", {"blocksize": "64"}),
    ("a block size of another power of two", "They don't belong to this shape", {"blocksize": 4096}),
    ("a shape of 2^80 elements", "They don't belong to this shape", {"shape": [2**40, 2**40]}),
    ("a shape with a negative size", "must hold a shape of positive sizes", {"shape": [-64, -64]}),
    ("a shape that is a number", "must hold a shape of positive sizes", {"shape": 4096}),
    ("an unknown dtype", "must hold a dtype of", {"dtype": "complex64"}),
    ("codes of another name", "must hold quant_type 'nf4', as its name says", {"quant_type": "fp4"}),
    ("another size of nested blocks", "must hold nested_blocksize 256", {"nested_blocksize": 128}),
    ("an infinite offset", "must hold a finite nested_offset", {"nested_offset": float("inf")}),
    ("an offset that is a list", "must hold a finite nested_offset", {"nested_offset": []}),
):
    fault(f"a 4-bit state with {_words}", QuantizationError, _says)(
        partial(_loading, spoil=partial(_state, **_changes))
    )

for _words, _says, _text in (
    ("that isn't JSON", "must hold JSON", "{"),
    ("that is a list", "must hold an object", "[]"),
    ("of a megabyte", "must be a short uint8 vector", " " * 2**20),
    ("nested a thousand deep", "must hold JSON", "[" * 3000),
):
    fault(f"a 4-bit state {_words}", QuantizationError, _says)(partial(_loading, spoil=partial(_write, text=_text)))

for _words, _says, _part, _spoil in (
    ("codes that are cut", "They don't belong to this shape", "", lambda x: x[:-8]),
    ("a codebook of its own", "must be the standard table", ".quant_map", lambda x: x.flip(0)),
    ("a codebook of another length", "must be the standard table", ".quant_map", lambda x: x[:8]),
    ("too few scales", "They don't belong to this shape", ".absmax", lambda x: x[:-1]),
    ("scales of scales that aren't finite", "finite", ".nested_absmax", lambda x: x * float("nan")),
    ("scales of scales in half precision", "nested_absmax must be", ".nested_absmax", lambda x: x.half()),
    ("too many scales of scales", "nested_absmax must be", ".nested_absmax", lambda x: torch.cat([x, x])),
    ("a map of scales of its own", "must be the standard table", ".nested_quant_map", lambda x: x * 2),
):
    fault(f"a 4-bit weight with {_words}", QuantizationError, _says)(
        partial(_loading, spoil=partial(_change, part=_part, change=_spoil))
    )

fault("a 4-bit weight with scales that aren't finite", QuantizationError, "finite")(
    partial(
        _loading,
        spoil=partial(_change, part=".absmax", change=lambda x: x * float("inf")),
        double_quant=False,
    )
)
fault("a 4-bit weight without its scales", QuantizationError, "and it is missing")(
    partial(_loading, spoil=lambda tensors: tensors.pop(f"{WEIGHT}.absmax"))
)
fault("4-bit codes without a state", ModelError, "Every stored tensor must have a place")(
    partial(_loading, spoil=lambda tensors: tensors.pop(STATE))
)
fault("a 4-bit weight of the wrong shape for its model", ModelError, "Its configuration belongs to another model")(
    partial(_loading, spoil=lambda tensors: _state(tensors, shape=[32, 128]))
)
