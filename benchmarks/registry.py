"""All cases, in the order of the table."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from benchmarks.case import Case
from benchmarks.measurements import (
    adapter_starts,
    ceilings,
    cpu_attention,
    decoding,
    dequantizing,
    fused_curve,
    kept_in_8_bits,
    loading,
    loss_curves,
    optimizing,
    planned_run,
    planning,
    products,
    starting,
    streaming,
    training,
)

CASES: dict[str, Case] = {
    case.name: case
    for kind in (
        training,
        loading,
        starting,
        decoding,
        dequantizing,
        products,
        optimizing,
        planning,
        planned_run,
        streaming,
        cpu_attention,
        loss_curves,
        fused_curve,
        kept_in_8_bits,
        adapter_starts,
        ceilings,
    )
    for case in kind.CASES
}


def select(patterns: Sequence[str]) -> list[Case]:
    """The cases that any of the names or globs matches, or all listed ones without any, ceilings first.

    Raises LookupError for a pattern that matches nothing.
    """
    chosen = [case for case in CASES.values() if case.listed] if not patterns else []
    for pattern in patterns:
        matching = [case for case in CASES.values() if _matches(case, pattern)]
        if not matching:
            raise LookupError(f"no case is called {pattern!r}; there are {', '.join(CASES)}")
        chosen += [case for case in matching if case not in chosen]
    return sorted(chosen, key=lambda case: case.name != "ceilings")


def _matches(case: Case, pattern: str) -> bool:
    return case.name == pattern or (case.listed and fnmatchcase(case.name, pattern))
