"""Attention of packed samples by cuDNN, through the optional package ``nvidia-cudnn-frontend``: the fastest on Hopper.

cuDNN runs *graphs*: the operation is described once (shapes, strides, which samples lie where), cuDNN compiles a plan
for it, and the plan then runs with any pointers. A description with *ragged offsets* is what packed samples need: a
batch of S slots of up to ``max_length`` tokens each, where a device tensor says at which element a slot begins, and
another how many tokens of it are real. Both are computed on the device from ``segments.ends``, so a plan depends on
nothing but shapes, empty slots cost next to nothing, and it all can be captured in a CUDA graph.

Plans take a twentieth of a second each and are kept by shape, strides, dtype, slots and ``max_length`` up to a power of
two; these should repeat.
PyTorch's own binding to cuDNN, ``scaled_dot_product_attention``, has no ragged offsets, and PyTorch's jagged tensors
build their plan anew in each call.

The backward adds up dq atomically: gradients differ in the last bits from run to run.
https://docs.nvidia.com/deeplearning/cudnn/frontend/latest/operations/Attention.html
"""

# The optional package has no types.
# pyright: reportMissingImports=false

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .segments import Segments

_OLDEST = 90600
"""cuDNN 9.6: the first with grouped heads and a log-sum-exp in ragged layout."""
_LARGEST_HEAD = {9: 256, 10: 128}
"""By the major compute capability; of others cuDNN can't run the backward on packed samples."""


@cache
def _is_installed() -> bool:
    if find_spec("cudnn") is None:
        return False
    import cudnn

    return cudnn.backend_version() >= _OLDEST


def can_run(q_TAD: Tensor, softcap: float | None) -> bool:
    if not q_TAD.is_cuda or q_TAD.dtype not in (torch.bfloat16, torch.float16) or softcap is not None:
        return False
    size = q_TAD.shape[-1]
    largest = _LARGEST_HEAD.get(torch.cuda.get_device_capability(q_TAD.device)[0], 0)
    return size % 8 == 0 and size <= largest and _is_installed()


