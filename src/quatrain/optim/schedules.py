"""Learning-rate schedules as pure functions of the step.

A schedule object with a counter inside has state to save, to restore and to get wrong when a run resumes; a function of
the step has none. The curves are those of ``transformers`` (``get_linear_schedule_with_warmup``,
``get_cosine_schedule_with_warmup``, ``get_constant_schedule_with_warmup``), so that a recipe carries over unchanged.
"""

import math
from dataclasses import dataclass

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


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One run's schedule: ``schedule(step)`` is the multiplier of the learning rate."""

    name: str = "linear"
    """"linear", "cosine" or "constant", after the warmup."""
    warmup_steps: int = 0
    """Optimizer steps over which the rate rises from 0."""
    total_steps: int
    """Optimizer steps of the whole run, the warmup included."""

    def __post_init__(self) -> None:
        lr_multiplier(self.name, 0, warmup_steps=0, total_steps=1)
        if self.total_steps < 1:
            raise ConfigError(f"total_steps must be at least 1, got {self.total_steps}.")
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise ConfigError(
                f"warmup_steps must be between 0 and the run's {self.total_steps} steps, got {self.warmup_steps}."
            )

    @classmethod
    def from_ratio(cls, name: str, *, warmup_ratio: float, total_steps: int) -> "Schedule":
        """Warm up over this fraction of all steps, rounded up as ``transformers.TrainingArguments`` does."""
        if not 0.0 <= warmup_ratio <= 1.0:
            raise ConfigError(f"warmup_ratio is a fraction of all steps, between 0 and 1, got {warmup_ratio}.")
        return cls(name=name, warmup_steps=math.ceil(total_steps * warmup_ratio), total_steps=total_steps)

    def __call__(self, step: int) -> float:
        return lr_multiplier(self.name, step, warmup_steps=self.warmup_steps, total_steps=self.total_steps)
