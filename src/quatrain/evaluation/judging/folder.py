"""Where a comparison keeps its things.

::

    vicuna/
      questions.jsonl             what everybody is asked
      answers/guanaco.jsonl       one model's answers, appended to as they come
      answers/guanaco.settings.json
      verdicts/gpt-4.jsonl        one judge's verdicts, likewise
      verdicts/gpt-4.settings.json
      ranking-gpt-4.json          what `quatrain judge rank` made of them
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from quatrain.data import DataConfig
from quatrain.errors import ConfigError, DataError, OutputError
from quatrain.evaluation.judging.answers import answer_of
from quatrain.evaluation.judging.open_questions import OpenQuestion, read_open_questions
from quatrain.evaluation.judging.row_log import SUFFIX, read_log
from quatrain.evaluation.judging.verdicts import Verdict, unique_verdicts
from quatrain.files import file_aside

_NAME = re.compile(r"\w[\w.+-]*")


class ComparisonFolder:
    """The files inside a comparison's folder. Making one touches no disk."""

    def __init__(self, path: Path):
        self.path = path

    def ask(self, questions: list[OpenQuestion]) -> None:
        """Settle what is asked here.

        Raises:
            ConfigError: other questions have been asked here.
            OutputError: the disk can't be written to.
        """
        if self._questions.is_file():
            if self.questions() != questions:
                raise ConfigError(f"{self.path} has other questions already; leave them out, or choose another folder")
            return
        rows = [{"item": question.item, "messages": question.messages} for question in questions]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with file_aside(self._questions) as file:
                file.write(text.encode())
        except OSError as error:
            raise OutputError(f"{self._questions} can't be written ({error}); choose another folder") from error

    def questions(self) -> list[OpenQuestion]:
        """Raises DataError if there are none."""
        if not self._questions.is_file():
            raise DataError(f"{self.path} has no questions yet; begin with `quatrain judge answer … --questions FILE`")
        # A question ends with the user's turn, which `text` and other columns never are beside `messages`.
        return read_open_questions(DataConfig(path=str(self._questions), format="messages"))

    def answer_log(self, name: str) -> Path:
        """Of the model that is called `name` here. Raises ConfigError for what is no name."""
        return self.path / "answers" / f"{_checked(name)}{SUFFIX}"

    def verdict_log(self, judge: str) -> Path:
        """Of the judge that is called so here. Raises ConfigError for what is no name."""
        return self.path / "verdicts" / f"{_checked(judge)}{SUFFIX}"

    def ranking(self, judge: str) -> Path:
        """What the verdicts of a judge came to."""
        return self.path / f"ranking-{judge}.json"

    def answers(self) -> Mapping[str, Mapping[str, str]]:
        """Model → item → answer, models in the order of their names."""
        return {
            path.name.removesuffix(SUFFIX): {str(row.values.get("item")): answer_of(row) for row in read_log(path)}
            for path in _logs(self.path / "answers")
        }

    def verdicts(self) -> dict[str, list[Verdict]]:
        """Judge → verdicts, judges in the order of their names.

        Raises:
            DataError: there are none yet, or a row is none.
        """
        found = {
            path.name.removesuffix(SUFFIX): list(unique_verdicts(read_log(path)))
            for path in _logs(self.path / "verdicts")
        }
        if not any(found.values()):
            raise DataError(f"{self.path} holds no verdicts yet; `quatrain judge compare {self.path} …` asks for them")
        return {judge: verdicts for judge, verdicts in found.items() if verdicts}

    @property
    def _questions(self) -> Path:
        return self.path / f"questions{SUFFIX}"


def _logs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.is_file())


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"a name becomes a file's and may have letters, digits and . _ + -, found {name!r}; write NAME=… before it"
        )
    return name
