"""A model without weights: the architecture on the meta device, ready to receive tensors one by one.

The parameters have shapes and no storage, so building an 8B model takes no memory. Buffers that are computed rather
than stored (rotary frequencies, masks) are real from the start, because nothing in a checkpoint would fill them. What
transformers does in `from_pretrained` beyond this (names, dtypes, ties, generation settings) is done in this room's
other files, where each step can be seen.
"""

import re
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from quatrain.errors import ModelError
from quatrain.models.sources import Source, checked_file
from quatrain.models.unusable import UNUSABLE
from quatrain.untrusted import read_json

MOST_LAYERS = 10_000
"""The deepest models have some hundred."""


def read_config(source: Source, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The model's configuration, from `config.json`.

    Raises:
        ModelError: There is none, or its architecture is unknown to the installed transformers.
    """
    try:
        _check_depth(read_json(checked_file(source.folder, "config.json")))
        return AutoConfig.from_pretrained(source.folder, trust_remote_code=trust_remote_code)
    except ModelError:
        raise
    except UNUSABLE as error:
        raise ModelError(
            f"{source.name} must have a configuration that transformers understands: {error} "
            "A newer transformers may know it; if the model brings its own code, trust_remote_code=True runs it."
        ) from error


def _check_depth(stored: dict[str, Any]) -> None:
    """Refuses a number of blocks that no model has, before lists of that length are made."""
    for name, value in stored.items():
        if isinstance(value, dict):
            _check_depth(value)
        elif "layer" in name and isinstance(value, int) and value > MOST_LAYERS:
            raise ModelError(f"A model must have at most {MOST_LAYERS:,} blocks; its configuration has {name}={value}.")


def build_skeleton(config: PreTrainedConfig, *, dtype: torch.dtype, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model of this configuration with every parameter on the meta device, in evaluation mode.

    Args:
        config: The configuration; its `dtype` is set to the one given.
        dtype: The compute dtype, which parameters get unless the architecture asks for float32.
        trust_remote_code: Whether code that came with the model may run.

    Raises:
        ModelError: The configuration isn't that of a causal language model.
    """
    try:
        # Filling meta tensors with random numbers changes nothing, and takes longer than building the model.
        with init_empty_weights(include_buffers=False), no_init_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    except UNUSABLE as error:
        raise ModelError(
            f"The base must be a causal language model that transformers can build; {config.model_type}: {error}"
        ) from error
    for name in _float32_names(model, dtype):
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        setattr(module, leaf, nn.Parameter(module.get_parameter(leaf).float(), requires_grad=False))
    config = model.config
    if getattr(config, "attn_logit_softcapping", None) is not None and config._attn_implementation == "sdpa":
        # transformers up to 5.17 chooses PyTorch's attention for Gemma 2, which leaves the soft cap out without a word.
        model.set_attn_implementation("eager")
    model.requires_grad_(False)
    return model.eval()


def set_generation(model: PreTrainedModel, source: Source, tokenizer) -> None:
    """Gives `generate` the checkpoint's settings and, where those are silent, the tokenizer's special tokens."""
    if (source.folder / "generation_config.json").is_file() and source.gguf_file is None:
        model.generation_config = GenerationConfig.from_pretrained(source.folder)
    settings = model.generation_config
    if settings is None or tokenizer is None:
        return
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(settings, name, None) is None:
            setattr(settings, name, getattr(tokenizer, name))


def _float32_names(model: PreTrainedModel, dtype: torch.dtype) -> list[str]:
    """Parameters that the architecture keeps in float32: some only where float16 would overflow, some always."""
    patterns = []
    if dtype == torch.float16:
        patterns += getattr(model, "_keep_in_fp32_modules", None) or []
    if dtype in (torch.float16, torch.bfloat16):
        patterns += getattr(model, "_keep_in_fp32_modules_strict", None) or []
    regexes = [re.compile(pattern.replace("*", ".*")) for pattern in patterns]
    return [name for name, _ in model.named_parameters() if any(regex.search(name) for regex in regexes)]
