"""Telling two bases apart: a hash over a sample of every frozen tensor."""

import hashlib

from torch import Tensor, nn

from quatrain.quantization import QuantizedModule

_SAMPLE = 64


def base_fingerprint(model: nn.Module) -> str:
    """SHA-256 over name, shape and the first and last elements of each frozen tensor, 4-bit codes and scales included.

    A sample, because hashing all of a large base on a GPU would take longer than a checkpoint may; two bases that
    differ by more than a few chosen weights differ in it.
    """
    digest = hashlib.sha256()
    for name, tensor in _frozen(model):
        ends = tensor.detach().reshape(-1)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(repr(ends[:_SAMPLE].tolist() + ends[-_SAMPLE:].tolist()).encode())
    return digest.hexdigest()


def _frozen(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Frozen parameters and 4-bit storage by name, without what adapters put into the names."""
    found = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    for name, module in model.named_modules():
        if isinstance(module, QuantizedModule):
            found += [(f"{name}.{part}", tensor) for part, tensor in module.quantized.tensors().items()]
    return [(name.replace(".base_layer", ""), tensor) for name, tensor in found]
