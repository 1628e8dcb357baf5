"""Which modules of a base PEFT takes for an adapter: the fields of `adapter_config.json` that say it.

Quatrain sees the layers from the tensors' names. PEFT selects modules first and then looks for their tensors, so the
two have to agree: a tensor without a selected module would be dropped by PEFT, and a module without a tensor would get
a fresh adapter.

Source: ``check_target_module_exists`` of PEFT 0.21.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from quatrain.adapters.config import ALL_LINEAR
from quatrain.adapters.expressions import match
from quatrain.adapters.targets import describe_targets, ends_with


@dataclass(frozen=True, kw_only=True)
class Selection:
    """PEFT's fields by their names, as they stand in the file."""

    target_modules: str | tuple[str, ...] | None
    """Names or endings of names; one regular expression over whole names; or "all-linear". None: PEFT's own table."""
    exclude_modules: str | tuple[str, ...] | None = None
    """Of these, what to leave alone."""
    layers_to_transform: int | tuple[int, ...] | None = None
    """Only these blocks. It doesn't hold for modules that are named in full, nor beside an expression."""
    layers_pattern: str | tuple[str, ...] | None = None
    """Names of the list that the blocks are in."""
    fan_in_fan_out: bool = False
    """Whether the base stores its weights as [in, out]."""

    @property
    def is_plain(self) -> bool:
        """Whether it takes every module with one of its endings."""
        lists = self.target_modules is not None and not isinstance(self.target_modules, str)
        return lists and not self.exclude_modules and self.layers_to_transform in (None, ())

    def takes(self, name: str) -> bool:
        """Whether a linear of this name gets an adapter."""
        if self.exclude_modules and _matches(self.exclude_modules, name):
            return False
        if self.target_modules in (None, ALL_LINEAR):
            return True
        assert self.target_modules is not None
        if not _matches(self.target_modules, name):
            return False
        named_in_full = not isinstance(self.target_modules, str) and name in self.target_modules
        return isinstance(self.target_modules, str) or named_in_full or self._in_block(name)

    def _in_block(self, name: str) -> bool:
        blocks = self.layers_to_transform
        if blocks in (None, ()):
            return True
        found = next((m for pattern in self._block_patterns() if (m := match(pattern, name))), None)
        return found is not None and found["index"] in map(str, blocks if isinstance(blocks, tuple) else (blocks,))

    def _block_patterns(self) -> list[str]:
        if not self.layers_pattern:
            return [r".*?\.[^.]*\.(?P<index>\d+)\."]
        lists = (self.layers_pattern,) if isinstance(self.layers_pattern, str) else self.layers_pattern
        return [rf"(?:^|.*?\.){name}\.(?P<index>\d+)\." for name in lists]


def selection_of(adapted: Iterable[str], names: Iterable[str], *, fan_in_fan_out: bool) -> Selection:
    """The shortest that takes exactly `adapted` among a model's modules `names`."""
    adapted, names = set(adapted), list(names)
    targets, blocks = describe_targets(adapted, names)
    selection = Selection(
        target_modules=tuple(targets),
        layers_to_transform=None if blocks is None else tuple(blocks),
        fan_in_fan_out=fan_in_fan_out,
    )
    if {name for name in names if selection.takes(name)} == adapted:
        return selection
    # PEFT counts blocks only where their list lies inside of something.
    return Selection(target_modules=tuple(sorted(adapted)), fan_in_fan_out=fan_in_fan_out)


def joint_selection(selections: list[Selection], adapted: Iterable[str]) -> Selection:
    """One that takes every module that one of `selections` takes, which are `adapted`.

    Which other modules a base has isn't known here. Lists of endings are joined; whatever can't be joined so becomes a
    list of full names, which PEFT takes as well.
    """
    first = selections[0]
    if all(selection == first for selection in selections):
        return first
    targets = set(adapted)
    if all(selection.is_plain for selection in selections):
        targets = {target for selection in selections for target in selection.target_modules or ()}
    return Selection(target_modules=tuple(sorted(targets)), fan_in_fan_out=first.fan_in_fan_out)


def _matches(targets: str | tuple[str, ...], name: str) -> bool:
    if isinstance(targets, str):
        return match(targets, name, whole=True) is not None
    return any(ends_with(name, target) for target in targets)
