"""A Llama in plain PyTorch and float32, on weights that went through NF4: what every contender has to agree with.

Written out here, and not taken from transformers, because some contenders change transformers' classes in the process
that the gate runs in. One test compares it with transformers.

Suffixes: B rows, S tokens of a row, H hidden, A heads, D head size, E half of it, V vocabulary.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from benchmarks.shapes import Shape
from quatrain.quantization import quantize_4bit

EPS, THETA = 1e-5, 500000.0


class PlainLlama:
    """The frozen base of a checkpoint folder on the CPU, with an adapter given at each call.

    Args:
        folder: a checkpoint that :mod:`checkpoints` wrote.
        shape: its shape.
        scale: lora_alpha / r.
    """

    def __init__(self, folder: Path, shape: Shape, scale: float = 1.0):
        self.shape, self.scale = shape, scale
        self.weights: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            self.weights |= {name: tensor.float() for name, tensor in load_file(file).items()}
        for name in self.weights:
            if name.removesuffix(".weight").endswith("_proj"):
                self.weights[name] = quantize_4bit(self.weights[name]).dequantize(torch.float32)

    def logits(self, ids_BS: Tensor, adapter: Mapping[str, Tensor] | None = None) -> Tensor:
        """[B, S, V] float32; `adapter` holds ``<module>.lora_A`` [r, inputs] and ``lora_B`` [outputs, r]."""
        adapter = adapter or {}
        x_BSH = self.weights["model.embed_tokens.weight"][ids_BS]
        for block in range(self.shape.blocks):
            name = f"model.layers.{block}"
            x_BSH = x_BSH + self._attention(self._norm(x_BSH, f"{name}.input_layernorm"), f"{name}.self_attn", adapter)
            mlp = self._norm(x_BSH, f"{name}.post_attention_layernorm")
            gate = F.silu(self._linear(mlp, f"{name}.mlp.gate_proj", adapter))
            up = self._linear(mlp, f"{name}.mlp.up_proj", adapter)
            x_BSH = x_BSH + self._linear(gate * up, f"{name}.mlp.down_proj", adapter)
        head = "model.embed_tokens.weight" if self.shape.tied else "lm_head.weight"
        return self._norm(x_BSH, "model.norm") @ self.weights[head].T

    def loss(self, ids_BS: Tensor, adapter: Mapping[str, Tensor] | None = None) -> Tensor:
        """Mean cross-entropy of each row's next tokens, in nats."""
        logits = self.logits(ids_BS, adapter)[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), ids_BS[:, 1:].flatten())

    def _linear(self, x: Tensor, name: str, adapter: Mapping[str, Tensor]) -> Tensor:
        y = x @ self.weights[f"{name}.weight"].T
        if f"{name}.lora_A" in adapter:
            y = y + self.scale * (x @ adapter[f"{name}.lora_A"].T @ adapter[f"{name}.lora_B"].T)
        return y

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + EPS).rsqrt() * self.weights[f"{name}.weight"]

    def _attention(self, x_BSH: Tensor, name: str, adapter: Mapping[str, Tensor]) -> Tensor:
        size, length = self.shape.head_size, x_BSH.shape[1]
        q, k, v = (
            self._linear(x_BSH, f"{name}.{which}_proj", adapter).unflatten(-1, (-1, size)).transpose(1, 2)
            for which in "qkv"
        )
        groups = self.shape.heads // self.shape.kv_heads
        k, v = (t.repeat_interleave(groups, dim=1) for t in (_rotated(k), v))
        scores = _rotated(q) @ k.transpose(-1, -2) * size**-0.5
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        o = scores.masked_fill(later, float("-inf")).softmax(-1) @ v
        return self._linear(o.transpose(1, 2).flatten(2), f"{name}.o_proj", adapter)


def _rotated(x_BASD: Tensor) -> Tensor:
    """Rotary embedding with the halves of a head against each other, positions from 0."""
    half = x_BASD.shape[-1] // 2
    frequency_E = THETA ** (-torch.arange(half) / half)
    angle_SE = torch.arange(x_BASD.shape[-2])[:, None] * frequency_E
    first, second = x_BASD.split(half, dim=-1)
    cos, sin = angle_SE.cos(), angle_SE.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
