"""Adapters: the small trained matrices beside the frozen base, and their life on disk."""

from quatrain.adapters.attach import adapter_layers, adapter_parameters, attach_lora, detach_lora
from quatrain.adapters.config import LoraConfig
from quatrain.adapters.lora import LoraLinear
from quatrain.adapters.peft_format import load_adapter, save_adapter

__all__ = [
    "LoraConfig",
    "LoraLinear",
    "adapter_layers",
    "adapter_parameters",
    "attach_lora",
    "detach_lora",
    "load_adapter",
    "save_adapter",
]
