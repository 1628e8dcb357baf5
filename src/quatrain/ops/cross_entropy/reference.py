"""Cross-entropy of whole rows of logits, and its gradient in their place, in plain PyTorch."""

import torch
from torch import Tensor

IGNORED = -100


def cross_entropy_(
    logits_CV: Tensor,
    targets_C: Tensor,
    loss_C: Tensor,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    want_gradient: bool = True,
) -> None:
    """See :func:`quatrain.ops.cross_entropy.cross_entropy_`; no argument is checked here."""
    z_CV = logits_CV.float()
    if scale != 1.0:
        z_CV = z_CV * scale
    if softcap is not None:
        z_CV = torch.tanh(z_CV / softcap) * softcap
    counts_C1 = (targets_C != IGNORED).unsqueeze(1)
    column_C1 = targets_C.unsqueeze(1).where(counts_C1, 0)
    log_p_CV = z_CV.log_softmax(dim=1)
    loss_C.copy_(-log_p_CV.gather(1, column_C1).where(counts_C1, 0).squeeze(1))
    if not want_gradient:
        return
    gradient_CV = log_p_CV.exp_()
    gradient_CV.scatter_add_(1, column_C1, gradient_CV.new_full(column_C1.shape, -1.0))
    if softcap is not None:
        gradient_CV *= 1 - (z_CV / softcap) ** 2
    logits_CV.copy_(gradient_CV.mul_(scale).masked_fill_(~counts_C1, 0))
