"""EVA: A starts as the main directions of what each layer is given on the run's own rows, B at zero.

The directions are followed batch by batch (incremental PCA), because the inputs of all layers together are far larger
than the model, and until they hardly turn any more. Layers whose input a few directions explain well need a low rank,
others a high one: of all directions of all layers, those that explain the largest share of their input are taken, as
many as all layers at rank r would have.

Source: Paischer et al. 2024 (arXiv 2410.07170); ``tuners/lora/eva.py`` and ``utils/incremental_pca.py`` of PEFT 0.21.
Legend: T tokens, I inputs of a linear, K directions that are followed.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quatrain.adapters.config import LoraConfig
from quatrain.adapters.decompositions import leading_directions
from quatrain.adapters.lora import device_of, linear_features
from quatrain.errors import AdapterError

Inputs = tuple[Tensor, Tensor]
"""Token ids [B, T], and which of them count, bool [B, T]."""
_SETTLED = 0.99
"""Directions whose cosine with those of the batch before is above this have been found; EvaConfig's ``tau``."""
_ROUNDS = 4


class Directions:
    """The main directions of a stream of vectors, after any number of batches.

    Attributes:
        main_KI: they, by falling size; None until there were as many vectors.
        share_K: the share of all variance that each explains.
        settled: how many of the first directions hardly turned in the last batch.
    """

    def __init__(self, count: int):
        self.count, self.seen, self.settled = count, 0, 0
        self.main_KI: Tensor | None = None
        self.share_K: Tensor | None = None
        self._pending: list[Tensor] = []

    @torch.no_grad()
    def add(self, x_TI: Tensor) -> None:
        """Take in some vectors; they wait until there are as many as directions."""
        self._pending.append(x_TI.float())
        if sum(map(len, self._pending)) >= self.count:
            self._fit(torch.cat(self._pending))
            self._pending.clear()

    def _fit(self, x_TI: Tensor) -> None:
        tokens, mean_I = len(x_TI), x_TI.mean(0)
        squares = (x_TI - mean_I).square().sum()
        rows = [x_TI - mean_I]
        if self.main_KI is not None:
            # What was seen before stands in as its directions, and the shift of the mean as one more row.
            both = self.seen + tokens
            shift_I = (self._mean_I - mean_I) * (self.seen * tokens / both) ** 0.5
            rows = [self._sizes_K[:, None] * self.main_KI, *rows, shift_I[None]]
            squares = self._squares + squares + shift_I.square().sum()
            mean_I = (self._mean_I * self.seen + mean_I * tokens) / both
        before_KI = self.main_KI
        self.seen, self._mean_I, self._squares = self.seen + tokens, mean_I, squares
        self._sizes_K, self.main_KI = _largest(torch.cat(rows), self.count)
        self.share_K = self._sizes_K.square() / squares
        if before_KI is not None:
            same = (self.main_KI * before_KI).sum(1).abs() >= _SETTLED
            self.settled = int(same.long().cumprod(0).sum())


def input_directions(
    model: Any, linears: Mapping[str, nn.Module], config: LoraConfig, batches: Iterable[Inputs] | None
) -> dict[str, Tensor]:
    """A [rank, in] for each linear that gets a rank.

    Args:
        model: the base, without an adapter.
        linears: those to adapt.
        config: `r` and `eva_rho` decide the ranks.
        batches: looked at in turn, until the directions have settled.

    Raises:
        AdapterError: there are no batches, too few tokens in them, or the rank is larger than an input.
    """
    if batches is None:
        raise AdapterError(
            "init_lora_weights='eva' looks at what layers are given on your rows: pass `batches` to `attach_lora`, or "
            "let `train` attach the adapter"
        )
    narrowest = min(linear_features(linear)[0] for linear in linears.values())
    if config.r > narrowest:
        raise AdapterError(
            f"init_lora_weights='eva' needs `r` up to {narrowest}, the narrowest input; found {config.r}"
        )
    device = device_of(next(iter(linears.values())))
    watch: _Watch | None = None
    ranks: dict[str, int] = {}
    for ids, counted in batches:
        watch = watch or _Watch(linears, round(config.r * config.eva_rho))
        with watch.watching(counted.to(device)), torch.no_grad():
            model(input_ids=ids.to(device), use_cache=False)
        if all(found.main_KI is not None for found in watch.found.values()):
            ranks = _share_out(watch, config.r * len(linears))
            if all(watch.of(name).settled >= rank for name, rank in ranks.items()):
                break
    if watch is None or not ranks:
        raise AdapterError(
            f"init_lora_weights='eva' follows {round(config.r * config.eva_rho)} directions and needs as many "
            "supervised tokens; the rows have fewer. Use more rows, or lower `r` or `eva_rho`"
        )
    return {name: _main(watch.of(name))[:rank] for name, rank in ranks.items() if rank}


class _Share(NamedTuple):
    share: float
    name: str


class _Watch:
    """Follows the inputs of linears, once for linears that are given the same tensor."""

    def __init__(self, linears: Mapping[str, nn.Module], count: int):
        self._linears = linears
        self._count = count
        self._leader: dict[str, str] = {}
        self._last: tuple[str, Tensor] | None = None
        self._counted: Tensor | None = None
        self.found: dict[str, Directions] = {}

    def of(self, name: str) -> Directions:
        """The directions of one linear's input."""
        return self.found[self._leader[name]]

    @contextmanager
    def watching(self, counted: Tensor) -> Iterator[None]:
        """While this holds, what the model computes is looked at, in the positions that count."""
        self._counted = counted
        handles = [
            linear.register_forward_pre_hook(partial(self._hook, name)) for name, linear in self._linears.items()
        ]
        try:
            yield
        finally:
            self._last = None
            for handle in handles:
                handle.remove()

    def _hook(self, name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if self._last is None or self._last[1] is not x:
            self._last = name, x
        leader = self._leader.setdefault(name, self._last[0])
        if leader == name and self._counted is not None:
            found = self.found.setdefault(name, Directions(min(self._count, x.shape[-1])))
            found.add(x.reshape(*self._counted.shape, -1)[self._counted])


def _share_out(watch: _Watch, budget: int) -> dict[str, int]:
    """The rank of each linear: its directions among the `budget` that explain the largest shares of all."""
    names = list(watch._leader)
    shares = [_Share(float(s), name) for name in names for s in _shares(watch.of(name))]
    taken = sorted(shares, key=lambda entry: -entry.share)[:budget]
    return {name: sum(entry.name == name for entry in taken) for name in names}


def _largest(rows_NI: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(sizes, directions [count, I]) of the largest singular values."""
    _, sizes, main_QI = leading_directions(rows_NI, min(2 * count, *rows_NI.shape), rounds=_ROUNDS)
    return sizes[:count], main_QI[:count].contiguous()


def _main(found: Directions) -> Tensor:
    assert found.main_KI is not None
    return found.main_KI


def _shares(found: Directions) -> Tensor:
    assert found.share_K is not None
    return found.share_K
