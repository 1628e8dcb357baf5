"""Every recipe planned for every card: a row each for the result file."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.recipes.bases import BASES
from quatrain.errors import BudgetError
from quatrain.memory import Plan, make_plan
from quatrain.training import RunConfig, read_config
from quatrain.training.planning import request_for

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "recipes"
HOST_MEMORY = "42GB"
"""What may be pinned: two thirds of a host's 64 GB, as `quatrain plan` takes by itself."""
STEPS = 1000
"""Of a recipe whose steps depend on the data."""


class Place(NamedTuple):
    """A card, or a part of its memory."""

    gpu: str
    memory: str | None = None


PLACES = (
    Place("rtx3060-12gb", "8GB"),
    Place("rtx3060-12gb"),
    Place("rtx4060ti-16gb"),
    Place("rtx3090"),
    Place("rtx4090"),
    Place("a6000"),
    Place("a100-80gb"),
    Place("h100"),
)


def recipes() -> Mapping[str, RunConfig]:
    """The settings in each recipe, by file name without its ending; models from small to large."""
    found = {path.stem: read_config(path) for path in FOLDER.glob("*.yaml")}
    order = list(BASES)
    return dict(sorted(found.items(), key=lambda item: order.index(item[1].model or "")))


def planned(name: str, settings: RunConfig, place: Place) -> dict[str, Any]:
    """A row: what the plan says of the recipe in this place, or why there is none."""
    base = BASES[settings.model or ""]
    where = {"gpu": place.gpu, "memory": place.memory}
    steps = settings.max_steps or STEPS
    row = {"recipe": name, "model": settings.model, **where, "steps": steps}
    try:
        plan = make_plan(request_for(settings, base, **where, host_memory=HOST_MEMORY))
    except BudgetError as error:
        return row | {"refused": str(error)}
    return row | {
        "needed_bytes": plan.needed,
        "budget_bytes": plan.budget,
        "host_bytes": plan.host_bytes,
        "step_seconds": float(f"{plan.seconds:.4g}"),
        "hours": float(f"{plan.seconds * steps / 3600:.4g}"),
        "tokens_a_step": plan.micro_batches * plan.micro_batch_tokens,
        "micro_batches": plan.micro_batches,
        "keeps": _keeps(plan),
        "streamed_blocks": len(plan.streamed_blocks),
        "disk_blocks": len(plan.disk_blocks),
        "paged_optimizer": plan.paged_optimizer,
    }


def all_planned() -> Iterator[dict[str, Any]]:
    """A row for each recipe in each place."""
    for name, settings in recipes().items():
        for place in PLACES:
            yield planned(name, settings, place)


def _keeps(plan: Plan) -> dict[str, int]:
    """How many blocks follow each policy, from the first on."""
    return {policy: len(list(group)) for policy, group in groupby(plan.policies)}
