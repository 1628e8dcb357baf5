"""Adapters between a folder and a model: saved from its LoRA layers, and put on it again."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from quatrain.adapters.attach import adapter_layers, adapter_parameters, replace_module
from quatrain.adapters.dora import DoraLinear
from quatrain.adapters.lora import LoraLinear, linear_features
from quatrain.adapters.low_rank import LowRank, published
from quatrain.adapters.model_card import CardFacts
from quatrain.adapters.peft_format import read_adapter, write_adapter
from quatrain.adapters.provenance import Provenance, base_identity, check_base, provenance_of
from quatrain.adapters.selection import selection_of
from quatrain.adapters.starts.sharing import share_weights, starts_of
from quatrain.adapters.stored import StoredAdapter
from quatrain.adapters.stored_extras import check_extras, load_extras, stored_modules, stored_rows
from quatrain.adapters.targets import adaptable_linears
from quatrain.errors import AdapterError
from quatrain.quantization import QuantizedLinear
from quatrain.quantization.linears import is_transposed


def save_adapter(
    model: nn.Module,
    folder: str | Path,
    *,
    base_model_name_or_path: str | None = None,
    provenance: Provenance | None = None,
    facts: CardFacts | None = None,
) -> Path:
    """Write the model's adapter in PEFT's format, so that ``PeftModel.from_pretrained(base, folder)`` loads it.

    Where the base was changed for the adapter (PiSSA, OLoRA, LoftQ), what is written is the difference to the base as
    published, as PEFT converts it: plain LoRA of twice the rank. Beside it lies what makes a quantized base that of
    training again, which :func:`load_adapter` finds.

    Args:
        model: a model that carries LoRA layers.
        folder: made when missing; the adapter's files in it are replaced, a `README.md` is not.
        base_model_name_or_path: name of the base, stored for those who load the adapter. Default: what the model was
            loaded from.
        provenance: what the adapter was trained on. Default: what the model itself knows, which isn't its tokenizer.
        facts: what the card in `README.md` says of its training.

    Raises:
        AdapterError: the model carries no adapter.
        OutputError: the folder can't be written; an adapter that was there is still there.
    """
    return write_adapter(stored_adapter(model, base_model_name_or_path, provenance), Path(folder), facts)


def stored_adapter(
    model: nn.Module,
    base_model_name_or_path: str | None = None,
    provenance: Provenance | None = None,
    *,
    as_trained: bool = False,
) -> StoredAdapter:
    """The model's adapter by itself; its tensors are the model's own. The arguments are those of `save_adapter`.

    Args:
        as_trained: for the base as training has changed it, not for the one that was published.

    Raises:
        AdapterError: the model carries no adapter.
    """
    layers = adapter_layers(model)
    if not layers:
        raise AdapterError("this model carries no adapter: call `attach_lora(model)` before saving one")
    provenance = provenance or provenance_of(model)
    first = next(iter(layers.values()))
    names = [name for name, _ in model.named_modules()]
    starts = starts_of(layers)
    stored = {name: _stored(layer) for name, layer in layers.items()}
    if not as_trained:
        stored |= {name: published(stored[name], start) for name, start in starts.items()}
        starts = {name: start for name, start in starts.items() if _is_quantized(layers[name])}
    return StoredAdapter(
        layers=stored,
        selection=selection_of(layers, names, fan_in_fan_out=is_transposed(first.base_layer)),
        lora_dropout=first.lora_dropout,
        base=base_model_name_or_path or (provenance.base and provenance.base.name),
        revision=provenance.base and provenance.base.revision,
        provenance=provenance,
        token_rows=stored_rows(model),
        modules=stored_modules(model),
        init_lora_weights=first.start.name if as_trained and first.start is not None else True,
        starts=starts,
    )


def _stored(layer: LoraLinear) -> LowRank:
    return LowRank(
        a_RI=layer.lora_A.detach(),
        b_OR=layer.lora_B.detach(),
        lora_alpha=layer.lora_alpha,
        use_rslora=layer.use_rslora,
        magnitude_O=layer.lora_magnitude_vector.detach() if isinstance(layer, DoraLinear) else None,
    )


def load_adapter(model: nn.Module, folder: str | Path, *, trainable: bool = False, force: bool = False) -> nn.Module:
    """Load an adapter in PEFT's format into `model`: its LoRA layers are attached, or filled when they are there.

    One whose start has changed its quantized base (PiSSA, OLoRA, LoftQ) changes this one too, where it is quantized:
    then the model is the one that was trained. `detach_lora` gives the base its own weights back.

    Args:
        model: a base, or a model that carries an adapter of exactly the same layers and ranks.
        folder: holds `adapter_config.json` and `adapter_model.safetensors`.
        trainable: leave the adapter's tensors with ``requires_grad``.
        force: load it although it was trained on a base with other weights.

    Raises:
        AdapterError: a file is missing or damaged, the adapter uses a feature that Quatrain doesn't compute, it was
            trained on another base or doesn't fit the model, or has to change a base whose weights from before
            quantization can't be read; nothing is changed then.
    """
    adapter = for_base(read_adapter(folder), model)
    return put_on(model, adapter, folder, trainable=trainable, force=force)


def for_base(adapter: StoredAdapter, model: nn.Module) -> StoredAdapter:
    """`adapter` as it was trained where the linears of `model` are quantized, and as published elsewhere."""
    linears = adaptable_linears(model) if adapter.starts else {}
    return adapter.as_trained([name for name, linear in linears.items() if _is_quantized(linear)])


def _is_quantized(linear: nn.Module) -> bool:
    return isinstance(linear.base_layer if isinstance(linear, LoraLinear) else linear, QuantizedLinear)


def put_on(
    model: nn.Module, adapter: StoredAdapter, folder: str | Path, *, trainable: bool = False, force: bool = False
) -> nn.Module:
    """As `load_adapter`, of an adapter that was read from `folder` already; its `starts` change the base."""
    present = adapter_layers(model)
    layers = build_layers(model, adapter, folder, force=force)
    check_extras(model, adapter, folder)
    if present and {n: type(m) for n, m in present.items()} != {n: type(m) for n, m in layers.items()}:
        raise AdapterError("the model carries another adapter: take it off with `detach_lora(model)` first")
    share_weights(model, {name: present.get(name, layer) for name, layer in layers.items()}, adapter.starts)
    model.requires_grad_(False)
    for name, layer in layers.items():
        if name in present:
            _fill(present[name], layer)
        else:
            replace_module(model, name, layer)
    load_extras(model, adapter)
    for parameter in adapter_parameters(model).values():
        parameter.requires_grad_(trainable)
    return model


def build_layers(
    model: nn.Module, adapter: StoredAdapter, folder: str | Path, *, force: bool = False
) -> dict[str, LoraLinear]:
    """The adapter's layers around the linears of `model`, by module name; none is put into the model.

    Args:
        folder: where the adapter is from, for messages.
        force: as for `load_adapter`.

    Raises:
        AdapterError: the adapter was trained on another base, or doesn't fit the model.
    """
    if not force:
        check_base(adapter.provenance, base_identity(model), folder)
    linears = adaptable_linears(model)
    _check_fit(adapter, linears, folder)
    return {name: _layer(linears[name], stored, adapter, model) for name, stored in adapter.layers.items()}


@torch.no_grad()
def _layer(linear: nn.Module, stored: LowRank, adapter: StoredAdapter, model: nn.Module) -> LoraLinear:
    kind = LoraLinear if stored.magnitude_O is None else DoraLinear
    layer = kind(
        linear.base_layer if isinstance(linear, LoraLinear) else linear,
        r=stored.r,
        lora_alpha=stored.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        use_rslora=stored.use_rslora,
    )
    layer.lora_A.copy_(stored.a_RI)
    layer.lora_B.copy_(stored.b_OR)
    if isinstance(layer, DoraLinear) and stored.magnitude_O is not None:
        layer.lora_magnitude_vector.copy_(stored.magnitude_O)
    return layer.train(model.training)


@torch.no_grad()
def _fill(layer: LoraLinear, new: LoraLinear) -> None:
    """Bring a layer to the values of another of the same rank; its parameters stay the objects that they are."""
    for name in layer.parameter_names:
        layer.get_parameter(name).copy_(new.get_parameter(name))
    layer.lora_alpha, layer.lora_dropout, layer.use_rslora = new.lora_alpha, new.lora_dropout, new.use_rslora


def _check_fit(adapter: StoredAdapter, linears: Mapping[str, nn.Module], folder: str | Path) -> None:
    for name, stored in adapter.layers.items():
        linear = linears.get(name)
        if linear is None:
            raise AdapterError(
                f"{folder} adapts {name!r}, which this model doesn't have; its linears look like "
                f"{next(iter(linears), 'none')!r}. Was the adapter trained on another base?"
            )
        inputs, outputs = linear_features(linear)
        r = linear.r if isinstance(linear, LoraLinear) else stored.r
        want, found = ((r, inputs), (outputs, r)), (tuple(stored.a_RI.shape), tuple(stored.b_OR.shape))
        if found != want:
            raise AdapterError(
                f"{folder}: {name} needs lora_A and lora_B of shapes {want}, found {found}. Was the adapter trained on "
                "another base or rank?"
            )
    _check_complete(adapter, linears, folder)


def _check_complete(adapter: StoredAdapter, linears: Mapping[str, nn.Module], folder: str | Path) -> None:
    if adapter.selection.target_modules is None:
        return
    elsewhere = {*adapter.layers, *adapter.modules}
    missing = [name for name in linears if name not in elsewhere and adapter.selection.takes(name)]
    if missing:
        raise AdapterError(
            f"{folder} holds no tensors for {missing[0]!r} ({len(missing)} linears in all) that its `target_modules` "
            "selects in this model. Either tensors are missing from its file, or it was trained on another base"
        )
