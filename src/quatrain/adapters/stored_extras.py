"""Trained token rows and whole modules between a model and a stored adapter."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quatrain.adapters.attach import adapter_layers
from quatrain.adapters.extras import extra_layers, wrap_modules, wrap_rows
from quatrain.adapters.saved_module import SavedModule
from quatrain.adapters.stored import StoredAdapter, StoredRows
from quatrain.adapters.token_rows import TokenRows
from quatrain.errors import AdapterError
from quatrain.quantization import QuantizedModule


def stored_rows(model: nn.Module) -> dict[str, StoredRows]:
    """The trained rows of a model by the name of their table; a shared one once."""
    return {
        name: StoredRows(indices=tuple(layer.token_indices.tolist()), rows_NH=layer.trainable_tokens_delta.detach())
        for name, layer in extra_layers(model).items()
        if isinstance(layer, TokenRows) and not layer.shares
    }


def stored_modules(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """The parameters of a model's modules that are trained whole."""
    return {
        name: {parameter: tensor.detach() for parameter, tensor in layer.trained.named_parameters()}
        for name, layer in extra_layers(model).items()
        if isinstance(layer, SavedModule)
    }


def check_extras(model: nn.Module, adapter: StoredAdapter, folder: str | Path) -> None:
    """Whether token rows and modules of an adapter fit a model, which stays as it is.

    Raises:
        AdapterError: the model carries other ones, lacks a module, or has it in another shape.
    """
    present = {name for name, layer in extra_layers(model).items() if not getattr(layer, "shares", False)}
    if (present or adapter_layers(model)) and present != {*adapter.token_rows, *adapter.modules}:
        raise AdapterError("the model carries another adapter: take it off with `detach_lora(model)` first")
    modules = dict(model.named_modules())
    for name in (*adapter.token_rows, *adapter.modules):
        if name not in modules:
            raise AdapterError(f"{folder} has trained {name!r}, which this model doesn't have. Is it another base?")
    for name, stored in adapter.token_rows.items():
        _check_rows(name, stored, modules[name], folder)
    for name, parameters in adapter.modules.items():
        own = modules[name] if isinstance(modules[name], SavedModule) else SavedModule(modules[name])
        want = {parameter: tuple(tensor.shape) for parameter, tensor in own.trained.named_parameters()}  # pyright: ignore
        found = {parameter: tuple(tensor.shape) for parameter, tensor in parameters.items()}
        if want != found:
            raise AdapterError(
                f"{folder}: {name} needs parameters of shapes {want}, found {found}. Was it trained on another base?"
            )


@torch.no_grad()
def load_extras(model: nn.Module, adapter: StoredAdapter) -> None:
    """Put token rows and modules of an adapter that fits into the model, which grows by new tokens where needed."""
    if adapter.token_rows:
        grow(model, 1 + max(max(stored.indices) for stored in adapter.token_rows.values()))
    present = extra_layers(model)
    wrap_rows(model, {n: stored.indices for n, stored in adapter.token_rows.items() if n not in present})
    wrap_modules(model, [name for name in adapter.modules if name not in present])
    layers = extra_layers(model)
    for name, stored in adapter.token_rows.items():
        layers[name].trainable_tokens_delta.copy_(stored.rows_NH)
    for name, parameters in adapter.modules.items():
        for parameter, tensor in parameters.items():
            layers[name].get_parameter(f"trained.{parameter}").copy_(tensor)


def grow(model: Any, rows: int) -> None:
    """Give embedding and head at least `rows` rows; new ones are zero until somebody writes them.

    Raises:
        AdapterError: they are in four bits, where rows can't be added.
    """
    if model.get_input_embeddings().num_embeddings >= rows:
        return
    if isinstance(model.get_input_embeddings(), QuantizedModule) or isinstance(
        model.get_output_embeddings(), QuantizedModule
    ):
        raise AdapterError(
            "new tokens need rows that a table in four bits can't be given: load the base without "
            "`quantize_embeddings` and `quantize_head`"
        )
    before = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for table in (model.get_input_embeddings(), model.get_output_embeddings()):
            if table is not None:
                table.weight[before:] = 0
                table.weight.requires_grad_(False)


def _check_rows(name: str, stored: StoredRows, table: Any, folder: str | Path) -> None:
    count, width = table.weight.shape if not isinstance(table, QuantizedModule) else table.quantized.shape
    if isinstance(table, TokenRows) and tuple(table.token_indices.tolist()) != stored.indices:
        raise AdapterError("the model carries another adapter: take it off with `detach_lora(model)` first")
    if stored.rows_NH.shape[1] != width:
        raise AdapterError(
            f"{folder}: rows of {name} must have {width} elements, found {stored.rows_NH.shape[1]}. Was it trained on "
            "another base?"
        )
    unknown = set(range(count, max(stored.indices, default=0) + 1)) - set(stored.indices)
    if unknown:
        raise AdapterError(
            f"{folder}: this base has {count} rows in {name}, and the adapter needs row {min(unknown)} without "
            "having trained it. Was it trained on another base?"
        )
