"""Every way to train that is worth looking at, with what it takes and how long.

Four things are chosen: how many rows a micro-batch has, what each block keeps, how many blocks are streamed, and where
the optimizer's state lives. Blocks keep either all the same, or the first ones less than the others: the last block's
backward comes first, when all that is kept is still there, so it is the first blocks that find room to compute again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

from quatrain.memory import step as steps
from quatrain.memory.autograd import AutogradStep
from quatrain.memory.request import Request
from quatrain.memory.seconds import AutogradPace, Computing, Pace, Travels
from quatrain.memory.standing import Standing
from quatrain.memory.step import Held, Row, Step

_CUTS, _STREAM_CUTS = 8, 4
"""Places at which a coarse search changes from one policy to the next, and from streamed to resident."""
TIE = 0.005
"""Ways whose times differ by less are equally fast."""
_HOLES = 0.02
"""Of what comes and goes, how much the allocator can't use for the next tensor."""
_SMALLEST_HOLES = 256 << 20


@dataclass(frozen=True)
class Kept:
    """The first `first` blocks keep what the policy `frugal` says, the others what `fast` says."""

    frugal: str
    fast: str
    first: int

    def names(self, blocks: int) -> tuple[str, ...]:
        """One name a block."""
        return (self.frugal,) * self.first + (self.fast,) * (blocks - self.first)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to train."""

    rows: int
    """Of a micro-batch."""
    kept: Kept
    streamed: int
    on_disk: int
    """How many of the streamed blocks don't fit into host memory."""
    paged: bool
    standing: dict[str, int]
    """Bytes that are always there, by part."""
    held: Held
    """The fullest moment of a step, beside them."""
    evaluating: int
    """The same without a backward."""
    loading: int
    """The fullest moment of loading."""
    outside: int
    """Context, and holes between tensors."""
    host: dict[str, int]
    micro_batch: dict[str, float]
    """Seconds, by part."""
    optimizer: float
    micro_batches: int
    """Of an optimizer step."""

    @property
    def peaks(self) -> dict[str, int]:
        standing = sum(self.standing.values())
        return {
            "loading": self.loading,
            "training": standing + self.held.total,
            "evaluating": standing + self.evaluating,
            "saving": standing,
        }

    @cached_property
    def needed(self) -> int:
        return max(self.peaks.values()) + self.outside

    @property
    def host_needed(self) -> int:
        return sum(self.host.values())

    @cached_property
    def seconds(self) -> float:
        """Of an optimizer step."""
        return sum(self.micro_batch.values()) * self.micro_batches + self.optimizer


