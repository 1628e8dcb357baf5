"""Rotary position embedding in plain PyTorch."""

from torch import Tensor


def rotary_(x_TAD: Tensor, positions_T: Tensor, cos_PE: Tensor, sin_PE: Tensor, *, inverse: bool = False) -> None:
    """See :func:`quatrain.ops.rotary.rotary_`; no argument is checked here."""
    half = cos_PE.shape[1]
    cos_T1E = cos_PE[positions_T].unsqueeze(1)
    sin_T1E = sin_PE[positions_T].unsqueeze(1)
    if inverse:
        sin_T1E = -sin_T1E
    first_TAE, second_TAE = x_TAD[..., :half].float(), x_TAD[..., half : 2 * half].float()
    turned = first_TAE * cos_T1E - second_TAE * sin_T1E, second_TAE * cos_T1E + first_TAE * sin_T1E
    x_TAD[..., :half], x_TAD[..., half : 2 * half] = turned
