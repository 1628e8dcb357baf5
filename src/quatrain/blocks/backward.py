"""The backward of a decoder block: from the gradient of its output to that of its input, adapters' on the way.

Nothing of a frozen weight is differentiated. Each product gives its input's gradient, the adapters' thin gradients are
added to flat buffers at once, and elementwise steps overwrite what they read: the MLP's backward leaves the gradients
of gate and up in gate_up's own memory, and a residual's gradient is one tensor from the model's end to its beginning.

Legend: as in `block.py`; a name with d in front is a gradient.
"""

from torch import Tensor

from quatrain.blocks.block import DecoderBlock
from quatrain.blocks.kept import Kept, Row, there
from quatrain.ops.block_attention import attention_backward
from quatrain.ops.gated_activation import gated_activation_backward_
from quatrain.ops.rms_norm import rms_norm_backward


def backward(block: DecoderBlock, d_TH: Tensor, row: Row, kept: Kept, *, input_needs_gradient: bool = True) -> None:
    """Turn `d_TH`, the gradient of the block's output, into that of its input, in place; adapters' gradients are added.

    Args:
        kept: what the forward kept; missing groups are recomputed. Used up: nothing in it is valid afterwards.
        input_needs_gradient: False for the first block, below which nothing is trained; `d_TH` is then undefined.
    """
    restore(block, row, kept)
    _mlp(block, d_TH, row, kept)
    # Given up as soon as possible: attention's own scratch fits where gate_up was.
    kept.drop("gate_up")
    kept.x2 = None
    dqkv = _attention(block, d_TH, row, kept)
    _qkv(block, d_TH, dqkv, row, kept, input_needs_gradient)


def restore(block: DecoderBlock, row: Row, kept: Kept) -> None:
    """Run the stages again whose results aren't there."""
    if kept.qkv is None:
        x_TE, _ = block.normalized(there(kept.x), block.modules.attention_norm, block.qkv)
        block.make_qkv(x_TE, row, kept)
    if kept.o is None:
        block.make_attention(row, kept)
    x2_TE = block.make_x2(row, kept) if kept.x2 is None else None
    if kept.gate_up is None and kept.eight_bits is None:
        if x2_TE is None:
            x2_TE, _ = block.normalized(there(kept.x2), block.modules.mlp_norm, block.gate_up)
        block.make_gate_up(x2_TE, row, kept)


def _mlp(block: DecoderBlock, d_TH: Tensor, row: Row, kept: Kept) -> None:
    """From the gradient of the block's output to that of x2."""
    branch = _through_out_norm(block, d_TH, kept.mlp_out, block.modules.mlp_out_norm)
    dact_TE = block.down.input_gradient(branch, block.workspace.get("wide", len(d_TH), block.down.extended))
    low_rank = block.down.low_rank_of(dact_TE)
    if low_rank is None:
        block.down.add_adapter_gradient(dact_TE, row.seed)
    act_TF, eight_bits = dact_TE[:, : block.down.in_features], kept.eight_bits
    dgate_up = there(kept.gate_up) if eight_bits is None else d_TH.new_empty(eight_bits.codes_TF2.shape)
    gated_activation_backward_(
        act_TF, dgate_up, activation=block.spec.activation, eight_bits=eight_bits, low_rank=low_rank
    )
    h_down = block.down.project(act_TF, row.seed) if kept.h_down is None else kept.h_down
    block.down.accumulate_gradients(act_TF, h_down, branch, dact_TE, row.seed)
    _through_norm(block, "mlp", d_TH, dgate_up, row, there(kept.x2), there(kept.h_gate_up))


