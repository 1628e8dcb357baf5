"""Deciding, before any weight is read, what every stored tensor becomes.

Headers and the skeleton are enough to find missing, superfluous and misshapen tensors, to pair what bitsandbytes
stores for one matrix, to settle which of two tied tensors is read, and to order the work so that each shard is opened
once. What remains is carrying it out.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedModel

from quatrain.errors import ModelError
from quatrain.models.naming import Assignment, NamePlan, Stored, allowed_missing
from quatrain.quantization.bitsandbytes_format import stored_names


class Weights(Protocol):
    """A checkpoint's tensors: known from headers, read one at a time."""

    tensors: dict[str, Stored]
    """All stored tensors by name."""

    def read(self, name: str) -> torch.Tensor:
        """The tensor on the CPU, possibly a view of a mapped file."""
        ...

    def arriving(self, groups: list[list[str]], device: torch.device) -> Generator[dict[str, torch.Tensor], None, None]:
        """The tensors of each group in turn, on the device or as `read` gives them, whichever is faster.

        Let a group's tensors go before you ask for the next.
        """
        ...

    def sample(self, name: str) -> bytes:
        """The first and last stored bytes of the tensor, without reading what lies between."""
        ...

    def plan_names(self, model: PreTrainedModel, stored: Iterable[str]) -> NamePlan:
        """Finds a parameter of the skeleton for each stored name."""
        ...

    def close(self) -> None:
        """Gives open files back."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """Everything to be done to fill a skeleton, in order."""

    assignments: list[Assignment]
    """One for each parameter or group, by shard."""
    companions: dict[str, list[str]]
    """For each stored weight that is in four bits already: all its stored tensors, itself included."""

    def stored(self, assignment: Assignment) -> list[str]:
        """All stored tensors that one assignment needs."""
        return [part for source in assignment.sources for part in self.companions.get(source, [source])]

    def nbytes(self, assignment: Assignment, weights: Weights) -> int:
        """Bytes to read for one assignment."""
        return sum(weights.tensors[name].nbytes for name in self.stored(assignment))


def plan_load(model: PreTrainedModel, weights: Weights) -> LoadPlan:
    """Plans how the checkpoint fills the skeleton.

    Args:
        model: The skeleton; its record of tied weights is corrected where the checkpoint contradicts it.
        weights: The checkpoint.

    Raises:
        ModelError: Parameters without a tensor, tensors without a parameter, wrong shapes; the message names them.
    """
    companions = _pair(weights)
    owned = {part for base, parts in companions.items() for part in parts if part != base}
    names = weights.plan_names(model, [name for name in weights.tensors if name not in owned])
    if names.unexpected:
        raise ModelError(
            f"Every stored tensor must have a place in {type(model).__name__}; there is none for "
            f"{_few(names.unexpected)}. Either the configuration is another model's, or the checkpoint has parts "
            "that this class leaves out."
        )
    assignments = _settle_ties(model, names.assignments, weights)
    _check_missing(model, assignments)
    _check_quantized(assignments, companions)
    _check_shapes(model, assignments, companions, weights)
    assignments.sort(key=lambda a: max(weights.tensors[source].shard for source in a.sources))
    return LoadPlan(assignments=assignments, companions=companions)


def _pair(weights: Weights) -> dict[str, list[str]]:
    parts = {name: stored_names(weights.tensors, name) for name in weights.tensors}
    return {name: stored for name, stored in parts.items() if stored}


def _settle_ties(model: PreTrainedModel, assignments: list[Assignment], weights: Weights) -> list[Assignment]:
    """Keeps one of two tied parameters; drops the tie where the checkpoint holds two different tensors."""
    by_target = {assignment.target: assignment for assignment in assignments}
    for target, source in list(model.all_tied_weights_keys.items()):
        if target in by_target and source in by_target:
            if _equal(by_target[target], by_target[source], weights):
                assignments.remove(by_target[target])
            else:
                model.all_tied_weights_keys.pop(target)
                model.config.tie_word_embeddings = False
        elif target in by_target:
            by_target[target].target = source
    return assignments


def _equal(a: Assignment, b: Assignment, weights: Weights) -> bool:
    return torch.equal(weights.read(a.sources[0]), weights.read(b.sources[0]))


def _check_missing(model: PreTrainedModel, assignments: list[Assignment]) -> None:
    produced = {name for assignment in assignments for name in assignment.targets}
    tied = set(model.all_tied_weights_keys)
    needed = [name for name in model.state_dict() if name not in produced and name not in tied]
    missing = [name for name in needed if not allowed_missing(model, name)]
    if missing:
        raise ModelError(
            f"The checkpoint must hold every parameter of {type(model).__name__}; it lacks {_few(missing)}. "
            "It is incomplete, or its configuration is another model's."
        )


def _check_quantized(assignments: list[Assignment], companions: dict[str, list[str]]) -> None:
    merged = [a.target for a in assignments if a.converter is not None and any(s in companions for s in a.sources)]
    if merged:
        raise ModelError(
            f"A 4-bit weight must be a parameter as it is; transformers would have to merge or split {_few(merged)}. "
            "Load the 16-bit checkpoint of this model instead."
        )


def _check_shapes(
    model: PreTrainedModel, assignments: list[Assignment], companions: dict[str, list[str]], weights: Weights
) -> None:
    """Compares plain assignments; what is converted or unpacked is checked when it arrives."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = [
        f"{a.target}: {weights.tensors[a.sources[0]].shape} instead of {expected[a.target]}"
        for a in assignments
        if a.converter is None
        and a.sources[0] not in companions
        and weights.tensors[a.sources[0]].shape != expected[a.target]
    ]
    if wrong:
        raise ModelError(f"Shapes must be those of the configuration; the checkpoint has {_few(wrong)}.")


def _few(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
