"""The answers of one subject to one task, a line each, written as they come.

The first line says what was asked and of whom. Its fingerprint is also in the file's name, so whoever is asked the same
again goes on where the file ends, and nobody else's answers come into it. A line that a stop cut in two is dropped. The
last line closes the file: with it, all is answered.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quatrain.errors import DataError, OutputError
from quatrain.evaluation.tasks.task import Answered, Closing
from quatrain.runlog.stream import remove_torn_line


class AnswerFile:
    """Answers on disk; opening it reads those that are there.

    Args:
        path: a JSONL file that may exist; its folder is made.
        header: what was asked, and of whom.

    Raises:
        DataError: the file holds something else, or answers to something else.
        OutputError: it can't be read or written.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]):
        self.path = path
        self.answers: dict[int, Answered] = {}
        self.closing: Closing | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if remove_torn_line(path):
                self._take(path.read_bytes(), header)
            else:
                path.write_text(_line(header), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path} can't be used for answers ({error}); choose another folder") from error

    def add(self, answer: Answered) -> None:
        """Write an answer; it is in the file when this returns.

        Raises:
            OutputError: the disk can't take it.
        """
        self._append(_plain(answer))
        self.answers[answer.question] = answer

    def close(self, closing: Closing) -> None:
        """All is answered."""
        self._append({"closing": asdict(closing)})
        self.closing = closing

    def _append(self, value: Mapping[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(value))
        except OSError as error:
            raise OutputError(f"{self.path} can't be written ({error}); free space, and run it again") from error

    def _take(self, content: bytes, header: Mapping[str, Any]) -> None:
        """Read what is there."""
        try:
            found, *lines = (json.loads(line) for line in _lines(content))
            self.answers, self.closing = _parsed(lines)
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.path} isn't a file of answers ({error}); move it away, and run it again") from error
        if found != header:
            raise DataError(f"{self.path} holds answers to something else; move it away, and run it again")


def read_answers(path: Path) -> tuple[dict[str, Any], dict[int, Answered], Closing]:
    """(header, answers, closing) of a file in which all is answered.

    Raises:
        DataError: it isn't such a file, or its answering was stopped.
    """
    try:
        header, *lines = (json.loads(line) for line in _lines(path.read_bytes()))
        answers, closing = _parsed(lines)
        if missing := {"task", "asked", "settings", "model"} - header.keys():
            raise ValueError(f"its first line lacks {', '.join(sorted(missing))}")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} isn't a file of answers ({error}); name a folder that `quatrain eval` wrote"
        ) from error
    if closing is None:
        raise DataError(f"{path} isn't finished; run its `quatrain eval` again, which goes on where it stopped")
    return header, answers, closing


def _parsed(lines: Sequence[Any]) -> tuple[dict[int, Answered], Closing | None]:
    """Raises ValueError: a line isn't an answer, or the closing."""
    from pydantic import TypeAdapter

    answer, closing = TypeAdapter(Answered), None
    answers: dict[int, Answered] = {}
    for line in lines:
        if "closing" in line:
            closing = TypeAdapter(Closing).validate_python(line["closing"])
        else:
            one = answer.validate_python(line)
            answers[one.question] = one
    return answers, closing


def _plain(answer: Answered) -> dict[str, Any]:
    """Without what is as it is anyway."""
    left_out = {"said": "", "reference": "", "group": None, "weight": 1.0}
    return {name: value for name, value in asdict(answer).items() if name not in left_out or value != left_out[name]}


def _lines(content: bytes) -> list[bytes]:
    """Split at line feeds only: an answer may hold U+2028 and others that `str.splitlines` takes for ends of lines."""
    return content.removesuffix(b"\n").split(b"\n")


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
