"""Loading base + adapter, what was written, and a merge onto the other base, each in turn, to compare them."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from quatrain.adapters import load_adapter
from quatrain.errors import AdapterError, ModelError
from quatrain.exports.agreement import Reference, compare, refer, samples_of
from quatrain.exports.merged_weights import Onto
from quatrain.exports.progress import Progress, silent
from quatrain.exports.result import Compared
from quatrain.exports.subject import LOADING, Subject
from quatrain.models import load_model
from quatrain.models.filling import fill
from quatrain.quantization.selection import Decision

_ROWS = 32
"""Rows that are read for the comparison, if there are as many."""


def compare_with_trained(
    subject: Subject, written: Path, onto: Onto, *, dtype: torch.dtype | None, tolerance: float, progress: Progress
) -> Compared:
    """Compare what was written with base + adapter.

    Args:
        written: a checkpoint's folder, or a GGUF file.
        onto: the base that it was folded into.
        dtype: of a merge onto the other base, which is then compared too; None: it isn't.
        tolerance: largest KL in nats that passes.

    Raises:
        AdapterError: `written` is further from base + adapter.
    """
    reference = reference_of(subject, progress)
    progress("comparing", 0, 2)
    options = {name: value for name, value in subject.target.base_options.items() if name in LOADING}
    found = compare(load_model(written, quantization=None, **options)[0], reference)
    if not found.kl <= tolerance:
        raise AdapterError(
            f"folded into the {onto} base, the result is {found.kl:.3g} nats from base + adapter (KL of the logits; "
            f"its loss is {found.loss:.4f}, theirs {reference.loss:.4f}); {tolerance:g} pass. Take the other base "
            "(`--base`) or another form, or raise `--tolerance`; nothing was written"
        )
    progress("comparing", 1, 2)
    other: Onto = next(it for it in get_args(Onto) if it != onto)
    at_hand = dtype is not None and subject.is_quantized and (other == "dequantized" or subject.has_original)
    beside = compare(merged_model(subject, other, dtype), reference) if at_hand and dtype is not None else None
    progress("comparing", 2, 2)
    return Compared(trained_loss=reference.loss, positions=reference.positions, written=found, other=beside)


def reference_of(subject: Subject, progress: Progress = silent) -> Reference:
    """What base + adapter, loaded as they were trained, say of the run's held-out rows, its training rows without.

    Raises:
        ModelError: the base has no tokenizer.
    """
    progress("reading with base + adapter", 0, 1)
    model, tokenizer = load_model(subject.target.base, **subject.target.base_options)
    if tokenizer is None:
        raise ModelError(
            f"comparing reads text, and {subject.target.base} has no tokenizer: add its tokenizer.json, or leave the "
            "comparison out (`--no-measure`)"
        )
    load_adapter(model, subject.folder, force=True)
    config = subject.config
    rows = None if config is None else config.held_out or config.train_data
    length = 2048 if config is None else config.max_length
    reference = refer(model, samples_of(rows, tokenizer, max_length=length, max_rows=_ROWS))
    progress("reading with base + adapter", 1, 1)
    return reference


def merged_model(subject: Subject, onto: Onto, dtype: torch.dtype) -> Any:
    """The merged model in memory, without a file: weights rounded to `dtype`, computing in the run's type."""
    weights = subject.merged(onto, dtype)
    model = weights.base.skeleton
    in_16bit = Decision(quantize=False, reason="merged")
    placement = replace(weights.base.placement, quant_type=None)
    fill(model, weights.plan, weights, dict.fromkeys(model.state_dict(), in_16bit), placement)
    return model
