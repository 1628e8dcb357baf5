"""What an adapter was trained on, carried in the adapter's own file.

An adapter is a difference, and means nothing without what it is a difference from. Names don't say it: a path is moved,
a branch goes on, two bases of one family have the same names and shapes, and an adapter that is put on the wrong one
loads without a word. So `adapter_model.safetensors` has this record in its metadata, under one key as JSON: there it
can't be left behind when the folder is copied, and PEFT, transformers and vLLM step over it. (A key of its own in
`adapter_config.json` makes PEFT warn; a second metadata key would be written in random order, and the same adapter
would then be another file each time.)

A base is recognised by the fingerprint of its weights as they are stored, before anything is quantized here. So one
base loaded in four bits, in eight and in sixteen is one base. A checkpoint that `save_quantized` wrote has other bytes,
and carries the fingerprint of what it was made from as its origin; either one counts.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import nn

from quatrain.errors import AdapterError
from quatrain.quantization import QuantizedModule

KEY = "quatrain"
"""Of the metadata of `adapter_model.safetensors`."""
_ATTRIBUTE = "_quatrain_base"
_PACKAGES = ("quatrain", "torch", "transformers", "triton", "safetensors")


@dataclass(frozen=True, kw_only=True)
class BaseIdentity:
    """Which base."""

    name: str
    """What the user called it: a hub name or a path."""
    revision: str | None = None
    """Commit on the hub, if it came from there."""
    fingerprint: str
    """SHA-256 over a sample of the stored weights."""
    origin: str | None = None
    """Fingerprint of the 16-bit checkpoint that this 4-bit one was made from, if it says so."""

    def is_same(self, other: "BaseIdentity") -> bool:
        """Whether both have the same weights, or weights of the same origin."""
        return not {self.fingerprint, self.origin}.isdisjoint({other.fingerprint, other.origin} - {None})

    def __str__(self) -> str:
        at = f" at {self.revision[:12]}" if self.revision else ""
        return f"{self.name}{at} (weights {self.fingerprint[:12]})"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What an adapter was trained on."""

    base: BaseIdentity | None = None
    """None when the model didn't come from `load_model`."""
    quantization: str | None = None
    """Type of the base's codes; None for 16 bits."""
    block_size: int | None = None
    """Weights that shared a scale."""
    double_quant: bool | None = None
    """Whether the scales were stored in 8 bits."""
    compute_dtype: str | None = None
    """Of activations and products."""
    tokenizer: str | None = None
    """SHA-256 of the vocabulary and the special tokens."""
    chat_template: str | None = None
    """SHA-256 of the template's text; None without one."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages that trained it."""
    made: str | None = None
    """How it was made of other adapters or models, in words; None when it was trained."""


def identify(model: nn.Module, identity: BaseIdentity | None) -> None:
    """Remember on a model which base it is; None: none that is known."""
    setattr(model, _ATTRIBUTE, identity)


def base_identity(model: nn.Module) -> BaseIdentity | None:
    """Which base a model is; None when `load_model` didn't load it."""
    return getattr(model, _ATTRIBUTE, None)


def provenance_of(model: nn.Module, tokenizer: Any = None) -> Provenance:
    """What an adapter that is trained on `model` now is to carry."""
    packed = next((m.quantized for m in model.modules() if isinstance(m, QuantizedModule)), None)
    dtype = getattr(model, "dtype", None)
    return Provenance(
        base=base_identity(model),
        quantization=packed and packed.quant_type,
        block_size=packed and packed.block_size,
        double_quant=packed and packed.is_double_quantized,
        compute_dtype=dtype and str(dtype).removeprefix("torch."),
        tokenizer=None if tokenizer is None else tokenizer_fingerprint(tokenizer),
        chat_template=None if tokenizer is None else template_fingerprint(tokenizer),
        versions=installed_versions(),
    )


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer's words with their numbers, and of its special tokens."""
    content = [
        sorted(tokenizer.get_vocab().items()),
        sorted((k, str(v)) for k, v in tokenizer.special_tokens_map.items()),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def template_fingerprint(tokenizer: Any) -> str | None:
    """SHA-256 of a tokenizer's chat template; None without one."""
    template = getattr(tokenizer, "chat_template", None)
    return None if template is None else hashlib.sha256(json.dumps(template).encode()).hexdigest()


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide what a training computes, as far as they are installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def to_metadata(provenance: Provenance) -> dict[str, str]:
    """The metadata of a safetensors file that says it."""
    return {KEY: json.dumps(asdict(provenance), sort_keys=True)}


def read_provenance(weights: Path) -> Provenance | None:
    """What the adapter in this safetensors file was trained on; None when another program wrote it.

    Raises:
        AdapterError: the file or the record in it is damaged.
    """
    try:
        with safe_open(weights, framework="pt") as file:
            stored = (file.metadata() or {}).get(KEY)
        return None if stored is None else TypeAdapter(Provenance).validate_json(stored)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{weights} is missing or damaged: {error}") from error
    except ValidationError as error:
        raise AdapterError(
            f"{weights}: what its metadata says under {KEY!r} isn't a provenance; the file is damaged"
        ) from error


def check_base(provenance: Provenance | None, base: BaseIdentity | None, adapter: str | Path) -> None:
    """Refuse an adapter that was trained on another base. What either side doesn't know can't be compared.

    Raises:
        AdapterError: their weights differ.
    """
    if provenance is None or provenance.base is None or base is None or provenance.base.is_same(base):
        return
    raise AdapterError(
        f"{adapter} was trained on {provenance.base}, and this base is {base}: their weights differ. Load it onto the "
        "base that it was trained on, or use force if you know that the two fit"
    )
