"""Put an adapter into a model in place, find its layers again, and take them off."""

import torch
from torch import nn

from quatrain.adapters.config import LoraConfig
from quatrain.adapters.dora import DoraLinear
from quatrain.adapters.extras import attach_extras, extra_layers, match_modules
from quatrain.adapters.lora import LoraLinear
from quatrain.adapters.targets import adaptable_linears, match_targets
from quatrain.errors import AdapterError


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` where the dotted `name` points to."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def adapter_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers of a model by module name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained tensors by name (`<module>.lora_A`, `<module>.lora_B`, …), in the model's order."""
    layers = {**adapter_layers(model), **extra_layers(model)}
    found = {
        f"{name}.{half}": layer.get_parameter(half) for name, layer in layers.items() for half in layer.parameter_names
    }
    # A head that shares the embedding's table shares its trained rows: one parameter under two names.
    first = {id(parameter): name for name, parameter in reversed(found.items())}
    return {name: parameter for name, parameter in found.items() if first[id(parameter)] == name}


def attach_lora(model: nn.Module, config: LoraConfig | None = None, *, seed: int = 0) -> nn.Module:
    """Freeze `model` and put a LoRA layer around each linear that `config` selects. Returns the same model.

    Args:
        model: the base; changed in place.
        config: rank, scale and targets. Default: ``LoraConfig()``.
        seed: draws every A, independent of device and of torch's global generator.

    Raises:
        AdapterError: the model already carries an adapter, or a target matches nothing.
    """
    config = config or LoraConfig()
    if adapter_layers(model) or extra_layers(model):
        raise AdapterError("this model already carries an adapter: take it off with `detach_lora(model)` first")
    whole = set(match_modules(model, config.modules_to_save))
    linears = {name: linear for name, linear in adaptable_linears(model).items() if name not in whole}
    chosen = match_targets(linears, config)
    attach_extras(model, config)
    model.requires_grad_(False)
    for layer in extra_layers(model).values():
        for name in layer.parameter_names:
            layer.get_parameter(name).requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    for name in chosen:
        kind = DoraLinear if config.use_dora else LoraLinear
        layer = kind(
            linears[name],
            r=config.r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            use_rslora=config.use_rslora,
            generator=generator,
        )
        replace_module(model, name, layer.train(model.training))
    return model


def detach_lora(model: nn.Module) -> nn.Module:
    """Take everything off that is trained, leaving the frozen base as it was. Returns the same model."""
    for name, layer in {**adapter_layers(model), **extra_layers(model)}.items():
        replace_module(model, name, layer.base_layer)
    return model
