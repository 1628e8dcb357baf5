"""An adapter from two models: what a full fine-tuning changed, as far as a low rank can hold it.

Both checkpoints are read tensor by tensor in the base's order, so a pair of them is all that is in memory. Of each
linear's difference the largest singular values are kept (Eckart and Young 1936: nothing of that rank is nearer). Other
tensors can't be changed by an adapter; by how much they differ is reported.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from quatrain import device as devices
from quatrain.adapters.arithmetic.factors import Factors, nearest
from quatrain.adapters.low_rank import LowRank
from quatrain.adapters.peft_format import write_adapter
from quatrain.adapters.provenance import Provenance, base_identity, installed_versions
from quatrain.adapters.selection import selection_of
from quatrain.adapters.stored import StoredAdapter
from quatrain.adapters.targets import adaptable_linears
from quatrain.errors import AdapterError, ConfigError, ModelError
from quatrain.files import check_free
from quatrain.models.filling import Progress
from quatrain.models.opening import OpenedBase, open_base
from quatrain.quantization.linears import is_transposed

_ROWS = 4096
"""Rows of a table that are compared at a time."""


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """An adapter that was made from two models, and how much of their difference it holds."""

    folder: Path
    """Where it lies."""
    adapter: StoredAdapter
    """What it is."""
    norm: float
    """Frobenius norm of the difference of all linears."""
    distance: float
    """From that difference to what the adapter adds, in the same norm."""
    left_out: Mapping[str, float]
    """Tensors that differ too and that an adapter can't change, with the norms of their differences."""

    @property
    def kept(self) -> float:
        """Share of the linears' squared difference that the adapter holds."""
        return 1 - (self.distance / self.norm) ** 2

    def __str__(self) -> str:
        r = max(layer.r for layer in self.adapter.layers.values())
        text = f"{self.folder}: {len(self.adapter.layers)} layers of rank {r} that hold {self.kept:.2%} of what changed"
        if self.left_out:
            largest = max(self.left_out, key=lambda name: self.left_out[name])
            text += (
                f" in the linears; {len(self.left_out)} other tensors differ too and are left out, {largest} the most"
            )
        return text


@dataclass
class _Found:
    """What comparing has found so far."""

    layers: dict[str, LowRank] = field(default_factory=dict)
    norm: float = 0.0
    distance: float = 0.0
    left_out: dict[str, float] = field(default_factory=dict)


