"""From the names in a checkpoint to the parameters of the model.

They aren't always the same. A checkpoint saved from a bare body lacks the `model.` prefix; older ones spell modules
differently; since version 5, transformers keeps all experts of a block in one tensor while checkpoints hold one per
expert. transformers describes the last two as a list of renamings and converters per architecture. We ask it for that
list (the function that PEFT also builds on) and apply it ourselves, because its own loader would first put 16-bit
copies of whole models somewhere. The result is a plan: which stored tensors make which parameters, and in which order
to read them so that each shard is opened once.
"""

import re
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

SAMPLE = 256
"""Bytes at each end of a stored tensor by which a checkpoint is recognised."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One tensor of a checkpoint, before it is read."""

    shape: tuple[int, ...]
    """Its shape in the file."""
    nbytes: int
    """The bytes that reading it moves."""
    shard: int
    """Which file of the checkpoint it is in, counted from 0; reading in this order opens each file once."""


@dataclass(kw_only=True)
class Assignment:
    """How one parameter (or a group of them, if a tensor is split) comes out of stored tensors."""

    target: str
    """The parameter's name; for a split, the first of the group."""
    sources: list[str] = field(default_factory=list)
    """Names in the checkpoint, in the order that the converter needs."""
    patterns: list[str] = field(default_factory=list)
    """Beside each source, the converter's pattern that it matched; empty without a converter."""
    converter: WeightConverter | None = None
    """transformers' recipe, or None where the stored tensor is the parameter."""

    @property
    def targets(self) -> list[str]:
        """All parameters that come out of it."""
        if self.converter is None:
            return [self.target]
        first, *others = self.converter.target_patterns
        return [self.target, *(self.target.replace(first, other) for other in others)]

    def convert(self, tensors: list[torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """The parameters by name, from the stored tensors in the order of `sources`."""
        if self.converter is None:
            return {self.target: tensors[0]}
        for source, pattern, tensor in zip(self.sources, self.patterns, tensors, strict=True):
            self.converter.add_tensor(self.target, source, pattern, tensor)  # pyright: ignore[reportArgumentType]
        made = self.converter.convert(self.target, model=model, config=model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


@dataclass(frozen=True, kw_only=True)
class NamePlan:
    """The whole checkpoint's way into the model."""

    assignments: list[Assignment]
    """One for each parameter or group."""
    unexpected: list[str]
    """Stored names that the model has no place for and that its class doesn't ask to ignore."""


def plan_names(model: PreTrainedModel, stored: Iterable[str]) -> NamePlan:
    """Finds a parameter of the (meta) model for each stored name."""
    transforms = get_model_conversion_mapping(model)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    parameters = model.state_dict()
    prefix = model.base_model_prefix
    assignments: dict[str, Assignment] = {}
    unexpected = []
    for name in sorted(stored, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, parameters)
        if target not in parameters:
            target, pattern = rename_source_key(name, [], [], prefix, parameters)
        if target not in parameters:
            unexpected.append(name)
            continue
        assignment = assignments.setdefault(target, Assignment(target=target))
        if pattern is not None:
            assignment.converter = assignment.converter or deepcopy(by_pattern[pattern])
            assignment.patterns.append(pattern)
        assignment.sources.append(name)
    return NamePlan(assignments=list(assignments.values()), unexpected=_not_ignored(model, unexpected))


def allowed_missing(model: PreTrainedModel, name: str) -> bool:
    """True if the model's class says that checkpoints may lack this parameter."""
    return _search(getattr(model, "_keys_to_ignore_on_load_missing", None), name)


def _not_ignored(model: PreTrainedModel, names: list[str]) -> list[str]:
    """Names that neither the class nor history explains (buffers that older versions stored, computed today)."""
    computed = [r"rotary_emb\.inv_freq", r"(^|\.)position_ids$", r"\.(attn|attention)\.(masked_)?bias$"]
    ignored = [*(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []), *computed]
    return [name for name in names if not _search(ignored, name)]


def _search(patterns: Iterable[str] | None, name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns or ())
