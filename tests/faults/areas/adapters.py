"""Adapters of others: configuration and tensors that don't fit the base, or aren't what they say."""

import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from quatrain import load_adapter, load_model
from quatrain.adapters.starts.start import STARTS
from quatrain.errors import AdapterError
from tests.faults.case import Call, fault
from tests.faults.place import Place

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FOREVER = r"(?:\w|[a-z.]|[a-z.]{2}|..)*[0-9]p(?<=jp)"
Tensors = dict[str, torch.Tensor]


def _loading(at: Place, folder: Path) -> Call:
    """Loads the adapter onto the small Llama, which must come out of a refusal as it was."""
    model, _ = load_model(at.originals.model, device="cpu", compute_dtype="float32")
    before = str(model)

    def call() -> None:
        try:
            load_adapter(model, folder)
        finally:
            assert str(model) == before

    return call


def _config(at: Place, edit: Callable[[dict[str, Any]], Any]) -> Call:
    folder = at.adapter()
    at.edit_json(folder / CONFIG, edit)
    return _loading(at, folder)


def _set(at: Place, **changes: Any) -> Call:
    at.patch.setattr("quatrain.adapters.expressions.PATIENCE_S", 0.1)
    return _config(at, lambda config: config.update(changes))


for _words, _says, _changes in (
    ("of another kind", "loads adapters of `peft_type` LORA, found IA3", {"peft_type": "IA3"}),
    ("whose kind is a list", "loads adapters of `peft_type` LORA", {"peft_type": ["LORA"]}),
    ("with an alpha that isn't a number", "`lora_alpha` must be a finite number", {"lora_alpha": float("nan")}),
    ("with an infinite alpha", "`lora_alpha` must be a finite number", {"lora_alpha": float("inf")}),
    ("with an alpha of 400 digits", "`lora_alpha` must be a finite number", {"lora_alpha": 10**400}),
    ("with an alpha that is a text", "`lora_alpha` must be a finite number", {"lora_alpha": "16"}),
    ("with a dropout of 2", "`lora_dropout` must be in [0, 1)", {"lora_dropout": 2}),
    ("with a negative dropout", "`lora_dropout` must be in [0, 1)", {"lora_dropout": -0.5}),
    ("with another rank than its tensors", "by its tensors and 64 by its configuration", {"r": 64}),
    ("with a rank that is a text", "`r` must be a finite number", {"r": "2"}),
    ("with trained biases", "uses what Quatrain doesn't compute", {"bias": "all"}),
    ("with a feature of a later release", "uses what Quatrain doesn't compute", {"use_warp": True}),
    ("that starts from parts of the base", "must fit the base as published", {"init_lora_weights": "pissa"}),
    ("whose expression takes forever", "takes forever", {"alpha_pattern": {FOREVER: 8}}),
    ("whose selection takes forever", "takes forever", {"target_modules": FOREVER}),
    ("with an expression that is none", "no regular expression", {"alpha_pattern": {"(": 8}}),
    ("with patterns that are a list", "must map names to numbers", {"alpha_pattern": [1]}),
    ("that selects nothing of what it holds", "doesn't select", {"target_modules": ["no_proj"]}),
    ("that selects numbers", "must be names or one expression", {"target_modules": [1, 2]}),
    ("with blocks that are texts", "must be block indices", {"layers_to_transform": ["x"]}),
    ("whose base is a list", "`base_model_name_or_path` must be a text", {"base_model_name_or_path": ["x"]}),
):
    fault(f"an adapter {_words}", AdapterError, _says)(partial(_set, **_changes))


def _config_text(at: Place, text: bytes) -> Call:
    folder = at.adapter()
    (folder / CONFIG).write_bytes(text)
    return _loading(at, folder)


for _words, _says, _text in (
    ("isn't JSON", "must be a JSON file", b"{"),
    ("is empty", "must be a JSON file", b""),
    ("isn't UTF-8", "must be a JSON file", b'{"peft_type": "\xff"}'),
    ("is nested a hundred thousand deep", "nested too deeply", b"[" * 100_000),
    ("is a list", "loads adapters of `peft_type` LORA", b"[]"),
):
    fault(f"an adapter whose configuration {_words}", AdapterError, _says)(partial(_config_text, text=_text))


@fault("an adapter whose configuration has ten gigabytes", AdapterError, "it has more than")
def _(at: Place) -> Call:
    folder = at.adapter()
    os.truncate(folder / CONFIG, 10 << 30)
    return _loading(at, folder)


@fault("a folder that is no adapter", AdapterError, "has no adapter_config.json")
def _(at: Place) -> Call:
    folder = at.path / "empty"
    folder.mkdir()
    return _loading(at, folder)


@fault("an adapter that is a pickle", AdapterError, "adapters stored as pickles (.bin) are not loaded")
def _(at: Place) -> Call:
    folder = at.adapter()
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    return _loading(at, folder)


def _linked(at: Place, name: str) -> Call:
    folder = at.adapter()
    (folder / name).rename(at.path / "elsewhere")
    (folder / name).symlink_to(at.path / "elsewhere")
    return _loading(at, folder)


for _words, _name in {"configuration": CONFIG, "file of tensors": WEIGHTS}.items():
    fault(f"an adapter whose {_words} is a link out of its folder", AdapterError, "outside of its folder")(
        partial(_linked, name=_name)
    )


