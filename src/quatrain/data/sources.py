"""Where rows come from: a local file, a folder of files, or a data set on the Hugging Face hub.

What exists on disk wins over a hub name. Nothing is downloaded for a path that looks like a file: a typo in a file
name is an error here rather than a question to the hub.
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from quatrain.data.bad_rows import BadRows
from quatrain.data.config import DataConfig
from quatrain.data.readers import READERS, is_readable, read_file
from quatrain.data.rows import Place, Row
from quatrain.errors import DataError

_HUB_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<split>[^:]+))?")


def read_rows(config: DataConfig, bad: BadRows) -> Iterator[Row]:
    """Yields the rows that the config names, at most ``max_rows`` of them.

    Raises:
        DataError: nothing is there, something there can't be read, or `bad` doesn't let a bad row pass.
    """
    path = Path(config.path).expanduser()
    if path.is_dir():
        rows = _read_folder(path, config.split, bad)
    elif path.is_file():
        rows = _read_named_file(path, config, bad)
    else:
        rows = _read_hub(config)
    return islice(rows, config.max_rows)


def _read_named_file(path: Path, config: DataConfig, bad: BadRows) -> Iterator[Row]:
    if not is_readable(path):
        raise DataError(f"{path}: the name must end in one of {', '.join(READERS)} (text also in .gz).")
    if config.split is not None:
        raise DataError(f"`split` is {config.split!r}, but {path} is one file, which has no splits; leave `split` out.")
    return read_file(path, bad)


def _read_folder(folder: Path, split: str | None, bad: BadRows) -> Iterator[Row]:
    """All files below the folder that we can read, in the order of their names; hidden ones are left out."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and is_readable(p) and not _is_hidden(p, folder))
    if not files:
        raise DataError(f"{folder} holds no file that ends in {', '.join(READERS)} (text also in .gz).")
    chosen = [p for p in files if split is None or p.name.startswith(split)]
    if not chosen:
        names = ", ".join(str(p.relative_to(folder)) for p in files[:8])
        raise DataError(f"`split` is {split!r}, but no file in {folder} has a name that begins so; there are {names}.")
    return (row for path in chosen for row in read_file(path, bad))


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _read_hub(config: DataConfig) -> Iterator[Row]:
    match = _HUB_NAME.fullmatch(config.path)
    if match is None or is_readable(Path(config.path)):
        raise DataError(f"`path` is {config.path!r}: no such file or folder, and it isn't the name of a hub data set.")
    if match["split"] and config.split and match["split"] != config.split:
        raise DataError(f"`path` asks for the split {match['split']!r} `split` for {config.split!r}; leave one out.")
    return load_with_datasets(match["name"], config.subset, match["split"] or config.split or "train")


def load_with_datasets(name: str, subset: str | None, split: str) -> Iterator[Row]:
    """Rows of anything that ``datasets.load_dataset`` finds: a hub name, or a folder in its own layout.

    Raises:
        DataError: no such data set, subset or split, or no connection.
    """
    from datasets import load_dataset

    try:
        table = load_dataset(name, subset, split=split)
    except (OSError, ValueError) as error:
        choice = f"subset {subset!r}, " if subset else ""
        raise DataError(
            f"The hub data set {name!r} ({choice}split {split!r}) can't be loaded: {error}. "
            "Check the name (and that no local path was meant), `subset` and `split`."
        ) from error
    source = f"{name} ({split})"
    return (Row(Place(source, number, unit="row"), dict(values)) for number, values in enumerate(table, 1))
