"""Readers of models: safetensors and their index, GGUF, bitsandbytes' 4-bit state, adapters, a configuration."""

import json
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.torch import save_file
from torch import nn

from quatrain import quantize_4bit
from quatrain.adapters import load_adapter
from quatrain.adapters.peft_config import read_config as read_adapter_config
from quatrain.models.gguf_file import GgufFile
from quatrain.models.safetensors_folder import SafetensorsFolder
from quatrain.models.skeleton import build_skeleton, read_config
from quatrain.models.sources import Source
from quatrain.models.stored_quantization import take_stored
from quatrain.quantization.bitsandbytes_format import from_bitsandbytes, quantization_config, to_bitsandbytes
from tests.fuzz.reader import Reader

BODY = 256
"""Bytes behind a header of safetensors that is made here."""


def _index_seeds() -> list[bytes]:
    index = {"metadata": {"total_size": 8}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    return [json.dumps(index).encode()]


def _read_index(content: bytes, folder: Path) -> None:
    for name, file in (("a", "1.safetensors"), ("b", "2.safetensors")):
        save_file({name: torch.zeros(1)}, folder / file)
    (folder / "model.safetensors.index.json").write_bytes(content)
    _read_all(SafetensorsFolder(folder))


def _header_seeds() -> list[bytes]:
    two = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128]},
        "b": {"dtype": "BF16", "shape": [64], "data_offsets": [128, 256]},
    }
    header = json.dumps(two).encode()
    return [header, _with_body(header)]


