"""Plans against what an H200 measured: peaks from the allocator, times from the clock, of committed result files."""

import json
from pathlib import Path

import pytest

from quatrain.blocks import POLICIES
from quatrain.memory.candidates import Kept, Workshop
from quatrain.memory.card import card_named
from quatrain.memory.request import Request
from quatrain.memory.standing import Standing
from tests.memory.models import LLAMA_1B, LLAMA_8B, adapted

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
CONFIGS = {"1b": LLAMA_1B, "8b": LLAMA_8B}
CASES = ["train_8b_4x2048", "train_8b_4x2048_small", "train_8b_paper", "train_8b_1x2048", "train_1b_1x1024"]


def candidate(config: dict, samples: int, length: int, keep: str, r: int = 16):
    card, model = card_named("h200"), adapted(config, r)
    request = Request(
        model=model,
        card=card,
        budget=card.memory,
        host=1 << 40,
        max_length=length,
        rows=samples,
        rows_at_once=(samples,),
        policies=POLICIES,
    )
    kept = Kept(keep, keep, len(model.blocks))
    return Workshop(request, Standing(request), samples).candidate(kept, 0, paged=False)


@pytest.mark.parametrize("case", CASES)
def test_a_step_takes_what_was_measured(case):
    result = json.loads((RESULTS / f"{case}.json").read_text())
    options, row = result["options"], result["contenders"]["quatrain"]["rows"]["step"]
    shape = CONFIGS[options["model"]]
    found = candidate(shape, options["samples"], options["length"], options["keep"], options["r"])
    assert 1e3 * found.seconds == pytest.approx(row["ms"]["median"], rel=0.15)
    recorded = any("run as CUDA graphs" in note for note in row.get("notes", ()))
    if not recorded and options["samples"] > 1 and options["keep"] == "off":
        # The memory of blocks that are recorded isn't counted while they are replayed.
        measured = row["allocated_gib"] * 2**30
        assert 0.99 * measured <= found.peaks["training"] <= measured + max(0.03 * measured, 150e6)
