"""Starts that split a weight between the adapter and the base: PiSSA, OLoRA and LoftQ.

All three end in the same form: the base becomes q(W − s·B' A') for some factors A', B', where q quantizes as the base
was quantized (in a 16-bit base: rounds), and the adapter starts at A₀, B₀:

- **PiSSA**: A' = A₀ are the main r directions of W. They are large, so what is left to quantize has smaller blocks'
  maxima, and the largest part of W isn't quantized at all.
- **OLoRA**: the first r columns of W's QR decomposition, an orthonormal B₀.
- **LoftQ** alternates: quantize what the adapter doesn't hold, give the adapter the main directions of what the
  quantized weight lacks. A', B' are the factors of the last step but one. Scaled here, so that base + adapter is close
  to W at any `lora_alpha`; PEFT leaves the scale out, which is the same at lora_alpha = r.

What makes the base is kept (`start.py`), because the adapter means nothing without it. Products that decide codes are
taken in 64 bits: then the same factors give the same base on every device.

Sources: Meng et al. 2024 (PiSSA, arXiv 2404.02948); Büyükakyüz 2024 (OLoRA, arXiv 2406.01775); Li et al. 2023 (LoftQ,
arXiv 2310.08659, algorithm 1). Legend: R rank, I inputs, O outputs.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from quatrain.adapters.decompositions import leading_directions
from quatrain.adapters.lora import LoraLinear
from quatrain.adapters.starts.names import subspace_steps
from quatrain.adapters.starts.start import Start, without
from quatrain.errors import AdapterError
from quatrain.quantization import QuantizedLinear
from quatrain.quantization.linears import is_transposed

Round = Callable[[Tensor], Tensor]
"""A weight [out, in] as the base stores it, back in float32."""


@torch.no_grad()
def start_from_weight(name: str, layer: LoraLinear, weight_OI: Tensor, *, loftq_iter: int = 1) -> Start:
    """The start of `layer`, whose base had `weight_OI` [out, in] before it was quantized.

    Raises:
        AdapterError: the rank is larger than the weight has.
    """
    if layer.r > min(weight_OI.shape):
        raise AdapterError(
            f"init_lora_weights={name!r} needs ranks up to the smaller side of each weight; `r` is {layer.r} and a "
            f"weight is {list(weight_OI.shape)}. Lower `r`, or leave that linear out of `target_modules`"
        )
    weight_OI = weight_OI.float()
    if name == "loftq":
        factors = _loftq(weight_OI, layer.r, layer.scaling, _rounding(layer.base_layer), loftq_iter)
        return Start(name, *factors)
    if name == "olora":
        q_OR, r_RI = torch.linalg.qr(weight_OI)
        b_OR, a_RI = q_OR[:, : layer.r], r_RI[: layer.r]
    else:
        b_OR, a_RI = _halves(weight_OI / layer.scaling, layer.r, subspace_steps(name))
    return Start(name, a_RI, b_OR, a_RI, b_OR)


@torch.no_grad()
def change_base(layer: LoraLinear, start: Start, weight_OI: Tensor) -> None:
    """Give the base of `layer` what `start` leaves of `weight_OI` [out, in]; A and B stay."""
    _store(layer.base_layer, start.rest(weight_OI, layer.scaling))
    layer.start = start


@torch.no_grad()
def unchange_base(layer: LoraLinear, weight_OI: Tensor) -> None:
    """Give the base of `layer` its own weight again: `weight_OI`, or (in 16 bits) that and what was taken out of it."""
    start = layer.start
    assert start is not None
    if not isinstance(layer.base_layer, QuantizedLinear):
        weight_OI = start.rest(weight_OI, -layer.scaling)
    _store(layer.base_layer, weight_OI.float())
    layer.start = None


def _store(base: nn.Module, weight_OI: Tensor) -> None:
    """Put a weight [out, in] into a linear, quantized or rounded as its present one is."""
    if isinstance(base, QuantizedLinear):
        base.hold(base.quantize_like_own(weight_OI))
    else:
        base.weight.copy_(weight_OI.T if is_transposed(base) else weight_OI)  # pyright: ignore


def _loftq(weight_OI: Tensor, r: int, scaling: float, rounded: Round, steps: int) -> tuple[Tensor, ...]:
    """A and B at the start, and A and B that were taken out of what is quantized."""
    a_RI = weight_OI.new_zeros(r, weight_OI.shape[1])
    b_OR = weight_OI.new_zeros(weight_OI.shape[0], r)
    taken_a_RI, taken_b_OR = a_RI, b_OR
    for _ in range(steps):
        taken_a_RI, taken_b_OR = a_RI, b_OR
        lacking_OI = weight_OI - rounded(without(weight_OI, b_OR, a_RI, scaling))
        b_OR, a_RI = _halves(lacking_OI / scaling, r, None)
    return a_RI, b_OR, taken_a_RI, taken_b_OR


def _halves(matrix_OI: Tensor, r: int, steps: int | None) -> tuple[Tensor, Tensor]:
    """(B, A) whose product is the best approximation of rank r, the singular values shared equally between them."""
    if steps is not None:
        u_OR, sizes_R, vh_RI = leading_directions(matrix_OI, r, rounds=steps)
        return u_OR * sizes_R.sqrt(), vh_RI * sizes_R.sqrt()[:, None]
    # The main directions are eigenvectors of M Mᵀ or Mᵀ M, whichever is smaller; that costs a fraction of the
    # decomposition of a wide M, and 64 bits make up for the squares.
    wide = matrix_OI.shape[0] <= matrix_OI.shape[1]
    m_SL = (matrix_OI if wide else matrix_OI.T).double()
    _, vectors_SS = torch.linalg.eigh(m_SL @ m_SL.T)
    u_SR = vectors_SS[:, -r:].flip(1)
    v_RL = u_SR.T @ m_SL
    root_R = v_RL.norm(dim=1).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    u_SR, v_RL = (u_SR * root_R).float(), (v_RL / root_R[:, None]).float()
    return (u_SR, v_RL) if wide else (v_RL.T, u_SR.T)


def _rounding(base: nn.Module) -> Round:
    if isinstance(base, QuantizedLinear):
        return lambda weight_OI: base.quantize_like_own(weight_OI).dequantize(torch.float32)
    dtype = base.weight.dtype  # pyright: ignore[reportAttributeAccessIssue]
    return lambda weight_OI: weight_OI.to(dtype).float()  # pyright: ignore[reportArgumentType, reportCallIssue]