def extract_adapter(
    base: str | Path,
    tuned: str | Path,
    out: str | Path,
    *,
    r: int = 64,
    device: str = "auto",
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Extracted:
    """Make an adapter of `base` that comes as near to `tuned` as its rank allows, and write it to `out`.

    Args:
        base: a hub name, a folder with safetensors, or a `.gguf` file, in 16 or 32 bits.
        tuned: the same architecture with other weights.
        out: a new folder.
        r: rank in each layer that differs.
        device: where matrices are decomposed: `auto`, `cpu` or `cuda`.
        trust_remote_code: run Python code that comes with the models.
        progress: called after each tensor with (bytes done, bytes in all, name).

    Raises:
        ConfigError: `r` is below 1.
        ModelError: a model can't be read, is in four bits, or the two aren't of one architecture.
        AdapterError: no linear differs.
        OutputError: `out` holds something, or can't be written; nothing is left of it then.
    """
    if r < 1:
        raise ConfigError(f"`r` must be at least 1, found {r}")
    check_free(Path(out))
    where = devices.pick(device)
    one, other = (_opened(source, trust_remote_code) for source in (base, tuned))
    found = _compared(one, other, r, where, progress)
    if not found.layers:
        raise AdapterError(f"{base} and {tuned} have the same weights in all linears: there is nothing to extract")
    made = f"extracted at rank {r} from {Path(other.where.name).name}"
    adapter = _adapter(one, found.layers, made)
    write_adapter(adapter, Path(out))
    return Extracted(
        folder=Path(out),
        adapter=adapter,
        norm=math.sqrt(found.norm),
        distance=math.sqrt(found.distance),
        left_out=found.left_out,
    )


def _adapter(base: OpenedBase, layers: Mapping[str, LowRank], made: str) -> StoredAdapter:
    linears = adaptable_linears(base.skeleton)
    return StoredAdapter(
        layers={name: layers[name] for name in linears if name in layers},
        selection=selection_of(
            layers,
            [name for name, _ in base.skeleton.named_modules()],
            fan_in_fan_out=is_transposed(linears[next(iter(layers))]),
        ),
        base=base.where.name,
        revision=base.where.commit,
        provenance=Provenance(base=base_identity(base.skeleton), versions=installed_versions(), made=made),
    )


def _opened(source: str | Path, trust_remote_code: bool) -> OpenedBase:
    opened = open_base(
        source, quantization=None, compute_dtype="float32", device="cpu", trust_remote_code=trust_remote_code
    )
    if opened.plan.companions:
        raise ModelError(
            f"{source} is in four bits, whose rounding is larger than what a fine-tuning changes; name the model in 16"
        )
    return opened


@torch.no_grad()
def _compared(one: OpenedBase, other: OpenedBase, r: int, device: torch.device, progress: Progress | None) -> _Found:
    linears, found = adaptable_linears(one.skeleton), _Found()
    for name, before, after in _pairs(one, other, progress):
        module = name.removesuffix(".weight")
        if module not in linears:
            if norm := _norm_of_difference(before, after):
                found.left_out[name] = norm
            continue
        if before.shape != after.shape:
            raise ModelError(
                f"{name} is {list(before.shape)} in {one.where.name} and {list(after.shape)} in {other.where.name}: "
                "an adapter needs two models of one architecture"
            )
        delta = after.to(device).float() - before.to(device).float()
        if not torch.isfinite(delta).all():
            raise ModelError(f"{name} must be finite in both models; download the one that holds NaN or infinity again")
        if delta.any():
            _add(found, module, delta.T if is_transposed(linears[module]) else delta, r)
    return found


def _add(found: _Found, module: str, delta_OI: Tensor, r: int) -> None:
    layer = Factors(*(half.cpu() for half in nearest(delta_OI, r))).layer()
    found.layers[module] = layer
    found.norm += float(delta_OI.norm()) ** 2
    found.distance += float((delta_OI - layer.delta().to(delta_OI.device)).norm()) ** 2


def _pairs(one: OpenedBase, other: OpenedBase, progress: Progress | None) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, before, after) of each parameter, in the order of the base's files.

    Raises:
        ModelError: one of the models lacks a parameter.
    """
    total = sum(one.plan.nbytes(assignment, one.weights) for assignment in one.plan.assignments)
    done, by_target = 0, {assignment.target: assignment for assignment in other.plan.assignments}
    for assignment in one.plan.assignments:
        same = by_target.get(assignment.target)
        if same is None:
            raise ModelError(
                f"{other.where.name} has no {assignment.target}, which {one.where.name} has: an adapter needs two "
                "models of one architecture"
            )
        before, after = (
            a.convert([opened.weights.read(source) for source in a.sources], opened.skeleton)
            for a, opened in ((assignment, one), (same, other))
        )
        for name in assignment.targets:
            yield name, before[name], after[name]
        done += one.plan.nbytes(assignment, one.weights)
        if progress is not None:
            progress(done, total, assignment.target)
    one.weights.close()
    other.weights.close()


def _norm_of_difference(before: Tensor, after: Tensor) -> float:
    """Frobenius norm, some rows at a time; infinite where shapes differ, as of a vocabulary that was extended."""
    if before.shape != after.shape:
        return math.inf
    pieces = zip(before.split(_ROWS), after.split(_ROWS), strict=True)
    return math.sqrt(sum(float((b.float() - a.float()).square().sum()) for a, b in pieces))
