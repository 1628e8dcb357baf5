"""What attention asks of its arguments. Values on the device aren't looked at: that would wait for it."""

import torch
from torch import Tensor

from ..checks import FLOATS
from .segments import Segments


def check_forward(
    q_TAD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    segments: Segments,
    scale: float,
    window: int | None,
    softcap: float | None,
    o_TAD: Tensor | None,
) -> None:
    tokens, heads, _ = q_TAD.shape
    groups = k_TGD.shape[1]
    if q_TAD.dtype not in FLOATS:
        raise ValueError(f"q must be float32, bfloat16 or float16, got {q_TAD.dtype}. Convert it first.")
    if heads % groups:
        raise ValueError(f"Query heads must be a multiple of key/value heads, got {heads} and {groups}.")
    _check("q", q_TAD, q_TAD, heads)
    _check("k", k_TGD, q_TAD, groups)
    _check("v", v_TGD, q_TAD, groups)
    if o_TAD is not None:
        _check("the output", o_TAD, q_TAD, heads)
    ends = segments.ends
    if ends.dtype != torch.int32 or ends.ndim != 1 or len(ends) < 2 or ends.device != q_TAD.device:
        raise ValueError(
            f"segments.ends must be int32 [slots + 1] on {q_TAD.device}, got {list(ends.shape)} of {ends.dtype} on "
            f"{ends.device}. It starts with 0, and each sample adds its end."
        )
    if not 1 <= segments.max_length <= tokens:
        raise ValueError(
            f"segments.max_length must lie between 1 and the row's {tokens} tokens, got {segments.max_length}."
        )
    if scale <= 0:
        raise ValueError(f"scale must be above 0, got {scale}. 1/√D is usual.")
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, the token itself, got {window}. Pass None for no window.")
    if softcap is not None and softcap <= 0:
        raise ValueError(f"softcap must be above 0, got {softcap}. Pass None for no soft-capping.")


def check_backward(
    q_TAD: Tensor, k_TGD: Tensor, do_TAD: Tensor, lse_AT: Tensor, dq: Tensor, dk: Tensor, dv: Tensor
) -> None:
    tokens, heads, _ = q_TAD.shape
    _check("the output's gradient", do_TAD, q_TAD, heads)
    _check("dq", dq, q_TAD, heads)
    _check("dk", dk, q_TAD, k_TGD.shape[1])
    _check("dv", dv, q_TAD, k_TGD.shape[1])
    if lse_AT.shape != (heads, tokens) or lse_AT.dtype != torch.float32:
        raise ValueError(
            f"lse must be float32 [{heads}, {tokens}], got {list(lse_AT.shape)} of {lse_AT.dtype}. "
            "Pass what attention_forward returned."
        )


def _check(what: str, x: Tensor, q_TAD: Tensor, heads: int) -> None:
    expected = (q_TAD.shape[0], heads, q_TAD.shape[2])
    if x.shape != expected or x.dtype != q_TAD.dtype or x.device != q_TAD.device or x.stride(-1) != 1:
        raise ValueError(
            f"{what} must be {list(expected)} of {q_TAD.dtype} on {q_TAD.device}, last dimension contiguous, got "
            f"{list(x.shape)} of {x.dtype} on {x.device} with strides {x.stride()}."
        )
