"""Which modules are plain linears, and which way round their weight lies.

Asked by exact class: a subclass of `nn.Linear` may do anything in its forward (routers of Llama 4 and PhiMoE return
choices, DeepSeek's grouped linear multiplies block-wise), so only subclasses that are known to be plain count.
"""

from torch import nn
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

PLAIN = (nn.Linear, Conv1D, FalconLinear)
"""Classes that compute x·Wᵀ + b. GPT-2's Conv1D does so with its weight stored as [in, out]."""


def is_linear(module: nn.Module) -> bool:
    """True if the module computes x·Wᵀ + b and nothing else."""
    return type(module) in PLAIN


def is_transposed(module: nn.Module) -> bool:
    """True if the module's weight is [in, out]."""
    return isinstance(module, Conv1D)
