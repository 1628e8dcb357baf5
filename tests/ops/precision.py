"""What a result may differ by from the exact one."""

import torch
from torch import Tensor


def assert_rounded(actual: Tensor, exact: Tensor, size: Tensor | None = None) -> None:
    """``actual`` must be ``exact`` (float64) after float32 arithmetic and one rounding to its own dtype.

    ``size`` holds, by element, the magnitude of what was added and cancelled on the way; without it, every element's is
    that of the largest result. The rounding may take a whole unit in the last place and not half of one, since
    Triton's interpreter cuts bfloat16 off where hardware rounds.
    """
    limits = torch.finfo(actual.dtype)
    if size is None:
        size = exact.abs().max() if exact.numel() else torch.zeros(())
    error = (actual.double() - exact).abs()
    allowed = max(limits.eps, 1e-5) * exact.abs() + 1e-5 * size + limits.smallest_normal * limits.eps
    bad = ~(error <= allowed)  # NaN is bad
    assert not bad.any(), f"{int(bad.sum())} of {bad.numel()} are off, by up to {(error / allowed).max():.3g} × allowed"
