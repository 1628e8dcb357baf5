"""Models of others: safetensors, their index and configuration."""

import json
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from quatrain import load_model
from quatrain.errors import ModelError, QuantizationError
from tests.faults.case import Call, fault, recovers
from tests.faults.place import Place

INDEX = "model.safetensors.index.json"
CONFIG = "config.json"


def loading(folder: Path) -> Call:
    return lambda: load_model(folder, device="cpu", compute_dtype="float32")


def first_shard(folder: Path) -> Path:
    return min(folder.glob("*.safetensors"))


# The index.


def _index(at: Place, edit: Callable[[Any], Any]) -> Call:
    folder = at.model()
    at.edit_json(folder / INDEX, edit)
    return loading(folder)


def _first_shard_elsewhere(index: dict[str, Any], name: str) -> None:
    files = index["weight_map"]
    index["weight_map"] = {tensor: name if file == min(files.values()) else file for tensor, file in files.items()}


for _words, _name in {
    "an index that names a file in the folder above": "../model.safetensors",
    "an index that names a file by its absolute path": "/etc/passwd",
    "an index that names a file with a drive's backslashes": "..\\model.safetensors",
    "an index that names the folder itself": ".",
    "an index that names a file by an empty name": "",
    "an index that names a file with a zero byte": "a\0b",
}.items():
    _edit = partial(_first_shard_elsewhere, name=_name)
    fault(_words, ModelError, "its files must lie in its own folder")(partial(_index, edit=_edit))


def _list_more(index: dict[str, Any]) -> None:
    index["weight_map"]["extra"] = min(index["weight_map"].values())


for _words, _says, _edit in (
    ("an index that names a file that isn't there", "which is missing", partial(_first_shard_elsewhere, name="no.bin")),
    ("an index with a name that no disk takes", "which is missing", partial(_first_shard_elsewhere, name="x" * 5000)),
    ("an index that is a list", "must be JSON with a `weight_map`", lambda index: [index]),
    ("an index without a weight_map", "must be JSON with a `weight_map`", lambda index: {"metadata": {}}),
    ("an index whose files are numbers", "must map tensor names to file names", lambda index: {"weight_map": {"a": 1}}),
    ("an index that lists a tensor that no shard holds", "they lack ['extra']", _list_more),
):  # fmt: skip
    fault(_words, ModelError, _says)(partial(_index, edit=_edit))


def _index_text(at: Place, text: bytes) -> Call:
    folder = at.model()
    (folder / INDEX).write_bytes(text)
    return loading(folder)


for _words, _text in {
    "an index that isn't JSON": b"{",
    "an index that isn't UTF-8": b'{"weight_map": {"\xff": "a"}}',
    "an index nested a hundred thousand deep": b"[" * 100_000,
}.items():
    fault(_words, ModelError, "must be JSON with a `weight_map`")(partial(_index_text, text=_text))


@fault("an index of ten gigabytes", ModelError, "it has more than")
def _(at: Place) -> Call:
    folder = at.model()
    os.truncate(folder / INDEX, 10 << 30)
    return loading(folder)


# Links.


def _linked(at: Place, name: str) -> Call:
    folder = at.model()
    name = name or first_shard(folder).name
    elsewhere = at.path / "elsewhere"
    (folder / name).rename(elsewhere)
    (folder / name).symlink_to(elsewhere)
    return loading(folder)


for _words, _name in {
    "a shard that is a link out of the folder": "",
    "a configuration that is a link out of the folder": CONFIG,
    "a tokenizer that is a link out of the folder": "tokenizer.json",
    "a chat template that is a link out of the folder": "chat_template.jinja",
}.items():
    fault(_words, ModelError, "outside of its folder")(partial(_linked, name=_name))


@fault("a link to nowhere", ModelError, "which is missing")
def _(at: Place) -> Call:
    folder = at.model()
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").symlink_to("nowhere")
    return loading(folder)


@recovers("a file of the cache of the hub, which is a link into its blobs", "read as any other file")
def _(at: Place) -> Call:
    snapshot = at.model("cache/models--org--name/snapshots/0123")
    blobs = at.path / "cache/models--org--name/blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(f"../../blobs/{number}")
    return loading(snapshot)


