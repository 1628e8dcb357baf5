"""The 4-bit product of a few rows as a GPU kernel that keeps the weight in registers from first to last.

At one row per sequence, the 29 MB of a 4096×14336 weight's codes should take 8 µs, the time to read them. That leaves a
processor some seven instructions a code, and fewer reads of its shared memory than one. Where they go:

- **Looking up.** A byte, two codes, becomes a pair of 16-bit numbers by one read of shared memory. The table of 256
  pairs is stored 32 times over, once for each lane of a warp, so that lanes never meet in a bank of that memory. One
  copy would be read three times slower; looking up single codes, by shuffles, byte permutations or in the first-level
  cache, takes two to four times as many steps.
- **Multiplying.** Pairs are what tensor cores take, and they multiply up to four rows for the price of one. But they
  add up over columns, and each block of 64 columns has its own scale. So x is given twice, once with the odd blocks'
  columns zeroed and once with the even blocks': the sums over the two kinds of blocks fall into different columns of
  the result, and take their scales in float32.
- **Not moving.** A lane reads 16 bytes of a row and needs just those columns of x; which column of the weight becomes
  which column of the product is a matter of names. The axes below are named such that the layout in which codes are
  loaded *is* the layout in which tensor cores want them. Nothing is exchanged between lanes or warps before the end.

A program has 16 rows of the weight. Each of its warps has a slice of the columns, in chunks of 128, and the slices'
sums are put together at the end, always in the same order. The next chunk is on its way while one is multiplied.

The table lives in shared memory that Triton doesn't know of, declared by the assembly that fills it; the interpreter,
which has no assembly, looks pairs up in global memory.

Legend: ``M`` rows of x, a multiple of 4; ``S`` slices; ``C`` = 2·M columns of a chunk's product. Within a chunk, lane
``t`` of 4 has 16 bytes of a row, as words ``i`` of 4 bytes (``p``, ``q``) of 2 codes ``e``; lane ``g`` of 8 has rows g
and g + 8 (``h``), or in x column g of each 8 (``c``).
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportOptionalMemberAccess=false

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..codebooks import codebook, dynamic_map
from . import assembly, reference
from .launch import launch_for

CHUNK = 128
BLOCK = 64
ROWS = 16
MOST_CHUNKS = 512
"""So that four slices meet at most two of the blocks in which scales are quantized."""

FILL_TABLES = tl.constexpr(assembly.FILL_TABLES)
LOOK_UP_PAIRS = tl.constexpr(assembly.LOOK_UP_PAIRS)
LOOK_UP_SCALES = tl.constexpr(assembly.LOOK_UP_SCALES)


def linear_4bit(
    x_MK: Tensor,
    weights: Sequence[Any],
    *,
    bias_N: Tensor | None,
    low_rank: Sequence[Any] | None,
    out: Tensor,
) -> None:
    """See :func:`quatrain.ops.linear_4bit.linear_4bit`; no argument is checked here."""
    first, chunks = weights[0], weights[0].columns // CHUNK
    if x_MK.dtype == torch.float32 or first.columns % CHUNK or first.block_size != BLOCK or chunks > MOST_CHUNKS:
        # Rare enough to dequantize the weight and multiply it.
        reference.linear_4bit(x_MK, weights, bias_N=bias_N, low_rank=low_rank, out=out)
        return
    updates = low_rank or [None] * len(weights)
    some = next((update for update in updates if update is not None), None)
    # Pointers that aren't followed still have to be some.
    nested = [weight.nested or (weight.scales, weight.scales) for weight in weights]
    factors = [update or some or (x_MK, x_MK) for update in updates]
    tokens = max(4, triton.next_power_of_2(len(x_MK)))
    programs = sum(triton.cdiv(weight.rows, ROWS) for weight in weights)
    launch = launch_for(tokens, programs, x_MK.device)
    with torch.cuda.device_of(x_MK):
        _kernel[(programs,)](
            x_MK,
            tuple(weight.codes for weight in weights),
            tuple(weight.scales for weight in weights),
            tuple(scales for scales, _ in nested),
            tuple(offset for _, offset in nested),
            tuple(weight.rows for weight in weights),
            tuple(sums for sums, _ in factors),
            tuple(b for _, b in factors),
            tuple(0 if update is None else update.b_NR.shape[1] for update in updates),
            bias_N,
            _pairs(first.quant_type, x_MK.dtype, x_MK.device),
            dynamic_map(True, x_MK.device),
            out,
            len(x_MK),
            chunks,
            x_MK.stride(0),
            out.stride(0),
            *(some.sums_SMR.stride()[:2] if some else (0, 0)),
            len(some.sums_SMR) if some else 0,
            WEIGHTS=len(weights),
            M=tokens,
            S=launch.slices,
            NESTED=first.nested is not None,
            EVEN=chunks % launch.slices == 0,
            RUNS=min(triton.next_power_of_2(len(some.sums_SMR)), 128 // tokens) if some else 0,
            ASSEMBLY=not triton.knobs.runtime.interpret,
            EARLY=launch.early,
            num_warps=launch.slices,
            num_stages=1,
            maxnreg=launch.registers,
            launch_pdl=launch.early,
        )


@cache
def _pairs(quant_type: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """For each byte the values of its two codes in ``dtype``, side by side in an int32: [256]."""
    values, byte = codebook(quant_type).to(dtype), torch.arange(256, device="cpu")
    return torch.stack((values[byte >> 4], values[byte & 15]), dim=1).view(torch.int32).view(256).to(device)


@triton.jit
def _kernel(
    x_ptr,
    codes,
    scales,
    nested,
    offsets,
    rows,
    sums,
    b,
    ranks,
    bias_ptr,
    pairs_ptr,
    map_ptr,
    out_ptr,
    tokens,
    chunks,
    x_stride,
    out_stride,
    run_stride,
    token_stride,
    runs,
    WEIGHTS: tl.constexpr,
    M: tl.constexpr,
    S: tl.constexpr,
    NESTED: tl.constexpr,
    EVEN: tl.constexpr,
    RUNS: tl.constexpr,
    ASSEMBLY: tl.constexpr,
    EARLY: tl.constexpr,
):
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    tile, column, codes_ptr, scales_ptr, nested_ptr, offset_ptr, height, sums_ptr, b_ptr, rank = _weight(
        codes, scales, nested, offsets, rows, sums, b, ranks, WEIGHTS
    )

    # Rows beyond the last are read from the last, so that nothing needs a mask before the end.
    row_R = tl.minimum(tile * 16 + tl.arange(0, 16), height - 1)
    t, g = tl.arange(0, 4)[:, None, None, None, None], tl.arange(0, 8)[None, :, None, None, None]
    slice_5, h = tl.arange(0, S)[None, None, :, None, None], tl.arange(0, 2)[None, None, None, :, None]
    row_5 = tl.minimum(tile * 16 + h * 8 + g, height - 1).to(tl.int64)
    words_ptr = codes_ptr.to(tl.pointer_type(tl.int32)) + row_5 * (chunks * 16) + t * 4
    words_ptr += tl.arange(0, 4)[None, None, None, None, :]
    # The scales of a chunk's two blocks lie side by side and are read as one number.
    pairs_of_scales = scales_ptr.to(tl.pointer_type(tl.uint16 if NESTED else tl.uint64))
    slice_S1, first_1R = tl.arange(0, S)[:, None], row_R[None, :] * chunks
    steps = tl.cdiv(chunks, S)

    if EARLY:
        # The tables are constants. Everything else may be what the kernel before this one has yet to write.
        _fill_tables(pairs_ptr, map_ptr)
        tl.extra.cuda.gdc_wait()
    words = tl.load(words_ptr + _chunk(slice_5, 0, steps, chunks, EVEN) * 16)
    block_SR = first_1R + _chunk(slice_S1, 0, steps, chunks, EVEN)
    scales_SR = tl.load(pairs_of_scales + block_SR)
    low_SR, high_SR, offset = 0.0, 0.0, 0.0
    if NESTED:
        # 256 scales, those of 128 chunks, share a scale of their own; a slice meets two of these at most.
        low_SR = tl.load(nested_ptr + block_SR // 128)
        high_SR = tl.load(nested_ptr + (first_1R + _chunk(slice_S1, steps - 1, steps, chunks, EVEN)) // 128)
        offset = tl.load(offset_ptr)
    if ASSEMBLY and not EARLY:
        _fill_tables(pairs_ptr, map_ptr)  # while the first codes are on their way
    y_RM = tl.zeros((16, M), tl.float32)
    if RUNS:
        y_RM = _low_rank(sums_ptr, b_ptr, row_R, rank, tokens, run_stride, token_stride, runs, M, RUNS)
    if bias_ptr is not None:
        y_RM += tl.load(bias_ptr + column + row_R).to(tl.float32)[:, None]

    sums_SRC = tl.zeros((S, 16, 2 * M), tl.float32)
    for step in range(steps):
        # The next chunk is asked for before this one is used. (Behind the last one, the last one again.)
        ahead = tl.minimum(step + 1, steps - 1)
        next_words = tl.load(words_ptr + _chunk(slice_5, ahead, steps, chunks, EVEN) * 16)
        next_scales_SR = tl.load(pairs_of_scales + first_1R + _chunk(slice_S1, ahead, steps, chunks, EVEN))
        x_SKC = _x(x_ptr, step, steps, tokens, chunks, x_stride, M, S, EVEN)
        product_SRC = tl.dot(_weights(words, pairs_ptr, x_ptr.dtype.element_ty, S, ASSEMBLY), x_SKC)
        here_SR = first_1R + _chunk(slice_S1, step, steps, chunks, EVEN)
        nested_SR = tl.where(here_SR // 128 == block_SR // 128, low_SR, high_SR)
        scale_SR2 = _scales(scales_SR, nested_SR, offset, map_ptr, NESTED, ASSEMBLY)
        scale_SRM2 = tl.broadcast_to(scale_SR2[:, :, None, :], (S, 16, M, 2))
        sums_SRC += product_SRC * tl.reshape(scale_SRM2, (S, 16, 2 * M))
        words, scales_SR = next_words, next_scales_SR

    y_RM += tl.sum(tl.sum(tl.reshape(sums_SRC, (S, 16, M, 2)), axis=3), axis=0)
    token_M = tl.arange(0, M)
    out_RM = out_ptr + token_M[None, :] * out_stride + (column + tile * 16 + tl.arange(0, 16))[:, None]
    inside_RM = (tile * 16 + tl.arange(0, 16) < height)[:, None] & (token_M < tokens)[None, :]
    tl.store(out_RM, y_RM.to(out_ptr.dtype.element_ty), inside_RM)


@triton.jit
def _weight(codes, scales, nested, offsets, rows, sums, b, ranks, WEIGHTS: tl.constexpr):
    """Which weight the program has rows of, from its tile on; the weights' outputs lie side by side."""
    tile, column = tl.program_id(0), 0
    codes_ptr, scales_ptr, nested_ptr, offset_ptr = codes[0], scales[0], nested[0], offsets[0]
    height, sums_ptr, b_ptr, rank = rows[0], sums[0], b[0], ranks[0]
    tiles_before, rows_before = 0, 0
    for w in tl.static_range(1, WEIGHTS):
        tiles_before += tl.cdiv(rows[w - 1], 16)
        rows_before += rows[w - 1]
        if tl.program_id(0) >= tiles_before:
            tile, column = tl.program_id(0) - tiles_before, rows_before
            codes_ptr, scales_ptr, nested_ptr, offset_ptr = codes[w], scales[w], nested[w], offsets[w]
            height, sums_ptr, b_ptr, rank = rows[w], sums[w], b[w], ranks[w]
    return tile, column, codes_ptr, scales_ptr, nested_ptr, offset_ptr, height, sums_ptr, b_ptr, rank


