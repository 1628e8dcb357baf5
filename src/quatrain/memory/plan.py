"""What a training run will hold and take: numbers only, decided before anything is loaded.

A plan is carried out elsewhere. The engine takes its policies and head chunk, the optimizer whether its state is paged,
and whoever places weights, which blocks stay on the device. All bytes are of the device unless a name says host.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from quatrain.memory.amounts import duration, gigabytes


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What all blocks following one policy would cost, all else as planned."""

    policy: str
    needed: int
    """Bytes of the device."""
    host: int
    """Bytes of pinned host memory."""
    seconds: float
    """Of an optimizer step."""
    ruled_out: bool = False
    """The settings don't allow it, because it changes gradients."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train a model on one device."""

    device: str
    """Name of the card that it is for, such as "NVIDIA H200"; "cpu" for a processor."""
    budget: int
    """Bytes that the process may take of the device, whatever it takes them for."""
    micro_batch_tokens: int
    """Tokens of a packed row."""
    micro_batches: int
    """Of an optimizer step."""
    policies: tuple[str, ...]
    """What each block keeps for its backward, from first to last: names in `blocks.policy.POLICIES`."""
    paged_optimizer: bool
    """Whether AdamW's state lives in pinned host memory."""
    resident_blocks: tuple[int, ...]
    """Blocks whose weights stay on the device."""
    streamed_blocks: tuple[int, ...]
    """Blocks whose weights lie in pinned host memory and are copied ahead of each use."""
    disk_blocks: tuple[int, ...]
    """Blocks whose weights are read from disk ahead of each use."""
    stream_slots: int
    """Blocks that the device's buffers for streaming hold at once; 0 if all are resident."""
    head_chunk_tokens: int
    """Supervised tokens whose logits exist at once, at most."""
    bytes_by_part: Mapping[str, int]
    """What the device holds at the fullest moment of a training step; adds up to `peak`."""
    host_bytes_by_part: Mapping[str, int]
    """What pinned host memory holds."""
    peaks: Mapping[str, int]
    """The most that tensors occupy while "loading", "training", "evaluating" and "saving"."""
    outside_tensors: int
    """What the driver's context and the allocator's holes take beside tensors; counts against the budget."""
    seconds_by_part: Mapping[str, float]
    """What a micro-batch takes."""
    optimizer_seconds: float
    """What clipping and AdamW take, once a step."""
    exact: bool
    """False: the architecture isn't one of the known ones, and bytes are an upper bound."""
    choices: tuple[Choice, ...]
    """What each policy would cost."""
    notes: tuple[str, ...]
    """Why it was chosen, and what would fit next, a sentence each."""

    @property
    def peak(self) -> int:
        """The most bytes that tensors occupy in a training step."""
        return self.peaks["training"]

    @property
    def needed(self) -> int:
        """The budget that the whole run asks for."""
        return max(self.peaks.values()) + self.outside_tensors

    @property
    def host_bytes(self) -> int:
        return sum(self.host_bytes_by_part.values())

    @property
    def seconds(self) -> float:
        """An optimizer step."""
        return self.micro_batches * sum(self.seconds_by_part.values()) + self.optimizer_seconds

    def __str__(self) -> str:
        """All of it for a person, a fact a line."""
        lines = [f"{self.device}: {self._share}, {duration(self.seconds)} a step", *self._blocks(), ""]
        lines += _table(self.bytes_by_part, gigabytes)
        lines += _table({"peak of a step": self.peak, "outside tensors": self.outside_tensors}, gigabytes, total=False)
        others = ", ".join(f"{gigabytes(nbytes)} {when}" for when, nbytes in self.peaks.items() if when != "training")
        lines.append(f"peak at other times: {others}")
        if self.host_bytes:
            lines += ["", "pinned on the host", *_table(self.host_bytes_by_part, gigabytes)]
        lines += ["", f"a micro-batch of {self.micro_batch_tokens:,} tokens, {self.micro_batches} a step"]
        lines += _table(self.seconds_by_part, duration)
        lines += _table({"optimizer, once a step": self.optimizer_seconds}, duration, total=False)
        lines += ["", "if all blocks kept", *self._choices(), "", *self.notes]
        return "\n".join(lines)

    @property
    def in_one_line(self) -> str:
        """For a log."""
        return (
            f"{self._share} on {self.device}, {duration(self.seconds)} a step, "
            f"in micro-batches of {self.micro_batch_tokens:,} tokens; {'; '.join(self._blocks())}"
        )

    @property
    def _share(self) -> str:
        bound = "" if self.exact else "at most "
        return f"{bound}{gigabytes(self.needed)} of {gigabytes(self.budget)}"

    def _blocks(self) -> Iterator[str]:
        """Which blocks keep what, and where weights and state are."""
        first = 0
        for name, group in groupby(self.policies):
            last = first + len(list(group)) - 1
            yield f"blocks {first}–{last} keep what `gradient_checkpointing: {name}` says"
            first = last + 1
        for blocks, where in ((self.streamed_blocks, "pinned host memory"), (self.disk_blocks, "disk")):
            if blocks:
                yield f"weights of {len(blocks)} blocks are streamed from {where}"
        if self.paged_optimizer:
            yield "the optimizer's state is paged"

    def _choices(self) -> Iterator[str]:
        for choice in self.choices:
            host = f", {gigabytes(choice.host)} on the host" if choice.host else ""
            fits = "" if choice.needed <= self.budget else ", more than there is"
            asks = ", with `activations_8bit`" if choice.ruled_out else ""
            yield f"  {choice.policy:<22}{gigabytes(choice.needed):>10}{duration(choice.seconds):>10}{host}{fits}{asks}"


def _table(values: Mapping[str, float], words, *, total: bool = True) -> list[str]:
    rows = [f"  {name:<22}{words(value):>10}" for name, value in values.items()]
    return [*rows, f"  {'in all':<22}{words(sum(values.values())):>10}"] if total and len(rows) > 1 else rows