# Shards.


def _shard(at: Place, spoil: Callable[[bytes], bytes]) -> Call:
    folder = at.model()
    shard = first_shard(folder)
    shard.write_bytes(spoil(shard.read_bytes()))
    return loading(folder)


def _header(at: Place, edit: Callable[[dict[str, Any]], Any]) -> Call:
    def spoil(content: bytes) -> bytes:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        header = edit(header) or header
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return _shard(at, spoil)


def _first_entry(header: dict[str, Any]) -> dict[str, Any]:
    return next(entry for name, entry in header.items() if name != "__metadata__")


def _overlap(header: dict[str, Any]) -> None:
    header["twin"] = dict(_first_entry(header))


for _words, _spoil in {
    "a shard that is cut in half": lambda content: content[: len(content) // 2],
    "a shard with bytes behind its end": lambda content: content + b"\0" * 16,
    "a shard without a byte": lambda content: b"",
    "a shard that is a pickle": lambda content: b"cos\nsystem\n(S'true'\ntR.",
    "a shard whose header has 2^64 - 1 bytes": lambda content: b"\xff" * 8 + content[8:],
    "a shard whose header is longer than the file": lambda content: struct.pack("<Q", len(content)) + content[8:],
}.items():
    fault(_words, ModelError, "must be a whole safetensors file")(partial(_shard, spoil=_spoil))

for _words, _edit in {
    "a header that isn't JSON": lambda header: b"{" * 8,
    "a header nested a hundred thousand deep": lambda header: b'{"a":' * 100_000,
    "a tensor with a shape of 2^60 rows": lambda header: _first_entry(header).update(shape=[2**60, 64]),
    "a tensor with a shape whose product overflows": lambda header: _first_entry(header).update(shape=[2**33, 2**33]),
    "a tensor with a negative size": lambda header: _first_entry(header).update(shape=[-1, 64]),
    "a tensor of an unknown type": lambda header: _first_entry(header).update(dtype="F1024"),
    "a tensor that ends before it begins": lambda header: _first_entry(header)["data_offsets"].reverse(),
    "a tensor beyond the end of the file": lambda header: _first_entry(header).update(data_offsets=[2**40, 2**41]),
    "two tensors that share bytes": _overlap,
}.items():
    fault(_words, ModelError, "must be a whole safetensors file")(partial(_header, edit=_edit))


def _weights(at: Place, edit: Callable[[dict[str, torch.Tensor]], Any]) -> Call:
    folder = at.model()
    for shard in sorted(folder.glob("*.safetensors")):
        tensors = load_file(shard)
        edit(tensors)
        save_file(tensors, shard)
    return loading(folder)


def _replace(tensors: dict[str, torch.Tensor], end: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for name in [name for name in tensors if name.endswith(end)]:
        tensors[name] = change(tensors[name]).contiguous()


for _words, _says, _change in (
    ("a weight of another shape", "Shapes must be those of the configuration", lambda x: x[:-1]),
    ("a weight with one dimension more", "Shapes must be those of the configuration", lambda x: x[None]),
):
    fault(_words, ModelError, _says)(
        partial(_weights, edit=partial(_replace, end="layers.0.self_attn.q_proj.weight", change=_change))
    )

for _words, _value in {"a weight that holds NaN": float("nan"), "a weight that holds infinity": float("inf")}.items():
    fault(_words, QuantizationError, "must be finite")(
        partial(
            _weights,
            edit=partial(
                _replace,
                end="layers.1.mlp.up_proj.weight",
                change=partial(lambda x, value: x.fill_(value), value=_value),
            ),
        )
    )


@fault("a tensor that the model has no place for", ModelError, "Every stored tensor must have a place")
def _(at: Place) -> Call:
    return _weights(at, lambda tensors: tensors.update({f"of {min(tensors)}": torch.zeros(2)}))


@fault("a tensor in two shards", ModelError, "A tensor must be in one shard only")
def _(at: Place) -> Call:
    return _weights(at, lambda tensors: tensors.update({"model.norm.weight": torch.ones(64)}))


@fault("a folder with nothing but pickles", ModelError, "unpickling pytorch_model.bin can run any code")
def _(at: Place) -> Call:
    folder = at.model()
    for file in [*folder.glob("*.safetensors"), folder / INDEX]:
        file.unlink()
    made = at.path / "made"
    at.file("model/pytorch_model.bin", f"cos\nsystem\n(S'touch {made}'\ntR.")
    return loading(folder)


@fault("a folder without weights", ModelError, "has neither")
def _(at: Place) -> Call:
    folder = at.path / "empty"
    folder.mkdir()
    return loading(folder)


@fault("a path where nothing is", ModelError, "A local model must exist")
def _(at: Place) -> Call:
    return at.train(model=at.path / "nothing")


# The configuration.


def _config(at: Place, edit: Callable[[dict[str, Any]], Any]) -> Call:
    folder = at.model()
    at.edit_json(folder / CONFIG, edit)
    return loading(folder)


_GPTQ = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
_INT8 = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
_UNREADABLE = "must have a configuration that transformers understands"
_UNBUILDABLE = "must be a causal language model that transformers can build"

for _words, _says, _changes in (
    ("a configuration of an unknown model", _UNREADABLE, {"model_type": "unheard-of"}),
    ("a configuration of a model that reads no text", _UNBUILDABLE, {"model_type": "vit"}),
    ("a width that is a text", _UNREADABLE, {"hidden_size": "wide"}),
    ("a width of zero", "Shapes must be those of the configuration", {"hidden_size": 0}),
    ("no attention heads", _UNREADABLE, {"num_attention_heads": 0}),
    ("a width of 2^40", _UNBUILDABLE, {"intermediate_size": 2**40}),
    ("a negative number of blocks", "Every stored tensor must have a place", {"num_hidden_layers": -1}),
    ("a billion blocks", "must have at most 10,000 blocks", {"num_hidden_layers": 10**9}),
    ("more blocks than the checkpoint holds", "it lacks", {"num_hidden_layers": 3}),
    ("fewer blocks than the checkpoint holds", "Every stored tensor must have a place", {"num_hidden_layers": 1}),
    ("a vocabulary of another size", "Shapes must be those of the configuration", {"vocab_size": 4096}),
    ("an activation that doesn't exist", _UNBUILDABLE, {"hidden_act": "import os"}),
    ("a rotary type that doesn't exist", _UNBUILDABLE, {"rope_parameters": {"rope_type": "warp", "rope_theta": 1e4}}),
    ("weights quantized by another program", "must be in bitsandbytes' 4-bit format", _GPTQ),
    ("weights in 8 bits", "this one is 8-bit", _INT8),
    ("a note on quantization that is a list", _UNREADABLE, {"quantization_config": [1]}),
):  # fmt: skip
    fault(f"a configuration with {_words}" if not _words.startswith("a configuration") else _words, ModelError, _says)(
        partial(_config, edit=partial(lambda config, changes: config.update(changes), changes=_changes))
    )


@fault("a configuration that isn't JSON", ModelError, _UNREADABLE)
def _(at: Place) -> Call:
    folder = at.model()
    (folder / CONFIG).write_text("{")
    return loading(folder)


@fault("no configuration", ModelError, "must hold config.json, which is missing")
def _(at: Place) -> Call:
    folder = at.model()
    (folder / CONFIG).unlink()
    return loading(folder)


def _with_code(at: Place, **changes: Any) -> Path:
    folder = at.model()
    (folder / "evil.py").write_text(f"open({str(at.path / 'made')!r}, 'w')\nraise SystemExit('a stranger got in')\n")
    code = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.T", "evil.T"]}
    for name in (CONFIG, "tokenizer_config.json"):
        at.edit_json(folder / name, lambda config: config.update(auto_map=code, **changes))
    return folder


@fault("a model that is nothing without code of its own", ModelError, "trust_remote_code=True runs it")
def _(at: Place) -> Call:
    return loading(_with_code(at, model_type="evil"))


@recovers("a known model that would like to run code of its own", "transformers' own class is used, the code isn't run")
def _(at: Place) -> Call:
    load = loading(_with_code(at))

    def call() -> None:
        load()
        assert not (at.path / "made").exists()

    return call
