"""Arguments that several commands share, so that they read the same everywhere, and checks of what a person gives."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from quatrain.errors import ConfigError, DataError
from quatrain.runlog import RunFolder


def in_a_folder(path: Path | None) -> Path | None:
    """An output file as it was given. Looked at before any work, so that none is lost for want of a folder.

    Raises:
        BadParameter: its folder isn't there.
    """
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}; make it first.")
    return path


def field_map(fields: list[str] | None) -> dict[str, str] | None:
    """Our columns by theirs, from what `--field` was given; None if it was given nothing.

    Raises:
        ConfigError: one isn't ours=theirs.
    """
    pairs = [field.partition("=") for field in fields or []]
    if bad := [name for name, equals, _ in pairs if not equals]:
        raise ConfigError(f"`--field` looks like prompt=question, found {bad[0]!r}")
    return {ours: theirs for ours, _, theirs in pairs} or None


BASE_NAME = "base"
"""What a person calls the model without an adapter."""


@contextmanager
def utf8_input() -> Iterator[None]:
    """A context in which text is read from a person. In some locales Python lets bytes that aren't UTF-8 through, so
    encode the text within.

    Raises:
        DataError: it isn't UTF-8.
    """
    try:
        yield
    except UnicodeError as error:
        raise DataError(f"the input must be UTF-8 text: {error}") from error


def named_adapters(given: list[str] | None) -> dict[str, Path]:
    """Folders by name, from "NAME=FOLDER" or a folder that lends its own name.

    Raises:
        ConfigError: a name is given twice, or is the base's.
    """
    from quatrain.adapters.peft_format import adapter_name

    found: dict[str, Path] = {}
    for text in given or []:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).exists():
            name, folder = adapter_name(adapter_folder(Path(text))), text
        if name in found or name == BASE_NAME:
            raise ConfigError(
                f"every adapter needs a name of its own, and {name!r} is taken; write --adapter NAME={folder}"
            )
        found[name] = adapter_folder(Path(folder))
    return found


def adapter_folder(path: Path) -> Path:
    """The adapter's folder of a run, or `path` itself."""
    run = RunFolder(path)
    return run.adapter if run.config.is_file() else path


Named = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|RUN", help="A run folder, an adapter folder, a hub name, a model folder or a GGUF file."
    ),
]
Adapter = Annotated[
    Path | None, typer.Option(help="Folder of an adapter in PEFT's format to put on the base.", show_default=False)
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="[NAME=]FOLDER",
        help="Adapter in PEFT's format to put on the base; give several to have them side by side.",
        show_default=False,
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Use the adapter although it was trained on a base with other weights.")
]
Quantization = Annotated[
    str | None,
    typer.Option(
        help="nf4, fp4, int4, or none for 16 bits. Default: as the run was trained, nf4 for a base.", show_default=False
    ),
]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that ships with the base.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:1.", show_default=False)]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token; 0.7 varies.")]
System = Annotated[str | None, typer.Option(help="A system message to begin with.", show_default=False)]
