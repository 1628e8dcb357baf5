"""Which models our own blocks can run, and how their configurations and modules say what a block is.

The Llama family: Llama 2 and 3, Mistral, Qwen 2, 2.5 and 3, Gemma 1 to 3, Phi-3 and 4. They share one outline (norm,
attention with rotary positions, norm, gated MLP) and differ in the few points that `BlockSpec` has a field for. A new
family is a row of `FAMILIES` and a test.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from quatrain.adapters import adapter_layers
from quatrain.adapters.extras import extra_layers
from quatrain.adapters.lora import LoraLinear
from quatrain.adapters.mixed import MixedLinear
from quatrain.blocks import BlockModules, BlockSpec, RotaryTables
from quatrain.blocks.spec import Activation
from quatrain.errors import ModelError
from quatrain.models.parts import body, head
from quatrain.quantization import QuantizedLinear


@dataclass(frozen=True, kw_only=True)
class Family:
    """In what one architecture differs from Llama."""

    norm_offset: float = 0.0
    """Added to norm weights."""
    sandwich: bool = False
    """A norm behind attention and MLP as well as before them."""
    joined: bool = False
    """q, k, v in one linear, gate and up in another."""


FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "gemma": Family(norm_offset=1.0),
    "gemma2": Family(norm_offset=1.0, sandwich=True),
    "gemma3_text": Family(norm_offset=1.0, sandwich=True),
    "phi3": Family(joined=True),
}
"""By `model_type`."""

_ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
# Rotary embeddings whose angles depend on the length of the text at hand, not only on positions.
_LENGTH_DEPENDENT = ("dynamic", "longrope")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model as our blocks see it."""

    blocks: list[tuple[BlockSpec, BlockModules]]
    """From first to last."""
    embedding: nn.Module
    """int64 ids [...] → [..., H], scaled where the model scales them."""
    final_norm: nn.Module
    """RMSNorm behind the last block; its eps and offset are the blocks'."""
    head: nn.Module
    """Linear to the logits."""
    logit_scale: float
    """Factor on the logits."""
    logit_softcap: float | None
    """Logits become softcap · tanh(logits / softcap)."""
    tables: RotaryTables
    """Rotary cosines and sines on the model's device."""


def describe(model: nn.Module, *, mixed: bool = False) -> ModelSpec:
    """Read off what our blocks need to know; the modules are the model's own, with the adapters they carry.

    Args:
        mixed: whether rows of a batch may have adapters of their own, as they can for decoding.

    Raises:
        ModelError: the model isn't of the family, or has something that the blocks don't compute; says what.
    """
    config: Any = model.config.get_text_config()  # pyright: ignore
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ModelError(f"{config.model_type} isn't among the architectures with blocks of our own")
    _check_adapter(model, mixed)
    decoder: Any = body(model)
    _check(config, decoder)
    scale, softcap = logit_options(model)
    return ModelSpec(
        blocks=[_block(config, family, layer) for layer in decoder.layers],
        embedding=decoder.embed_tokens,
        final_norm=decoder.norm,
        head=head(model),
        logit_scale=scale,
        logit_softcap=softcap,
        tables=RotaryTables(_Tables(decoder.rotary_emb, next(model.parameters()).device, config)),
    )


def logit_options(model: nn.Module) -> tuple[float, float | None]:
    """(factor, soft cap) on the logits under the names that transformers' configs use."""
    config = model.config.get_text_config()  # pyright: ignore
    scale = getattr(config, "logit_scale", None) or 1.0
    if divisor := getattr(config, "logits_scaling", None):
        scale /= divisor
    return scale, getattr(config, "final_logit_softcapping", None)


def _check_adapter(model: nn.Module, mixed: bool) -> None:
    """The blocks compute plain low-rank updates; other kinds of adapter go through the model's own modules."""
    for name, layer in adapter_layers(model).items():
        if type(layer) is not LoraLinear and not (mixed and isinstance(layer, MixedLinear)):
            raise ModelError(f"{name} is a {type(layer).__name__}, and blocks of our own compute LoRA only")
    for name, layer in extra_layers(model).items():
        raise ModelError(f"{name} is trained itself ({type(layer).__name__}), and blocks of our own train LoRA only")


