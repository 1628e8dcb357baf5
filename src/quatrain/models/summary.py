"""What a loaded base consists of: every quantized matrix, and all that stayed 16-bit with its reason and bytes."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from quatrain.errors import ModelError
from quatrain.quantization import QuantizedModule

_ATTRIBUTE = "quatrain_summary"


@dataclass(frozen=True, kw_only=True)
class QuantizedMatrix:
    """One matrix in 4 bits."""

    name: str
    """The parameter's name, ending in `.weight`."""
    shape: tuple[int, ...]
    """(out_features, in_features), or (rows, width) of an embedding."""
    quant_type: str
    """`nf4`, `fp4` or `int4`."""
    nbytes: int
    """Bytes of codes and scales together."""


@dataclass(frozen=True, kw_only=True)
class KeptTensor:
    """One parameter that was not quantized."""

    name: str
    """The parameter's name."""
    reason: str
    """Why it wasn't."""
    shape: tuple[int, ...]
    """Its shape in the model."""
    dtype: torch.dtype
    """Its type in the model."""
    bytes: int
    """What it occupies."""


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """The base's weights, counted once where several names share them. Prints as a table."""

    architecture: str
    """The model's class."""
    quantized: tuple[QuantizedMatrix, ...]
    """All matrices in 4 bits."""
    kept: tuple[KeptTensor, ...]
    """All other parameters."""

    @property
    def quantized_parameters(self) -> int:
        """Number of weights in 4 bits."""
        return sum(torch.Size(matrix.shape).numel() for matrix in self.quantized)

    @property
    def quantized_bytes(self) -> int:
        """Bytes of all codes and scales."""
        return sum(matrix.nbytes for matrix in self.quantized)

    @property
    def kept_bytes(self) -> int:
        """Bytes of all other parameters."""
        return sum(tensor.bytes for tensor in self.kept)

    @property
    def parameters(self) -> int:
        """Number of weights in all."""
        return self.quantized_parameters + sum(torch.Size(tensor.shape).numel() for tensor in self.kept)

    def __str__(self) -> str:
        lines = [f"{self.architecture}: {self.parameters:,} parameters, {_mib(self.quantized_bytes + self.kept_bytes)}"]
        if self.quantized:
            types = ", ".join(sorted({matrix.quant_type for matrix in self.quantized}))
            bits = 8 * self.quantized_bytes / self.quantized_parameters
            lines.append(
                f"  in 4 bits ({types}): {len(self.quantized)} matrices, {self.quantized_parameters:,} parameters, "
                f"{_mib(self.quantized_bytes)}, {bits:.3f} bits each"
            )
        lines.append(f"  not quantized: {len(self.kept)} tensors, {_mib(self.kept_bytes)}")
        return "\n".join(lines + _table(_group(self.kept)))


def model_summary(model: nn.Module) -> ModelSummary:
    """The summary that `load_model` took of this base.

    Raises:
        ModelError: The model didn't come from `load_model`.
    """
    summary = getattr(model, _ATTRIBUTE, None)
    if summary is None:
        raise ModelError(
            f"Only a model from `quatrain.load_model` has a summary; this {type(model).__name__} has none."
        )
    return summary


def attach_summary(model: nn.Module, summary: ModelSummary) -> None:
    """Remembers the summary on the model, as it was loaded: adapters that come later are not part of the base."""
    setattr(model, _ATTRIBUTE, summary)


def summarize(model: nn.Module, reasons: Mapping[str, str]) -> ModelSummary:
    """Counts a freshly loaded base.

    Args:
        model: The base, before any adapter is attached.
        reasons: Why parameters weren't quantized, by name; a parameter without one was in 16 bits on request.
    """
    tied = getattr(model, "all_tied_weights_keys", {})
    quantized = [
        QuantizedMatrix(
            name=f"{name}.weight",
            shape=tuple(module.quantized.shape),
            quant_type=module.quantized.quant_type,
            nbytes=module.quantized.nbytes,
        )
        for name, module in model.named_modules()
        if isinstance(module, QuantizedModule) and f"{name}.weight" not in tied
    ]
    kept = [
        KeptTensor(
            name=name,
            reason=reasons.get(name) or "quantization=None",
            shape=tuple(parameter.shape),
            dtype=parameter.dtype,
            bytes=parameter.nbytes,
        )
        for name, parameter in model.named_parameters()
    ]
    return ModelSummary(architecture=type(model).__name__, quantized=tuple(quantized), kept=tuple(kept))


def _group(kept: Iterable[KeptTensor]) -> list[tuple[str, int, int, KeptTensor]]:
    """(name with block numbers starred, how many, bytes, one of them), the largest first."""
    groups: dict[tuple, list[KeptTensor]] = {}
    for tensor in kept:
        starred = re.sub(r"\.\d+(?=\.)", ".*", tensor.name)
        groups.setdefault((starred, tensor.shape, tensor.dtype, tensor.reason), []).append(tensor)
    rows = [(key[0], len(members), sum(t.bytes for t in members), members[0]) for key, members in groups.items()]
    return sorted(rows, key=lambda row: -row[2])


def _table(rows: list[tuple[str, int, int, KeptTensor]]) -> list[str]:
    width = max((len(name) for name, *_ in rows), default=0)
    return [
        f"    {name:<{width}}  ×{count:<4} {'×'.join(map(str, tensor.shape)) or 'scalar':>14}  "
        f"{str(tensor.dtype).removeprefix('torch.'):<8} {_mib(nbytes):>12}  {tensor.reason}"
        for name, count, nbytes, tensor in rows
    ]


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:,.2f} MiB"
