"""Several adapters of one base as one: weighted, added, subtracted, with what disagrees left out.

Adapters needn't have the same layers or ranks: a layer that only some have is combined from those. `linear` and its kin
add A and B element by element and so need one rank; `cat` and everything that ends in an SVD takes any.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from quatrain.adapters.arithmetic.factors import Factors, added, factors_of, minus, nearest, norm, truncated
from quatrain.adapters.arithmetic.inputs import joint_provenance, read_inputs
from quatrain.adapters.arithmetic.methods import Combination, MajoritySignMethod
from quatrain.adapters.low_rank import LowRank
from quatrain.adapters.peft_format import adapter_name, write_adapter
from quatrain.adapters.selection import joint_selection
from quatrain.adapters.stored import StoredAdapter, block_after_block
from quatrain.errors import AdapterError, ConfigError
from quatrain.files import check_free

_ROUNDING = 1e-6
"""Share of a norm that float32 can't tell from nothing."""


@dataclass(frozen=True, kw_only=True)
class Combined:
    """An adapter that was made from others, and how near it is to their plain weighted sum."""

    folder: Path
    """Where it lies."""
    adapter: StoredAdapter
    """What it is."""
    sum_norm: float
    """Frobenius norm of the weighted sum Σ w ΔW over all layers."""
    parts_norm: float
    """The same norm of the updates w ΔW taken by themselves: what could cancel."""
    distance: float
    """Of the result from the sum, in the same norm."""

    @property
    def cancels(self) -> bool:
        """Whether the sum is nothing but rounding."""
        return self.sum_norm <= _ROUNDING * self.parts_norm

    @property
    def relative_distance(self) -> float:
        """`distance` as a share of `sum_norm`, or of `parts_norm` where the sum cancels."""
        return self.distance / ((self.parts_norm if self.cancels else self.sum_norm) or 1.0)

    def __str__(self) -> str:
        ranks = sorted({layer.r for layer in self.adapter.layers.values()})
        shown = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        text = f"{self.folder}: {len(self.adapter.layers)} layers of rank {shown}"
        if self.cancels and self.relative_distance <= _ROUNDING:
            return f"{text}; the updates cancel, so the result is the base"
        return f"{text}; it differs from the weighted sum of the updates by {self.relative_distance:.2%} of its norm"


