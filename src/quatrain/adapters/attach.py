"""Put an adapter into a model in place, find its layers again, and take them off."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from quatrain.adapters.config import LoraConfig
from quatrain.adapters.dora import DoraLinear
from quatrain.adapters.extras import attach_extras, extra_layers, match_modules
from quatrain.adapters.lora import LoraLinear
from quatrain.adapters.starts.eva import Inputs, input_directions
from quatrain.adapters.starts.names import changes_base
from quatrain.adapters.starts.sharing import Progress, start_from_weights, undo_starts
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


def attach_lora(
    model: nn.Module,
    config: LoraConfig | None = None,
    *,
    seed: int = 0,
    batches: Iterable[Inputs] | None = None,
    progress: Progress = lambda *_: None,
) -> nn.Module:
    """Freeze `model` and put an adapter into it as `config` says. Returns the same model.

    Args:
        model: the base; changed in place.
        config: kind, rank, scale, targets and start. Default: ``LoraConfig()``.
        seed: draws every A, independent of device and of torch's global generator.
        batches: rows for ``init_lora_weights="eva"`` to look at: token ids [B, T] and which of them count [B, T].
        progress: told (layers done, of how many) while a start is computed from weights.

    Raises:
        AdapterError: the model already carries an adapter, a target matches nothing, or the start isn't possible.
    """
    config = config or LoraConfig()
    if adapter_layers(model) or extra_layers(model):
        raise AdapterError("this model already carries an adapter: take it off with `detach_lora(model)` first")
    whole = set(match_modules(model, config.modules_to_save))
    linears = {name: linear for name, linear in adaptable_linears(model).items() if name not in whole}
    linears = {name: linears[name] for name in match_targets(linears, config)}
    start = config.init_lora_weights
    directions = input_directions(model, linears, config, batches) if start == "eva" else None
    layers = _make_layers(linears, config, directions, torch.Generator().manual_seed(seed))
    attach_extras(model, config)
    model.requires_grad_(False)
    for name, layer in layers.items():
        replace_module(model, name, layer.train(model.training))
    for parameter in adapter_parameters(model).values():
        parameter.requires_grad_(True)
    if isinstance(start, str) and changes_base(start):
        start_from_weights(model, layers, start, loftq_iter=config.loftq_iter, progress=progress)
    return model


def _make_layers(
    linears: dict[str, nn.Module],
    config: LoraConfig,
    directions: Mapping[str, Tensor] | None,
    generator: torch.Generator,
) -> dict[str, LoraLinear]:
    """The layers around `linears`; with `directions`, those become the A, and linears without one get no layer."""
    kind = DoraLinear if config.use_dora else LoraLinear
    layers = {}
    for name, linear in linears.items():
        a_RI = None if directions is None else directions.get(name)
        if directions is not None and a_RI is None:
            continue
        r = config.r if a_RI is None else len(a_RI)
        layers[name] = kind(
            linear,
            r=r,
            # EVA's ranks differ; the scale stays what it is at `r`.
            lora_alpha=config.lora_alpha * ((r / config.r) ** (0.5 if config.use_rslora else 1)),
            lora_dropout=config.lora_dropout,
            use_rslora=config.use_rslora,
            init_lora_weights=config.init_lora_weights,
            generator=generator,
        )
        if a_RI is not None:
            layers[name].lora_A.data.copy_(a_RI)
    return layers


def detach_lora(model: nn.Module) -> nn.Module:
    """Take everything off that is trained, leaving the frozen base as it was. Returns the same model.

    Raises:
        AdapterError: the base was changed for the adapter, and its weights can't be read again.
    """
    undo_starts(model, adapter_layers(model))
    for name, layer in {**adapter_layers(model), **extra_layers(model)}.items():
        replace_module(model, name, layer.base_layer)
    return model
