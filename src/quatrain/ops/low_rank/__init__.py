"""LoRA's thin products, for several adapters that share an input, with dropout inside.

Adapters that share an input x (q, k and v; gate and up) form a group: their A matrices are stacked into one [R, K], so
that x is read once for all of them. Each adapter drops elements of x by a mask of its own, which nobody stores (see
:mod:`quatrain.ops.low_rank.dropout`). R is small, so all three products are bound by the memory that x, dx or dy takes.

Legend: ``T`` tokens, ``K`` inputs of the adapted linear, ``N`` its outputs (or inputs), ``R`` rows of the stacked A.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from quatrain.errors import AdapterError

from ..dispatch import use_triton
from ..layout import check_rows
from . import cublas, reference
from .dropout import Dropout, check_dropout

__all__ = ["Dropout", "low_rank_down", "low_rank_gradient", "low_rank_up_"]

LARGEST_RANK_WITHOUT_CUBLAS = 128
"""Up to here our kernel updates dx faster: in 41 µs instead of 58 at rank 64 (8,192 tokens, 4,096 columns, an H200)."""


def low_rank_down(
    x_TK: Float[Tensor, "T K"],
    a_RK: Float[Tensor, "R K"],
    *,
    out: Float[Tensor, "T R"],
    ranks: tuple[tuple[int, int], ...] | None = None,
    dropout: Dropout | None = None,
) -> None:
    """``out = dropout_i(x) @ a_iᵀ``, side by side for all adapters i, accumulated in float32 and rounded once.

    Args:
        x_TK: input that the adapters share.
        a_RK: their stacked A, of x's dtype.
        out: of x's dtype; its rows may lie any distance apart. Columns outside ``ranks`` become 0.
        ranks: (first row, rank) of each adapter in ``a_RK``; rows outside are padding and hold zeros. None: one
            adapter that owns all rows.
        dropout: None drops nothing.

    Raises AdapterError if shapes, dtypes or ranks don't fit each other, or p isn't in [0, 1).
    """
    ranks = _check("x_TK", x_TK, "a_RK", a_RK, "out", out, ranks, dropout)
    if not use_triton(x_TK):
        reference.low_rank_down(x_TK, a_RK, out=out, ranks=ranks, dropout=dropout)
    elif dropout is None:
        cublas.low_rank_down(x_TK, a_RK, out=out)
    else:
        from . import triton

        triton.low_rank_down(x_TK, a_RK, out=out, ranks=ranks, dropout=dropout)


def low_rank_up_(
    dx_TK: Float[Tensor, "T K"],
    dh_TR: Float[Tensor, "T R"],
    a_RK: Float[Tensor, "R K"],
    *,
    ranks: tuple[tuple[int, int], ...] | None = None,
    dropout: Dropout | None = None,
) -> None:
    """The gradient of x, in place: ``dx += Σ_i mask_i/(1-p) · (dh_i @ a_i)``, summed in float32 and rounded once.

    Args:
        dx_TK: what else flows back into x; its rows may lie any distance apart.
        dh_TR: gradient of :func:`low_rank_down`'s output, of dx's dtype; columns outside ``ranks`` hold zeros.
        a_RK, ranks, dropout: as in :func:`low_rank_down`.

    Raises AdapterError as :func:`low_rank_down` does.
    """
    ranks = _check("dx_TK", dx_TK, "a_RK", a_RK, "dh_TR", dh_TR, ranks, dropout)
    if not use_triton(dx_TK):
        reference.low_rank_up_(dx_TK, dh_TR, a_RK, ranks=ranks, dropout=dropout)
    elif dropout is None and len(a_RK) > LARGEST_RANK_WITHOUT_CUBLAS:
        cublas.low_rank_up_(dx_TK, dh_TR, a_RK)
    else:
        from . import triton

        triton.low_rank_up_(dx_TK, dh_TR, a_RK, ranks=ranks, dropout=dropout)


def low_rank_gradient(
    p_TR: Float[Tensor, "T R"],
    q_TN: Float[Tensor, "T N"],
    out_RN: Float[Tensor, "R N"],
    *,
    ranks: tuple[tuple[int, int], ...] | None = None,
    dropout: Dropout | None = None,
) -> None:
    """The gradient of an adapter's matrix: ``out_i += p_iᵀ @ dropout_i(q)``, in float32; equal runs give equal bits.

    For A, p is dh and q is x, with forward's ``dropout``. For Bᵀ, p is h and q is dy, without.

    Args:
        p_TR: the thin side; columns outside ``ranks`` hold zeros.
        q_TN: the wide side, of p's dtype, masked as x was in :func:`low_rank_down`.
        out_RN: float32, added to.
        ranks, dropout: as in :func:`low_rank_down`.

    Raises AdapterError as :func:`low_rank_down` does.
    """
    ranks = _check("q_TN", q_TN, "out_RN", out_RN, "p_TR", p_TR, ranks, dropout, accumulates=True)
    if not use_triton(q_TN):
        reference.low_rank_gradient(p_TR, q_TN, out_RN, ranks=ranks, dropout=dropout)
    elif dropout is None:
        cublas.low_rank_gradient(p_TR, q_TN, out_RN)
    else:
        from . import triton

        triton.low_rank_gradient(p_TR, q_TN, out_RN, ranks=ranks, dropout=dropout)


def _check(
    wide_name: str,
    wide_TK: Tensor,
    stack_name: str,
    stack_RK: Tensor,
    thin_name: str,
    thin_TR: Tensor,
    ranks: tuple[tuple[int, int], ...] | None,
    dropout: Dropout | None,
    *,
    accumulates: bool = False,
) -> tuple[tuple[int, int], ...]:
    """What the three products ask of their tensors; returns ``ranks`` with its default."""
    tensors = {wide_name: wide_TK, stack_name: stack_RK, thin_name: thin_TR}
    check_rows(**tensors)
    (tokens, columns), rows = wide_TK.shape, stack_RK.shape[0]
    if stack_RK.shape[1] != columns or thin_TR.shape != (tokens, rows):
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise AdapterError(f"Low-rank products take [T, K], [R, K] and [T, R], got {shapes}.")
    stack_dtype = torch.float32 if accumulates else wide_TK.dtype
    if thin_TR.dtype != wide_TK.dtype or stack_RK.dtype != stack_dtype:
        dtypes = ", ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
        rule = "gradients are float32 and all else of one dtype" if accumulates else "all tensors are of one dtype"
        raise AdapterError(f"In low-rank products {rule}, got {dtypes}. Cast the adapter to the activations' dtype.")
    if dropout is not None:
        check_dropout(dropout)
    if ranks is None:
        return ((0, rows),)
    end = 0
    for first_row, rank in ranks:
        if first_row < end or rank < 1 or first_row + rank > rows:
            raise AdapterError(f"Ranks must be (first row, rank) in order, apart, and within {rows} rows, got {ranks}.")
        end = first_row + rank
    return ranks
