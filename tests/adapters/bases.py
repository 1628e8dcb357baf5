"""Small random Llamas: in float32, and with every matrix in four bits."""

from typing import Any

import torch
from torch import nn

from quatrain.quantization import QuantizedEmbedding, QuantizedLinear, quantize_4bit
from quatrain.quantization.module import QuantizedModule
from tests.llamas import tiny_llama


def sixteen_bits(*, tied: bool = True, like: nn.Module | None = None) -> Any:
    """The model in float32; with `like`, with that one's dequantized weights."""
    # A width of whole blocks of 64, which bitsandbytes on a CPU needs.
    model = tiny_llama(intermediate_size=128, tie_word_embeddings=tied).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    for name, module in like.named_modules() if like is not None else ():
        if isinstance(module, QuantizedModule):
            model.get_parameter(f"{name}.weight").copy_(module.weight)
    return model


def four_bits() -> Any:
    """The same model with linears, head and embedding in four bits."""
    model = sixteen_bits()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Embedding):
            table = quantize_4bit(module.weight)
            model.set_submodule(name, QuantizedEmbedding(table, torch.float32))
        elif isinstance(module, nn.Linear):
            weight = table if name == "lm_head" else quantize_4bit(module.weight)
            model.set_submodule(name, QuantizedLinear.from_quantized(weight, None, torch.float32))
    return model.eval()
