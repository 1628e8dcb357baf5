"""Several adapters on one base: loaded once, named, switched between, and mixed row by row in a batch.

An adapter is a set of modules that stand in the places of some of the base's. Each keeps its own here, and switching
puts them into the model and takes the former ones out: no copy of a weight, and a model with an adapter switched on is
the same as one that it was loaded onto alone, for training, saving, our own blocks and decoding. Only where an
adapter's start has changed its quantized base (PiSSA, OLoRA, LoftQ) does it bring linears of its own, in four bits.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import nn

from quatrain.adapters.attach import adapter_layers, replace_module
from quatrain.adapters.extras import extra_layers
from quatrain.adapters.loading import for_base, put_on
from quatrain.adapters.lora import LoraLinear, device_of
from quatrain.adapters.mixed import MixedLinear
from quatrain.adapters.peft_format import read_adapter
from quatrain.adapters.starts.sharing import starts_of
from quatrain.errors import AdapterError

BASE = "__base__"
"""The name that PEFT gives rows without an adapter."""


class AdapterSet:
    """The adapters of one model, by name. At most one is active; `None` is the base alone.

    Args:
        model: a base. An adapter that it carries already is taken in as "default", and stays active.
    """

    def __init__(self, model: nn.Module):
        """
        Raises:
            AdapterError: the adapter that the model carries has changed its base.
        """
        self.model = model
        self._modules: dict[str, dict[str, nn.Module]] = {}
        self._shared: dict[str, dict[str, nn.Module]] = {}
        """The base's own modules that adapters have others for."""
        self._active: str | None = None
        if starts_of(adapter_layers(model)):
            raise AdapterError(
                "the model carries an adapter whose start has changed the base that others are to share: save it, take "
                "it off with `detach_lora(model)`, and load it here by its folder"
            )
        if carried := _carried(model):
            self._modules["default"], self._active = carried, "default"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the adapters, in the order of loading."""
        return tuple(self._modules)

    @property
    def active_adapter(self) -> str | None:
        """The one that the model computes with; None for the base alone."""
        return self._active

    def load_adapter(self, folder: str | Path, adapter_name: str, *, force: bool = False) -> None:
        """Load an adapter beside the others. Which one is active doesn't change.

        Args:
            folder: in PEFT's format.
            adapter_name: a name that isn't taken.
            force: load it although it was trained on a base with other weights.

        Raises:
            AdapterError: the name is taken, or the adapter can't be loaded; the others stay as they are.
        """
        if adapter_name in (*self._modules, BASE):
            raise AdapterError(f"the name {adapter_name!r} is taken; choose another, or `delete_adapter` that one")
        active = self._active
        self.set_adapter(None)
        shared: dict[str, nn.Module] = {}
        try:
            adapter = for_base(read_adapter(folder), self.model)
            shared = {name: self.model.get_submodule(name) for name in adapter.starts}
            for name, module in shared.items():
                replace_module(self.model, name, deepcopy(module))
            put_on(self.model, adapter, folder, force=force)
            self._modules[adapter_name], self._shared[adapter_name] = _carried(self.model), shared
        finally:
            self._take_off(shared)
            self.set_adapter(active)

    def set_adapter(self, adapter_name: str | None) -> None:
        """Let the model compute with this adapter; None is the base alone.

        Raises:
            AdapterError: there is none of this name.
        """
        modules = self._of(adapter_name)
        self._take_off(self._shared.get(self._active, {}) if self._active is not None else {})
        self._active = adapter_name
        self._put(modules)

    def _take_off(self, shared: Mapping[str, nn.Module]) -> None:
        """Leave the base alone in the model, with its own linears where the adapter had others."""
        for name, module in _carried(self.model).items():
            replace_module(self.model, name, module.base_layer)
        self._put(shared)

    def _put(self, modules: Mapping[str, nn.Module]) -> None:
        for name, module in modules.items():
            # The model may have moved, or turned to training, while this one was out of it.
            device = device_of(self.model.get_submodule(name))
            replace_module(self.model, name, module.to(device).train(self.model.training))

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget an adapter; where it was active, the base alone is then.

        Raises:
            AdapterError: there is none of this name.
        """
        self._of(adapter_name)
        if adapter_name == self._active:
            self.set_adapter(None)
        del self._modules[adapter_name]
        self._shared.pop(adapter_name, None)

    @contextmanager
    def per_row(self, adapter_names: Sequence[str | None]) -> Iterator[nn.Module]:
        """A context in which every row of a batch is computed with its own adapter, in forward and `generate`.

            with adapters.per_row(["math", "code", None]):
                model.generate(**three_prompts)

        Args:
            adapter_names: one for each row; None or "__base__" for the base alone.

        Raises:
            AdapterError: a name isn't there, or an adapter holds more than low-rank updates, which can't be mixed.
        """
        names = [None if name == BASE else name for name in adapter_names]
        if not names:
            raise AdapterError("every row takes one adapter, and there is none: name at least one")
        used = [name for name in dict.fromkeys(names) if name is not None]
        layers = {name: self._low_rank(name) for name in used}
        active = self._active
        self.set_adapter(None)
        try:
            for module in dict.fromkeys(module for name in used for module in layers[name]):
                having = [name for name in used if module in layers[name]]
                mixed = MixedLinear(
                    self.model.get_submodule(module),
                    [layers[name][module] for name in having],
                    [having.index(name) if name in having else None for name in names],
                )
                replace_module(self.model, module, mixed.train(self.model.training))
            yield self.model
        finally:
            self.set_adapter(active)

    def _of(self, adapter_name: str | None) -> dict[str, nn.Module]:
        if adapter_name is None:
            return {}
        if adapter_name not in self._modules:
            raise AdapterError(f"there is no adapter {adapter_name!r}; there are {', '.join(self._modules) or 'none'}")
        return self._modules[adapter_name]

    def _low_rank(self, adapter_name: str) -> dict[str, LoraLinear]:
        layers: dict[str, LoraLinear] = {}
        for name, module in self._of(adapter_name).items():
            if type(module) is not LoraLinear:
                raise AdapterError(
                    f"rows mix plain LoRA only, and {adapter_name!r} has a {type(module).__name__} at {name}; switch "
                    "to it with `set_adapter` instead"
                )
            if module.start is not None:
                raise AdapterError(
                    f"rows of one batch share a base, and {adapter_name!r} has one of its own at {name}, which its "
                    f"start ({module.start.name}) has changed; switch to it with `set_adapter` instead"
                )
            if ".experts." in name:
                raise AdapterError(f"rows can't be told apart at {name}, which gets the tokens that were sent to it")
            layers[name] = module
        return layers


def _carried(model: nn.Module) -> dict[str, Any]:
    return {**adapter_layers(model), **extra_layers(model)}
