"""Which linears carry an adapter: PEFT's rules for `target_modules`, and their inverse for saving."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from quatrain.adapters.config import ALL_LINEAR, LoraConfig, parse_layers
from quatrain.adapters.lora import LoraLinear
from quatrain.adapters.wrapper import Wrapper
from quatrain.errors import AdapterError
from quatrain.quantization import QuantizedLinear
from quatrain.quantization.linears import is_linear


def adaptable_linears(model: nn.Module) -> dict[str, nn.Module]:
    """Every plain linear of the model by name, without the output head; adapted ones appear as their wrapper.

    Subclasses of `nn.Linear` that do something else, such as expert routers that return choices, are none.
    """
    head = output_head(model)
    found: dict[str, nn.Module] = {}
    inside_adapters = tuple(f"{n}." for n, m in model.named_modules() if isinstance(m, (LoraLinear, Wrapper)))
    for name, module in model.named_modules():
        if module is head or name.startswith(inside_adapters):
            continue
        if isinstance(module, (QuantizedLinear, LoraLinear)) or is_linear(module):
            found[name] = module
    return found


def output_head(model: Any) -> nn.Module | None:
    """The head of a model, which may have none."""
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


def block_index(name: str) -> int | None:
    """Index of the block that a module belongs to: the first number in its dotted name."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def ends_with(name: str, ending: str) -> bool:
    """Whether a dotted name is `ending`, or ends in it after a dot."""
    return name == ending or name.endswith(f".{ending}")


def match_targets(names: Iterable[str], config: LoraConfig) -> list[str]:
    """The names that `config` selects, in the model's order.

    Raises:
        AdapterError: a target (or the whole selection) matches nothing; the message lists what there is.
    """
    names = list(names)
    targets = config.target_modules
    if targets == ALL_LINEAR:
        chosen = names
    elif isinstance(targets, str):
        pattern = _compiled(targets)
        chosen = [name for name in names if pattern.fullmatch(name)]
    else:
        missing = [t for t in targets if not any(ends_with(name, t) for name in names)]
        if missing:
            raise no_match("target_modules", missing, names)
        chosen = [name for name in names if any(ends_with(name, t) for t in targets)]
    if not chosen:
        raise no_match("target_modules", [str(targets)], names)
    return _within_layers(chosen, config)


def _within_layers(chosen: list[str], config: LoraConfig) -> list[str]:
    if config.layers_to_transform is None:
        return chosen
    wanted = set(parse_layers(config.layers_to_transform))
    present = {index for name in chosen if (index := block_index(name)) is not None}
    if absent := wanted - present:
        reach = f"{min(present)}–{max(present)}" if present else "none"
        raise AdapterError(
            f"`layers_to_transform` names blocks without a selected linear: {sorted(absent)}. Blocks with one: {reach}"
        )
    return [name for name in chosen if block_index(name) in wanted]


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise AdapterError(f"`target_modules` is not a regular expression: {pattern!r} ({error})") from error


def no_match(setting: str, targets: list[str], names: list[str]) -> AdapterError:
    """The error for `targets` of a setting that match none of the `names` that there are."""
    endings = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names))
    near = [match for t in targets for match in difflib.get_close_matches(t, endings, n=1)]
    all_linear = "; 'all-linear' takes them all" if setting == "target_modules" else ""
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    return AdapterError(
        f"`{setting}` matched no layer: {targets}. This model has {', '.join(endings)}.{hint} "
        f"Full names look like {names[0]!r}{all_linear}."
        if names
        else f"`{setting}` matched no layer: {targets}. This model has none that it could be about."
    )


def describe_targets(adapted: Iterable[str], names: Iterable[str]) -> tuple[list[str], list[int] | None]:
    """The shortest (`target_modules`, `layers_to_transform`) that selects exactly `adapted` among all modules' `names`.

    Falls back to full module names, which PEFT accepts as well, when no combination of endings and blocks does.
    """
    adapted, names = set(adapted), list(names)
    endings = sorted({name.rsplit(".", 1)[-1] for name in adapted})
    same_ending = {name for name in names if any(ends_with(name, e) for e in endings)}
    if same_ending == adapted:
        return endings, None
    blocks = {block_index(name) for name in adapted}
    if None not in blocks and {n for n in same_ending if block_index(n) in blocks} == adapted:
        return endings, sorted(b for b in blocks if b is not None)
    return sorted(adapted), None
