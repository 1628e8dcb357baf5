"""Shapes that the planner's tests share."""

from quatrain.memory.architectures import Treatment, shape_of
from quatrain.memory.shape import ModelShape


def llama(
    hidden: int, forward: int, blocks: int, heads: int, kv_heads: int, head_dim: int, *, vocabulary=128256, tied=False
) -> dict:
    """A config of a Llama."""
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": forward,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }


LLAMA_1B = llama(2048, 8192, 16, 32, 8, 64, tied=True)
LLAMA_8B = llama(4096, 14336, 32, 32, 8, 128)
LLAMA_33B = llama(6656, 17920, 60, 52, 52, 128, vocabulary=32000)
LLAMA_70B = llama(8192, 28672, 80, 64, 8, 128)
LLAMA_405B = llama(16384, 53248, 126, 128, 8, 128)


def adapted(config: dict, r: int = 16, **treatment) -> ModelShape:
    """All linears in four bits with adapters of rank `r`."""
    return shape_of(config, Treatment(four_bits=lambda name: True, rank=lambda name: r, **treatment))