def combine_adapters(
    adapters: Sequence[str | Path],
    weights: Sequence[float],
    out: str | Path,
    *,
    combination_type: str = "svd",
    svd_rank: int | None = None,
    density: float | None = None,
    majority_sign_method: MajoritySignMethod = "total",
    seed: int = 0,
    force: bool = False,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Combined:
    """Make one adapter from several of the same base, as PEFT's `add_weighted_adapter` does, and write it to `out`.

    One adapter alone is only scaled, whatever the method, as in PEFT; `convert_adapter` changes its rank.

    Args:
        adapters: folders in PEFT's format.
        weights: one for each; negative ones subtract what an adapter has learned.
        out: a new folder.
        combination_type: `linear`, `cat`, `svd`, `ties`, `dare_linear`, `dare_ties`, `magnitude_prune`, and the last
            four with `_svd`.
        svd_rank: rank of the result, for types in `svd`. None: the largest of the adapters'.
        density: share of the elements that is kept, for `ties`, `dare` and `magnitude_prune`.
        majority_sign_method: for `ties`: whether the sum decides the sign (`total`) or the count (`frequency`).
        seed: draws what `dare` drops.
        force: combine adapters although they were trained on different bases.
        progress: told (layers done, layers in all).

    Raises:
        ConfigError: settings that contradict each other.
        AdapterError: an adapter can't be read, was never trained, or doesn't fit the others.
        OutputError: `out` holds something, or can't be written; nothing is left of it then.
    """
    combination = Combination(
        combination_type=combination_type,
        svd_rank=svd_rank,
        density=density,
        majority_sign_method=majority_sign_method,
        seed=seed,
    )
    if len(weights) != len(adapters) or not adapters:
        raise ConfigError(f"every adapter takes one weight: found {len(adapters)} adapters, {len(weights)} weights")
    if not all(map(math.isfinite, weights)):
        raise ConfigError(f"weights must be finite numbers, found {list(weights)}")
    check_free(Path(out))
    inputs = read_inputs(adapters, force=force)
    made = f"combined by {combination_type} from " + ", ".join(
        f"{weight:g} × {adapter_name(Path(folder))}" for folder, weight in zip(adapters, weights, strict=True)
    )
    return _written(inputs, weights, combination, made, Path(out), progress)


def _written(
    inputs: list[StoredAdapter],
    weights: Sequence[float],
    combination: Combination,
    made: str,
    out: Path,
    progress: Callable[[int, int], object],
) -> Combined:
    names = block_after_block({name for adapter in inputs for name in adapter.layers})
    largest = max(layer.r for adapter in inputs for layer in adapter.layers.values())
    generator = torch.Generator().manual_seed(combination.seed)
    layers, total, parts, distance = {}, 0.0, 0.0, 0.0
    for name in names:
        present = [(a.layers[name], w) for a, w in zip(inputs, weights, strict=True) if name in a.layers]
        exact = added([factors_of(layer, weight) for layer, weight in present])
        if len(inputs) == 1 and combination.svd_rank is None:
            layers[name] = _scaled(*present[0])
        else:
            layers[name] = combine_layer(name, present, exact, combination, largest, generator)
        total += norm(exact) ** 2
        parts += sum(norm(factors_of(layer, weight)) ** 2 for layer, weight in present)
        distance += norm(minus(factors_of(layers[name]), exact)) ** 2
        progress(len(layers), len(names))
    named = next((adapter for adapter in inputs if adapter.base is not None), inputs[0])
    adapter = StoredAdapter(
        layers=layers,
        selection=joint_selection([a.selection for a in inputs], names),
        lora_dropout=inputs[0].lora_dropout,
        base=named.base,
        revision=named.revision,
        provenance=joint_provenance(inputs, made),
    )
    write_adapter(adapter, out)
    return Combined(
        folder=out,
        adapter=adapter,
        sum_norm=math.sqrt(total),
        parts_norm=math.sqrt(parts),
        distance=math.sqrt(distance),
    )


def _scaled(layer: LowRank, weight: float) -> LowRank:
    """The same matrices, with the weight in B, so that weight 1 leaves every bit as it was."""
    return LowRank(a_RI=layer.a_RI, b_OR=layer.b_OR * weight, lora_alpha=layer.lora_alpha, use_rslora=layer.use_rslora)


def combine_layer(
    name: str,
    present: list[tuple[LowRank, float]],
    exact: Factors,
    combination: Combination,
    largest: int,
    generator: torch.Generator,
) -> LowRank:
    """One layer of those adapters that have it.

    Args:
        present: (layer, weight) of each.
        exact: their weighted sum.
        largest: the largest rank of all layers.
        generator: draws what is dropped.
    """
    method = combination.method
    if method.where == "side by side":
        return exact.layer()
    if method.where == "halves":
        return _by_halves(name, present, combination, generator)
    rank = combination.svd_rank or largest
    if method.drop == "nothing":
        return truncated(exact, rank).layer()
    deltas = [layer.delta().float() for layer, _ in present]
    return nearest(combination.of(deltas, [weight for _, weight in present], generator), rank).layer()


def _by_halves(
    name: str, present: list[tuple[LowRank, float]], combination: Combination, generator: torch.Generator
) -> LowRank:
    """Weight and scale go to A and B by their root each, the sign to A."""
    ranks = {layer.r for layer, _ in present}
    if len(ranks) > 1:
        raise AdapterError(
            f"{combination.combination_type!r} adds A and B element by element, so all adapters must have one rank; "
            f"{name} has {sorted(ranks)}. 'cat' and the types in 'svd' take any; `convert` changes a rank"
        )
    roots = [math.sqrt(abs(weight * layer.scaling)) for layer, weight in present]
    signed = [math.copysign(root, weight * layer.scaling) for root, (layer, weight) in zip(roots, present, strict=True)]
    a_RI = combination.of([layer.a_RI.float() for layer, _ in present], signed, generator)
    b_OR = combination.of([layer.b_OR.float() for layer, _ in present], roots, generator)
    return LowRank(a_RI=a_RI, b_OR=b_OR, lora_alpha=len(a_RI))
