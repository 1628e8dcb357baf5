"""Arguments that several commands share, so that they read the same everywhere, and checks of what a person gives."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from quatrain.errors import DataError


def in_a_folder(path: Path | None) -> Path | None:
    """An output file as it was given. Looked at before any work, so that none is lost for want of a folder.

    Raises:
        BadParameter: its folder isn't there.
    """
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}; make it first.")
    return path


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


Named = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|RUN", help="A run folder, an adapter folder, a hub name, a model folder or a GGUF file."
    ),
]
Adapter = Annotated[
    Path | None, typer.Option(help="Folder of an adapter in PEFT's format to put on the base.", show_default=False)
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