@triton.jit
def _fill_tables(pairs_ptr, map_ptr):
    tl.inline_asm_elementwise(
        FILL_TABLES,
        "=r,l,l",
        [pairs_ptr.to(tl.int64), map_ptr.to(tl.int64)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def _chunk(slice, step, steps, chunks, EVEN: tl.constexpr):
    """The number of a slice's chunk. Slices may end beyond the row; what they have there is the row's last chunk."""
    chunk = slice * steps + step
    return chunk if EVEN else tl.minimum(chunk, chunks - 1)


@triton.jit
def _weights(words, pairs_ptr, dtype: tl.constexpr, S: tl.constexpr, ASSEMBLY: tl.constexpr):
    """A chunk of the weight without its scales, [S, 16, 128], from its codes [t, g, S, h, i]."""
    if ASSEMBLY:
        v0, v1, v2, v3 = tl.inline_asm_elementwise(
            LOOK_UP_PAIRS,
            "=r,=r,=r,=r,r",
            [words],
            dtype=(tl.int32, tl.int32, tl.int32, tl.int32),
            is_pure=True,
            pack=1,
        )
    else:
        v0, v1 = tl.load(pairs_ptr + (words & 255)), tl.load(pairs_ptr + ((words >> 8) & 255))
        v2, v3 = tl.load(pairs_ptr + ((words >> 16) & 255)), tl.load(pairs_ptr + ((words >> 24) & 255))
    v = tl.join(tl.join(v0, v1), tl.join(v2, v3))
    v = tl.join(v.to(tl.int16).to(dtype, bitcast=True), (v >> 16).to(tl.int16).to(dtype, bitcast=True))
    # [t, g, S, h, i, q, p, e] → [S, h, g, i, q, t, p, e]: rows, then columns as `_x` has them.
    return tl.reshape(tl.permute(v, (2, 3, 1, 4, 5, 0, 6, 7)), (S, 16, 128))


@triton.jit
def _x(x_ptr, step, steps, tokens, chunks, x_stride, M: tl.constexpr, S: tl.constexpr, EVEN: tl.constexpr):
    """A chunk of x, [S, 128, 2·M]: column 2·m has row m's even blocks, column 2·m + 1 its odd blocks."""
    t, c = tl.arange(0, 4)[:, None, None, None, None, None], tl.arange(0, 8)[None, :, None, None, None, None]
    slice, d = tl.arange(0, S)[None, None, :, None, None, None], tl.arange(0, M // 4)[None, None, None, :, None, None]
    i, element = tl.arange(0, 4)[None, None, None, None, :, None], tl.arange(0, 8)[None, None, None, None, None, :]
    token, chunk = d * 4 + c // 2, slice * steps + step
    inside = (t // 2 == c % 2) & (token < tokens)
    if not EVEN:
        inside = inside & (chunk < chunks)
    x = tl.load(x_ptr + token * x_stride + chunk * 128 + t * 32 + i * 8 + element, inside, other=0.0)
    # [t, c, S, d, i, (p, q, e)] → [S, i, q, t, p, e, d, c]
    x = tl.permute(tl.reshape(x, (4, 8, S, M // 4, 4, 2, 2, 2)), (2, 4, 6, 0, 5, 7, 3, 1))
    return tl.reshape(x, (S, 128, 2 * M))


@triton.jit
def _scales(scales_SR, nested_SR, offset, map_ptr, NESTED: tl.constexpr, ASSEMBLY: tl.constexpr):
    """[S, 16, 2]: the scales of a chunk's two blocks."""
    if NESTED:
        codes_SR = scales_SR.to(tl.int32)
        if ASSEMBLY:
            even_SR, odd_SR = tl.inline_asm_elementwise(
                LOOK_UP_SCALES, "=f,=f,r", [codes_SR], dtype=(tl.float32, tl.float32), is_pure=True, pack=1
            )
        else:
            even_SR, odd_SR = tl.load(map_ptr + (codes_SR & 255)), tl.load(map_ptr + (codes_SR >> 8))
        even_SR, odd_SR = even_SR * nested_SR + offset, odd_SR * nested_SR + offset
    else:
        even_SR = scales_SR.to(tl.uint32).to(tl.float32, bitcast=True)
        odd_SR = (scales_SR >> 32).to(tl.uint32).to(tl.float32, bitcast=True)
    return tl.join(even_SR, odd_SR)


@triton.jit
def _low_rank(
    sums_ptr, b_ptr, row_R, rank, tokens, run_stride, token_stride, runs, M: tl.constexpr, RUNS: tl.constexpr
):
    """[16, M]: the adapter's part, 16 ranks and at most RUNS of the sums at a time."""
    y_RM = tl.zeros((16, M), tl.float32)
    token_1M1 = tl.arange(0, M)[None, :, None]
    for start in range(0, rank, 16):
        rank_K = start + tl.arange(0, 16)
        b_RK = tl.load(b_ptr + row_R[:, None] * rank + rank_K[None, :], (rank_K < rank)[None, :], other=0.0)
        hidden_MK = tl.zeros((M, 16), tl.float32)
        for first in range(0, runs, RUNS):
            run_U11 = first + tl.arange(0, RUNS)[:, None, None]
            place_UMK = run_U11 * run_stride + token_1M1 * token_stride + rank_K[None, None, :]
            inside_UMK = (run_U11 < runs) & (token_1M1 < tokens) & (rank_K < rank)[None, None, :]
            hidden_MK += tl.sum(tl.load(sums_ptr + place_UMK, inside_UMK, other=0.0), axis=0)
        y_RM += tl.sum(b_RK.to(tl.float32)[:, None, :] * hidden_MK[None, :, :], axis=2)
    return y_RM
