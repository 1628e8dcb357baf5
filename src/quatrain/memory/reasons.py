"""A choice in words: why it was made, what more memory would bring, and what is missing where nothing fits."""

from collections.abc import Callable, Sequence

from quatrain.memory.amounts import gigabytes
from quatrain.memory.candidates import Candidate, Kept, Workshop, ways_to_keep
from quatrain.memory.request import Request
from quatrain.memory.standing import Standing
from quatrain.memory.step import GROUPS, Policy

_WORTH_SAYING = 0.03
"""A way that is faster by less isn't worth more memory."""


def notes(
    request: Request, best: Candidate, found: Sequence[Candidate], fits: Callable[[Candidate, Request], bool]
) -> list[str]:
    """Why `best` was chosen among `found`, and what would be faster with more memory, a sentence each."""
    said = [f"the fastest of {sum(fits(c, request) for c in found)} ways that fit, of {len(found)} looked at"]
    if not request.engine:
        said.append(
            "the model's own modules train it, through autograd: bytes are an upper bound, and nothing is streamed"
        )
    if best.on_disk:
        said.append(
            f"{best.on_disk} blocks are read from disk in every pass: the host has {gigabytes(request.host)} for "
            "pinned memory"
        )
    short = [
        c for c in found if c.needed <= request.budget and c.host_needed > request.host and c.seconds < best.seconds
    ]
    if short:
        ahead = min(short, key=lambda c: c.host_needed)
        said.append(
            f"with {gigabytes(ahead.host_needed - request.host)} more free memory on the host, "
            f"{_difference(best, ahead, request)}: {_gain(best, ahead)}"
        )
    faster = [c for c in found if c.needed > request.budget and c.host_needed <= request.host]
    faster = [c for c in faster if c.seconds < (1 - _WORTH_SAYING) * best.seconds]
    faster = [c for c in faster if c.paged <= best.paged and c.streamed <= best.streamed]
    if faster:
        ahead = min(faster, key=lambda c: (c.needed, c.seconds))
        said.append(
            f"with {gigabytes(ahead.needed - request.budget)} more, {_difference(best, ahead, request)}: "
            f"{_gain(best, ahead)}"
        )
    elif not short:
        said.append("more memory would not make it faster")
    return said + _with_inexact(request, best, fits)


def _with_inexact(request: Request, best: Candidate, fits: Callable[[Candidate, Request], bool]) -> list[str]:
    """What policies that the settings rule out would bring, if that is worth saying."""
    if not request.inexact:
        return []
    wide = request.with_inexact
    workshop = Workshop(wide, Standing(wide), best.rows)
    found = (workshop.candidate(kept, best.streamed, paged=best.paged) for kept in ways_to_keep(wide))
    ahead = min((c for c in found if fits(c, request)), key=lambda c: c.seconds)
    if ahead.seconds >= (1 - _WORTH_SAYING) * best.seconds:
        return []
    return [
        f"with `activations_8bit`, {_kept_in_words(ahead.kept, wide)}: {_gain(best, ahead)}, with gradients that are "
        "no longer the same bits"
    ]


def _gain(slow: Candidate, fast: Candidate) -> str:
    return f"−{100 * (1 - fast.seconds / slow.seconds):.0f} % time"


def _difference(best: Candidate, other: Candidate, request: Request) -> str:
    """What another way does differently."""
    said = []
    if other.rows != best.rows:
        said.append(f"micro-batches would have {other.rows * request.max_length:,} tokens")
    if other.kept != best.kept:
        said.append(_kept_in_words(other.kept, request))
    if other.streamed != best.streamed:
        said.append(f"{other.streamed or 'no'} blocks would be streamed instead of {best.streamed or 'none'}")
    if other.paged != best.paged:
        said.append(f"the optimizer's state would {'' if other.paged else 'not '}be paged")
    return " and ".join(said)


def _kept_in_words(kept: Kept, request: Request) -> str:
    blocks = len(request.model.blocks)
    if kept.first == blocks:
        return f"all blocks would {_policy_in_words(request.policies[kept.frugal])}"
    return (
        f"blocks {kept.first}–{blocks - 1} would {_policy_in_words(request.policies[kept.fast])}, the others "
        f"{_policy_in_words(request.policies[kept.frugal])}"
    )


def _policy_in_words(policy: Policy) -> str:
    """ "keep everything", or "recompute qkv, gate_up and offload x"."""
    away = {where: [g for g in GROUPS if getattr(policy, g) == where] for where in ("recompute", "offload")}
    said = [f"{where} {', '.join(groups)}" for where, groups in away.items() if groups]
    said += ["keep gate_up in 8 bits"] if policy.gate_up == "8bit" else []
    return " and ".join(said) or "keep everything"


def refusal(request: Request, found: Sequence[Candidate]) -> str:
    """Why none of `found` fits: the least that one of them needs, and what that is made of."""
    least = min(found, key=lambda c: c.needed)
    held = {"activations": least.held.kept + least.held.working, "head and loss": least.held.head}
    outside = "context and allocator" if request.card.is_gpu else "process"
    parts = least.standing | held | {outside: least.outside}
    made_of = ", ".join(
        f"{gigabytes(nbytes)} {part}" for part, nbytes in sorted(parts.items(), key=lambda p: -p[1]) if nbytes
    )
    where = "" if least.needed <= request.budget else f" (at least {gigabytes(least.needed)}: {made_of})"
    if not where:
        where = (
            f": it fits on the device, but the host has {gigabytes(request.host)} for pinned memory, and "
            f"{gigabytes(min(c.host_needed for c in found if c.needed <= request.budget))} are needed"
        )
    return f"training doesn't fit into {gigabytes(request.budget)} of {request.card.name}{where}"
