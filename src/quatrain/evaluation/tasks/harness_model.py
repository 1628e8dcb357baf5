"""Our models as lm-evaluation-harness wants them.

Its own wrapper for Hugging Face models (`HFLM`) takes what `load_model` gives: an ordinary model. How it makes tokens,
cuts contexts and stops answers stays as everybody's published figures were made. Only log-probabilities are computed by
`Likelihood`, which packs samples and never makes the logits of a whole batch: 8 GiB for 64 rows of 512 tokens and a
vocabulary of 128k.

This file imports the harness; whoever can do without it imports this file when it is needed.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import numpy as np
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

from quatrain.data import Sample
from quatrain.errors import DataError
from quatrain.evaluation.likelihood import Asked
from quatrain.evaluation.tasks.subject import Subject

Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""(texts, or None for a piece of a long one; tokens of the context; tokens of the continuation)."""


class HarnessModel(HFLM):
    """A subject in the harness' form."""

    def __init__(self, subject: Subject):
        settings: dict[str, Any] = {
            "pretrained": subject.model,
            # The harness chooses a padding token for its tokenizer; ours stays as it is.
            "tokenizer": copy.deepcopy(subject.tokenizer),
            "backend": "causal",
            "batch_size": subject.batch_size,
            # In its words a sample is one token longer than this: the last one is predicted and never read.
            "max_length": subject.context - 1,
        }
        with _not_tied_again(subject.model):
            super().__init__(**settings)
        self._subject = subject

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """(log-probability, whether greedy decoding would write it) of each continuation."""
        grouped = list(self._grouped(requests))
        found = self._subject.likelihood([asked for _, asked in grouped])
        answers: list[tuple[float, bool]] = []
        with tqdm(total=len(requests), desc="likelihoods", disable=disable_tqdm) as bar:
            for (together, _), answer in zip(grouped, found, strict=True):
                new = list(zip(answer.log_probs, answer.greedy, strict=True))
                for request, value in zip(together, new, strict=True):
                    if request[0] is not None:
                        self.cache_hook.add_partial("loglikelihood", request[0], value)
                answers += new
                bar.update(len(new))
        return answers

    def _grouped(self, requests: list[Request]) -> Iterator[tuple[list[Request], Asked]]:
        """Neighbours that share a context and have one token each, such as letters, are computed together."""
        numbered = enumerate(requests)
        for _, group in groupby(numbered, key=lambda at: at[1][1] if len(at[1][2]) == 1 else at[0]):
            together = [request for _, request in group]
            _, context, continuation = together[0]
            candidates = tuple(tokens[0] for *_, tokens in together) if len(continuation) == 1 else ()
            yield together, Asked(self._sample(context, continuation), candidates)

    def _sample(self, context: list[int], continuation: list[int]) -> Sample:
        """Cut at its beginning to fit the model."""
        longest = self._subject.context
        if not 0 < len(continuation) < longest:
            raise DataError(
                f"a continuation must have 1 to {longest - 1:,} tokens to fit the model's context, and one has "
                f"{len(continuation):,}; leave that row out of the task"
            )
        ids = np.array([*context, *continuation], dtype=np.int32)
        supervised = np.arange(len(ids)) >= len(context)
        return Sample(ids[-longest:], supervised[-longest:])


@contextmanager
def _not_tied_again(model: Any) -> Iterator[None]:
    """The harness ties head and embedding of a model that it takes over. Ours are as they have to be: four bits have no
    parameter that could be tied, and a head that was trained must not become the embedding again."""
    model.tie_weights = lambda: None
    try:
        yield
    finally:
        del model.tie_weights
