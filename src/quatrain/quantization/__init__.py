"""Weights in four bits: the quantized tensor, the layers that hold one, and bitsandbytes' form on disk."""

from .embedding import QuantizedEmbedding
from .linear import QuantizedLinear
from .module import QuantizedModule
from .tensor import QuantizedTensor, check_finite_weights, check_witnesses, quantize_4bit

__all__ = [
    "QuantizedEmbedding",
    "QuantizedLinear",
    "QuantizedModule",
    "QuantizedTensor",
    "check_finite_weights",
    "check_witnesses",
    "quantize_4bit",
]
