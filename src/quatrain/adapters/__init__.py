"""Adapters: the small trained matrices beside the frozen base, and their life on disk."""

from quatrain.adapters.attach import adapter_layers, adapter_parameters, attach_lora, detach_lora
from quatrain.adapters.config import LoraConfig
from quatrain.adapters.loading import load_adapter, save_adapter
from quatrain.adapters.lora import LoraLinear
from quatrain.adapters.peft_format import read_adapter
from quatrain.adapters.provenance import BaseIdentity, Provenance, base_identity, provenance_of, read_provenance
from quatrain.adapters.several import AdapterSet

__all__ = [
    "AdapterSet",
    "BaseIdentity",
    "LoraConfig",
    "LoraLinear",
    "Provenance",
    "adapter_layers",
    "adapter_parameters",
    "attach_lora",
    "base_identity",
    "detach_lora",
    "load_adapter",
    "provenance_of",
    "read_adapter",
    "read_provenance",
    "save_adapter",
]
