"""Fetching a model from the hub: its files, or one sentence on why there are none.

`huggingface_hub` does the work: it keeps what it has fetched, and resumes broken downloads a few times. Three things
are added. The list of files, for which it asks once and would wait forever (its client has no timeout), is asked for
with a limit, and again when the hub stumbles. Whatever the hub answers, a revision that was fetched before is used,
with a warning. And its errors, of several libraries and with paragraphs of advice, become one sentence.

Not all of what a server says may be repeated: some send the access token back in their errors, or have it in the
address. An error that quotes a secret isn't kept as the cause of ours, where a traceback would show it, and what
`huggingface_hub` logs meanwhile is made plain.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors
from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

from quatrain.errors import ModelError
from quatrain.models.unusable import UNUSABLE
from quatrain.plain import holds_secret, one_line

log = logging.getLogger(__name__)

PAUSES_S = (1.0, 4.0)
"""Before the second and third attempt."""

SILENCE_S = 10.0
"""A server that sends nothing for so long is given up."""

ELSEWHERE = ["*..*", "/*", "*/*", "*\\*"]
"""Names that a server may list, of files that would lie outside of the model's own folder."""


def download(name: str, revision: str | None, patterns: Iterable[str]) -> Path:
    """The folder in the hub's cache that holds the files of a model whose names match `patterns`.

    Raises:
        ModelError: The hub can't be reached, doesn't know the model or revision, keeps it to others, or sends nonsense;
            and it wasn't fetched before.
    """
    wanted = {"revision": revision, "allow_patterns": list(patterns), "ignore_patterns": ELSEWHERE}
    with _plain_logs(), _impatient():
        for pause in (*PAUSES_S, None):
            try:
                return Path(huggingface_hub.snapshot_download(name, **wanted))
            except (HTTPError, *UNUSABLE) as error:
                failure = error
            if pause is None or not _may_pass(failure):
                break
            time.sleep(pause)
        try:
            folder = Path(huggingface_hub.snapshot_download(name, **wanted, local_files_only=True))
        except (HTTPError, *UNUSABLE):
            shown = None if holds_secret(f"{failure} {failure.__cause__}") else failure
            raise ModelError(_reason(name, revision, failure)) from shown
    log.warning("%s Using what was fetched before: %s", one_line(_reason(name, revision, failure)), folder.name)
    return folder


def _may_pass(error: BaseException) -> bool:
    """Whether another attempt may fare better: a server that is busy or broken, a line that is; not a refusal."""
    error = _cause(error)
    refusals = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.OfflineModeIsEnabled)
    code = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 500
    return isinstance(error, (HTTPError, OSError)) and not isinstance(error, refusals) and (code >= 500 or code == 429)


def _cause(error: BaseException) -> BaseException:
    """What went wrong, where `huggingface_hub` only reports that it isn't in the cache either."""
    return error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error


def _reason(name: str, revision: str | None, failure: BaseException) -> str:
    error: Any = _cause(failure)
    said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    match error:
        case errors.GatedRepoError():
            return f"{name!r} is gated: ask for access on its page on the hub, then log in with `hf auth login`."
        case errors.RevisionNotFoundError():
            return f"{name!r} has no revision {revision!r} on the hub; name a branch, tag or commit that it has."
        case errors.RepositoryNotFoundError():
            return (
                f"{name!r} must be a folder, a .gguf file, or a model that the hub can give; there it is unknown or "
                "private. Check the spelling; for a private model log in with `hf auth login`."
            )
        case errors.HFValidationError():
            return f"{name!r} must be a folder, a .gguf file, or the name of a model on the hub: {said}."
    return f"{name!r} can't be fetched from the hub: {said}. Check the network and `hf auth login`, or give a folder."


@contextmanager
def _impatient() -> Iterator[None]:
    """Within it, requests of `huggingface_hub` that have no timeout get one."""
    session = huggingface_hub.get_session()
    before = session.event_hooks
    session.event_hooks = {**before, "request": [*before["request"], _limit]}
    try:
        yield
    finally:
        session.event_hooks = before


def _limit(request: Any) -> None:
    given = request.extensions.get("timeout") or {}
    request.extensions["timeout"] = {
        part: given.get(part) or SILENCE_S for part in ("connect", "read", "write", "pool")
    }


@contextmanager
def _plain_logs() -> Iterator[None]:
    """Within it, what `huggingface_hub` logs is one line without secrets."""
    handlers = logging.getLogger("huggingface_hub").handlers[:]
    for handler in handlers:
        handler.addFilter(_make_plain)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_make_plain)


def _make_plain(record: logging.LogRecord) -> bool:
    record.msg, record.args = one_line(record.getMessage()), ()
    return True
