"""The feed-forward's gate: f(gate) · up, on the two halves of one joint product, and its gradient in place.

Backward needs no memory of its own: gate and up become their gradients where they lie, and the gradient that came in
becomes the activation again, which the down projection's adapter asks for next. What that adapter adds to the incoming
gradient is a product of rank R; it is made inside the kernel, where it costs no pass over memory. Who wants to keep
less has gate and up written down in 8 bits on the way (`eight_bits.py`).
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from quatrain.errors import ModelError

from ..dispatch import use_triton
from ..layout import check_rows
from . import reference
from .eight_bits import BLOCK, EightBits

__all__ = ["ACTIVATIONS", "Activation", "EightBits", "gated_activation", "gated_activation_backward_"]

Activation = Literal["silu", "gelu_tanh", "gelu"]
ACTIVATIONS = ("silu", "gelu_tanh", "gelu")

LARGEST_RANK = 256


def gated_activation(
    gate_up_TF2: Float[Tensor, "T F2"],
    *,
    activation: str,
    out: Float[Tensor, "T F"] | None = None,
    eight_bits: EightBits | None = None,
) -> Float[Tensor, "T F"]:
    """``f(gate) · up`` [T, F], in float32, rounded once.

    Args:
        gate_up_TF2: [T, 2F], the gate in the first F columns.
        activation: ``"silu"``, ``"gelu_tanh"`` or ``"gelu"``.
        out: receives the result and is returned; its rows may lie any distance apart.
        eight_bits: receives gate and up in 8 bits.
    """
    _check(gate_up_TF2, activation, out, "out")
    _check_eight_bits(gate_up_TF2, eight_bits)
    if use_triton(gate_up_TF2):
        from . import triton as twin
    else:
        twin = reference
    return twin.gated_activation(gate_up_TF2, activation=activation, out=out, eight_bits=eight_bits)


def gated_activation_backward_(
    dact_TF: Float[Tensor, "T F"],
    gate_up_TF2: Float[Tensor, "T F2"],
    *,
    activation: str,
    eight_bits: EightBits | None = None,
    low_rank: tuple[Float[Tensor, "T R"], Float[Tensor, "R F"]] | None = None,
) -> None:
    """In place: ``gate_up`` becomes ``[d_gate | d_up]``, and ``dact`` becomes ``f(gate) · up``.

    Args:
        dact_TF: the gradient of forward's output.
        gate_up_TF2: [T, 2F], forward's input.
        activation: as in forward.
        eight_bits: gate and up as forward wrote them down, if ``gate_up`` doesn't hold them any more; it only receives
            the gradient then.
        low_rank: ``(dh, a)``, of the tensors' dtype: the gradient is ``dact + dh @ a``, added in float32. R is at most
            256, and best a multiple of 16.
    """
    _check(gate_up_TF2, activation, dact_TF, "dact_TF")
    _check_eight_bits(gate_up_TF2, eight_bits)
    if low_rank is not None:
        rank = low_rank[0].shape[1]
        if not 0 < rank <= LARGEST_RANK:
            raise ValueError(
                f"low_rank's rank must be from 1 to {LARGEST_RANK}, got {rank}. Add the product to dact_TF before."
            )
        check_rows(dh_TR=low_rank[0], a_RF=low_rank[1])
    if use_triton(gate_up_TF2):
        from . import triton as twin
    else:
        twin = reference
    twin.gated_activation_backward_(
        dact_TF, gate_up_TF2, activation=activation, eight_bits=eight_bits, low_rank=low_rank
    )


def _check(gate_up_TF2: Tensor, activation: str, half_TF: Tensor | None, name: str) -> None:
    if activation not in ACTIVATIONS:
        raise ModelError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}.")
    if gate_up_TF2.shape[1] % 2:
        raise ValueError(f"gate_up_TF2's width must be even, got {gate_up_TF2.shape[1]}. Gate and up lie side by side.")
    if half_TF is not None and gate_up_TF2.shape[1] != 2 * half_TF.shape[1]:
        raise ValueError(
            f"gate_up_TF2 must be twice as wide as {name}, got {gate_up_TF2.shape[1]} and {half_TF.shape[1]} columns. "
            "Gate and up lie side by side, in this order."
        )
    check_rows(gate_up_TF2=gate_up_TF2, **{name: half_TF})


def _check_eight_bits(gate_up_TF2: Tensor, eight_bits: EightBits | None) -> None:
    if eight_bits is None:
        return
    tokens, columns = gate_up_TF2.shape[0], gate_up_TF2.shape[1] // 2
    expected = (tokens, 2 * columns), (tokens, 2 * -(-columns // BLOCK))
    found = tuple(eight_bits.codes_TF2.shape), tuple(eight_bits.scales_TB2.shape)
    if found != expected or not all(tensor.is_contiguous() for tensor in eight_bits):
        raise ValueError(
            f"eight_bits must be contiguous codes {list(expected[0])} and scales {list(expected[1])}, "
            f"found {list(found[0])} and {list(found[1])}. Make them with EightBits.room."
        )
