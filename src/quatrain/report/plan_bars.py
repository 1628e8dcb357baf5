"""What a plan said that memory would hold, part by part, beside the most that was measured."""

from dataclasses import dataclass

from quatrain.runlog import Event, PlanChecked, Planned

_SMALL = 0.02
"""Parts below this share of the longest bar are shown as one."""
_MOST_PARTS = 7
"""As many as there are colours."""
_OTHER = "other"


@dataclass(frozen=True)
class Part:
    """A piece of the planned bar."""

    name: str
    nbytes: int
    percent: float


@dataclass(frozen=True)
class PlanBars:
    """Two bars on one scale, and what else the plan and its check say."""

    parts: list[Part]
    planned: int
    planned_percent: float
    measured: int | None
    """None: training hasn't ended."""
    measured_percent: float
    budget: int
    exact: bool
    seconds: float
    measured_seconds: float | None
    notes: list[str]


def plan_bars(events: list[Event]) -> PlanBars | None:
    """The run's last plan and its check; None when the run had no plan."""
    plans = [e for e in events if isinstance(e, Planned)]
    checks = [e for e in events if isinstance(e, PlanChecked)]
    if not plans:
        return None
    plan, check = plans[-1], checks[-1] if checks else None
    measured = check.measured_peak if check else None
    longest = max(plan.peak, measured or 0, sum(plan.parts.values()), 1)
    return PlanBars(
        parts=_parts(plan, longest),
        planned=plan.peak,
        planned_percent=100 * plan.peak / longest,
        measured=measured,
        measured_percent=100 * (measured or 0) / longest,
        budget=plan.budget,
        exact=plan.exact,
        seconds=plan.seconds,
        measured_seconds=check.measured_seconds if check else None,
        notes=plan.notes,
    )


def _parts(plan: Planned, longest: int) -> list[Part]:
    """The parts from large to small, small ones together, and what the peak has beyond them."""
    ordered = sorted(((name, n) for name, n in plan.parts.items() if n > 0), key=lambda part: -part[1])
    shown = [(name, n) for name, n in ordered if n >= _SMALL * longest][: _MOST_PARTS - 1]
    other = max(plan.peak, sum(plan.parts.values())) - sum(n for _, n in shown)
    if other > 0:
        shown.append((_OTHER, other))
    return [Part(name, nbytes, 100 * nbytes / longest) for name, nbytes in shown]
