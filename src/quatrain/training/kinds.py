"""Of which kind each setting of a run must be, and in which bounds.

A config that comes from a file is checked by pydantic; one that is made in Python is checked by nothing else than this,
and there "false" is true and 0.5 steps round to none.
"""

from typing import Any

from quatrain.data.checks import check_number, check_text, check_truth, check_whole
from quatrain.errors import ConfigError

_TRUTHS = ("trust_remote_code", "double_quant", "quantize_head", "quantize_embeddings", "packing")
_TEXTS = ("revision", "device", "compute_dtype")
_WHOLE = {
    "block_size": 1,
    "max_length": 2,  # a token and its successor
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_steps": 1,
    "logging_steps": 1,
    "eval_steps": 1,
    "save_steps": 1,
    "save_total_limit": 1,
    "seed": 0,
}
"""Whole numbers, and the least that each may be."""
_OPTIONAL = ("max_steps", "eval_steps", "save_steps")
_POSITIVE = ("num_train_epochs", "learning_rate")
_NOT_NEGATIVE = ("weight_decay", "max_grad_norm", "adam_epsilon")
_SHARES = ("adam_beta1", "adam_beta2", "warmup_ratio")
_LARGEST_SEED = 2**63 - 1
"""That PyTorch takes."""


def check_kinds(config: Any) -> None:
    """Raises ConfigError for a setting of a RunConfig that is of the wrong kind or out of bounds."""
    check_truth(config, *_TRUTHS)
    for name in _TEXTS:
        check_text(config, name)
    for name, least in _WHOLE.items():
        check_whole(config, name, at_least=least, optional=name in _OPTIONAL)
    for name in _POSITIVE:
        check_number(config, name, above=True)
    for name in _NOT_NEGATIVE:
        check_number(config, name)
    for name in _SHARES:
        check_number(config, name, below=1.0)
    if config.loraplus_lr_ratio is not None:
        check_number(config, "loraplus_lr_ratio", above=True)
    if config.seed > _LARGEST_SEED:
        raise ConfigError(f"`seed` must be at most {_LARGEST_SEED}, got {config.seed}.")


def texts(config: Any, name: str) -> tuple[str, ...]:
    """The texts of a setting that may be given as one or as several. Raises ConfigError for anything else."""
    value = getattr(config, name)
    several = value if isinstance(value, list | tuple) else [value]
    found = tuple(text for text in several if isinstance(text, str) and text)
    if len(found) != len(several):
        raise ConfigError(f"`{name}` must be a text or a list of texts, got {value!r}.")
    return found
