"""Arithmetic with adapters, on their folders alone: no base is loaded.

What an adapter does is ΔW = s · B A in each layer, and a sum of such updates is one of higher rank again. So adapters
can be added, subtracted and cut to another rank, exactly or as nearly as a rank allows. Each operation says how far its
result is from the plain weighted sum.
"""

from quatrain.adapters.arithmetic.combine import Combined, combine_adapters
from quatrain.adapters.arithmetic.convert import convert_adapter
from quatrain.adapters.arithmetic.methods import COMBINATION_TYPES
from quatrain.adapters.arithmetic.summary import AdapterSummary, LayerSummary, adapter_summary

__all__ = [
    "COMBINATION_TYPES",
    "AdapterSummary",
    "Combined",
    "LayerSummary",
    "adapter_summary",
    "combine_adapters",
    "convert_adapter",
]