def attention_forward(
    q_TAD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See :func:`quatrain.ops.block_attention.attention_forward`; no argument is checked here."""
    out_TAD = q_TAD.new_empty(q_TAD.shape) if out is None else out
    lse_AT = q_TAD.new_empty(q_TAD.shape[1], q_TAD.shape[0], dtype=torch.float32)
    tensors = (q_TAD, k_TGD, v_TGD, out_TAD, lse_AT.T.unsqueeze(-1))
    _run(_forward_plan(_case(q_TAD, segments, scale, window), tuple(map(_layout, tensors))), tensors, segments)
    return out_TAD, lse_AT


def attention_backward(
    do_TAD: Tensor,
    q_TAD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    o_TAD: Tensor,
    lse_AT: Tensor,
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
) -> None:
    """See :func:`quatrain.ops.block_attention.attention_backward`; no argument is checked here.

    cuDNN first writes dk and dv for every query head, into a workspace as far apart, times R, as dk and dv themselves
    are: written straight into a buffer shared with dq they'd take six times the memory, gigabytes of it.
    """
    dk_TGD, dv_TGD = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (dk, dv))
    tensors = (q_TAD, k_TGD, v_TGD, o_TAD, do_TAD, lse_AT.T.unsqueeze(-1), dq, dk_TGD, dv_TGD)
    _run(_backward_plan(_case(q_TAD, segments, scale, window), tuple(map(_layout, tensors))), tensors, segments)
    dk.copy_(dk_TGD)
    dv.copy_(dv_TGD)


class _Layout(NamedTuple):
    """Of a tensor [T, heads, D]: heads, D, strides of a token and of a head."""

    heads: int
    size: int
    token: int
    head: int


class _Case(NamedTuple):
    """What a plan depends on, beside layouts."""

    device: torch.device
    dtype: torch.dtype
    tokens: int
    slots: int
    max_length: int
    scale: float
    window: int | None


class _Plan(NamedTuple):
    graph: Any
    operands: list[Any]
    """The graph's tensors, in the order in which the caller's are passed."""
    offsets: list[Any]
    """For each operand, where its slots begin."""
    token_strides_N1: Tensor
    """The operands' token strides on the device, to make offsets of ends."""
    lengths: list[Any]
    workspace: int
    """Bytes."""


def _layout(x_TAD: Tensor) -> _Layout:
    return _Layout(x_TAD.shape[1], x_TAD.shape[2], x_TAD.stride(0), x_TAD.stride(1))


def _case(q_TAD: Tensor, segments: Segments, scale: float, window: int | None) -> _Case:
    # Rounded up, so that lengths that vary share plans; a slot's tokens that aren't there cost nothing.
    max_length = 1 << (segments.max_length - 1).bit_length()
    return _Case(q_TAD.device, q_TAD.dtype, q_TAD.shape[0], len(segments.ends) - 1, max_length, scale, window)


def _run(plan: _Plan, tensors: tuple[Tensor, ...], segments: Segments) -> None:
    import cudnn

    ends = segments.ends
    lengths = ends[1:] - ends[:-1]
    # A row of offsets per operand, rows kept 16 bytes apart from one another for cuDNN's sake.
    offsets_N = ends.new_empty(len(tensors), len(ends) + len(ends) % 2, dtype=torch.int64)[:, : len(ends)]
    torch.mul(ends, plan.token_strides_N1, out=offsets_N)
    pack = dict(zip(plan.operands, tensors, strict=True))
    pack.update(zip(plan.offsets, offsets_N, strict=True))
    pack.update((length, lengths) for length in plan.lengths)
    workspace = ends.new_empty(max(plan.workspace, 1), dtype=torch.uint8)
    handle = _handle(ends.device)
    cudnn.set_stream(handle, torch.cuda.current_stream(ends.device).cuda_stream)
    plan.graph.execute(pack, workspace, handle=handle)


@cache
def _handle(device: torch.device) -> Any:
    import cudnn

    with torch.cuda.device(device):
        return cudnn.create_handle()


@cache
def _forward_plan(case: _Case, layouts: tuple[_Layout, ...]) -> _Plan:
    build = _Builder(case)
    q, k, v = (build.input(layout) for layout in layouts[:3])
    o, stats = build.graph.sdpa(q=q, k=k, v=v, generate_stats=True, **build.options())
    build.output(o, layouts[3])
    build.output(stats, layouts[4], torch.float32)
    return build.plan([q, k, v, o, stats], layouts)


@cache
def _backward_plan(case: _Case, layouts: tuple[_Layout, ...]) -> _Plan:
    build = _Builder(case)
    q, k, v, o, do = (build.input(layout) for layout in layouts[:5])
    stats = build.input(layouts[5], torch.float32)
    total = {"max_total_seq_len_q": case.tokens, "max_total_seq_len_kv": case.tokens}
    grads = build.graph.sdpa_backward(q=q, k=k, v=v, o=o, dO=do, stats=stats, **total, **build.options())
    for grad, layout in zip(grads, layouts[6:], strict=True):
        build.output(grad, layout)
    return build.plan([q, k, v, o, do, stats, *grads], layouts)


class _Builder:
    """Describes tensors [slots, heads, max_length, D] whose slots begin at offsets, and builds the plan."""

    def __init__(self, case: _Case) -> None:
        import cudnn

        self.case = case
        self.types = {
            torch.bfloat16: cudnn.data_type.BFLOAT16,
            torch.float16: cudnn.data_type.HALF,
            torch.float32: cudnn.data_type.FLOAT,
        }
        self.graph = cudnn.pygraph(
            io_data_type=self.types[case.dtype],
            intermediate_data_type=cudnn.data_type.FLOAT,
            compute_data_type=cudnn.data_type.FLOAT,
            handle=_handle(case.device),
        )
        self.lengths = [self._list(case.slots, cudnn.data_type.INT32) for _ in "qk"]
        self.offset_of: dict[Any, Any] = {}

    def _list(self, size: int, data_type: Any) -> Any:
        return self.graph.tensor(dim=[size, 1, 1, 1], stride=[1, 1, 1, 1], data_type=data_type)

    def _place(self, layout: _Layout) -> tuple[list[int], list[int], Any]:
        import cudnn

        dim = [self.case.slots, layout.heads, self.case.max_length, layout.size]
        stride = [self.case.max_length * layout.token, layout.head, layout.token, 1]
        return dim, stride, self._list(self.case.slots + 1, cudnn.data_type.INT64)

    def input(self, layout: _Layout, dtype: torch.dtype | None = None) -> Any:
        dim, stride, offset = self._place(layout)
        data_type = self.types[dtype or self.case.dtype]
        tensor = self.graph.tensor(dim=dim, stride=stride, data_type=data_type, ragged_offset=offset)
        self.offset_of[tensor] = offset
        return tensor

    def output(self, tensor: Any, layout: _Layout, dtype: torch.dtype | None = None) -> None:
        dim, stride, offset = self._place(layout)
        tensor.set_output(True).set_dim(dim).set_stride(stride).set_ragged_offset(offset)
        tensor.set_data_type(self.types[dtype or self.case.dtype])
        self.offset_of[tensor] = offset

    def options(self) -> dict[str, Any]:
        """Arguments that forward and backward share."""
        import cudnn

        window = {} if self.case.window is None else {"diagonal_band_left_bound": self.case.window}
        return {
            "attn_scale": self.case.scale,
            "use_padding_mask": True,
            "seq_len_q": self.lengths[0],
            "seq_len_kv": self.lengths[1],
            "diagonal_alignment": cudnn.diagonal_alignment.TOP_LEFT,
            "diagonal_band_right_bound": 0,
            **window,
        }

    def plan(self, operands: list[Any], layouts: tuple[_Layout, ...]) -> _Plan:
        import cudnn

        with torch.cuda.device(self.case.device), _no_frame_kept():
            self.graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        token_strides = torch.tensor([[layout.token] for layout in layouts], device=self.case.device)
        offsets = [self.offset_of[tensor] for tensor in operands]
        return _Plan(self.graph, operands, offsets, token_strides, self.lengths, self.graph.get_workspace_size())


@contextmanager
def _no_frame_kept() -> Iterator[None]:
    """Around a search for plans: it leaves an exception in a cycle with the frame that caught it, and frames refer to
    their callers. Until Python's collector came by, all tensors that attention and its callers name would stay."""
    enabled = gc.isenabled()
    # What is made now stays in the youngest generation, the only one that is quick to look through.
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)
        if enabled:
            gc.enable()
