"""The fastest training that fits, why it is that, and what a little more memory would bring."""

from collections.abc import Sequence
from dataclasses import replace

from quatrain.errors import BudgetError
from quatrain.memory.amounts import duration, gigabytes
from quatrain.memory.candidates import TIE, Candidate, Kept, Workshop, candidates, refined
from quatrain.memory.plan import Choice, Plan
from quatrain.memory.request import Request
from quatrain.memory.standing import STREAM_SLOTS, Standing
from quatrain.memory.step import GROUPS, Policy, head_chunk

_WORTH_SAYING = 0.03
"""A way that is faster by less isn't worth more memory."""
_SHORTEST = 64
"""Tokens of the shortest samples that are tried as a remedy."""


def make_plan(request: Request) -> Plan:
    """The fastest way to train that fits into the request's budget.

    Raises:
        BudgetError: none fits; says what the least is made of, and the nearest change that would.
    """
    found = list(candidates(request))
    fitting = [candidate for candidate in found if _fits(candidate, request)]
    if not fitting:
        raise BudgetError(_refusal(request, found))
    fastest = min(candidate.seconds for candidate in fitting)
    # Of equally fast ways the one that needs the least of host and bus: a model of time is no reason to stream.
    best = min((c for c in fitting if c.seconds <= fastest * (1 + TIE)), key=_trouble)
    best = refined(request, best, lambda candidate: _fits(candidate, request))
    return _plan(request, best, _notes(request, best, found))


def _trouble(candidate: Candidate) -> tuple:
    return candidate.on_disk, candidate.streamed, candidate.paged, candidate.host_needed, candidate.seconds


def _fits(candidate: Candidate, request: Request) -> bool:
    return candidate.needed <= request.budget and candidate.host_needed <= request.host


def _plan(request: Request, best: Candidate, notes: Sequence[str]) -> Plan:
    blocks = range(len(request.model.blocks))
    away = spread(best.streamed, len(blocks))
    on_disk = tuple(away[place] for place in spread(best.on_disk, len(away)))
    held = {"activations kept": best.held.kept, "block at work": best.held.working, "head and loss": best.held.head}
    parts = {part: nbytes for part, nbytes in (best.standing | held).items() if nbytes}
    workshop = Workshop(request, Standing(request), best.rows)
    return Plan(
        device=request.card.name,
        budget=request.budget,
        micro_batch_tokens=best.rows * request.max_length,
        micro_batches=best.micro_batches,
        policies=best.kept.names(len(blocks)),
        paged_optimizer=best.paged,
        resident_blocks=tuple(block for block in blocks if block not in away),
        streamed_blocks=tuple(block for block in away if block not in on_disk),
        disk_blocks=on_disk,
        stream_slots=STREAM_SLOTS if away else 0,
        head_chunk_tokens=head_chunk(request.model, workshop.row),
        bytes_by_part=parts,
        host_bytes_by_part=best.host,
        peaks=best.peaks,
        outside_tensors=best.outside,
        seconds_by_part=best.micro_batch,
        optimizer_seconds=best.optimizer,
        exact=request.engine,
        choices=tuple(_choices(request, workshop, best)),
        notes=tuple(notes),
    )


def _choices(request: Request, workshop: Workshop, best: Candidate):
    """What each policy would cost, all else as it was chosen."""
    for name in request.policies:
        kept = Kept(name, name, len(request.model.blocks))
        found = workshop.candidate(kept, best.streamed, paged=best.paged)
        yield Choice(policy=name, needed=found.needed, host=found.host_needed, seconds=found.seconds)


def spread(chosen: int, of: int) -> tuple[int, ...]:
    """`chosen` places among `of`, as far apart as can be, so that what each brings has time to travel."""
    return tuple((2 * place + 1) * of // (2 * chosen) for place in range(chosen))


def _notes(request: Request, best: Candidate, found: Sequence[Candidate]) -> list[str]:
    notes = [f"the fastest of {sum(_fits(c, request) for c in found)} ways that fit, of {len(found)} looked at"]
    if not request.engine:
        notes.append(
            "the model's own modules train it, through autograd: bytes are an upper bound, and nothing is streamed"
        )
    if best.on_disk:
        notes.append(
            f"{best.on_disk} blocks are read from disk in every pass: the host has {gigabytes(request.host)} for pinned "
            f"memory"
        )
    short = [c for c in found if c.needed <= request.budget and c.host_needed > request.host and c.seconds < best.seconds]
    if short:
        ahead = min(short, key=lambda c: c.host_needed)
        notes.append(
            f"with {gigabytes(ahead.host_needed - request.host)} more free memory on the host, "
            f"{_difference(best, ahead, request)}: {_gain(best, ahead)}"
        )
    faster = [c for c in found if c.needed > request.budget and c.host_needed <= request.host]
    faster = [c for c in faster if c.seconds < (1 - _WORTH_SAYING) * best.seconds and c.paged <= best.paged]
    if faster:
        ahead = min(faster, key=lambda c: (c.needed, c.seconds))
        notes.append(
            f"with {gigabytes(ahead.needed - request.budget)} more, {_difference(best, ahead, request)}: "
            f"{_gain(best, ahead)}"
        )
    elif not short:
        notes.append("more memory would not make it faster")
    return notes


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
    return " and ".join(said) or "keep everything"


def _refusal(request: Request, found: Sequence[Candidate]) -> str:
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
    return f"training doesn't fit into {gigabytes(request.budget)} of {request.card.name}{where}. {_remedy(request)}"


def _remedy(request: Request) -> str:
    """The nearest change that would fit."""
    length = request.max_length // 2
    while length >= _SHORTEST:
        if _possible(replace(request, max_length=length, rows_at_once=(1,))):
            return f"It would fit with `max_length: {length}` and micro-batches of one row"
        length //= 2
    small = replace(request.model, embedding_four_bits=True, head_four_bits=True)
    if _possible(replace(request, model=small, max_length=_SHORTEST, rows_at_once=(1,))):
        return f"It would fit with `quantize_head` and `quantize_embeddings`, and samples of {_SHORTEST} tokens"
    return "No shorter samples would change that: take a smaller model or a larger device"


def _possible(request: Request) -> bool:
    return any(_fits(candidate, request) for candidate in candidates(request))


def summary(plan: Plan) -> str:
    """One line for a run's log."""
    return (
        f"plan: {gigabytes(plan.needed)} of {gigabytes(plan.budget)} on {plan.device}, {plan.micro_batch_tokens:,} tokens "
        f"a micro-batch, {duration(plan.seconds)} a step"
    )
