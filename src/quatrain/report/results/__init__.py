"""Pages of results that a person made with `quatrain eval` and `quatrain judge`, from their files alone.

A file's keys say what it is: an evaluation has "tasks", a ranking has "standings". Several evaluations make one page,
with a line for each model in every task that they share.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quatrain.errors import DataError
from quatrain.report.results.evaluation import evaluation_sheet
from quatrain.report.results.ranking import ranking_sheet
from quatrain.report.sheet import Sheet, write_sheet
from quatrain.untrusted import read_json

RESULTS = "results.json"
"""What an evaluation leaves in a model's folder."""


def write_results(paths: Sequence[Path], page: Path | None = None) -> Path:
    """Write the page of result files and return its path.

    Args:
        paths: result files, or folders with a `results.json`; several must all be of evaluations.
        page: where to; None: beside the first file, under its name.

    Raises:
        DataError: a file can't be read, or isn't one of results.
    """
    files = [path / RESULTS if path.is_dir() else path for path in paths]
    return write_sheet(_sheet({str(file): _read(file) for file in files}), page or files[0].with_suffix(".html"))


def _read(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} can't be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} must hold an object, as `quatrain eval` and `quatrain judge` write it")
    return content


def _sheet(contents: dict[str, dict[str, Any]]) -> Sheet:
    if all("tasks" in content for content in contents.values()):
        return evaluation_sheet(contents)
    if len(contents) == 1:
        (source, content), *_ = contents.items()
        if "standings" in content:
            return ranking_sheet(source, content)
    raise DataError(
        f"{', '.join(contents)}: a page is made from one ranking of `quatrain judge`, or of results of `quatrain eval`"
    )
