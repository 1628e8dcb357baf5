"""Learning-rate schedules as pure functions of the step.

A schedule object with a counter inside has state to save, to restore and to get wrong when a run resumes; a function of
the step has none. The curves are those of ``transformers`` (``get_linear_schedule_with_warmup``,
``get_cosine_schedule_with_warmup``, ``get_constant_schedule_with_warmup``), so that a recipe carries over unchanged.
"""

import math

from quatrain.errors import ConfigError

SCHEDULES = ("linear", "cosine", "constant")


def lr_multiplier(name: str, step: int, *, warmup_steps: int, total_steps: int) -> float:
    """What the learning rate is multiplied by in the optimizer step that ``step`` others precede.

    It rises linearly from 0 over ``warmup_steps``; then "linear" falls to 0 at ``total_steps``, "cosine" does so along
    half a cosine wave (and stays there, where the curve of ``transformers`` would rise again), and "constant" stays
    at 1. Raises ConfigError for another name.
    """
    if name not in SCHEDULES:
        raise ConfigError(f"lr_scheduler_type must be one of {', '.join(SCHEDULES)}, got {name!r}.")
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    if name == "constant":
        return 1.0
    falling_steps = max(1, total_steps - warmup_steps)
    if name == "linear":
        return max(0.0, (total_steps - step) / falling_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup_steps) / falling_steps)))


def warmup_steps(ratio: float, total_steps: int) -> int:
    """Optimizer steps of warmup: the fraction of all steps rounded up, as ``transformers.TrainingArguments`` does it,
    but never the whole run, whose only step would otherwise have a rate of 0."""
    return min(math.ceil(ratio * total_steps), total_steps - 1)
