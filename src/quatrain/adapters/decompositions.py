"""The main directions of a large matrix: its largest singular values, without the others.

A full decomposition takes a time with the cube of the shorter side. Multiplying a few directions by the matrix and its
transpose, again and again, makes those of larger singular values win. PyTorch's ``svd_lowrank`` is the same, but draws
its first directions on the device of the matrix, so that one seed would give other adapters on other devices.

Source: Halko, Martinsson and Tropp 2011 (arXiv 0909.4061), algorithms 4.4 and 5.1.
"""

import torch
from torch import Tensor

_SEED = 42


def leading_directions(matrix_OI: Tensor, count: int, *, rounds: int) -> tuple[Tensor, Tensor, Tensor]:
    """(U [O, K], S [K], Vᵀ [K, I]) of about the `count` largest singular values, descending.

    Args:
        count: K, at most the shorter side. The last few are the least sharp: ask for more than are wanted.
        rounds: each brings what was found nearer to what is there.
    """
    wide = matrix_OI.shape[0] < matrix_OI.shape[1]
    m_LS = matrix_OI.T if wide else matrix_OI
    start_SK = torch.randn(m_LS.shape[1], count, generator=torch.Generator().manual_seed(_SEED)).to(m_LS)
    q_LK = torch.linalg.qr(m_LS @ start_SK).Q
    for _ in range(rounds):
        q_SK = torch.linalg.qr(m_LS.T @ q_LK).Q
        q_LK = torch.linalg.qr(m_LS @ q_SK).Q
    u, s_K, vh = torch.linalg.svd(q_LK.T @ m_LS, full_matrices=False)
    u = q_LK @ u
    return (vh.T, s_K, u.T) if wide else (u, s_K, vh)
