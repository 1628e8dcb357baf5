"""Greedy decoding with a 4-bit base, in tokens a second over the whole batch."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import HF, ONE_CORE, QUATRAIN, UNSLOTH, Case, Contender, Figures, Kind, Play, Row, Rows, Setting
from benchmarks.floor import copy_rate, decode_floor_ms
from benchmarks.gate import GATE_MODELS, decode_gate
from benchmarks.libraries import causal_lm, hf, ours, unsloth
from benchmarks.shapes import SHAPES
from benchmarks.timing import memory, step_ms

KIND = Kind(
    title="Greedy decoding",
    note="Prompts of 128 random tokens. A long and a short continuation are timed, and the difference counts, so that "
    "reading the prompt doesn't. Floor: all weights are read once a token, at the speed of a large copy.",
    shows=("tokens_per_second",),
)
PROMPT, SHORT, LONG = 128, 16, 128
BATCHES = (1, 8)

Load = Callable[[Path, torch.device], Any]
Decode = Callable[[Any, Tensor, int], Tensor]
"""(model, prompts [B, S], new tokens) → prompts with just so many tokens behind them."""

DECODERS: dict[Contender, tuple[Load, Decode]] = {
    HF: (hf.load, causal_lm.decode),
    UNSLOTH: (unsloth.load_for_decoding, causal_lm.decode),
    QUATRAIN: (ours.load_for_decoding, ours.decode),
}


def measure(load: Load, decode: Decode, model: str, setting: Setting) -> Rows:
    loaded = load(setting.models / model, setting.device)
    return {
        _label(batch): _measure_batch(loaded, decode, batch, SHAPES[model].vocabulary, setting) for batch in BATCHES
    }


def _measure_batch(loaded: Any, decode: Decode, batch: int, vocabulary: int, setting: Setting) -> Row:
    """Each sample is the time of one token, for all of the batch."""

    def time(new_tokens: int) -> float:
        prompts = torch.randint(3, vocabulary, (batch, PROMPT)).to(setting.device)
        return step_ms(lambda: decode(loaded, prompts, new_tokens), setting.device)

    row = Row(tokens=batch)
    time(SHORT)
    with memory(row, setting.device):
        for _ in range(setting.repetitions(3)):
            short, long = time(SHORT), time(LONG)
            row.samples_ms.append((long - short) / (LONG - SHORT))
    return row


def gate(load: Load, decode: Decode, model: str, setting: Setting) -> dict[str, float]:
    def continue_(folder: Path, prompts_BS: Tensor) -> Tensor:
        return decode(load(folder, setting.device), prompts_BS, 24)

    return decode_gate(continue_, model, setting)


def floor(model: str, ceilings: Figures) -> Figures:
    one_token = decode_floor_ms(SHAPES[model], copy_rate(ceilings))
    return {_label(batch): {"tokens_per_second": 1e3 * batch / one_token} for batch in BATCHES}


def _label(batch: int) -> str:
    return f"batch {batch}"


def _contenders(model: str) -> dict[Contender, Play]:
    return {
        who: Play(partial(measure, *how, model), partial(gate, *how, model), gate_last=who == UNSLOTH)
        for who, how in DECODERS.items()
    }


CASES = (
    Case(
        name="decode_8b",
        kind=KIND,
        title="8B",
        contenders=_contenders("8b"),
        device="cuda",
        options={"model": "8b", "prompt": PROMPT, "new_tokens": [SHORT, LONG]},
        models=("8b", GATE_MODELS["8b"]),
        target={_label(1): {"tokens_per_second": 300}, _label(8): {"tokens_per_second": 1800}},
        floor=partial(floor, "8b"),
    ),
    Case(
        name="selftest_decoding",
        kind=KIND,
        title="a tiny model on a CPU, to test the benchmarks themselves",
        contenders=_contenders("tiny"),
        device="cpu",
        options={"model": "tiny"},
        models=("tiny",),
        environment=ONE_CORE,
        listed=False,
    ),
)
