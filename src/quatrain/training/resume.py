"""Whether a run may go on under a config that isn't the one it was begun with.

Some settings are part of what the checkpoint holds: with others its tensors would mean something else. The rest may
change; the run's log then says what did.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from quatrain.errors import CheckpointError
from quatrain.training.config import RunConfig
from quatrain.training.config_file import read_config

# With another one of these the checkpoint's adapter, moments or place in the data would be misread.
_FIXED = (
    *("lora", "new_tokens", "optim", "loraplus_lr_ratio", "gradient_accumulation_steps", "seed"),
    *("quantization", "double_quant", "block_size", "keep_in_16bit", "quantize_head", "quantize_embeddings"),
)
# Where things are and how often they are looked at changes nothing that is computed.
_HARMLESS = (
    *("output_dir", "model", "export_to", "logging_steps", "eval_steps", "save_steps", "save_total_limit"),
    "task_eval",
)


def changes_since(stored: Path, config: RunConfig) -> list[str]:
    """What `config` changes of the config that a run was begun with, a phrase for each; harmless ones are left out.

    Raises:
        CheckpointError: a setting changed that the checkpoint depends on.
    """
    before, now = asdict(read_config(stored)), asdict(config)
    changed = [name for name in now if now[name] != before[name] and name not in _HARMLESS]
    if fatal := [name for name in changed if name in _FIXED]:
        raise CheckpointError(
            f"a run can't be resumed with another {_phrase(fatal[0], before, now)}. "
            f"Resume with the config in {stored}, or start a new run"
        )
    return [_phrase(name, before, now) for name in changed]


def _phrase(name: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    return f"`{name}`: it was {before[name]!r} and is {now[name]!r}"
