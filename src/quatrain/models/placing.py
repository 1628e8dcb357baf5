"""Putting one tensor where it belongs: on its device, in four bits or in its compute type, in its module.

A linear is replaced by a quantized one at the moment its weight arrives, so at any time the device holds what has been
placed, plus one matrix in 16 bits.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from quatrain.errors import ModelError
from quatrain.quantization import (
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedModule,
    QuantizedTensor,
    quantize_4bit,
)
from quatrain.quantization.bitsandbytes_format import to_bitsandbytes
from quatrain.quantization.linears import is_linear, is_transposed
from quatrain.quantization.selection import Decision


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where weights go and how they are quantized; the values are `load_model`'s."""

    device: torch.device
    """Where all weights end up, and where they are quantized."""
    compute_dtype: torch.dtype
    """What 4-bit weights dequantize to."""
    quant_type: str | None
    """`nf4`, `fp4`, `int4`, or None to quantize nothing."""
    block_size: int
    """Elements per scale."""
    double_quant: bool
    """Whether scales are stored in 8 bits."""


def place(model: nn.Module, name: str, tensor: Tensor, decision: Decision, placement: Placement) -> None:
    """Puts a tensor of the checkpoint in place, in four bits if that was decided.

    Raises:
        ModelError: The tensor's shape isn't the model's.
    """
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    _check_shape(name, tensor.shape, getattr(module, leaf).shape)
    if decision.quantize and placement.quant_type is not None:
        swap(model, name, _quantize(module, tensor, placement.quant_type, placement), placement)
    else:
        _set(module, leaf, tensor, placement)


def _quantize(module: nn.Module, tensor: Tensor, quant_type: str, placement: Placement) -> QuantizedTensor:
    """In four bits, on the device, from the precision that the checkpoint has; who fills the model checks them all."""
    matrix = tensor.detach().to(placement.device)
    if is_transposed(module):
        matrix = matrix.T
    return quantize_4bit(
        matrix.contiguous(), quant_type, placement.block_size, placement.double_quant, check_finite=False
    )


def _set(module: nn.Module, leaf: str, tensor: Tensor, placement: Placement) -> None:
    """In the type that the skeleton has for it."""
    value = _own(tensor.detach(), placement.device, getattr(module, leaf).dtype).contiguous()
    setattr(module, leaf, nn.Parameter(value, requires_grad=False) if leaf in module._parameters else value)


def _own(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The tensor on the device, in memory that holds nothing else.

    What lies on the CPU is copied: it may view a mapped file that is soon closed.
    """
    is_view = tensor.device.type == "cpu" or tensor.untyped_storage().nbytes() != tensor.nbytes
    return tensor.to(device=device, dtype=dtype, copy=is_view)


def place_quantized(model: nn.Module, name: str, weight: QuantizedTensor, placement: Placement) -> None:
    """Installs a weight that the checkpoint holds in four bits already; its bytes stay as they are."""
    module = model.get_submodule(name.rpartition(".")[0])
    if not is_linear(module) and type(module) is not nn.Embedding:
        raise ModelError(
            f"Only linears and embeddings can be in four bits; {name} belongs to a {type(module).__name__}."
        )
    shape = tuple(module.get_parameter("weight").shape)
    _check_shape(name, weight.shape, shape[::-1] if is_transposed(module) else shape)
    swap(model, name, weight.map(lambda t: _own(t, placement.device, t.dtype)), placement)


def swap(model: nn.Module, name: str, weight: QuantizedTensor, placement: Placement) -> None:
    """Replaces the linear or embedding that owns the named weight by a quantized one; a bias stays."""
    owner, dtype = name.rpartition(".")[0], placement.compute_dtype
    weight, module = replace(weight, dtype=dtype), model.get_submodule(owner)
    if isinstance(module, nn.Embedding):
        quantized = QuantizedEmbedding(weight, dtype)
    else:
        quantized = QuantizedLinear.from_quantized(weight, module._parameters["bias"], dtype)
    model.set_submodule(owner, quantized.eval())


def tie(model: PreTrainedModel, placement: Placement) -> None:
    """Makes tied modules share their weight, in 16 bits as transformers does it, or in four bits as the same tensors.

    A 4-bit weight has several names in a state dict; all of the second module's are noted as tied, so that whoever
    saves the model writes the shared tensors once.
    """
    quantized = {}
    for target, source in model.all_tied_weights_keys.items():
        module = model.get_submodule(source.rpartition(".")[0])
        if isinstance(module, QuantizedModule):
            swap(model, target, module.quantized, placement)
            quantized |= {target + n.removeprefix(source): n for n in to_bitsandbytes(module.quantized, source)}
    if quantized:
        model.all_tied_weights_keys = quantized
    else:
        model.tie_weights(recompute_mapping=False)


def _check_shape(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(found) != tuple(expected):
        raise ModelError(
            f"{name} must have the shape {tuple(expected)} that the configuration gives; the checkpoint has "
            f"{tuple(found)}. Its configuration belongs to another model."
        )
