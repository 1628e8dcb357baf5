"""How optimizer state is laid out beside a list of parameters, and the checks that both AdamW operations share.

State is a matrix of rows of 256 values (or codes). Parameter ``i``, read in row-major order, owns the next
⌈numel/256⌉ rows, so that a row, which is also a quantization block, never spans two parameters.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from quatrain.errors import OptimizerError

ROW = 256


def rows_of(param: Tensor) -> int:
    """Number of rows that ``param`` owns."""
    return -(-param.numel() // ROW)


def owned(rows: Tensor, params: list[Tensor]) -> list[Tensor]:
    """Views of ``rows`` [n, 256], one per parameter and of its shape; what is left of its last row is skipped."""
    lengths = [length for p in params for length in (p.numel(), -p.numel() % ROW)]
    return [part.view(p.shape) for part, p in zip(rows.view(-1).split(lengths)[::2], params, strict=True)]


def check_parameters(params: list[Tensor], grads: list[Tensor]) -> None:
    """At least one parameter; all float32, contiguous, on one device, each with a gradient of its shape."""
    if not params or len(params) != len(grads):
        raise OptimizerError(
            f"Each parameter needs its gradient, got {len(params)} parameters, {len(grads)} gradients."
        )
    device = params[0].device
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        if param.shape != grad.shape:
            raise OptimizerError(f"Parameter {i} has shape {tuple(param.shape)}, its gradient {tuple(grad.shape)}.")
        for what, tensor in (("Parameter", param), ("The gradient of parameter", grad)):
            if tensor.dtype != torch.float32 or tensor.device != device or not tensor.is_contiguous():
                raise OptimizerError(
                    f"{what} {i} must be contiguous float32 on {device}, got {tensor.dtype} on {tensor.device} with "
                    f"strides {tensor.stride()}."
                )


def check_state(params: list[Tensor], state: Mapping[str, tuple[Tensor, torch.dtype]]) -> None:
    """Each named state tensor is contiguous, of the dtype given, with a row of 256 (scales: a value) per row owned."""
    rows = sum(map(rows_of, params))
    for name, (tensor, dtype) in state.items():
        shape = (rows,) if name.startswith("scales") else (rows, ROW)
        fits = tensor.shape == shape and tensor.dtype == dtype and tensor.device == params[0].device
        if not fits or not tensor.is_contiguous():
            raise OptimizerError(
                f"{name} must be contiguous {dtype} of shape {shape} on {params[0].device}, got {tensor.dtype} of "
                f"shape {tuple(tensor.shape)} on {tensor.device}. It doesn't belong to these parameters."
            )
