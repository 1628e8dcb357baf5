"""Linears over one input as a single matrix product, with their adapters, biases and double quantization inside.

Attention's q, k and v read the same input, and so do the MLP's gate and up: written below one another, their weights
are one matrix W [N, K]. LoRA's update x·Aᵀ·Bᵀ is a second product of the same shape but for its thin middle, so it fits
into the first: W gets R more columns that hold s·B, and x gets R more that hold x·Aᵀ,

    [x | x·Aᵀ] · [W | s·B]ᵀ = x·Wᵀ + s·x·Aᵀ·Bᵀ            dy · [W | s·B] = [dy·W | dy·s·B]

which is one matrix product forward and one backward instead of four, hardly longer than without an adapter. A frozen
bias is one more such column, against a column of ones. W is dequantized straight into a scratch of row stride K + R
that all blocks share, and the adapter's columns, the *tail*, are written beside it from the float32 masters.

Legend: T tokens, K inputs, N outputs of all linears, R columns of the tail.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quatrain.adapters.lora import LoraLinear
from quatrain.adapters.mixed import MixedLinear
from quatrain.blocks.weights import Handed
from quatrain.blocks.workspace import Workspace
from quatrain.ops.adapter_tail import TailPart, adapter_tail
from quatrain.ops.gated_activation import LARGEST_RANK
from quatrain.ops.low_rank import Dropout, low_rank_down, low_rank_gradient, low_rank_up_
from quatrain.quantization import QuantizedLinear

TAIL_MULTIPLE = 16
"""The tail's width is rounded up to this: rows stay aligned to 32 bytes, and tensor cores take 16 columns at a time."""


@dataclass(frozen=True)
class Part:
    """One linear of a product."""

    base: Any
    """`QuantizedLinear` or `nn.Linear`."""
    lora: LoraLinear | None
    rows: slice
    """Its outputs among the product's N."""
    columns: slice
    """Its adapter's columns of the tail; empty without one."""


class AdapterGradients(NamedTuple):
    """Where the gradients of a product's adapters are added, float32."""

    a_RK: Tensor
    """[R, K]: those of all A, below one another."""
    b_NR: tuple[Tensor, ...]
    """[N of the part, rank]: that of each B."""


