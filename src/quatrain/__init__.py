"""Quatrain fine-tunes large language models in four bits (QLoRA).

Everything that a user needs is an attribute of this package. Each name is imported when it is first touched, so that
``import quatrain`` costs little beyond torch's own import and never loads triton, CUDA or transformers.
"""

from importlib import import_module

_HOME = {
    "AdapterSet": "quatrain.adapters",
    "DataConfig": "quatrain.data",
    "LoraConfig": "quatrain.adapters",
    "QuantizedLinear": "quatrain.quantization",
    "QuantizedTensor": "quatrain.quantization",
    "RunConfig": "quatrain.training",
    "adapter_summary": "quatrain.adapters.arithmetic",
    "attach_lora": "quatrain.adapters",
    "combine_adapters": "quatrain.adapters.arithmetic",
    "convert_adapter": "quatrain.adapters.arithmetic",
    "detach_lora": "quatrain.adapters",
    "evaluate": "quatrain.evaluation",
    "export": "quatrain.exports",
    "extract_adapter": "quatrain.models.extracting",
    "fuse_blocks": "quatrain.models.fused_layers",
    "load_adapter": "quatrain.adapters",
    "load_model": "quatrain.models",
    "merge": "quatrain.exports",
    "model_summary": "quatrain.models",
    "plan": "quatrain.training",
    "quantize_4bit": "quatrain.quantization",
    "save_adapter": "quatrain.adapters",
    "save_quantized": "quatrain.models",
    "train": "quatrain.training",
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'quatrain' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