def _file(at: Place, spoil: Callable[[bytes], bytes]) -> Call:
    folder = at.adapter()
    (folder / WEIGHTS).write_bytes(spoil((folder / WEIGHTS).read_bytes()))
    return _loading(at, folder)


for _words, _spoil in {
    "is cut in half": lambda content: content[: len(content) // 2],
    "is empty": lambda content: b"",
    "has a header of 2^64 - 1 bytes": lambda content: b"\xff" * 8 + content[8:],
    "has a header longer than itself": lambda content: struct.pack("<Q", len(content)) + content[8:],
}.items():
    fault(f"an adapter whose file of tensors {_words}", AdapterError, "is damaged")(partial(_file, spoil=_spoil))


def _tensors(at: Place, edit: Callable[[Tensors], Any]) -> Call:
    folder = at.adapter()
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)
    return _loading(at, folder)


def _first(tensors: Tensors, half: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    name = min(name for name in tensors if half in name)
    tensors[name] = change(tensors[name]).contiguous()


for _words, _says, _half, _change in (
    ("NaN", "values that aren't finite", "lora_B", lambda x: x.fill_(float("nan"))),
    ("numbers that only float64 holds", "values that aren't finite", "lora_A", lambda x: x.double().fill_(1e300)),
    ("whole numbers", "must hold floating-point numbers", "lora_A", lambda x: x.long()),
    ("halves of two ranks", "don't fit each other's shapes", "lora_A", lambda x: x[:1]),
    ("a vector in place of a matrix", "don't fit each other's shapes", "lora_A", lambda x: x.flatten()),
    ("matrices of another base's width", "Was the adapter trained on another base", "lora_A", lambda x: x[:, :-1]),
):
    fault(f"an adapter that holds {_words}", AdapterError, _says)(
        partial(_tensors, edit=partial(_first, half=_half, change=_change))
    )


def _drop(tensors: Tensors, part: str) -> None:
    for name in [name for name in tensors if part in name]:
        del tensors[name]


def _no_rank(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        tensors[name] = (tensor[:0] if "lora_A" in name else tensor[:, :0]).contiguous()


for _words, _says, _edit in (
    ("without one of two halves", "come in pairs", partial(_drop, part="lora_B")),
    ("without a tensor", "the file is empty", partial(_drop, part="")),
    ("of rank zero", "don't fit each other's shapes", _no_rank),
    ("with a tensor of a foreign name", "no LoRA tensor has the name", lambda t: t.update({"x": torch.ones(2)})),
    ("that lacks blocks", "holds no tensors for", partial(_drop, part="layers.1.")),
):
    fault(f"an adapter {_words}", AdapterError, _says)(partial(_tensors, edit=_edit))


def _start(
    at: Place, edit: Callable[[Tensors], Any], kind: str = "pissa", spoil: Any = lambda content: content
) -> Call:
    """The second half of each rank taken for what the base was quantized without."""
    folder = at.adapter()
    halves = load_file(folder / WEIGHTS)
    tensors: Tensors = {}
    for name in [name.removesuffix("lora_A.weight") for name in halves if name.endswith("lora_A.weight")]:
        a_RI, b_OR = halves[f"{name}lora_A.weight"][1:], -halves[f"{name}lora_B.weight"][:, 1:]
        parts = {"a_RI": a_RI, "b_OR": b_OR, "taken_a_RI": a_RI, "taken_b_OR": b_OR}
        tensors |= {f"{name.removeprefix('base_model.model.')}{part}": t.clone() for part, t in parts.items()}
    edit(tensors)
    save_file(tensors, folder / STARTS, {"init_lora_weights": kind})
    (folder / STARTS).write_bytes(spoil((folder / STARTS).read_bytes()))
    return _loading(at, folder)


for _words, _says, _half, _change in (
    ("another adapter", "Were the two files saved together", ".a_RI", lambda x: x + 1),
    ("another rank", "Were the two files saved together", ".taken_b_OR", lambda x: torch.cat([x, x], dim=1)),
    ("a diverged training", "holds values that aren't finite", ".taken_a_RI", lambda x: x.fill_(float("inf"))),
):
    fault(f"an adapter beside what the start of {_words} took out of the base", AdapterError, _says)(
        partial(_start, edit=partial(_first, half=_half, change=_change))
    )

for _words, _says, _settings in (
    ("is cut", "start.safetensors is damaged", {"spoil": lambda content: content[:-9]}),
    ("lacks a tensor", "it lacks tensors", {"edit": lambda tensors: tensors.pop(min(tensors))}),
    ("names no start that takes anything out", "start.safetensors is damaged", {"kind": "gaussian"}),
    ("names no start", "knows no 'x'", {"kind": "x"}),
):
    fault(f"an adapter whose start.safetensors {_words}", AdapterError, _says)(
        partial(_start, **{"edit": lambda _: None, **_settings})
    )


@fault("an adapter for a module that the base doesn't have", AdapterError, "which this model doesn't have")
def _(at: Place) -> Call:
    folder = at.adapter()
    tensors = load_file(folder / WEIGHTS)
    moved = {name.replace("layers.1.", "layers.7."): tensor for name, tensor in tensors.items()}
    save_file(moved, folder / WEIGHTS)
    return _loading(at, folder)


@fault("an adapter that names no base, where one is needed", AdapterError, "no `base_model_name_or_path`")
def _(at: Place) -> Call:
    folder = at.adapter()
    at.edit_json(folder / CONFIG, lambda config: config.update(base_model_name_or_path=None))
    return at.command("generate", folder, "hello")
