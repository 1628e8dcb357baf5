"""Whether a run may go on under a config that isn't the one it was begun with.

Every setting that differs is of one of three kinds. Fatal: the checkpoint's tensors or its place in the data would mean
something else. Harmless: where things are and how often they are looked at; nothing that is computed depends on it.
Noted: all others; the run goes on, not as it would have, and its log says so. What a *name* can't tell is decided by
content: the base and the rows may have moved, but where their weights or tokens differ, loading the checkpoint refuses
(`checkpoint.py`, `quatrain.data.loader`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quatrain.errors import CheckpointError
from quatrain.runlog import RunStarted
from quatrain.training.config import RunConfig
from quatrain.training.config_file import read_config

_FATAL = (
    *("quantization", "double_quant", "block_size", "keep_in_16bit", "quantize_head", "quantize_embeddings"),
    *("lora", "new_tokens", "optim", "loraplus_lr_ratio", "gradient_accumulation_steps"),
    *("seed", "max_length", "packing", "per_device_train_batch_size"),
)
_HARMLESS = (
    *("output_dir", "logging_steps", "eval_steps", "save_steps", "save_total_limit"),
    *("eval_data", "task_eval", "trust_remote_code", "adapter", "export_to"),
)


@dataclass(frozen=True)
class Differences:
    """Settings that differ, a phrase each."""

    fatal: tuple[str, ...] = ()
    noted: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()


def differences(before: RunConfig, now: RunConfig) -> Differences:
    """What `now` sets otherwise than `before`; nested settings have dotted names, and go with their outermost one."""
    old, new = _flat(asdict(before)), _flat(asdict(now))
    found: dict[str, list[str]] = {"fatal": [], "noted": [], "harmless": []}
    for name in dict.fromkeys([*old, *new]):
        was, is_now = old.get(name), new.get(name)
        if was != is_now:
            outermost = name.partition(".")[0]
            kind = "fatal" if outermost in _FATAL else "harmless" if outermost in _HARMLESS else "noted"
            found[kind].append(f"`{name}`: it was {was!r} and is {is_now!r}")
    return Differences(**{kind: tuple(phrases) for kind, phrases in found.items()})


def changes_since(stored: Path, config: RunConfig) -> Differences:
    """What `config` changes of the config that a run was begun with.

    Raises:
        CheckpointError: a setting changed that the checkpoint depends on; all such are listed.
    """
    found = differences(read_config(stored), config)
    if found.fatal:
        others = f" (These would not hinder: {'; '.join(found.noted)}.)" if found.noted else ""
        raise CheckpointError(
            f"a run can't be resumed with another {'; '.join(found.fatal)}. "
            f"Resume with the config in {stored}, or start a new run.{others}"
        )
    return found


def moved(before: RunStarted, now: RunStarted) -> str | None:
    """What of the machine and the libraries is another since the run was last started; None if nothing is.

    Their kernels may round otherwise, so the run isn't the one that it would have been bit for bit.
    """
    was = {"device": before.device, "compute dtype": before.compute_dtype, **before.versions}
    is_now = {"device": now.device, "compute dtype": now.compute_dtype, **now.versions}
    changed = [f"{name} {was.get(name)} → {value}" for name, value in is_now.items() if was.get(name) != value]
    return f"{', '.join(changed)}: its steps may differ in the last bits" if changed else None


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
