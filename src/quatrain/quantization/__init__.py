"""Weights in four bits: the quantized tensor, the linear layer that holds one, and bitsandbytes' form on disk."""

from .linear import QuantizedLinear
from .tensor import QuantizedTensor, quantize_4bit

__all__ = ["QuantizedLinear", "QuantizedTensor", "quantize_4bit"]
