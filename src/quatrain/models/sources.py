"""From what the user typed to files on this machine.

A source is a folder in Hugging Face's layout, a single GGUF file, or a hub name such as `org/name`. Only the last one
touches the network, and it fetches safetensors, configuration and tokenizer, never pickles. Files of others are
untrusted: one counts as part of a folder only if it really lies there (:mod:`quatrain.untrusted`).
"""

from dataclasses import dataclass
from pathlib import Path

from quatrain.errors import ModelError
from quatrain.models.hub import download
from quatrain.untrusted import file_in

CONFIG_FILES = ("*.json", "*.jinja")
TOKENIZER_FILES = ("*.model", "*.txt", "*.tiktoken")
WEIGHT_FILES = ("model*.safetensors",)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a base model's files lie."""

    name: str
    """What the user gave: it goes into messages and into an adapter's `base_model_name_or_path`."""
    folder: Path
    """The folder that holds the configuration, or the GGUF file."""
    gguf_file: str | None = None
    """The GGUF file's name inside the folder, if the source is one."""

    @property
    def commit(self) -> str | None:
        """The commit on the hub that the files are of; None for files that didn't come through the hub's cache."""
        return self.folder.name if self.folder.parent.name == "snapshots" else None


def locate(
    source: str | Path, *, revision: str | None = None, weights: bool = True, trust_remote_code: bool = False
) -> Source:
    """Finds or fetches a base model's files.

    Args:
        source: A folder, a path to a `.gguf` file, or a hub name.
        revision: Branch, tag or commit on the hub; only for hub names.
        weights: False fetches only configuration and tokenizer.
        trust_remote_code: Also fetch the repository's Python files, which transformers will then run.

    Raises:
        ModelError: The path doesn't exist, or the hub can't give the model.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        _check_links(path)
        return Source(name=str(source), folder=path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(
                f"A model file must be GGUF (*.gguf); got {path}. Pass the folder that contains it instead."
            )
        return Source(name=str(source), folder=path.parent, gguf_file=path.name)
    if _looks_like_path(str(source)):
        raise ModelError(f"A local model must exist; there is no {path}. A hub name has the form organization/name.")
    return Source(name=str(source), folder=_download(str(source), revision, weights, trust_remote_code))


def _check_links(folder: Path) -> None:
    """Looks at what transformers will open by itself, whatever it links to; weights are looked at when opened."""
    for pattern in (*CONFIG_FILES, *TOKENIZER_FILES, "*.py"):
        for file in folder.glob(pattern):
            if file.is_symlink():
                checked_file(folder, file.name)


def checked_file(folder: Path, name: str) -> Path:
    """The path of a file that really lies in the folder (or in the blobs of the hub cache that the folder is part of).

    Raises:
        ModelError: The name has directories in it, the file is missing, or a link leads out of the folder.
    """
    try:
        return file_in(folder, name)
    except FileNotFoundError as error:
        raise ModelError(f"{folder} must hold {name}, which is missing. Download the checkpoint again.") from error
    except ValueError as error:
        raise ModelError(f"Don't trust the checkpoint in {folder}: {error}.") from error


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.endswith(".gguf") or source.count("/") > 1 or "\\" in source


def _download(name: str, revision: str | None, weights: bool, trust_remote_code: bool) -> Path:
    patterns = [*CONFIG_FILES, *TOKENIZER_FILES]
    patterns += WEIGHT_FILES if weights else ()
    patterns += ("*.py",) if trust_remote_code else ()
    return download(name, revision, patterns)