class JoinedProduct:
    """The linears `modules` over one input.

    Args:
        modules: `nn.Linear`, `QuantizedLinear`, or `LoraLinear` around either; all with the same number of inputs.
        first_stream: number of the first adapter's dropout stream; each adapter of the model has its own.
        workspace: where the dequantized weight and other scratch lie.
    """

    def __init__(self, modules: Sequence[nn.Module], first_stream: int, workspace: Workspace):
        self.parts = _parts(modules)
        self.in_features: int = self.parts[0].base.in_features
        self.out_features = self.parts[-1].rows.stop
        self.rank = self.parts[-1].columns.stop
        """Columns of all adapters together."""
        self.dropout_p = max((part.lora.lora_dropout for part in self.parts if part.lora is not None), default=0.0)
        self.own_BR = _own_columns(self.parts)
        """Which columns count for each row of a batch whose rows have adapters of their own; None: all for all."""
        self.bias_N = _joined_bias(self.parts, self.out_features, workspace)
        """The biases of all linears in the compute dtype, zeros where one has none; None if none has."""
        self._biased = self.bias_N is not None
        self.tail = -(-(self.rank + self._biased) // TAIL_MULTIPLE) * TAIL_MULTIPLE
        """R: columns of adapters, bias and padding."""
        self._ranks = tuple((part.columns.start, part.columns.stop - part.columns.start) for part in self.adapted)
        self._first_stream, self._workspace = first_stream, workspace
        self.a_RK = torch.empty(self.rank, self.in_features, device=workspace.device, dtype=workspace.dtype)
        """All A below one another in the compute dtype; whoever updates adapters has it brought up to date."""
        self.gradients: AdapterGradients | None = None
        """Where the adapters' gradients are added."""
        self.handed: Handed = {}
        """The frozen weights that aren't in their modules now; see `weights.py`."""

    @property
    def adapted(self) -> list[Part]:
        """The parts that have an adapter."""
        return [part for part in self.parts if part.lora is not None]

    @property
    def extended(self) -> int:
        """K + R: the columns that an input or its gradient needs."""
        return self.in_features + self.tail

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring `a_RK` up to date, for a product that isn't part of a `FlatAdapter`."""
        for part in self.adapted:
            assert part.lora is not None
            self.a_RK[part.columns].copy_(part.lora.lora_A)

    def forward(self, x_TE: Tensor, seed: Tensor | None, out: Tensor) -> Tensor:
        """`x_TE` [T, K + R], whose first K columns are the input; the rest is filled here. → `out` [T, N]."""
        self.extend(x_TE, seed)
        return self.multiply(x_TE, out)

    def extend(self, x_TE: Tensor, seed: Tensor | None) -> None:
        """Fill the last R columns of an input: x·Aᵀ, the ones that a bias is multiplied by, and padding."""
        k, r = self.in_features, self.rank
        if r:
            ranks, dropout = self._ranks, self._dropout(seed)
            low_rank_down(x_TE[:, :k], self.a_RK, out=x_TE[:, k : k + r], ranks=ranks, dropout=dropout)
        if self.own_BR is not None:
            assert self._workspace.owners is not None, "nobody said which row a token is from"
            x_TE[:, k : k + r] *= self.own_BR[self._workspace.owners]
        if self._biased:
            x_TE[:, k + r] = 1.0
        if self.tail > r + self._biased:
            # What multiplies the zeros of the padding may be anything but infinite.
            x_TE[:, k + r + self._biased :] = 0.0

    def multiply(self, x_TE: Tensor, out: Tensor) -> Tensor:
        """The product of an input that was extended."""
        return torch.mm(x_TE, self._weight().T, out=out)

    def input_gradient(self, dy_TN: Tensor, out: Tensor) -> Tensor:
        """`out` [T, K + R] = the gradient of the frozen product's input, and beside it that of x·Aᵀ, which
        `add_adapter_gradient` adds."""
        return torch.mm(dy_TN, self._weight(), out=out)

    def low_rank_input_gradient(self, dy_TN: Tensor, out: Tensor) -> Tensor:
        """Only the last R columns of `input_gradient`, for a block whose input needs no gradient."""
        tail_NR = self._workspace.get("weight", self.out_features, self.tail)
        self._write_tail(tail_NR)
        return torch.mm(dy_TN, tail_NR, out=out[:, self.in_features :])

    def add_adapter_gradient(self, dx_TE: Tensor, seed: Tensor | None) -> None:
        """Complete the first K columns of an `input_gradient` by what reaches the input through the adapters."""
        if self.rank:
            dx, dh = dx_TE[:, : self.in_features], self._dh(dx_TE)
            low_rank_up_(dx, dh, self.a_RK, ranks=self._ranks, dropout=self._dropout(seed))

    def low_rank_of(self, dx_TE: Tensor) -> tuple[Tensor, Tensor] | None:
        """(dh [T, R], A [R, K]) whose product `add_adapter_gradient` would add, for an operation that adds it itself;
        None if it can't be left to one: with dropout, without adapters, or at very large ranks."""
        fits = 0 < self.rank <= LARGEST_RANK and not self.dropout_p
        return (self._dh(dx_TE), self.a_RK) if fits else None

    def hidden(self, x_TE: Tensor) -> Tensor:
        """The x·Aᵀ [T, rank] that `forward` left in its input."""
        return x_TE[:, self.in_features : self.in_features + self.rank]

    def project(self, x_TK: Tensor, seed: Tensor | None) -> Tensor:
        """x·Aᵀ [T, rank] anew."""
        out = torch.empty(len(x_TK), self.rank, device=x_TK.device, dtype=x_TK.dtype)
        if self.rank:
            low_rank_down(x_TK, self.a_RK, out=out, ranks=self._ranks, dropout=self._dropout(seed))
        return out

    def accumulate_gradients(
        self, x_TK: Tensor, h_TR: Tensor, dy_TN: Tensor, dx_TE: Tensor, seed: Tensor | None
    ) -> None:
        """Add the adapters' gradients to `gradients`.

        Args:
            x_TK: the input. h_TR: x·Aᵀ. dy_TN: gradient of the output. dx_TE: `input_gradient` of it.
        """
        if not self.rank:
            return
        assert self.gradients is not None, "nobody said where gradients go"
        ranks, dropout = self._ranks, self._dropout(seed)
        low_rank_gradient(self._dh(dx_TE), x_TK, self.gradients.a_RK, ranks=ranks, dropout=dropout)
        db_RN = self._workspace.get("gradient of B", self.rank, self.out_features, dtype=torch.float32).zero_()
        low_rank_gradient(h_TR, dy_TN, db_RN)
        for part, b_NR in zip(self.adapted, self.gradients.b_NR, strict=True):
            assert part.lora is not None
            b_NR.add_(db_RN[part.columns, part.rows].T, alpha=part.lora.scaling)

    def _dh(self, dx_TE: Tensor) -> Tensor:
        return dx_TE[:, self.in_features : self.in_features + self.rank]

    def _dropout(self, seed: Tensor | None) -> Dropout | None:
        if seed is None or not self.dropout_p:
            return None
        return Dropout(self.dropout_p, seed, self._first_stream)

    def _weight(self) -> Tensor:
        """[W | tail] [N, K + R] in the scratch that all products share."""
        k = self.in_features
        weight_NE = self._workspace.get("weight", self.out_features, self.extended)
        for part in self.parts:
            if isinstance(part.base, QuantizedLinear):
                quantized = self.handed.get(part.base) or part.base.quantized
                quantized.dequantize(out=weight_NE[part.rows, :k])
            else:
                weight_NE[part.rows, :k] = part.base.weight
        if self.tail:
            self._write_tail(weight_NE[:, k:])
        return weight_NE

    def _write_tail(self, out_NR: Tensor) -> None:
        parts = tuple(
            TailPart(part.lora.lora_B.detach(), part.rows.start, part.columns.start, part.lora.scaling)
            for part in self.adapted
            if part.lora is not None
        )
        adapter_tail(out_NR, parts, bias_N=self.bias_N, bias_column=self.rank)


@torch.no_grad()
def _joined_bias(parts: Sequence[Part], rows: int, workspace: Workspace) -> Tensor | None:
    if all(part.base.bias is None for part in parts):
        return None
    bias_N = torch.zeros(rows, device=workspace.device, dtype=workspace.dtype)
    for part in parts:
        if part.base.bias is not None:
            bias_N[part.rows] = part.base.bias.to(workspace.dtype)
    return bias_N


def _own_columns(parts: Sequence[Part]) -> Tensor | None:
    mixed = [part.lora.own_BR for part in parts if isinstance(part.lora, MixedLinear)]
    return torch.cat(mixed, dim=1) if mixed else None


def _parts(modules: Sequence[nn.Module]) -> list[Part]:
    loras = [module if isinstance(module, LoraLinear) else None for module in modules]
    bases: list[Any] = [lora.base_layer if lora else module for lora, module in zip(loras, modules, strict=True)]
    ends = list(accumulate((base.out_features for base in bases), initial=0))
    columns = list(accumulate((lora.r if lora else 0 for lora in loras), initial=0))
    return [
        Part(base, lora, slice(ends[i], ends[i + 1]), slice(columns[i], columns[i + 1]))
        for i, (base, lora) in enumerate(zip(bases, loras, strict=True))
    ]
