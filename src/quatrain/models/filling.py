"""Carrying out a load plan: every stored tensor arrives, is converted, quantized and put in place, in the plan's order.

Nothing here waits for the device. On a GPU the next tensors are read and copied while one is quantized (see
`read_ahead.py`), and whether all weights were finite is asked once, at the end.
"""

from collections.abc import Callable
from contextlib import closing

import torch
from transformers import PreTrainedModel

from quatrain.models.load_plan import LoadPlan, Weights
from quatrain.models.naming import Assignment
from quatrain.models.placing import Placement, place, place_quantized, tie
from quatrain.models.stored_quantization import declare
from quatrain.models.streaming import StreamedBlocks
from quatrain.offload import Streaming
from quatrain.quantization import QuantizedModule, QuantizedTensor, check_witnesses
from quatrain.quantization.bitsandbytes_format import from_bitsandbytes, is_description
from quatrain.quantization.selection import Decision

Progress = Callable[[int, int, str], None]
"""Called as (bytes done, bytes in all, name of the tensor that was just placed)."""


def fill(
    model: PreTrainedModel,
    plan: LoadPlan,
    weights: Weights,
    decisions: dict[str, Decision],
    placement: Placement,
    *,
    streaming: Streaming | None = None,
    progress: Progress | None = None,
) -> None:
    """Fills a skeleton; afterwards nothing of the model is on the meta device.

    Args:
        model: The skeleton.
        plan: What each stored tensor becomes.
        weights: The checkpoint; it is closed.
        decisions: For each parameter, whether it is quantized.
        placement: Where weights go, and how they are quantized.
        streaming: Blocks that leave the device again as soon as they are complete.
        progress: Called after each assignment.

    Raises:
        ModelError: A tensor can't be read, or doesn't fit.
        QuantizationError: Weights hold NaN or infinity; the message names them.
    """
    done, total = 0, sum(plan.nbytes(assignment, weights) for assignment in plan.assignments)
    groups = [[n for n in plan.stored(assignment) if not is_description(n)] for assignment in plan.assignments]
    streamed = StreamedBlocks(model, streaming, placement.device) if streaming else None
    witnesses: dict[str, torch.Tensor] = {}
    with closing(weights.arriving(groups, placement.device)) as arriving:
        for assignment in plan.assignments:
            _put(model, plan, assignment, next(arriving), weights, decisions, placement)
            if streamed is not None:
                streamed.take_complete(assignment.target, lambda block: witnesses.update(_witnesses(block)))
            done += plan.nbytes(assignment, weights)
            if progress is not None:
                progress(done, total, assignment.target)
    weights.close()
    modules = {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, QuantizedModule)}
    check_witnesses(witnesses | _witnesses({name: m.quantized for name, m in modules.items() if not m.is_lodged}))
    if streamed is not None:
        streamed.weights.settle()
    tie(model, placement)
    model.to(placement.device)  # pyright: ignore[reportArgumentType]
    declare(model)


def _witnesses(weights: dict[str, QuantizedTensor]) -> dict[str, torch.Tensor]:
    return {name: weight.witness for name, weight in weights.items()}


def _put(
    model: PreTrainedModel,
    plan: LoadPlan,
    assignment: Assignment,
    stored: dict[str, torch.Tensor],
    weights: Weights,
    decisions: dict[str, Decision],
    placement: Placement,
) -> None:
    """One assignment. Tensors leave `stored` as they are used: the last view of a file keeps all of it mapped."""
    parts = plan.companions.get(assignment.sources[0])
    if parts is not None:
        stored |= {name: weights.read(name) for name in parts if name not in stored}
        place_quantized(model, assignment.target, from_bitsandbytes(stored, parts[0], check_finite=False), placement)
        stored.clear()
        return
    made = assignment.convert([stored.pop(name) for name in assignment.sources], model)
    for name in list(made):
        place(model, name, made.pop(name), decisions[name], placement)
