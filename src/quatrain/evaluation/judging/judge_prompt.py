"""What a judge is asked, and how its reply is read.

The words lie in `judge_prompt.jinja`, which a user may replace by a file with the same three marks: question, answer_a
and answer_b. A reply's verdict is the line "Verdict: A", "B", "C" or "tie", with or without emphasis. A reply without
such a line, or with several that differ, has no verdict: it is counted as unparsed, and nothing is guessed from the
words around it.
"""

import re
from pathlib import Path

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quatrain.errors import ConfigError
from quatrain.evaluation.judging.verdicts import Outcome
from quatrain.untrusted import read_text

OWN = Path(__file__).with_name("judge_prompt.jinja")
MARKS = ("question", "answer_a", "answer_b")
LETTERS: dict[str, Outcome] = {"A": "a", "B": "b", "C": "tie"}
"""What a judge is to write → what it means."""
_WRITTEN: dict[str, Outcome] = {**LETTERS, "TIE": "tie"}

_VERDICT = re.compile(r"(?i)[\s>*_#`\"']*verdict[\s*_`]*:[\s*_`\"'(\[]*(a|b|c|tie)[\s*_`\"')\].]*")
"""A whole line; line by line, because over all of a reply white space alone could be matched in too many ways."""


class JudgePrompt:
    """The words that a judge gets for each pair of answers.

    Raises:
        ConfigError: the file can't be read or rendered, or leaves out one of the marks.
    """

    def __init__(self, path: Path | None = None):
        path = path or OWN
        try:
            self.text = read_text(path)
            self._template = ImmutableSandboxedEnvironment(undefined=StrictUndefined).from_string(self.text)
            shown = self._template.render({mark: f"<{mark}>" for mark in MARKS})
        except (OSError, ValueError, TemplateError) as error:
            raise ConfigError(f"the judge's prompt {path} can't be used ({error})") from error
        if missing := [mark for mark in MARKS if f"<{mark}>" not in shown]:
            raise ConfigError(f"the judge's prompt {path} must show {{{{ {missing[0]} }}}}, or nothing can be judged")

    def __call__(self, question: str, answer_a: str, answer_b: str) -> str:
        """The prompt for one pair, answers without white space around them."""
        return self._template.render(question=question, answer_a=answer_a.strip(), answer_b=answer_b.strip())


def parse_verdict(reply: str) -> Outcome:
    """What a reply says."""
    lines = (_VERDICT.fullmatch(line) for line in reply.splitlines())
    found: set[Outcome] = {_WRITTEN[match[1].upper()] for match in lines if match is not None}
    return found.pop() if len(found) == 1 else "unparsed"
