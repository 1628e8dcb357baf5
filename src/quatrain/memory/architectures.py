"""From `config.json` to shapes, for the architectures that our own blocks compute; tests compare with the modules.

A config's keys are Hugging Face's. What a file leaves out has the default of its architecture, since files only need to
say in what they differ from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from quatrain.errors import ModelError
from quatrain.memory.shape import BlockShape, Linear, ModelShape, Product

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """In what one architecture differs from Llama, as far as sizes go."""

    qkv_bias: bool | None = None
    """Biases of q, k and v; None: `attention_bias` says, for o as well."""
    sandwich: bool = False
    joined: bool = False
    """q, k, v in one linear, gate and up in another."""
    head_norms: bool = False
    scaled_embedding: bool = False
    tied: bool = False
    """Where the file doesn't say."""
    head_dim: int | None = None
    """Where the file doesn't say; None: hidden / heads."""
    rotary_kinds: int = 1


ARCHITECTURES = {
    "llama": Architecture(),
    "mistral": Architecture(qkv_bias=False),
    "qwen2": Architecture(qkv_bias=True),
    "qwen3": Architecture(head_norms=True, head_dim=128),
    "gemma": Architecture(scaled_embedding=True, tied=True, head_dim=256),
    "gemma2": Architecture(sandwich=True, scaled_embedding=True, tied=True, head_dim=256, rotary_kinds=2),
    "gemma3_text": Architecture(
        sandwich=True, head_norms=True, scaled_embedding=True, tied=True, head_dim=256, rotary_kinds=2
    ),
    "phi3": Architecture(qkv_bias=False, joined=True),
}
"""By `model_type`."""


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What becomes of the base's weights, and which linears carry an adapter."""

    four_bits: Callable[[str], bool]
    """Whether the linear of this full name, such as `model.layers.0.mlp.up_proj`, is quantized."""
    rank: Callable[[str], int]
    """The rank of its adapter, or 0."""
    dropout: bool = False
    block_size: int = 64
    double_quant: bool = True
    quantize_head: bool = False
    quantize_embeddings: bool = False
    item: int = 2
    """Bytes of a number in the compute dtype."""


def is_known(config: Config) -> bool:
    """Whether `shape_of` knows the architecture."""
    return config.get("model_type") in ARCHITECTURES


def linear_names(config: Config) -> list[str]:
    """Full names of all blocks' linears, as a model of this config calls them."""
    names = [linear.name for product in _products(config) for linear in product.linears]
    return [f"model.layers.{index}.{name}" for index in range(_number(config, "num_hidden_layers")) for name in names]


def linear_sizes(config: Config) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of a block's linears by their names inside the block."""
    return {linear.name: (linear.outputs, linear.inputs) for p in _products(config) for linear in p.linears}


def shape_of(config: Config, treatment: Treatment) -> ModelShape:
    """The shapes of a model.

    Raises:
        ModelError: the architecture isn't known, or the config lacks a size.
    """
    architecture = _architecture(config)
    head_dim = _head_dim(config, architecture)
    blocks = tuple(_block(config, index, treatment) for index in range(_number(config, "num_hidden_layers")))
    tied = config.get("tie_word_embeddings")
    return ModelShape(
        blocks=blocks,
        hidden=_number(config, "hidden_size"),
        vocabulary=_number(config, "vocab_size"),
        tied=architecture.tied if tied is None else tied,
        other_parameters=_number(config, "hidden_size"),
        scaled_embedding=architecture.scaled_embedding,
        rotary_dim=int(head_dim * (config.get("partial_rotary_factor") or 1.0)),
        rotary_kinds=architecture.rotary_kinds,
        item=treatment.item,
        block_size=treatment.block_size,
        double_quant=treatment.double_quant,
        embedding_four_bits=treatment.quantize_embeddings,
        head_four_bits=treatment.quantize_head,
        dropout=treatment.dropout,
    )


def _block(config: Config, index: int, treatment: Treatment) -> BlockShape:
    architecture, heads = _architecture(config), _number(config, "num_attention_heads")
    treated = [_treated(product, f"model.layers.{index}.", treatment) for product in _products(config)]
    qkv, o, gate_up, down = treated
    windows = config.get("layer_types")
    slides = windows is None or windows[index] == "sliding_attention"
    return BlockShape(
        qkv=qkv,
        o=o,
        gate_up=gate_up,
        down=down,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=_head_dim(config, architecture),
        head_norms=architecture.head_norms,
        sandwich=architecture.sandwich,
        window=config.get("sliding_window") if slides and config.get("use_sliding_window", True) else None,
        softcap=bool(config.get("attn_logit_softcapping")),
    )


def _treated(product: Product, prefix: str, treatment: Treatment) -> Product:
    return Product(
        tuple(
            Linear(
                name=linear.name,
                outputs=linear.outputs,
                inputs=linear.inputs,
                bias=linear.bias,
                rank=treatment.rank(prefix + linear.name),
                four_bits=treatment.four_bits(prefix + linear.name),
            )
            for linear in product.linears
        )
    )


def _products(config: Config) -> tuple[Product, Product, Product, Product]:
    """The four products of a block, untreated."""
    architecture, hidden = _architecture(config), _number(config, "hidden_size")
    heads, size = _number(config, "num_attention_heads"), _head_dim(config, architecture)
    queries, keys = heads * size, (config.get("num_key_value_heads") or heads) * size
    forward = _number(config, "intermediate_size")
    all_biased = bool(config.get("attention_bias")) and architecture.qkv_bias is None
    biased, mlp_biased = architecture.qkv_bias or all_biased, bool(config.get("mlp_bias"))

    def product(inputs: int, bias: bool, **outputs: int) -> Product:
        made = (Linear(name=n.replace("__", "."), outputs=o, inputs=inputs, bias=bias) for n, o in outputs.items())
        return Product(tuple(made))

    if architecture.joined:
        qkv = product(hidden, biased, self_attn__qkv_proj=queries + 2 * keys)
        gate_up = product(hidden, mlp_biased, mlp__gate_up_proj=2 * forward)
    else:
        qkv = product(hidden, biased, self_attn__q_proj=queries, self_attn__k_proj=keys, self_attn__v_proj=keys)
        gate_up = product(hidden, mlp_biased, mlp__gate_proj=forward, mlp__up_proj=forward)
    o = product(queries, all_biased, self_attn__o_proj=hidden)
    return qkv, o, gate_up, product(forward, mlp_biased, mlp__down_proj=hidden)


def _head_dim(config: Config, architecture: Architecture) -> int:
    default = architecture.head_dim or _number(config, "hidden_size") // _number(config, "num_attention_heads")
    return config.get("head_dim") or default


def _architecture(config: Config) -> Architecture:
    if not is_known(config):
        raise ModelError(
            f"`model_type` must be one of {', '.join(ARCHITECTURES)} to be planned exactly, "
            f"found {config.get('model_type')!r}"
        )
    return ARCHITECTURES[config["model_type"]]


def _number(config: Config, key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"the config must have a positive number `{key}`, found {value!r}")
    return value
