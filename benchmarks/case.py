"""What a benchmark is: a case, the contenders that take part in it, and the rows of figures that each brings back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Models lie in folders that the runner made: nobody asks a hub, whose answer would be part of the time."""
TWO_CORES = OFFLINE | {"OMP_NUM_THREADS": "2"}
ONE_CORE = OFFLINE | {"OMP_NUM_THREADS": "1"}

Figures = dict[str, dict[str, Any]]
"""Metrics by row, such as ``{"batch 1": {"tokens_per_second": 300.0}}``."""


class WrongResult(Exception):
    """A contender computes something else than the reference: its figures don't count."""


@dataclass(frozen=True)
class Contender:
    """Who is measured: a library, or a way of using it."""

    name: str
    """In result files and on the command line."""
    title: str
    """The head of its column."""
    requires: tuple[str, ...] = ()
    """Packages, as they are imported, without which it is skipped."""


QUATRAIN = Contender("quatrain", "Quatrain")
HF = Contender("hf", "bitsandbytes + PEFT", ("bitsandbytes", "peft"))
HF_CHECKPOINTED = Contender("hf_checkpointed", "bitsandbytes + PEFT, checkpointed", ("bitsandbytes", "peft"))
LIGER = Contender("liger", "bitsandbytes + PEFT + Liger", ("bitsandbytes", "peft", "liger_kernel"))
UNSLOTH = Contender("unsloth", "Unsloth", ("unsloth", "bitsandbytes"))
BITSANDBYTES = Contender("bitsandbytes", "bitsandbytes", ("bitsandbytes",))
TORCH = Contender("torch", "PyTorch")
COPY = Contender("copy", "a copy of as many bytes")
SIXTEEN_BITS = Contender("sixteen_bits", "16-bit weights")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and how a contender is measured, told to its process by the runner."""

    device: torch.device
    models: Path
    """Folder with a folder for each model that the case names."""
    started: float
    """Unix time just before this process was started."""
    quick: bool = False
    """Fewer repetitions, for a look."""

    def repetitions(self, full: int) -> int:
        return max(2, full // 3) if self.quick else full


@dataclass(kw_only=True)
class Row:
    """What was measured under one label: times of equal pieces of work, and what one piece consists of."""

    samples_ms: list[float] = field(default_factory=list)
    tokens: int | None = None
    bytes: int | None = None
    flops: int | None = None
    allocated_gib: float | None = None
    """The most that tensors occupied while it was timed; on a CPU the resident set."""
    reserved_gib: float | None = None
    """The most that the allocator held."""
    values: dict[str, Any] = field(default_factory=dict)
    """What isn't a time: losses, perplexities, errors."""


Rows = dict[str, Row]


class Play(NamedTuple):
    """What one contender does in one case, each part called with the :class:`Setting` in the contender's process."""

    measure: Callable[[Setting], Rows]
    gate: Callable[[Setting], dict[str, float]] | None = None
    """Compares with the reference on small fresh input; gives the errors, raises :class:`WrongResult`. None where
    `measure` compares its own results."""
    gate_last: bool = False
    """Measure first, where the gate would change what is measured: the start of a process, the first load, or code
    that a compiler would make for the gate's small shapes and keep. The figures count only if the gate passes."""


@dataclass(frozen=True)
class Kind:
    """Cases that are measured alike and share a table."""

    title: str
    note: str
    shows: tuple[str, ...] = ("ms",)
    """The metrics of a cell; the first one is compared."""
    remark: Callable[["Case", Mapping[str, Any]], str] | None = None
    """A sentence from a case and its result."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One entry of the registry and one result file."""

    name: str
    kind: Kind
    title: str
    """What is measured, as the table says it."""
    contenders: Mapping[Contender, Play]
    device: Literal["cuda", "cpu"]
    options: Mapping[str, Any]
    """Shape and settings, for the result file."""
    models: tuple[str, ...] = ()
    """The checkpoints to have ready, by the names of :mod:`checkpoints`."""
    target: Figures = field(default_factory=dict)
    floor: Callable[[Figures], Figures] | None = None
    """From the rows of the case `ceilings` to what the hardware would allow; LookupError where a ceiling is missing."""
    limit_s: int = 300
    """A contender that takes longer is stopped."""
    rounds: int = 1
    """Contenders take turns this many times, so that a busy minute of the machine doesn't hit one alone."""
    environment: Mapping[str, str] = field(default_factory=lambda: OFFLINE)
    fresh_caches: bool = False
    """Caches of compiled code start empty."""
    listed: bool = True
    """False: runs only when it is asked for by its full name."""
