"""Which parameters of a model get 4-bit codes, and why the others don't.

QLoRA's saving comes from the big matrices of the decoder's body: they are read once per token, they hold nearly all
bytes, and a low-rank adapter next to them makes up for what four bits lose. Everything else is either tiny (norms,
biases), looked up instead of multiplied (embeddings), directly visible in the loss (the head), or decides discretely
(an expert router), where a small error flips a choice. So the rule is: every linear of the body, nothing else, unless
the user says otherwise.

This file is a pure function of names, shapes and roles. It never sees a tensor or a module, so the memory planner and
the loader can't disagree: both ask here. Roles are found by the caller, who knows the model. Source of the rule:
QLoRA (Dettmers et al. 2023, arXiv:2305.14314), section 3; routers: Switch Transformer (arXiv:2101.03961), section 2.4.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from quatrain.errors import ConfigError, QuantizationError

Role = Literal["linear", "head", "embedding", "other"]
"""`linear`: a body matrix multiplied as x·Wᵀ; `head`: the output projection; `embedding`: the input table."""

THINNEST = 16
"""Rows and columns below which a matrix stays 16-bit: it saves a few hundred bytes and is usually a gate."""

ROUTER_NAMES = frozenset({"gate", "router", "shared_expert_gate"})
"""Last path component of linears that choose experts. Their output is narrower than their input, unlike a gate_proj."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What selection may know about one parameter."""

    name: str
    """Full parameter name, for example `model.layers.0.mlp.up_proj.weight`."""
    shape: tuple[int, ...]
    """Shape as a linear would hold it: (out_features, in_features) for matrices."""
    role: Role
    """What the parameter is to the model."""
    full_precision: bool = False
    """True where the architecture itself asks for float32 while the rest computes in 16 bits."""

    @property
    def module(self) -> str:
        """The name of the module that owns the parameter."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The verdict on one parameter."""

    quantize: bool
    """True if it is stored in 4 bits."""
    reason: str
    """Why it stays in 16 bits; empty when it is quantized."""


QUANTIZE = Decision(quantize=True, reason="")


def select(
    candidates: Iterable[Candidate],
    *,
    block_size: int,
    keep_in_16bit: tuple[str, ...] = (),
    quantize_head: bool = False,
    quantize_embeddings: bool = False,
) -> dict[str, Decision]:
    """Decides for every parameter whether it is quantized.

    Args:
        candidates: All parameters of the model.
        block_size: Elements per scale; an embedding is only quantized if its rows are whole blocks.
        keep_in_16bit: Patterns over module names, with `*` and `?`. A pattern without a dot matches the last
            component, one with dots any tail of the path: `o_proj`, `mlp.down_proj`, `model.layers.0.*`.
        quantize_head: Also quantize the output projection.
        quantize_embeddings: Also quantize the input table.

    Returns:
        A decision for each candidate's name, in the order given.

    Raises:
        ConfigError: A pattern in `keep_in_16bit` matches no module that would otherwise be quantized.
    """
    decisions, used = {}, set()
    for candidate in candidates:
        decision = _decide(candidate, block_size, quantize_head, quantize_embeddings)
        matching = [p for p in keep_in_16bit if decision.quantize and matches(candidate.module, p)]
        if matching:
            used.update(matching)
            decision = _keep(f"keep_in_16bit: {matching[0]}")
        decisions[candidate.name] = decision
    unused = [pattern for pattern in keep_in_16bit if pattern not in used]
    if unused:
        names = sorted({name.split(".")[-2] for name, d in decisions.items() if d.quantize and "." in name})
        raise ConfigError(
            f"`keep_in_16bit` must name modules that would be quantized; {unused} matches none. "
            f"The last components of those are: {', '.join(names) or 'none, nothing here is quantized'}."
        )
    return decisions


def matches(module: str, pattern: str) -> bool:
    """True if the pattern covers the whole module path or a tail of it that starts at a dot."""
    return fnmatchcase(module, pattern) or fnmatchcase(module, f"*.{pattern}")


def _decide(candidate: Candidate, block_size: int, quantize_head: bool, quantize_embeddings: bool) -> Decision:
    shape = candidate.shape
    if len(shape) < 2:
        return _keep("a vector: norm, bias or scale")
    if len(shape) > 2:
        return _keep(f"{len(shape)}-D: experts or filters in one tensor, for which there is no 4-bit product")
    if 0 in shape:
        raise QuantizationError(f"A parameter must have elements; {candidate.name} has shape {shape}.")
    if candidate.full_precision:
        return _keep("the architecture asks for float32")
    if candidate.role == "head" and not quantize_head:
        return _keep("head: its error goes straight into the loss (quantize_head=True changes this)")
    if candidate.role == "embedding":
        return _decide_embedding(shape, block_size, quantize_embeddings)
    if candidate.role == "other":
        return _keep("neither a plain linear nor a plain embedding")
    if candidate.module.rpartition(".")[2] in ROUTER_NAMES and shape[0] < shape[1]:
        return _keep("router: a small error would send tokens to other experts")
    if min(shape) < THINNEST:
        return _keep(f"too thin to gain from 4 bits (a side below {THINNEST})")
    return QUANTIZE


def _decide_embedding(shape: tuple[int, ...], block_size: int, quantize_embeddings: bool) -> Decision:
    if not quantize_embeddings:
        return _keep("embedding: looked up, not multiplied (quantize_embeddings=True changes this)")
    if shape[1] % block_size:
        return _keep(f"embedding: rows of {shape[1]} are not whole blocks of {block_size}")
    return QUANTIZE


def _keep(reason: str) -> Decision:
    return Decision(quantize=False, reason=reason)
