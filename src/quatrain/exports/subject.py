"""What is merged or exported: a base and the adapter that was trained on it, known to fit, nothing of them loaded."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch

from quatrain.adapters import read_adapter
from quatrain.adapters.loading import build_layers
from quatrain.adapters.stored import StoredAdapter
from quatrain.adapters.stored_extras import check_extras
from quatrain.errors import AdapterError, ConfigError
from quatrain.exports.merged_weights import MergedWeights, Onto
from quatrain.models.opening import OpenedBase, open_base
from quatrain.runlog import RunFolder
from quatrain.training import RunConfig, RunResult, read_config
from quatrain.training.opening import Target, resolve

Trained = str | Path | RunFolder | RunResult
"""A finished run, its folder, or the folder of an adapter."""

_16BIT = (torch.bfloat16, torch.float16)
LOADING = ("compute_dtype", "device", "trust_remote_code")
"""Options of a base that hold for its 16-bit checkpoint too."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A base and its adapter."""

    target: Target
    """Where they are, and how the base was loaded for training."""
    folder: Path
    """The adapter's."""
    adapter: StoredAdapter
    config: RunConfig | None
    """The run's; None for an adapter by itself."""
    original: str | Path | None
    """The 16-bit checkpoint of a base that is stored in four bits."""

    @property
    def title(self) -> str:
        """What a file says it is."""
        return f"{Path(self.target.base).name}, fine-tuned"

    @property
    def is_quantized(self) -> bool:
        """Whether training saw the base through four bits."""
        base = self.open("dequantized")
        return base.placement.quant_type is not None or bool(base.plan.companions)

    @property
    def has_original(self) -> bool:
        """Whether the base's 16-bit weights are at hand."""
        return not self.open("original").plan.companions

    def open(self, onto: Onto) -> OpenedBase:
        """The base, opened anew, so that its skeleton may be filled."""
        if onto == "original" and self.original is not None:
            kept = {k: v for k, v in self.target.base_options.items() if k in LOADING}
            return open_base(self.original, quantization=None, **kept)
        return open_base(self.target.base, **self.target.base_options)

    def merged(self, onto: Onto, dtype: torch.dtype | None = None) -> MergedWeights:
        """The weights to write, rounded to `dtype`.

        Raises:
            AdapterError: as :class:`MergedWeights`.
        """
        return MergedWeights(self.open(onto), self.adapter, onto, dtype)

    def stored_dtype(self) -> torch.dtype:
        """The 16-bit type that the base's checkpoint is stored in, bfloat16 if it is in another."""
        base = self.open("original")
        if base.plan.companions:
            return base.placement.compute_dtype if base.placement.compute_dtype in _16BIT else torch.bfloat16
        name = next(a.sources[0] for a in base.plan.assignments if a.converter is None)
        dtype = base.weights.read(name).dtype
        return dtype if dtype in _16BIT else torch.bfloat16


def open_subject(
    trained: Trained, *, device: str = "auto", original: str | Path | None = None, force: bool = False
) -> Subject:
    """Find out what `trained` is, read its adapter, open its base, and check that the two belong together.

    Args:
        device: where tensors are quantized and added up.
        original: the 16-bit checkpoint of a base that is stored in four bits.
        force: take the adapter although it was trained on a base with other weights.

    Raises:
        ConfigError: it has no adapter, or doesn't name its base.
        AdapterError: the adapter is damaged, changes nothing, was trained on another base, or doesn't fit it.
        ModelError: the base can't be read.
    """
    path = _path_of(trained)
    target = resolve(str(path))
    if target.adapter is None:
        raise ConfigError(f"{path} is neither a run nor an adapter; name the folder of a run, or of its adapter")
    adapter = read_adapter(target.adapter)
    if adapter.beyond_lora is None and all(layer.is_zero for layer in adapter.layers.values()):
        raise AdapterError(
            f"{target.adapter} changes nothing: every lora_B is zero, as before the first step. Train it, or use the "
            "base as it is"
        )
    run = RunFolder(path)
    subject = Subject(
        target=replace(target, base_options=target.base_options | {"device": device}),
        folder=target.adapter,
        adapter=adapter,
        config=read_config(run.config) if run.config.is_file() else None,
        original=original,
    )
    for onto in get_args(Onto) if original is not None else ("dequantized",):
        skeleton = subject.open(onto).skeleton
        build_layers(skeleton, adapter, target.adapter, force=force)
        check_extras(skeleton, adapter, target.adapter)
    return subject


def _path_of(trained: Trained) -> Path:
    if isinstance(trained, RunResult):
        return trained.folder.path
    return trained.path if isinstance(trained, RunFolder) else Path(trained)
