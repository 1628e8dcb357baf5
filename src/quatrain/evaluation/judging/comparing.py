"""Every pair of models on every question, in both orders, put before a judge; nothing twice."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from quatrain.data.rows import Row
from quatrain.errors import ConfigError, DataError
from quatrain.evaluation.judging.judge_prompt import JudgePrompt
from quatrain.evaluation.judging.judges import Judge, Reply
from quatrain.evaluation.judging.open_questions import OpenQuestion
from quatrain.evaluation.judging.row_log import RowLog
from quatrain.evaluation.judging.verdicts import unique_verdicts

_CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly; only for what is said before any request is made."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Two answers to a question, in the order in which the judge reads them."""

    model_a: str
    model_b: str
    item: str
    prompt: str

    @property
    def key(self) -> tuple[str, str, str]:
        """As a verdict's."""
        return self.model_a, self.model_b, self.item

    @property
    def digest(self) -> str:
        """Of the prompt, and so of both answers."""
        return hashlib.sha256(self.prompt.encode("utf-8", "replace")).hexdigest()[:16]


@dataclass(frozen=True)
class Compared:
    """What a judge was asked, and what it said."""

    verdicts: Counter[str]
    """Outcome → how many, those of earlier calls included."""
    prompt_tokens: int
    """In this call."""
    reply_tokens: int
    missing: int
    """Pairs that are left without a reply."""
    reasons: list[str]
    """Why they are."""
    example: str
    """A reply in which no verdict was found, if there was one."""


def pairings(
    questions: Sequence[OpenQuestion],
    answers: Mapping[str, Mapping[str, str]],
    prompt: JudgePrompt,
    *,
    against: str | None = None,
) -> list[Pairing]:
    """All pairs of models on each question that both have answered, in both orders; question by question, so that what
    is judged when somebody stops is spread over all models.

    Args:
        answers: model → item → answer.
        against: only pairs with this model, which costs less and still connects all of them.

    Raises:
        ConfigError: there is no such model.
        DataError: no question is answered by two models.
    """
    if against is not None and against not in answers:
        raise ConfigError(f"there are answers of {', '.join(answers) or 'nobody'}, and none of {against!r}")
    found = list(_pairings(questions, answers, prompt, against))
    if not found:
        known = ", ".join(answers) or "none"
        raise DataError(f"a comparison needs a question that two models have answered; there are answers of {known}")
    return found


def _pairings(
    questions: Sequence[OpenQuestion],
    answers: Mapping[str, Mapping[str, str]],
    prompt: JudgePrompt,
    against: str | None,
) -> Iterator[Pairing]:
    for question in questions:
        present = [name for name in answers if question.item in answers[name]]
        for pair in combinations(present, 2):
            if against is not None and against not in pair:
                continue
            for one, other in (pair, pair[::-1]):
                both = answers[one][question.item], answers[other][question.item]
                yield Pairing(one, other, question.item, prompt(question.text, *both))


def unjudged(planned: Sequence[Pairing], rows: Sequence[Row]) -> list[Pairing]:
    """Those without a verdict in a log's rows.

    Raises:
        DataError: a row isn't a verdict, or is one on other answers than there are now.
    """
    verdicts = list(unique_verdicts(rows))
    known = {verdict.key: row for verdict, row in zip(verdicts, rows, strict=True)}
    for pairing in planned:
        row = known.get(pairing.key)
        if row is not None and row.values.get("prompt_sha256") != pairing.digest:
            raise DataError(
                f"{row.where}: the answers of {pairing.model_a} and {pairing.model_b} to {pairing.item!r} aren't those "
                "that were judged. Name the judge anew (--judge NAME=…), or remove its old verdicts"
            )
    return [pairing for pairing in planned if pairing.key not in known]


def prompt_tokens(planned: Sequence[Pairing]) -> int:
    """About how many tokens the prompts have together."""
    return sum(len(pairing.prompt) for pairing in planned) // _CHARACTERS_PER_TOKEN


def compare(
    planned: Sequence[Pairing], judge: Judge | None, log: RowLog, *, progress: Callable[[int, int], None] | None = None
) -> Compared:
    """Have the judge decide all pairs that the log holds no verdict on; each verdict is in the log at once.

    Args:
        judge: may be None where the log has a verdict on every pair.

    Raises:
        JudgeError: the judge can't judge; what it has said is in the log.
        OutputError: the disk can't take a verdict.
    """
    left, replies = unjudged(planned, log.rows), list[Reply]()
    counts = Counter(verdict.verdict for verdict in unique_verdicts(log.rows))

    def tell(number: int, reply: Reply) -> None:
        log.append([_row(left[number], reply)])
        replies.append(reply)
        if progress:
            progress(len(planned) - len(left) + len(replies), len(planned))

    reasons = judge([pairing.prompt for pairing in left], tell) if judge is not None else []
    counts.update(reply.verdict for reply in replies)
    return Compared(
        verdicts=Counter[str](counts),
        prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        reply_tokens=sum(reply.reply_tokens for reply in replies),
        missing=len(left) - len(replies),
        reasons=reasons,
        example=next((reply.text for reply in replies if reply.verdict == "unparsed"), ""),
    )


def _row(pairing: Pairing, reply: Reply) -> dict[str, Any]:
    return {
        "model_a": pairing.model_a,
        "model_b": pairing.model_b,
        "item": pairing.item,
        "verdict": reply.verdict,
        "reply": reply.text,
        "prompt_sha256": pairing.digest,
        "prompt_tokens": reply.prompt_tokens,
        "reply_tokens": reply.reply_tokens,
    }
