"""What an adapter trains besides low-rank updates: rows of the embedding, and whole modules."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from quatrain.adapters.config import LoraConfig
from quatrain.adapters.saved_module import SavedModule
from quatrain.adapters.targets import ends_with, no_match, output_head
from quatrain.adapters.token_rows import TokenRows
from quatrain.adapters.wrapper import Wrapper
from quatrain.errors import AdapterError
from quatrain.quantization import QuantizedModule


def extra_layers(model: nn.Module) -> dict[str, Wrapper]:
    """The wrapped modules of a model by name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Wrapper)}


def attach_extras(model: nn.Module, config: LoraConfig) -> None:
    """Wrap the modules that `config` wants trained whole or in rows.

    Raises:
        AdapterError: a name matches nothing, a row isn't in the table, or one module is asked for twice.
    """
    whole = match_modules(model, config.modules_to_save)
    rows = match_rows(model, config.trainable_token_indices)
    if twice := sorted(set(whole) & set(rows)):
        raise AdapterError(
            f"{twice[0]} can be trained whole or in rows, not both: take it out of `modules_to_save` or "
            "`trainable_token_indices`"
        )
    wrap_modules(model, whole)
    wrap_rows(model, rows)


def wrap_modules(model: nn.Module, names: Sequence[str]) -> None:
    """Put a :class:`SavedModule` around each named module."""
    for name in names:
        module = model.get_submodule(name)
        model.set_submodule(name, SavedModule(module).train(module.training))


def wrap_rows(model: nn.Module, rows: Mapping[str, Sequence[int]]) -> None:
    """Put a :class:`TokenRows` around each named table, and around a head that shares it."""
    embedding, head = _embedding(model), output_head(model)
    names = {id(module): name for name, module in model.named_modules()}
    shared = bool(rows) and shares_table(model)
    for name, indices in rows.items():
        table = model.get_submodule(name)
        wrapped = TokenRows(table, indices)
        if table is embedding and head is not None and shared:
            model.set_submodule(names[id(head)], TokenRows(head, indices, wrapped.trainable_tokens_delta))
        model.set_submodule(name, wrapped)


def match_modules(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Full names of the modules that `modules_to_save` names, by their endings.

    Raises:
        AdapterError: one matches nothing, or a module that contains others.
    """
    modules = {name: m for name, m in model.named_modules() if next(m.parameters(), None) is not None or _packed(m)}
    for target in targets:
        if not any(ends_with(name, target) for name in modules):
            raise no_match("modules_to_save", [target], [n for n, m in modules.items() if _is_single(m)])
    found = [name for name in modules if any(ends_with(name, target) for target in targets)]
    for name in found:
        if not _is_single(modules[name]):
            raise AdapterError(
                f"`modules_to_save` takes single modules, such as lm_head, embed_tokens or norms; {name} contains "
                f"others. Name those, or adapt its linears by `target_modules`"
            )
    return found


def match_rows(model: nn.Module, rows: Sequence[int] | Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Row numbers by the full name of their table; a plain list is of the input embedding.

    Raises:
        AdapterError: there is no such table, or no such row.
    """
    if not rows:
        return {}
    embedding, head = _embedding(model), output_head(model)
    tables = {name: m for name, m in model.named_modules() if m is embedding or m is head}
    if not isinstance(rows, Mapping):
        rows = {next((name for name, m in tables.items() if m is embedding), "embedding"): rows}
    found: dict[str, list[int]] = {}
    for target, indices in rows.items():
        name = next((name for name in tables if ends_with(name, target)), None)
        if name is None:
            raise no_match("trainable_token_indices", [target], list(tables))
        found[name] = _checked(name, list(indices), tables[name])
    if len(found) == 2 and shares_table(model):
        one, other = found.values()
        if one != other:
            raise AdapterError(
                f"{' and '.join(found)} are one table here: give both the same `trainable_token_indices`"
            )
        found = {name: indices for name, indices in found.items() if tables[name] is embedding}
    return found


def table_names(model: nn.Module) -> tuple[str, str | None]:
    """Names of the input embedding and of the head, which a model may lack."""
    names = {id(module): name for name, module in model.named_modules()}
    head = output_head(model)
    return names[id(_embedding(model))], None if head is None else names[id(head)]


def shares_table(model: nn.Module) -> bool:
    """Whether the head computes with the embedding's table."""
    embedding, head = _embedding(model), output_head(model)
    return embedding is not None and head is not None and _storage(embedding) == _storage(head)


def _checked(name: str, indices: list[int], table: Any) -> list[int]:
    count = table.num_embeddings if hasattr(table, "num_embeddings") else table.out_features
    if outside := [index for index in indices if not 0 <= index < count]:
        raise AdapterError(
            f"`trainable_token_indices` must be rows of {name}, which has {count} (0–{count - 1}); found {outside[0]}. "
            "For tokens that the model doesn't have yet, use `new_tokens`"
        )
    return list(dict.fromkeys(indices))


def _embedding(model: Any) -> nn.Module | None:
    return model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None


def _storage(module: Any) -> int:
    """Where a table's values lie: the same for two modules that share them."""
    return (module.codes if isinstance(module, QuantizedModule) else module.weight).data_ptr()


def _packed(module: nn.Module) -> bool:
    return isinstance(module, QuantizedModule)


def _is_single(module: nn.Module) -> bool:
    return next(module.children(), None) is None
