"""Recognising a checkpoint: a fingerprint of its weights as they lie on disk.

A hash over a sample of every tensor's bytes, because hashing all of a large base would take longer than loading it. Two
checkpoints of one architecture that differ in training differ in nearly every element, so the ends of each tensor tell
them apart; one that was changed in a few chosen weights isn't noticed. How tensors are spread over shards doesn't
count, so a checkpoint that was saved again in other pieces is the same one.
"""

import hashlib

from transformers import PreTrainedConfig, PreTrainedModel

from quatrain.adapters import BaseIdentity, base_identity
from quatrain.adapters.provenance import identify
from quatrain.models.load_plan import Weights
from quatrain.models.sources import Source

_ORIGIN = "quantized_from"
"""The key of `config.json` under which a 4-bit checkpoint says what it was made from."""


def identity_of(where: Source, weights: Weights, config: PreTrainedConfig) -> BaseIdentity:
    """Which base lies at a source."""
    origin = getattr(config, _ORIGIN, None)
    return BaseIdentity(
        name=where.name,
        revision=where.commit,
        fingerprint=fingerprint(weights),
        origin=origin if isinstance(origin, str) else None,
    )


def fingerprint(weights: Weights) -> str:
    """SHA-256 over name, shape and the first and last bytes of each stored tensor."""
    digest = hashlib.sha256()
    for name in sorted(weights.tensors):
        digest.update(f"{name} {weights.tensors[name].shape} ".encode())
        digest.update(weights.sample(name))
    return digest.hexdigest()


def note_origin(model: PreTrainedModel) -> None:
    """Note on the config of a model that is about to be saved in four bits what it was quantized from."""
    identity = base_identity(model)
    if identity is not None:
        setattr(model.config, _ORIGIN, identity.origin or identity.fingerprint)


def forget(model: PreTrainedModel) -> None:
    """Take off a model what says which base it is: its weights are about to become others."""
    identify(model, None)
    if hasattr(model.config, _ORIGIN):
        delattr(model.config, _ORIGIN)