def _check(config: Any, decoder: Any) -> None:
    for name in ("attention_dropout", "resid_pdrop", "embd_pdrop"):
        if getattr(config, name, 0.0):
            raise ModelError(f"the model has a dropout of its own (`{name}`)")
    if getattr(config, "use_bidirectional_attention", False):
        raise ModelError("the model's attention isn't causal")
    for name, module in decoder.layers.named_modules():
        if type(module) in (nn.Linear, QuantizedLinear):
            continue
        if isinstance(module, LoraLinear) and type(module.base_layer) not in (nn.Linear, QuantizedLinear):
            raise ModelError(f"layers.{name} is a {type(module.base_layer).__name__}")


def _check_linears(modules: BlockModules) -> None:
    """What somebody has put in a linear's place may have a weight and do something else with it."""
    for linear in (*modules.qkv, modules.o, *modules.gate_up, modules.down):
        if type(linear) not in (nn.Linear, QuantizedLinear) and not isinstance(linear, LoraLinear):
            raise ModelError(f"a {type(linear).__name__} stands in a linear's place")


def _block(config: Any, family: Family, layer: Any) -> tuple[BlockSpec, BlockModules]:
    attention = layer.self_attn
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation not in _ACTIVATIONS:
        raise ModelError(f"the MLP's activation is {activation}")
    norm = layer.input_layernorm
    spec = BlockSpec(
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=attention.head_dim,
        activation=_ACTIVATIONS[activation],
        norm_eps=norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps,
        norm_offset=family.norm_offset,
        attention_scale=attention.scaling,
        window=getattr(attention, "sliding_window", None) or _window_of_all(config, attention),
        softcap=getattr(attention, "attn_logit_softcapping", None),
        rotary=getattr(attention, "layer_type", None) or "",
    )
    modules = _modules(family, layer)
    _check_linears(modules)
    return spec, modules


def _window_of_all(config: Any, attention: Any) -> int | None:
    """The window of models whose attention modules don't have one of their own."""
    return None if hasattr(attention, "sliding_window") else getattr(config, "sliding_window", None)


def _modules(family: Family, layer: Any) -> BlockModules:
    attention, mlp = layer.self_attn, layer.mlp
    names = ("qkv_proj",) if family.joined else ("q_proj", "k_proj", "v_proj")
    return BlockModules(
        attention_norm=layer.input_layernorm,
        qkv=tuple(getattr(attention, name) for name in names),
        o=attention.o_proj,
        mlp_norm=layer.pre_feedforward_layernorm if family.sandwich else layer.post_attention_layernorm,
        gate_up=(mlp.gate_up_proj,) if family.joined else (mlp.gate_proj, mlp.up_proj),
        down=mlp.down_proj,
        q_norm=getattr(attention, "q_norm", None),
        k_norm=getattr(attention, "k_norm", None),
        attention_out_norm=layer.post_attention_layernorm if family.sandwich else None,
        mlp_out_norm=layer.post_feedforward_layernorm if family.sandwich else None,
    )


class _Tables:
    """Makes rotary tables by asking the model's own module."""

    def __init__(self, rotary: Any, device: torch.device, config: Any):
        self._rotary, self._device, self._config = rotary, device, config
        self._kinds = len(signature(rotary.forward).parameters) > 2

    @torch.no_grad()
    def __call__(self, kind: str, positions: int) -> tuple[Tensor, Tensor]:
        self._check(positions)
        # The module answers in its first argument's dtype; 32 bits are what large angles' cosines need.
        like, ids = torch.empty(1, device=self._device), torch.arange(positions, device=self._device)[None]
        with torch.autocast(self._device.type, enabled=False):
            tables = self._rotary(like, ids, kind) if self._kinds else self._rotary(like, ids)
        return tuple(table[0, :, : table.shape[-1] // 2].float().contiguous() for table in tables)  # pyright: ignore

    def _check(self, positions: int) -> None:
        options = getattr(self._config, "rope_parameters", None) or {}
        first = getattr(self._config, "original_max_position_embeddings", None)
        first = first or options.get("original_max_position_embeddings") or self._config.max_position_embeddings
        if options.get("rope_type") in _LENGTH_DEPENDENT and positions > first:
            raise ModelError(
                f"the model's rotary embedding changes with the text's length beyond {first} tokens, found {positions}"
            )


def adapted_linears(spec: ModelSpec) -> Iterator[LoraLinear]:
    """The LoRA layers inside the blocks."""
    for _, modules in spec.blocks:
        for linear in (*modules.qkv, modules.o, *modules.gate_up, modules.down):
            if isinstance(linear, LoraLinear):
                yield linear