def _attention(block: DecoderBlock, d_TH: Tensor, row: Row, kept: Kept) -> Tensor:
    """From the gradient of x2 to that of q, k and v [T, (A + 2G)·D]."""
    spec, o_TE, k = block.spec, there(kept.o), block.o.in_features
    branch = _through_out_norm(block, d_TH, kept.attention_out, block.modules.attention_out_norm)
    do_TE = block.o.input_gradient(branch, block.workspace.get("dx", len(d_TH), block.o.extended))
    block.o.add_adapter_gradient(do_TE, row.seed)
    block.o.accumulate_gradients(o_TE[:, :k], block.o.hidden(o_TE), branch, do_TE, row.seed)
    q, key, v = block.roped(there(kept.qkv), row)
    dqkv = block.workspace.get("wide", len(d_TH), spec.qkv_width)
    dq, dk, dv = (block.heads(dqkv, which) for which in "qkv")
    attention_backward(
        do_TE[:, :k].unflatten(1, (spec.num_heads, -1)),
        *(q, key, v, o_TE[:, :k].unflatten(1, (spec.num_heads, -1)), there(kept.lse), row.segments),
        **block.attention_options(row),
        dq=dq,
        dk=dk,
        dv=dv,
    )
    block.rotate(block.heads(dqkv, "qk"), row, inverse=True)
    if block.has_head_norms:
        _through_head_norm(block, dq, block.heads(there(kept.qkv), "q"), block.modules.q_norm)
        _through_head_norm(block, dk, block.heads(there(kept.qkv), "k"), block.modules.k_norm)
    return dqkv


def _qkv(block: DecoderBlock, d_TH: Tensor, dqkv: Tensor, row: Row, kept: Kept, input_needs_gradient: bool) -> None:
    """From the gradients of q, k, v and x2 to that of x."""
    x_TH, h_TR = there(kept.x), there(kept.h_qkv)
    if input_needs_gradient:
        _through_norm(block, "attention", d_TH, dqkv, row, x_TH, h_TR)
        return
    x_TE, _ = block.normalized(x_TH, block.modules.attention_norm, block.qkv)
    dx_TE = block.workspace.get("dx", len(d_TH), block.qkv.extended)
    block.qkv.low_rank_input_gradient(dqkv, dx_TE)
    block.qkv.accumulate_gradients(x_TE[:, : block.qkv.in_features], h_TR, dqkv, dx_TE, row.seed)


def _through_norm(
    block: DecoderBlock, half: str, d_TH: Tensor, dy_TN: Tensor, row: Row, x_TH: Tensor, h_TR: Tensor
) -> None:
    """Add to `d_TH` what reaches the residual stream `x_TH` through a product and the norm before it.

    Args:
        half: "attention" or "mlp". dy_TN: gradient of its product's output. h_TR: the x·Aᵀ of the product's adapters.
    """
    product = block.qkv if half == "attention" else block.gate_up
    norm = block.modules.attention_norm if half == "attention" else block.modules.mlp_norm
    k = product.in_features
    dx_TE = product.input_gradient(dy_TN, block.workspace.get("dx", len(d_TH), product.extended))
    product.add_adapter_gradient(dx_TE, row.seed)
    x_TE, rstd_T = block.normalized(x_TH, norm, product)
    product.accumulate_gradients(x_TE[:, :k], h_TR, dy_TN, dx_TE, row.seed)
    rms_norm_backward(dx_TE[:, :k], x_TH, norm.weight, rstd_T, offset=block.spec.norm_offset, add_TH=d_TH, out=d_TH)


def _through_out_norm(block: DecoderBlock, d_TH: Tensor, x_TH: Tensor | None, norm) -> Tensor:
    """The gradient of a branch, from that of the residual stream to which it is added, maybe behind a norm."""
    if norm is None:
        return d_TH
    branch = block.workspace.get("branch", *d_TH.shape)
    rstd_T = block.norm(there(x_TH), norm, out=branch)
    return rms_norm_backward(d_TH, there(x_TH), norm.weight, rstd_T, offset=block.spec.norm_offset, out=branch)


def _through_head_norm(block: DecoderBlock, d_TAD: Tensor, x_TAD: Tensor, norm) -> None:
    """The gradient of q or k before its norm, in place of that behind it."""
    scratch = block.workspace.get("roped", *x_TAD.shape)
    rstd_TA = block.norm(x_TAD, norm, out=scratch)
    rms_norm_backward(d_TAD, x_TAD, norm.weight, rstd_TA, offset=block.spec.norm_offset, out=d_TAD)
