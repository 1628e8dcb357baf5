"""What operations on activations ask of their tensors' layout, said once.

Activations are often views into a wider buffer: q, k and v of one product, gate beside up, an activation with room for
LoRA's columns at its end. So rows may lie any distance apart, but the elements of a row must lie side by side: that is
what lets a kernel read 16 bytes at once.
"""

from torch import Tensor


def check_rows(**tensors: Tensor | None) -> None:
    """Each tensor's last dimension must be contiguous. ``None`` is an argument that wasn't given."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ValueError(
                f"{name}'s last dimension must be contiguous, got strides {tensor.stride()} for shape "
                f"{tuple(tensor.shape)}. Pass a tensor that isn't transposed, or {name}.contiguous()."
            )
