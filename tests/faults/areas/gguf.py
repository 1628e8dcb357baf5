"""GGUF files: headers that lie, and families that aren't known."""

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from quatrain import load_model
from quatrain.errors import ModelError
from tests.faults.case import Call, fault
from tests.faults.place import Place

Change = Callable[[GGUFWriter], Any]


def _nothing(writer: GGUFWriter) -> None:
    pass


def made(
    at: Place, architecture: str = "llama", *, blocks: int = 1, heads: int = 2, change: Change = _nothing
) -> bytes:
    """A small GGUF file's bytes, by llama.cpp's own writer."""
    path = at.path / "made.gguf"
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(blocks)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_context_length(64)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("token_embd.weight", np.zeros((64, 32), np.float32))
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((32, 32), np.float32))
    writer.add_tensor("blk.0.attn_k.weight", np.zeros((16, 18), np.uint8), raw_dtype=GGMLQuantizationType.Q4_0)
    change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = path.read_bytes()
    path.unlink()
    return content


def _loading(at: Place, content: bytes) -> Call:
    path = at.file("model.gguf", content)
    return lambda: load_model(path, device="cpu", compute_dtype="float32")


def _spoiled(at: Place, spoil: Callable[[bytes], bytes]) -> Call:
    return _loading(at, spoil(made(at)))


def _put(content: bytes, at: int, form: str, *numbers: int) -> bytes:
    piece = struct.pack(form, *numbers)
    return content[:at] + piece + content[at + len(piece) :]


def _entry(content: bytes, name: bytes = b"token_embd.weight") -> int:
    """Where a tensor's number of dimensions stands."""
    return content.index(name) + len(name)


def _odd_row(content: bytes) -> bytes:
    return _put(content, _entry(content, b"attn_k.weight") + 4, "<Q", 33)


def _overlap(content: bytes) -> bytes:
    return _put(content, _entry(content, b"attn_q.weight") + 24, "<Q", 32)


_WHOLE = "must be a whole GGUF file"

for _words, _says, _spoil in (
    ("a file that isn't GGUF", "it doesn't begin with GGUF", lambda c: b"GGML" + c[4:]),
    ("a file of a few bytes", _WHOLE, lambda c: b"GGUF"),
    ("an empty file", _WHOLE, lambda c: b""),
    ("an unknown version", "its version is 77", lambda c: _put(c, 4, "<I", 77)),
    ("the other byte order", "its version is", lambda c: _put(c, 4, ">I", 3)),
    ("2^63 tensors", _WHOLE, lambda c: _put(c, 8, "<Q", 2**63)),
    ("2^63 fields of metadata", _WHOLE, lambda c: _put(c, 16, "<Q", 2**63)),
    ("a name of 2^62 bytes", "it ends at byte", lambda c: _put(c, 24, "<Q", 2**62)),
    ("a name that isn't UTF-8", _WHOLE, lambda c: c.replace(b"general", b"\xff\xfeneral", 1)),
    ("an unknown type of value", "a value of type 99", lambda c: _put(c, 24 + 8 + 20, "<I", 99)),
    ("a tensor of 99 dimensions", "has 99 dimensions", lambda c: _put(c, _entry(c), "<I", 99)),
    ("a tensor of 2^60 rows", "it ends at byte", lambda c: _put(c, _entry(c) + 4, "<QQ", 32, 2**60)),
    ("a tensor without a row", "which holds nothing", lambda c: _put(c, _entry(c) + 4, "<QQ", 32, 0)),
    ("a row that is no whole block", "isn't made of whole blocks", _odd_row),
    ("a tensor of an unknown type", _WHOLE, lambda c: _put(c, _entry(c) + 20, "<I", 999)),
    ("a tensor far behind the end", "it ends at byte", lambda c: _put(c, _entry(c) + 24, "<Q", 2**62)),
    ("two tensors that share bytes", "shares bytes with another", _overlap),
    ("two tensors of one name", "is in it twice", lambda c: c.replace(b"attn_k", b"attn_q")),
    ("a file that is cut", "it ends at byte", lambda c: c[:-64]),
):
    _named = _words if _words.startswith(("a file", "an empty")) else f"a GGUF file with {_words}"
    fault(_named, ModelError, _says)(partial(_spoiled, spoil=_spoil))


def _with(at: Place, **options: Any) -> Call:
    return _loading(at, made(at, **options))


def _text_for_base(writer: GGUFWriter) -> None:
    writer.add_string("llama.rope.freq_base", "x")
    writer.add_tensor("rope_freqs.weight", np.ones(8, np.float32))


def _other_factors(writer: GGUFWriter) -> None:
    writer.add_tensor("rope_freqs.weight", np.full(8, 3, np.float32))


def _scaling(writer: GGUFWriter) -> None:
    writer.add_string("llama.rope.scaling.type", "warp")


def _text_for_token(writer: GGUFWriter) -> None:
    writer.add_string("tokenizer.ggml.bos_token_id", "<s>")


_NO_MODEL = "metadata must describe its model"

for _words, _says, _options in (
    ("an architecture that isn't known", "family whose weight layout is known", {"architecture": "mamba"}),
    ("a billion blocks", "must hold tensors for each of its 1000000000 blocks", {"blocks": 10**9}),
    ("heads that don't divide its rows", "must have rows for 7 heads", {"heads": 7}),
    ("no heads", "must have rows for 0 heads", {"heads": 0}),
    ("tensors missing", "it lacks", {}),
    ("an unknown rotary scaling", "Rotary scaling in GGUF must be", {"change": _scaling}),
    ("rotary factors of its own", "must hold Llama 3's rotary factors", {"change": _other_factors}),
    ("a special token that is a text", _NO_MODEL, {"change": _text_for_token}),
    ("a rotary base that is a text", _NO_MODEL, {"change": _text_for_base}),
):
    fault(f"a GGUF file with {_words}", ModelError, _says)(partial(_with, **_options))
