"""Which models can be written as a GGUF file, asked when one is exported and, if that was declared, before it trains.

A family is a row in a table, and one without a row is refused: a file whose rotary rows lie the wrong way round loads,
runs, and talks nonsense. `gguf_file.py` has the table for the other direction, reading.

The same holds for tokenizers. llama.cpp has its own; the rules by which text is cut into pieces before any merge are
compiled into it, under names. A rule is recognised here by what `tokenizer.json` says it is; one that isn't known is
refused, because a file with another rule answers with quietly worse tokens.

Source: llama.cpp's `conversion/` (which recognises a rule by a hash over the tokens of one odd text).
"""

import json
from typing import Any

from quatrain.errors import ModelError

_REMEDY = "Export safetensors, and convert them with llama.cpp's convert_hf_to_gguf.py"
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""GGUF's architecture by Hugging Face's model type."""
_ROPES = ("default", "llama3")


def check_family(config: Any) -> str:
    """The GGUF architecture of a model.

    Args:
        config: its Hugging Face configuration.

    Raises:
        ModelError: GGUF export doesn't know the family, or the model has something that the family's files can't say.
    """
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        raise ModelError(
            f"GGUF export knows the families {', '.join(ARCHITECTURES)}; this model is {config.model_type}. {_REMEDY}"
        )
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    if rope not in _ROPES:
        raise ModelError(f"GGUF export knows the rotary scalings {', '.join(_ROPES)}; this model has {rope}. {_REMEDY}")
    if getattr(config, "sliding_window", None) is not None:
        raise ModelError(
            f"GGUF export has no sliding windows for {config.model_type}, and this model uses one. {_REMEDY}"
        )
    return found


_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(digits: str) -> dict[str, Any]:
    expression = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + _REST
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


_RULES: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_GPT2],
    "smollm": [{"type": "Digits", "individual_digits": True}, _GPT2],
    "llama-bpe": [_split(r"\p{N}{1,3}"), _BYTES],
    "qwen2": [_split(r"\p{N}"), _BYTES],
}
"""llama.cpp's name of each rule, and the steps that `tokenizer.json` writes for it."""


def cutting_rule(tokenizer: Any) -> str:
    """llama.cpp's name of the rule by which a tokenizer cuts text into pieces.

    Raises:
        ModelError: it has none that is known here.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"GGUF export needs a tokenizer with a tokenizer.json; {type(tokenizer).__name__} has none. {_REMEDY}"
        )
    state = json.loads(backend.to_str())
    if state["model"]["type"] != "BPE" or state["model"].get("byte_fallback"):
        raise ModelError(f"GGUF export knows byte-level BPE; this tokenizer is of another kind. {_REMEDY}")
    before = state["pre_tokenizer"] or {}
    steps = before["pretokenizers"] if before.get("type") == "Sequence" else [before]
    for name, rule in _RULES.items():
        if len(rule) == len(steps) and all(a.items() <= b.items() for a, b in zip(rule, steps, strict=True)):
            return name
    raise ModelError(
        f"GGUF export knows the ways to cut text called {', '.join(_RULES)}; this tokenizer has another one. {_REMEDY}"
    )