def _with_body(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(BODY)


def _read_header(content: bytes, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(_with_body(content) if content.startswith(b"{") else content)
    weights = SafetensorsFolder(folder)
    assert all(e.offset >= 0 and e.offset + e.nbytes <= file.stat().st_size for e in weights.extents.values())
    _read_all(weights)


def _read_all(weights: SafetensorsFolder) -> None:
    for name, stored in weights.tensors.items():
        assert weights.read(name).shape == stored.shape
    weights.close()


@cache
def _gguf_seeds() -> list[bytes]:
    files = []
    for architecture in ("llama", "gemma3"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            writer = GGUFWriter(path, architecture)
            writer.add_block_count(1)
            writer.add_embedding_length(32)
            writer.add_head_count(2)
            writer.add_head_count_kv(1)
            writer.add_token_list(["a", "b"])
            writer.add_layer_norm_rms_eps(1e-5)
            writer.add_array("an.array", [1, 2, 3])
            writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
            writer.add_tensor("blk.0.attn_q.weight", np.zeros((32, 32), np.float32))
            codes = np.zeros((32, 18), np.uint8)
            writer.add_tensor("blk.0.attn_k.weight", codes, raw_dtype=GGMLQuantizationType.Q4_0)
            writer.add_tensor("rope_freqs.weight", np.ones(8, np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            files.append(path.read_bytes())
    return files


def _read_gguf(content: bytes, folder: Path) -> None:
    path = folder / "model.gguf"
    path.write_bytes(content)
    weights = GgufFile(path)
    weights.special_tokens()
    for name, stored in weights.tensors.items():
        assert weights.read(name).shape == stored.shape
    weights.config()


def _state_seeds() -> list[bytes]:
    weight = torch.linspace(-1, 1, 128).view(2, 64)
    seeds = []
    for double_quant in (False, True):
        stored = to_bitsandbytes(quantize_4bit(weight, quant_type="nf4", block_size=64, double_quant=double_quant), "w")
        state = json.loads(bytes(stored["w.quant_state.bitsandbytes__nf4"].tolist()))
        shapes = {name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in stored.items()}
        seeds.append(json.dumps({"state": state, "tensors": shapes}).encode())
    return seeds


def _read_state(content: bytes, folder: Path) -> None:
    given = _parsed(content)
    made = given.get("tensors") if isinstance(given, dict) else None
    if not isinstance(made, dict):
        return
    good = to_bitsandbytes(quantize_4bit(torch.ones(2, 64), quant_type="nf4", block_size=64, double_quant=True), "w")
    tensors = {name: t for name, t in ((n, _tensor(like, good.get(n))) for n, like in made.items()) if t is not None}
    if isinstance(given.get("state"), dict):
        text = json.dumps(given["state"]).encode()
        tensors["w.quant_state.bitsandbytes__nf4"] = torch.tensor(list(text), dtype=torch.uint8)
    weight = from_bitsandbytes(tensors, "w")
    assert weight.dequantize(torch.float32).shape == weight.shape


def _tensor(like: Any, good: torch.Tensor | None) -> torch.Tensor | None:
    """The tensor that `[dtype, shape]` describes, the good one if it is that."""
    try:
        dtype, shape = getattr(torch, like[0]), tuple(like[1])
        if good is not None and (good.dtype, tuple(good.shape)) == (dtype, shape):
            return good
        return torch.ones(shape, dtype=dtype) if 0 <= np.prod(shape, dtype=np.float64) < 1e5 else None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError):
        return None


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _adapter_config_seeds() -> list[bytes]:
    config = {
        "base_model_name_or_path": "org/name", "bias": "none", "inference_mode": True, "init_lora_weights": True,
        "lora_alpha": 16, "lora_dropout": 0.1, "modules_to_save": None, "peft_type": "LORA", "r": 2,
        "rank_pattern": {"0": 2}, "alpha_pattern": {"^0": 8, "x.*y": 2}, "target_modules": ["0"],
        "task_type": "CAUSAL_LM", "use_dora": False, "use_rslora": True, "layers_to_transform": None,
    }  # fmt: skip
    return [json.dumps(config).encode()]


def _read_adapter_config(content: bytes, folder: Path) -> None:
    (folder / "adapter_config.json").write_bytes(content)
    config = read_adapter_config(folder)
    assert isinstance(config.alpha_of("model.layers.0.self_attn.q_proj"), int | float)
    _attach(folder, _adapter_header(), use_config=True)


def _adapter_header() -> bytes:
    name = "base_model.model.0.lora_{}.weight"
    header = {
        name.format("A"): {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        name.format("B"): {"dtype": "F32", "shape": [8, 2], "data_offsets": [32, 96]},
    }
    return json.dumps(header).encode()


def _read_adapter(content: bytes, folder: Path) -> None:
    (folder / "adapter_config.json").write_bytes(_adapter_config_seeds()[0])
    _attach(folder, content)


def _attach(folder: Path, header: bytes, use_config: bool = False) -> None:
    """Loads the adapter into a small model, which must come out with it, or untouched."""
    body = struct.pack("<Q", len(header)) + header + bytes(96)
    (folder / "adapter_model.safetensors").write_bytes(body if header.startswith(b"{") else header)
    model = nn.Sequential(nn.Linear(4, 8, bias=False))
    before = str(model)
    try:
        load_adapter(model, folder)
    except BaseException:
        assert str(model) == before
        raise
    assert torch.isfinite(model(torch.ones(1, 4))).all()


def _config_seeds() -> list[bytes]:
    llama = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "head_dim": 8,
        "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "hidden_act": "silu",
        "max_position_embeddings": 128, "tie_word_embeddings": True, "dtype": "bfloat16", "bos_token_id": 0,
        "eos_token_id": [1, 2], "pad_token_id": 0, "initializer_range": 0.02, "attention_bias": False,
    }  # fmt: skip
    note = quantization_config(quant_type="nf4", double_quant=True, compute_dtype=torch.bfloat16)
    gemma = llama | {"model_type": "gemma2", "sliding_window": 16, "query_pre_attn_scalar": 8}
    code = llama | {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    return [json.dumps(config).encode() for config in (llama, llama | {"quantization_config": note}, gemma, code)]


def _read_config(content: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    (folder / "evil.py").write_text("raise SystemExit('a stranger got in')")
    config = read_config(Source(name="fuzzed", folder=folder))
    take_stored(config)
    build_skeleton(config, dtype=torch.bfloat16)


READERS = (
    Reader("safetensors_index", _index_seeds, _read_index),
    Reader("safetensors_header", _header_seeds, _read_header),
    Reader("gguf", _gguf_seeds, _read_gguf),
    Reader("bitsandbytes_state", _state_seeds, _read_state),
    Reader("adapter_config", _adapter_config_seeds, _read_adapter_config),
    Reader("adapter_tensors", lambda: [_adapter_header()], _read_adapter),
    Reader("model_config", _config_seeds, _read_config),
)
