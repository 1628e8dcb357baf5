"""The fastest training that fits."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from quatrain.errors import BudgetError
from quatrain.memory.candidates import TIE, Candidate, Kept, Workshop, candidates, refined
from quatrain.memory.plan import Choice, Plan
from quatrain.memory.reasons import notes, refusal
from quatrain.memory.request import Request
from quatrain.memory.standing import STREAM_SLOTS, Standing
from quatrain.memory.step import head_chunk

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
        raise BudgetError(f"{refusal(request, found)}. {_remedy(request)}")
    fastest = min(candidate.seconds for candidate in fitting)
    # Of equally fast ways the one that needs the least of host and bus: a model of time is no reason to stream.
    best = min((c for c in fitting if c.seconds <= fastest * (1 + TIE)), key=_trouble)
    best = refined(request, best, lambda candidate: _fits(candidate, request))
    return _plan(request, best, notes(request, best, found, _fits))


def _trouble(candidate: Candidate) -> tuple:
    return candidate.on_disk, candidate.streamed, candidate.paged, candidate.host_needed, candidate.seconds


def _fits(candidate: Candidate, request: Request) -> bool:
    return candidate.needed <= request.budget and candidate.host_needed <= request.host


def _plan(request: Request, best: Candidate, said: Sequence[str]) -> Plan:
    blocks = range(len(request.model.blocks))
    away = spread(best.streamed, len(blocks))
    on_disk = tuple(away[place] for place in spread(best.on_disk, len(away)))
    held = {"activations kept": best.held.kept, "block at work": best.held.working, "head and loss": best.held.head}
    parts = {part: nbytes for part, nbytes in (best.standing | held).items() if nbytes}
    wide = request.with_inexact
    workshop = Workshop(wide, Standing(wide), best.rows)
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
        notes=tuple(said),
    )


def _choices(request: Request, workshop: Workshop, best: Candidate) -> Iterator[Choice]:
    """What each policy would cost, all else as it was chosen."""
    for name in workshop.request.policies:
        kept = Kept(name, name, len(request.model.blocks))
        found = workshop.candidate(kept, best.streamed, paged=best.paged)
        yield Choice(
            policy=name,
            needed=found.needed,
            host=found.host_needed,
            seconds=found.seconds,
            ruled_out=name not in request.policies,
        )


def spread(chosen: int, of: int) -> tuple[int, ...]:
    """`chosen` places among `of`, as far apart as can be, so that what each brings has time to travel."""
    return tuple((2 * place + 1) * of // (2 * chosen) for place in range(chosen))


def _remedy(request: Request) -> str:
    """The nearest change that would fit."""
    if not request.may_stream and _possible(replace(request, may_stream=True)):
        return "It would fit with `memory` set: weights of blocks are streamed then"
    small = replace(request, model=replace(request.model, embedding_four_bits=True, head_four_bits=True))
    if length := _longest(request):
        return f"It would fit with `max_length: {length}` and micro-batches of one row"
    if length := _longest(small):
        return f"It would fit with `quantize_head`, `quantize_embeddings` and `max_length: {length}`"
    return "No shorter samples would change that: take a smaller model or a larger device"


def _longest(request: Request) -> int | None:
    """The longest samples, by halving, that one row of fits; None if none does."""
    length = request.max_length
    while length >= _SHORTEST:
        if _possible(replace(request, max_length=length, rows_at_once=(1,))):
            return length
        length //= 2
    return None


def _possible(request: Request) -> bool:
    return any(_fits(candidate, request) for candidate in candidates(request))