class Workshop:
    """Makes candidates for micro-batches of `rows` rows."""

    def __init__(self, request: Request, standing: Standing, rows: int):
        self.request, self.standing, self.rows, self.model = request, standing, rows, request.model
        self._seen: dict[Kept, _Work] = {}
        card, tokens = request.card, rows * request.max_length
        self.row = Row(
            tokens=tokens,
            longest=request.max_length,
            supervised=tokens,
            backend=card.backend,
            on_gpu=card.is_gpu,
        )
        self.step = Step(self.model, self.row) if request.engine else AutogradStep(self.model, self.row)
        self.pace = Pace(self.step, card) if isinstance(self.step, Step) else AutogradPace(self.step, card)
        buffers = steps.shared_buffers(self.model, self.row) if request.engine else {}
        self.shared = sum(buffers.values()) + steps.rotary_bytes(self.model, self.row)
        self.evaluating = self.step.fullest_forward().total

    def candidate(self, kept: Kept, streamed: int, *, paged: bool) -> Candidate:
        """The whole cost of one choice."""
        request, card = self.request, self.request.card
        held, computing, away = self._work(kept)
        standing = self.standing.parts(streamed, paged=paged) | {"shared buffers": self.shared}
        state, blob = self.standing.optimizer, self.standing.blob
        host = {"offloaded activations": away, "optimizer state": state if paged else 0}
        fits = max(0, request.host - sum(host.values())) // blob if streamed else 0
        on_disk = max(0, streamed - fits)
        host["streamed weights"] = (streamed - on_disk) * blob
        holes = max(_SMALLEST_HOLES, int(_HOLES * held.total)) if card.is_gpu else 0
        return Candidate(
            rows=self.rows,
            kept=kept,
            streamed=streamed,
            on_disk=on_disk,
            paged=paged,
            standing=standing,
            held=held,
            evaluating=self.evaluating,
            loading=self.standing.loading(standing),
            outside=card.context + holes,
            host={part: nbytes for part, nbytes in host.items() if nbytes},
            micro_batch=self.pace.seconds(computing, Travels(away, streamed * blob, on_disk * blob, request.disk)),
            optimizer=self.pace.optimizer(state, paged=paged),
            micro_batches=-(-request.rows // self.rows),
        )

    def _work(self, kept: Kept) -> "_Work":
        """What is the same however weights and optimizer state are kept."""
        if kept not in self._seen:
            policies = [self.request.policies[name] for name in kept.names(len(self.model.blocks))]
            held, away = self.step.fullest(policies), sum(self.step.at("offload", policies))
            self._seen[kept] = _Work(held, self.pace.computing(policies), away)
        return self._seen[kept]


class _Work(NamedTuple):
    held: Held
    computing: Computing
    away: int
    """Bytes of offloaded activations."""


def candidates(request: Request) -> Iterator[Candidate]:
    """All of a coarse search."""
    blocks, standing = len(request.model.blocks), Standing(request)
    streamed = (
        sorted({blocks * cut // _STREAM_CUTS for cut in range(_STREAM_CUTS + 1)}) if _can_stream(request) else [0]
    )
    for rows in request.rows_at_once:
        workshop = Workshop(request, standing, rows)
        for kept in ways_to_keep(request):
            for count in streamed:
                for paged in _pagings(request):
                    yield workshop.candidate(kept, count, paged=paged)


def refined(request: Request, best: Candidate, fits: Callable[[Candidate], bool]) -> Candidate:
    """`best` with as few blocks streamed, and then as few frugal ones, as fit: what lies between two cuts."""
    workshop, blocks = Workshop(request, Standing(request), best.rows), len(request.model.blocks)

    def with_streamed(count: int) -> Candidate:
        return workshop.candidate(best.kept, count, paged=best.paged)

    def with_frugal(count: int) -> Candidate:
        kept = Kept(best.kept.frugal, best.kept.fast, count)
        return workshop.candidate(kept, best.streamed, paged=best.paged)

    best = _fewest(best, with_streamed, best.streamed, -(-blocks // _STREAM_CUTS), fits)
    return _fewest(best, with_frugal, best.kept.first, -(-blocks // _CUTS), fits)


def _fewest(
    best: Candidate, make: Callable[[int], Candidate], most: int, step: int, fits: Callable[[Candidate], bool]
) -> Candidate:
    """By bisection, what `make` gives for the smallest count above `most` − `step` that fits."""
    low, high = max(0, most - step), most
    while low < high:
        middle = (low + high) // 2
        found = make(middle)
        if fits(found) and found.seconds <= best.seconds * (1 + TIE):
            best, high = found, middle
        else:
            low = middle + 1
    return best


def ways_to_keep(request: Request) -> Iterator[Kept]:
    """All of a coarse search."""
    names, blocks = list(request.policies), len(request.model.blocks)
    for name in names:
        yield Kept(name, name, blocks)
    cuts = sorted({blocks * cut // _CUTS for cut in range(1, _CUTS)} - {0, blocks}) if request.engine else []
    for fast, frugal in combinations(names, 2):
        for first in cuts:
            yield Kept(frugal, fast, first)


def _pagings(request: Request) -> tuple[bool, ...]:
    if not request.card.is_gpu:
        return (False,)
    return {"auto": (False, True), "always": (True,), "never": (False,)}[request.paging]


def _can_stream(request: Request) -> bool:
    return request.may_stream and request.engine and request.card.is_gpu
