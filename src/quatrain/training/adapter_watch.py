"""Finds parts of the adapter that don't learn: linears that get no gradient, or whose product adds nothing.

They cost memory and do no harm, so they are reported and nothing more; usually a pattern in `target_modules` has caught
something that the loss doesn't depend on.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count, takewhile

import torch
from torch import Tensor, nn

_STEPS = 10
_MOST_NAMES = 4
_FACTORS = ("lora_A", "lora_B")


class AdapterWatch:
    """Looks at the ten steps up to steps 10, 100, 1,000, …, and up to the last one.

    A look is a norm for every tensor and a wait for the device, so not each step is worth one; and it takes ten
    because an expert of a mixture may well see no token in one.

    Args:
        parameters: the adapter's, by name; those of one linear share what stands before the last dot.
        first, last: the steps, counted from 1, that this call of training does.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], first: int, last: int):
        self._parameters = parameters
        self._linears: dict[str, list[str]] = {}
        for name in parameters:
            self._linears.setdefault(name.rpartition(".")[0], []).append(name)
        powers = takewhile(lambda step: step < last, (_STEPS**n for n in count(1)))
        # Where the ten steps, or the whole of a shorter run, weren't all seen, nothing can be said.
        self._ends = [end for end in (*powers, last) if end - first + 1 >= min(_STEPS, last)]
        self._moved: set[str] = set()
        self._told: set[str] = set()

    def is_due(self, step: int) -> bool:
        """Whether `look` is to be called in this step."""
        return any(end - _STEPS < step <= end for end in self._ends)

    def look(self, parameters: Sequence[nn.Parameter]) -> None:
        """Note which parameters, in the order of the mapping, have a gradient other than zero."""
        gradients = {name: p.grad for name, p in zip(self._parameters, parameters, strict=True)}
        self._moved |= {name for name, norm in _norms(gradients).items() if norm != 0}

    def findings(self, step: int) -> list[str]:
        """What isn't well and wasn't told yet, a sentence each; empty but after the last of ten steps."""
        if step not in self._ends:
            return []
        moved, self._moved = self._moved, set()
        idle = self._which(lambda names: moved.isdisjoint(names))
        norms = _norms(self._parameters)
        # A product is zero when one factor is; that of every adapter is before it has learned.
        empty = self._which(lambda names: any(norms[name] == 0 for name in names if name.endswith(_FACTORS)))
        empty = [name for name in empty if name not in idle]
        said = [
            self._sentence(idle, f"got no gradient in the steps up to {step}: the loss doesn't depend on them"),
            self._sentence(empty, f"are zero after step {step}: they add nothing"),
        ]
        return [sentence for sentence in said if sentence is not None]

    def _which(self, is_so: Callable[[Sequence[str]], bool]) -> list[str]:
        return [linear for linear, names in self._linears.items() if is_so(names)]

    def _sentence(self, linears: Sequence[str], what: str) -> str | None:
        new = [name for name in linears if name not in self._told]
        self._told.update(new)
        names = ", ".join(new[:_MOST_NAMES]) + (", …" if len(new) > _MOST_NAMES else "")
        return f"{len(new)} of {len(self._linears)} adapted modules {what} ({names})" if new else None


def _norms(tensors: Mapping[str, Tensor | None]) -> dict[str, float]:
    """Norms by name, of those that are there; with one wait for the device."""
    there = {name: tensor.detach() for name, tensor in tensors.items() if tensor is not None}
    if not there:
        return {}
    norms = torch._foreach_norm(list(there.values()))  # pyright: ignore[reportPrivateImportUsage]
    return dict(zip(there, torch.stack(list(norms)).tolist(), strict=True))
