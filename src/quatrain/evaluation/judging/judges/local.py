"""A judge that is loaded here, in one of two ways.

:class:`LikelihoodJudge` puts "Verdict:" at the beginning of the model's turn and asks which letter is the likeliest
next: one pass over each prompt, the same verdict every time, and always one. Small models follow no format, so it is
the one to begin with. :class:`WritingJudge` lets the model write its reasons first and reads the verdict from them, as
from an endpoint: slower by the length of the reply, better with models that think while they write, and what can't be
read is counted as unparsed. Letters have likelihoods of their own, whatever the answers are. Judging both orders lets
those of A and B cancel out, but not that of C, so what a likelihood judge calls a tie says less than that its two
orders contradict each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from quatrain.data import Sample, render_prompt
from quatrain.data.checks import check_choices
from quatrain.errors import ConfigError
from quatrain.evaluation.generation import answer_batches
from quatrain.evaluation.judging.judge_prompt import LETTERS, parse_verdict
from quatrain.evaluation.judging.judges.judge import Judge, Reply, Tell
from quatrain.evaluation.likelihood import Asked, Likelihood

_BEGINNING = "Verdict:"


@dataclass(frozen=True)
class LocalConfig:
    """Which model judges here, and how.

    Raises:
        ConfigError: there is no such way to judge.
    """

    model: str
    """Whatever can be loaded: a base, an adapter, a run."""
    verdicts: Literal["likelihood", "written"] = "likelihood"
    quantization: str | None = None
    """None: as the run was trained, or nf4."""
    max_new_tokens: int = 1024
    """Longest written reply."""
    batch_size: int = 16
    """Replies that are written at once."""

    def __post_init__(self) -> None:
        check_choices(self, {"verdicts": ("likelihood", "written")})

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the verdicts beside the prompts."""
        how = {"max_new_tokens": self.max_new_tokens} if self.verdicts == "written" else {}
        return {"kind": self.verdicts, "model": self.model, "quantization": self.quantization, **how}


def local_judge(config: LocalConfig, model: Any, tokenizer: Any) -> Judge:
    """The judge that `config` describes, with its model loaded. Raises as the judge does."""
    if config.verdicts == "likelihood":
        return LikelihoodJudge(model, tokenizer)
    return WritingJudge(model, tokenizer, max_new_tokens=config.max_new_tokens, batch_size=config.batch_size)


class LikelihoodJudge:
    """Takes the likeliest letter.

    Raises:
        ConfigError: the model's tokenizer doesn't write each letter as one token.
    """

    def __init__(self, model: Any, tokenizer: Any):
        self._likelihood, self._tokenizer = Likelihood(model), tokenizer
        written = [tokenizer(f"{_BEGINNING} {letter}", add_special_tokens=False)["input_ids"] for letter in LETTERS]
        self._beginning, self._letters = written[0][:-1], tuple(ids[-1] for ids in written)
        if any(ids[:-1] != self._beginning for ids in written) or len(set(self._letters)) != len(LETTERS):
            raise ConfigError(
                "a judge by likelihood needs a tokenizer that writes A, B and C as one token each, and this base's "
                "doesn't; let it write its verdicts (--verdicts written)"
            )

    def __call__(self, prompts: Sequence[str], tell: Tell) -> list[str]:
        """See :class:`Judge`."""
        asked = [Asked(self._sample(prompt), self._letters) for prompt in prompts]
        for number, found in enumerate(self._likelihood(asked)):
            by_letter = dict(zip(LETTERS, found.log_probs, strict=True))
            likeliest = max(by_letter, key=by_letter.__getitem__)
            said = ", ".join(f"{letter} {log_prob:.3f}" for letter, log_prob in by_letter.items())
            tell(number, Reply(LETTERS[likeliest], f"log-probabilities: {said}", len(asked[number].sample)))
        return []

    def _sample(self, prompt: str) -> Sample:
        ids = [*render_prompt(_turn(prompt), self._tokenizer), *self._beginning, self._letters[0]]
        asked = np.zeros(len(ids), dtype=np.bool_)
        asked[-1] = True
        return Sample(np.array(ids, dtype=np.int32), asked)


class WritingJudge:
    """Reads the verdict from what the model writes, greedily."""

    def __init__(self, model: Any, tokenizer: Any, *, max_new_tokens: int, batch_size: int):
        self._model, self._tokenizer = model, tokenizer
        self._how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}

    def __call__(self, prompts: Sequence[str], tell: Tell) -> list[str]:
        """See :class:`Judge`."""
        ids = [render_prompt(_turn(prompt), self._tokenizer) for prompt in prompts]
        for batch in answer_batches(self._model, self._tokenizer, ids, **self._how):
            for number, text in batch.items():
                tell(number, Reply(parse_verdict(text), text, len(ids[number])))
        return []


def _turn(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]
