"""Root-mean-square normalization as GPU kernels, a whole row in the registers of one program.

Both directions are bound by memory. A row is read once, reduced and written, so nothing but the operands moves; short
rows (the heads of Qwen3 and Gemma 3) share a program. Reductions and products are float32.

A row's number r over [T, A] becomes the token r // A and the head r % A; without heads A is 1 and the compiler drops
the division.

Legend: ``N`` rows of a program, ``H`` columns, ``B`` columns rounded up to a power of two.
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportOptionalOperand=false

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 2048
"""Elements that a program holds at least, if rows are short."""


def rms_norm(
    x_TH: Tensor,
    weight_H: Tensor,
    *,
    eps: float,
    offset: float = 0.0,
    residual_TH: Tensor | None = None,
    sum_out: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See :func:`quatrain.ops.rms_norm.rms_norm`; no argument is checked here."""
    if out is None:
        out = torch.empty(x_TH.shape, dtype=x_TH.dtype, device=x_TH.device)
    rstd_T = torch.empty(x_TH.shape[:-1], dtype=torch.float32, device=x_TH.device)
    rows = rstd_T.numel()
    if rows == 0:
        return out, rstd_T
    launch = _launch(x_TH.shape[-1])
    with torch.cuda.device_of(x_TH):
        _forward[(triton.cdiv(rows, launch["N"]),)](
            x_TH,
            residual_TH,
            sum_out,
            weight_H,
            out,
            rstd_T,
            rows,
            _heads(x_TH),
            *_strides(x_TH),
            *_strides(residual_TH),
            *_strides(sum_out),
            *_strides(out),
            eps,
            offset,
            **launch,
        )
    return out, rstd_T


def rms_norm_backward(
    dy_TH: Tensor,
    x_TH: Tensor,
    weight_H: Tensor,
    rstd_T: Tensor,
    *,
    offset: float = 0.0,
    add_TH: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """See :func:`quatrain.ops.rms_norm.rms_norm_backward`; no argument is checked here."""
    if out is None:
        out = torch.empty(dy_TH.shape, dtype=dy_TH.dtype, device=dy_TH.device)
    rows = rstd_T.numel()
    if rows == 0:
        return out
    launch = _launch(x_TH.shape[-1])
    with torch.cuda.device_of(x_TH):
        _backward[(triton.cdiv(rows, launch["N"]),)](
            dy_TH,
            x_TH,
            weight_H,
            rstd_T,
            add_TH,
            out,
            rows,
            _heads(x_TH),
            *_strides(dy_TH),
            *_strides(x_TH),
            *_strides(add_TH),
            *_strides(out),
            offset,
            **launch,
        )
    return out


def _launch(columns: int) -> dict[str, int]:
    block = triton.next_power_of_2(columns)
    rows = max(1, ELEMENTS // block)
    return {"N": rows, "H": columns, "B": block, "num_warps": min(16, max(4, rows * block // 1024))}


def _heads(x: Tensor) -> int:
    return x.shape[1] if x.dim() == 3 else 1


def _strides(x: Tensor | None) -> tuple[int, int]:
    """Elements from token to token and from head to head."""
    if x is None:
        return 0, 0
    return x.stride(0), x.stride(1) if x.dim() == 3 else 0


@triton.jit
def _elements(ptr, row_N1, heads, token_stride, head_stride, col_1B):
    """Rows are counted in 32 bits, whose division is quick; offsets can pass 2³¹."""
    token_N1 = (row_N1 // heads).to(tl.int64)
    return ptr + token_N1 * token_stride + (row_N1 % heads) * head_stride + col_1B


@triton.jit
def _weight(ptr, offset, H: tl.constexpr, B: tl.constexpr):
    col_B = tl.arange(0, B)
    return (tl.load(ptr + col_B, col_B < H, other=0.0).to(tl.float32) + offset)[None, :]


@triton.jit
def _forward(
    x_ptr,
    residual_ptr,
    sum_ptr,
    weight_ptr,
    out_ptr,
    rstd_ptr,
    rows,
    heads,
    x_token,
    x_head,
    residual_token,
    residual_head,
    sum_token,
    sum_head,
    out_token,
    out_head,
    eps,
    offset,
    N: tl.constexpr,
    H: tl.constexpr,
    B: tl.constexpr,
):
    row_N1 = tl.program_id(0) * N + tl.arange(0, N)[:, None]
    col_1B = tl.arange(0, B)[None, :]
    mask_NB = (row_N1 < rows) & (col_1B < H)

    x_NB = tl.load(_elements(x_ptr, row_N1, heads, x_token, x_head, col_1B), mask_NB, other=0.0).to(tl.float32)
    if residual_ptr is not None:
        residual_NB = _elements(residual_ptr, row_N1, heads, residual_token, residual_head, col_1B)
        rounded_NB = (x_NB + tl.load(residual_NB, mask_NB, other=0.0).to(tl.float32)).to(sum_ptr.dtype.element_ty)
        tl.store(_elements(sum_ptr, row_N1, heads, sum_token, sum_head, col_1B), rounded_NB, mask_NB)
        x_NB = rounded_NB.to(tl.float32)

    rstd_N1 = tl.rsqrt(tl.sum(x_NB * x_NB, axis=1, keep_dims=True) / H + eps)
    weight_1B = _weight(weight_ptr, offset, H, B)
    y_NB = x_NB * rstd_N1 * weight_1B
    out_NB = _elements(out_ptr, row_N1, heads, out_token, out_head, col_1B)
    tl.store(out_NB, y_NB.to(out_ptr.dtype.element_ty), mask_NB)
    tl.store(rstd_ptr + row_N1, rstd_N1, row_N1 < rows)


@triton.jit
def _backward(
    dy_ptr,
    x_ptr,
    weight_ptr,
    rstd_ptr,
    add_ptr,
    out_ptr,
    rows,
    heads,
    dy_token,
    dy_head,
    x_token,
    x_head,
    add_token,
    add_head,
    out_token,
    out_head,
    offset,
    N: tl.constexpr,
    H: tl.constexpr,
    B: tl.constexpr,
):
    row_N1 = tl.program_id(0) * N + tl.arange(0, N)[:, None]
    col_1B = tl.arange(0, B)[None, :]
    mask_NB = (row_N1 < rows) & (col_1B < H)

    dy_NB = tl.load(_elements(dy_ptr, row_N1, heads, dy_token, dy_head, col_1B), mask_NB, other=0.0).to(tl.float32)
    x_NB = tl.load(_elements(x_ptr, row_N1, heads, x_token, x_head, col_1B), mask_NB, other=0.0).to(tl.float32)
    row_N = tl.program_id(0) * N + tl.arange(0, N)
    rstd_N1 = tl.load(rstd_ptr + row_N, row_N < rows, other=0.0)[:, None]
    weight_1B = _weight(weight_ptr, offset, H, B)

    normalized_NB = x_NB * rstd_N1
    g_NB = dy_NB * weight_1B
    along_N1 = tl.sum(g_NB * normalized_NB, axis=1, keep_dims=True) / H
    dx_NB = (g_NB - normalized_NB * along_N1) * rstd_N1
    if add_ptr is not None:
        add_NB = _elements(add_ptr, row_N1, heads, add_token, add_head, col_1B)
        dx_NB += tl.load(add_NB, mask_NB, other=0.0).to(tl.float32)
    out_NB = _elements(out_ptr, row_N1, heads, out_token, out_head, col_1B)
    tl.store(out_NB, dx_NB.to(out_ptr.dtype.element_ty), mask_NB)
