"""A plan as events: what it predicts when a run begins, and the same beside what was measured when it ends."""

from statistics import median

from quatrain.memory import Plan
from quatrain.memory.card import CPU
from quatrain.runlog import PlanChecked, Planned


def planned(plan: Plan) -> Planned:
    """The event for a run that begins."""
    return Planned(
        budget=plan.budget,
        parts=dict(plan.bytes_by_part),
        peak=expected_peak(plan),
        seconds=plan.seconds,
        exact=plan.exact,
        notes=list(plan.notes),
    )


def checked(plan: Plan, step: int, measured_peak: int, seconds: list[float]) -> PlanChecked:
    """The event for training that is over.

    Args:
        measured_peak: the most bytes in use on the device.
        seconds: of the last steps.
    """
    return PlanChecked(
        step=step,
        predicted_peak=expected_peak(plan),
        measured_peak=measured_peak,
        predicted_seconds=plan.seconds,
        measured_seconds=median(seconds),
    )


def expected_peak(plan: Plan) -> int:
    """What the allocator should count at most; of a host, where nobody counts, what should be resident."""
    tensors = max(plan.peaks["training"], plan.peaks["evaluating"])
    return tensors + plan.outside_tensors if plan.device == CPU else tensors
