"""The hub: unreachable, gated, moved, slow, or telling stories."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from quatrain.errors import ModelError
from quatrain.models.sources import locate
from tests.faults.case import Call, fault, recovers
from tests.faults.hub_server import COMMIT, NAME, Answer, Hub, Request, serving
from tests.faults.place import Place

WAIT_S = 3.0
"""How long a server that hangs does so."""

_sleep = time.sleep


def answer(code: int, content: bytes = b"", **headers: str) -> Answer:
    """The same answer to every request."""

    def misbehave(request: Request) -> bool:
        request.send(code, content, None, **headers)
        return True

    return misbehave


def hang(request: Request) -> bool:
    _sleep(WAIT_S)
    return True


def hang_up(request: Request) -> bool:
    request.connection.close()
    return True


def circle(request: Request) -> bool:
    request.send(302, Location=request.path)
    return True


def cut(request: Request) -> bool:
    """A file's beginning, and then nothing."""
    if "/resolve/" in request.path:
        request.send(200, b"{}", length=1000, X_Repo_Commit=COMMIT, ETag='"0"')
        return True
    return False


def asking(at: Place, prepare: Callable[[Hub], None], *, most: int, revision: str | None = None) -> Call:
    """A request for the model of a hub that misbehaves: it must end soon, and after at most so many requests."""

    def call() -> None:
        with serving(at.originals.model, at.path / "cache", at.patch) as hub:
            prepare(hub)
            try:
                locate(NAME, revision=revision)
            finally:
                # huggingface_hub asks for other things as well, once in a process.
                asked = [path for _, path, _ in hub.asked if NAME in path]
                assert len(asked) <= most, asked

    return call


def _misbehaving(at: Place, misbehave: Answer, most: int) -> Call:
    return asking(at, lambda hub: setattr(hub, "misbehave", misbehave), most=most)


for _words, _misbehave, _says, _most in (
    ("a hub that wants a login (401)", answer(401), "`hf auth login`", 2),
    ("a gated model (403)", answer(403, X_Error_Code="GatedRepo"), "'org/name' is gated: ask for access", 2),
    (
        "a model that isn't on the hub, or private (404)",
        answer(404, X_Error_Code="RepoNotFound"),
        "unknown or private",
        2,
    ),
    ("a revision that is gone", answer(404, X_Error_Code="RevisionNotFound"), "has no revision", 2),
    ("a hub that counts requests (429)", answer(429), "can't be fetched from the hub: 429", 3),
    ("a hub that is broken (500)", answer(500), "can't be fetched from the hub: Server error '500", 3),
    ("a hub that is being mended (503)", answer(503), "can't be fetched from the hub: Server error '503", 3),
    ("a hub that says nothing", hang, "can't be fetched from the hub: timed out", 3),
    ("a hub that hangs up", hang_up, "Server disconnected", 3),
    ("a hub that sends the asker in a circle", circle, "Exceeded maximum allowed redirects", 63),
    ("a moved hub whose new address is dead", answer(307, Location="http://127.0.0.1:9/"), "Connection refused", 3),
    ("a login page in place of the hub", answer(200, b"<html>"), "can't be fetched from the hub: Expecting value", 3),
    ("a hub whose answers make no sense", answer(200, b"[1]"), "can't be fetched from the hub", 3),
    ("files that break off, again and again", cut, "peer closed connection", 300),
):
    fault(_words, ModelError, _says, leaves=("cache*",))(partial(_misbehaving, misbehave=_misbehave, most=_most))


@fault("a name that no model can have", ModelError, "or the name of a model on the hub")
def _(at: Place) -> Call:
    return lambda: locate("org name!")


def fetched(at: Place, hub: Hub) -> Path:
    return locate(NAME).folder


def _afterwards(at: Place, misbehave: Answer) -> Call:
    """The model was fetched; then the hub misbehaves."""

    def call() -> None:
        with serving(at.originals.model, at.path / "cache", at.patch) as hub:
            before = fetched(at, hub)
            hub.misbehave = misbehave
            assert locate(NAME).folder == before

    return call


for _words, _misbehave in {
    "a hub that is broken, after an earlier download": answer(500),
    "a hub that says nothing, after an earlier download": hang,
    "a login page in place of the hub, after an earlier download": answer(200, b"<html>"),
    "a model that was gated or removed after an earlier download": answer(403, X_Error_Code="GatedRepo"),
    "a revision that was removed after an earlier download": answer(404, X_Error_Code="RevisionNotFound"),
}.items():
    recovers(_words, "the revision that was fetched before is used, with a warning")(
        partial(_afterwards, misbehave=_misbehave)
    )


@recovers("a hub that stumbles once", "it is asked again")
def _(at: Place) -> Call:
    def stumble(request: Request) -> bool:
        return len(request.hub.asked) == 1 and answer(503)(request)

    return asking(at, lambda hub: setattr(hub, "misbehave", stumble), most=60)


@recovers("a hub that lists files outside of the model's folder", "they are neither asked for nor written")
def _(at: Place) -> Call:
    names = ("../evil.json", "/tmp/evil.json", "a/../../evil.json", "..\\evil.json")

    def call() -> None:
        with serving(at.originals.model, at.path / "cache", at.patch) as hub:
            hub.files |= dict.fromkeys(names, b"{}")
            locate(NAME)
            assert not [path for _, path, _ in hub.asked if "evil" in path]
        assert not list(at.path.rglob("*evil*"))

    return call


@recovers("a model whose pickles and code lie beside its safetensors", "neither is fetched")
def _(at: Place) -> Call:
    def call() -> None:
        with serving(at.originals.model, at.path / "cache", at.patch) as hub:
            hub.files |= {"pytorch_model.bin": b"cos\nsystem\n", "modeling_evil.py": b"raise SystemExit"}
            names = {path.name for path in locate(NAME).folder.iterdir()}
        assert "config.json" in names and not names & {"pytorch_model.bin", "modeling_evil.py"}

    return call
