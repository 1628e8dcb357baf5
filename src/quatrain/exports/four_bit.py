"""A merged model in four bits again, as bitsandbytes' checkpoint, and what is left of the adapter in it.

An adapter changes most weights by less than the distance of two 4-bit values. Quantizing the sum W + ΔW rounds to the
nearest value, and where that is the one that W alone would have taken, the change is gone. How much of it is left is
measured for each layer: with D what quantizing made of the change,

    D = Q(W + ΔW) − Q(W)        survival = ⟨D, ΔW⟩ / ⟨ΔW, ΔW⟩        noise = ‖D − ΔW‖ / ‖ΔW‖

Survival is 1 when D has all of ΔW in it, beside whatever rounding adds, and 0 when nothing of it is. Onto the original
base the changes that are too small are rounded up as often as they should be, because W lies anywhere between two
values, so survival is near 1 on average. A base that is in four bits already has all its W on values, and small changes
fall back onto them: that is the merge that swallows the adapter.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quatrain.errors import AdapterError
from quatrain.exports.merged_weights import MergedWeights
from quatrain.models import save_quantized
from quatrain.models.filling import fill
from quatrain.models.identity import forget
from quatrain.models.placing import Placement
from quatrain.quantization import quantize_4bit
from quatrain.quantization.selection import QUANTIZE, Decision

LEAST_SURVIVAL = 0.5
"""Share of an adapter's change, over all layers, that has to be left."""


@dataclass(frozen=True)
class Survival:
    """What four bits leave of an adapter's change to one weight."""

    share: float
    """⟨D, ΔW⟩ / ⟨ΔW, ΔW⟩."""
    noise: float
    """‖D − ΔW‖ / ‖ΔW‖."""
    size: float
    """‖ΔW‖²."""


def write_four_bit(
    weights: MergedWeights, folder: Path, *, least: float, progress: Callable[[int, int], object]
) -> dict[str, Survival]:
    """Write a merged model in four bits, quantized as the run's base was (INT4 becomes NF4, which bitsandbytes knows).

    Args:
        weights: not rounded.
        least: smallest share of the change, over all layers, that passes.

    Returns:
        What is left of each adapted layer's change, by module name.

    Raises:
        AdapterError: less than `least` of the adapter would be left, or a merged weight isn't finite.
    """
    base = weights.base
    placement = four_bit_placement(base.placement)
    decisions = four_bit_decisions(weights)
    adapted = [n for n in weights.needed if weights.is_adapted(n) and decisions[weights.target(n) or ""].quantize]
    survivals = {}
    for done, name in enumerate(adapted, 1):
        survivals[(weights.target(name) or "").removesuffix(".weight")] = survival(weights, name, placement)
        progress(done, len(adapted))
    left = total_survival(survivals)
    if survivals and not left >= least:
        raise AdapterError(
            f"four bits would leave {left:.0%} of the adapter's change, and {least:.0%} are wanted. Export 16 bits "
            "(safetensors or gguf), or serve base and adapter side by side"
        )
    tokenizer, model = base.read_tokenizer(), base.skeleton
    forget(model)
    fill(model, weights.plan, weights, decisions, placement)
    save_quantized(model, tokenizer, folder)
    return survivals


def total_survival(survivals: dict[str, Survival]) -> float:
    """The share over all layers, each weighing as much as it changes."""
    return sum(s.share * s.size for s in survivals.values()) / max(sum(s.size for s in survivals.values()), 1e-30)


def survival(weights: MergedWeights, name: str, placement: Placement) -> Survival:
    """What four bits leave of the change to one stored weight."""
    target = weights.target(name)
    assert target is not None
    before = weights.frozen(name).float()
    after = weights.update(name, before)
    before_OI, after_OI = weights.turned(target, before), weights.turned(target, after)
    change_OI = (after_OI - before_OI).flatten()
    left_OI = (_through(after_OI, placement) - _through(before_OI, placement)).flatten()
    size = change_OI.dot(change_OI)
    if size == 0:
        return Survival(share=1.0, noise=0.0, size=0.0)
    noise = (left_OI - change_OI).norm() / size.sqrt()
    return Survival(share=(left_OI.dot(change_OI) / size).item(), noise=noise.item(), size=size.item())


def four_bit_placement(placement: Placement) -> Placement:
    """How the result is quantized."""
    quant_type = placement.quant_type if placement.quant_type in ("nf4", "fp4") else "nf4"
    return replace(placement, quant_type=quant_type)


def four_bit_decisions(weights: MergedWeights) -> dict[str, Decision]:
    """Which parameters are in four bits: those that were for training."""
    base: Any = weights.base
    if not base.plan.companions:
        return base.decisions
    stored = {weights.target(name) for name in base.plan.companions}
    return {name: QUANTIZE if name in stored else decision for name, decision in base.decisions.items()}


def _through(weight_OI: Tensor, placement: Placement) -> Tensor:
    assert placement.quant_type is not None
    quantized = quantize_4bit(
        weight_OI.contiguous(), placement.quant_type, placement.block_size, placement.double_quant
    )
    return quantized.dequantize(torch.float32)
