"""The recipes' bases as their `config.json` has them on the hub, as far as sizes go: a table can be made without it."""

from typing import Any

from benchmarks.shapes import SHAPES, Shape

_QWEN_14B = Shape(hidden=5120, feed_forward=17408, blocks=40, heads=40, kv_heads=8, head_size=128, vocabulary=151936)
_QWEN_32B = Shape(hidden=5120, feed_forward=25600, blocks=64, heads=64, kv_heads=8, head_size=128, vocabulary=151936)
_LLAMA_7B = Shape(hidden=4096, feed_forward=11008, blocks=32, heads=32, kv_heads=32, head_size=128, vocabulary=32000)
_LLAMA_13B = Shape(hidden=5120, feed_forward=13824, blocks=40, heads=40, kv_heads=40, head_size=128, vocabulary=32000)


def _config(shape: Shape, model_type: str = "llama") -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.blocks,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
    }


BASES = {
    "huggyllama/llama-7b": _config(_LLAMA_7B),
    "huggyllama/llama-13b": _config(_LLAMA_13B),
    "huggyllama/llama-30b": _config(SHAPES["33b"]),
    "huggyllama/llama-65b": _config(SHAPES["65b"]),
    "HuggingFaceTB/SmolLM2-135M-Instruct": _config(SHAPES["smollm2"]),
    "meta-llama/Llama-3.2-1B-Instruct": _config(SHAPES["1b"]),
    "meta-llama/Llama-3.1-8B-Instruct": _config(SHAPES["8b"]),
    "Qwen/Qwen3-14B": _config(_QWEN_14B, "qwen3"),
    "Qwen/Qwen3-32B": _config(_QWEN_32B, "qwen3"),
    "meta-llama/Llama-3.3-70B-Instruct": _config(SHAPES["70b"]),
}
"""By hub name."""
