"""The way from a data set's name to samples: read, recognize, render, tokenize, fit to length, count."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from quatrain.data.bad_rows import BadRows
from quatrain.data.config import DataConfig
from quatrain.data.examples import Completion, Example, why_empty
from quatrain.data.findings import Findings
from quatrain.data.formats import Located, read_examples
from quatrain.data.packing import packed_epoch
from quatrain.data.render import REFUSED, Rendered, Renderer
from quatrain.data.rows import Place
from quatrain.data.samples import Sample, Samples
from quatrain.data.sources import read_rows
from quatrain.data.summary import DataSummary, percentiles, segments
from quatrain.errors import ConfigError, DataError, RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 1024
"""Texts that the tokenizer gets at once, so that it can use several threads."""

Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all); in all is 0 while it isn't known."""


@dataclass(frozen=True)
class Prepared:
    """Samples to train or evaluate on, and what there is to say about them."""

    samples: Samples
    summary: DataSummary


def prepare(
    config: DataConfig,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    vocabulary: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Reads a data set and tokenizes it into samples of at most ``max_length`` tokens.

    Args:
        config: The data set.
        tokenizer: The base's tokenizer.
        max_length: Longest sample in tokens; ``config.on_long`` says what becomes of longer ones.
        vocabulary: Rows of the base's embedding. A sample with a token id beyond them is left out and counted, as the
            base has nothing to look up for it. None: ids aren't checked.
        progress: Called while rows are read.

    Raises:
        ConfigError: ``max_length`` is below 2.
        DataError: the data can't be read or rendered (the message names file, line and reason), or nothing is left.
    """
    if max_length < 2:
        raise ConfigError(f"`max_length` must be at least 2, one token to see and one to predict, got {max_length}.")
    renderer = Renderer(tokenizer, train_on=config.train_on, chat=config.chat)
    summary, kept, lengths, bad = DataSummary(), list[Sample](), list[int](), BadRows(config)
    findings = Findings(tokenizer)
    located = load_examples(config, bad)
    while batch := list(islice(located, BATCH)):
        filled = _filled(batch, summary)
        rendered, examples = _rendered(renderer, filled, bad)
        samples = renderer.encode(rendered)
        if summary.rows == 0:
            summary.notes += _notes(renderer, examples, samples)
        summary.rows += len(batch)
        findings.look(examples, rendered, samples, max_length)
        lengths += [len(sample) for sample in samples]
        kept += _fit(samples, summary, max_length=max_length, on_long=config.on_long, vocabulary=vocabulary)
        if progress is not None:
            progress(summary.rows, 0)
    if progress is not None:
        progress(summary.rows, summary.rows)
    summary.bad, summary.bad_first, summary.found = bad.counts, bad.first, findings.counts
    if not kept:
        raise DataError(f"{config.path}: no sample is left to train on ({_reasons(summary)}).")
    return _summarized(Samples(kept), summary, lengths, tokenizer, max_length)


def _reasons(summary: DataSummary) -> str:
    """Why rows were left out, and the first bad one."""
    reasons = [f"{count:,} rows: {reason}" for reason, count in (summary.dropped + summary.bad).most_common()]
    return "; ".join([*reasons, *summary.bad_first[:1]])


def _filled(batch: list[Located], summary: DataSummary) -> list[Located]:
    """Those in which there is something to learn; the others are counted."""
    reasons = [why_empty(example) for _, example in batch]
    summary.dropped.update(reason for reason in reasons if reason)
    return [located for located, reason in zip(batch, reasons, strict=True) if reason is None]


def _rendered(renderer: Renderer, located: list[Located], bad: BadRows) -> tuple[list[Rendered], list[Example]]:
    """Texts, and the examples that they were made from; what the template refuses is a bad row."""
    rendered, examples = [], []
    for where, example in located:
        try:
            rendered.append(_render(renderer, where, example))
            examples.append(example)
        except RowError as error:
            bad.meet(error)
    return rendered, examples


def load_examples(config: DataConfig, bad: BadRows | None = None) -> Iterator[Located]:
    """Yields ``(where, example)`` of a data set, before any tokenizer: what evaluation takes its questions from.

    Args:
        config: The data set.
        bad: Where bad rows are counted, if the caller wants to know.

    Raises:
        DataError: the data can't be read; the message names file, line, byte and reason.
    """
    bad = bad or BadRows(config)
    return read_examples(read_rows(config, bad), config, bad)


def _render(renderer: Renderer, where: Place, example: Example) -> Rendered:
    try:
        return renderer.render(example)
    except DataError as error:
        raise RowError(where, REFUSED, str(error)) from error


def _fit(
    samples: list[Sample], summary: DataSummary, *, max_length: int, on_long: str, vocabulary: int | None
) -> Iterator[Sample]:
    """Cuts or leaves out what is too long, and leaves out what nothing can be learned from; counts each."""
    for sample in samples:
        is_long = len(sample) > max_length
        if is_long and on_long == "drop":
            summary.dropped[f"longer than {max_length:,} tokens"] += 1
            continue
        fitted = Sample(sample.input_ids[:max_length], sample.supervised[:max_length])
        if not fitted.supervised.any():
            cut_away = is_long and sample.supervised.any()
            reason = f"no learned token within {max_length:,} tokens" if cut_away else "no learned token"
            summary.dropped[reason] += 1
            continue
        if vocabulary is not None and fitted.input_ids.max() >= vocabulary:
            summary.dropped[f"a token beyond the embedding's {vocabulary:,} rows"] += 1
            continue
        summary.cut += is_long
        yield fitted


def _notes(renderer: Renderer, examples: list[Example], samples: list[Sample]) -> list[str]:
    """What is worth a word, found on the first batch of rows."""
    notes = []
    if renderer.template.is_plain and not all(isinstance(example, Completion) for example in examples):
        notes.append("the tokenizer has no chat template; turns get plain 'User:' and 'Assistant:' headlines.")
    broken = 0
    for example, sample in zip(examples, samples, strict=True):
        prompt = renderer.prompt_ids(example)
        broken += sample.input_ids[: len(prompt)].tolist() != prompt
    if broken:
        notes.append(
            f"in {broken:,} of the first {len(samples):,} samples the prompt that generation will use doesn't begin "
            "the sample token for token: the chat template renders an open reply in another way, or prompt and reply "
            "share a token."
        )
    return notes


def _summarized(
    samples: Samples,
    summary: DataSummary,
    lengths: list[int],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
) -> Prepared:
    summary.samples, summary.tokens = len(samples), samples.num_tokens
    summary.supervised_tokens = samples.num_supervised
    summary.lengths = percentiles(lengths)
    rows = len(packed_epoch(samples.lengths, max_length, seed=0, epoch=0))
    summary.packing_fill = samples.num_tokens / (rows * max_length)
    summary.example = segments(samples[0], tokenizer)
    return Prepared(samples, summary)
