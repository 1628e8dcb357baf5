"""The masks of dropout as functions for other kernels: numbers are drawn in registers, and applied there.

A mask is applied to two elements at once by a few instructions of PTX, where Triton's own terms (unpack, compare,
select, pack) take more than twice as many. Triton's interpreter doesn't know PTX, hence the flag ``PAIRS``.

Legend: ``T`` rows of a tile, ``K`` its columns (BK), a multiple of ``GROUP``.
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl
from torch import Tensor

INFINITY = 0x7C00
"""The bits of half precision's infinity: the largest number that compares as a number."""


def in_pairs(masked: Tensor, threshold: int) -> bool:
    """Whether masks of a tensor can be applied in pairs: elements of 16 bits on a GPU, and p below 0.97."""
    return masked.is_cuda and masked.element_size() == 2 and threshold <= INFINITY


@triton.jit
def numbers(seed_ptr, stream, t_T, start, BK: tl.constexpr, GROUP: tl.constexpr):
    """The 16-bit numbers [T, BK] of the columns from ``start`` on, as dropout.py defines them.

    Triton's own Philox takes the halves of a product one by one; here one multiplication yields both. The counter's
    words keep their shapes (a row, a column, two scalars) as long as they can, which makes the first two of ten rounds
    almost free.
    """
    seed = tl.load(seed_ptr).to(tl.uint64)
    k0, k1 = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    c0 = (start // GROUP + tl.arange(0, BK // GROUP)).to(tl.uint32)[None, :]
    c1 = t_T.to(tl.uint32)[:, None]
    c2 = stream.to(tl.uint32)
    c3 = tl.zeros([1, 1], dtype=tl.uint32)
    for _ in tl.static_range(10):
        product0, product2 = c0.to(tl.uint64) * 0xD2511F53, c2.to(tl.uint64) * 0xCD9E8D57
        c0, c1 = (product2 >> 32).to(tl.uint32) ^ c1 ^ k0, product2.to(tl.uint32)
        c2, c3 = (product0 >> 32).to(tl.uint32) ^ c3 ^ k1, product0.to(tl.uint32)
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    words = tl.join(tl.join(c0, c2), tl.join(c1, c3))
    return tl.reshape(tl.join(words.to(tl.uint16), (words >> 16).to(tl.uint16)), [t_T.shape[0], BK])


@triton.jit
def keep(x, number, threshold, PAIRS: tl.constexpr):
    """``x`` with zeros where the mask drops."""
    if PAIRS:
        # Taken for floats without their sign, numbers keep their order; those above infinity are NaN, and `geu` holds.
        return tl.inline_asm_elementwise(
            "{ .reg .b32 n; abs.f16x2 n, $2; set.geu.u32.f16x2 n, n, $3; and.b32 $0, $1, n; }",
            "=r,r,r,r",
            [x, number, threshold.to(tl.uint16)],
            dtype=x.dtype,
            is_pure=True,
            pack=2,
        )
    return tl.where((number & 0x7FFF) >= threshold, x, 0.0)


@triton.jit
def add_kept(total, x, number, threshold, PAIRS: tl.constexpr):
    """``total`` plus ``x`` where the mask keeps, both float32."""
    if PAIRS:
        return tl.inline_asm_elementwise(
            """{ .reg .b32 n; .reg .pred p, q; abs.f16x2 n, $6; setp.geu.f16x2 p|q, n, $7;
            mov.b32 $0, $2; mov.b32 $1, $3; @p add.f32 $0, $2, $4; @q add.f32 $1, $3, $5; }""",
            "=&r,=&r,r,r,r,r,r,r",
            [total, x, number, threshold.to(tl.uint16)],
            dtype=tl.float32,
            is_pure=True,
            pack=2,
        )
    return total + tl.where((number & 0x7FFF) >= threshold, x, 0.0)
