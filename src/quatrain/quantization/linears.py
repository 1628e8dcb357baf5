"""Which modules are plain linears, and which way round their weight lies.

The one answer for those who quantize linears and those who put adapters on them. Asked by exact class: a subclass of
`nn.Linear` may do anything in its forward (routers of Llama 4 and PhiMoE return choices, DeepSeek's grouped linear
multiplies block-wise), so only classes that are known to be plain count. Those of transformers go by their full name,
so that nothing down here has to import it.
"""

from torch import nn

CONV1D = "transformers.pytorch_utils.Conv1D"
"""GPT-2's linear, whose weight is stored as [in, out]."""

PLAIN = frozenset(
    {
        f"{nn.Linear.__module__}.{nn.Linear.__qualname__}",
        CONV1D,
        "transformers.models.falcon.modeling_falcon.FalconLinear",
    }
)
"""Full names of the classes that compute x·Wᵀ + b."""


def is_linear(module: nn.Module) -> bool:
    """True if the module computes x·Wᵀ + b with a 16- or 32-bit weight, and nothing else."""
    return _class_name(module) in PLAIN


def is_transposed(module: nn.Module) -> bool:
    """True if the module's weight is [in, out]."""
    return _class_name(module) == CONV1D


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
