"""Tokens and strangers' words: what must never be shown, and what is shown as text only."""

import io
import json
import logging
import re
import traceback
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser

from quatrain.data import DataConfig, load_examples
from quatrain.errors import ConfigError, QuatrainError, RowError
from quatrain.models.sources import locate
from quatrain.report import write_report
from quatrain.runlog import EventWriter, Noted, RunFolder, Sampled, TensorBoardSink
from quatrain.training import read_config
from tests.events import step
from tests.faults.areas.hub import answer
from tests.faults.case import Call, fault, recovers
from tests.faults.hub_server import NAME, Hub, Request, serving
from tests.faults.place import Place

TOKEN = "hf_" + "Planted" * 5
PASSWORD = "pw-planted-pw"


def overheard(at: Place, act: Callable[[], object]) -> str:
    """Everything that a run of `act` makes public: its log, its error with all causes, and all files that it wrote."""
    at.patch.setenv("HF_TOKEN", TOKEN)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    try:
        act()
    except QuatrainError:
        stream.write(traceback.format_exc())
    finally:
        logging.getLogger().removeHandler(handler)
    files = [path.read_bytes().decode(errors="replace") for path in at.path.rglob("*") if path.is_file()]
    return stream.getvalue() + "".join(files)


def _hidden(at: Place, prepare: Callable[[Hub], None], credentials: str) -> Call:
    def act() -> None:
        with serving(at.originals.model, at.path / "cache", at.patch, credentials) as hub:
            prepare(hub)
            try:
                locate(NAME)
            finally:
                assert hub.asked

    def call() -> None:
        public = overheard(at, act)
        assert "ModelError" in public
        assert TOKEN not in public and PASSWORD not in public

    return call


def echo(request: Request) -> bool:
    said = request.headers["Authorization"]
    request.send(403, said.encode(), X_Error_Message=f"bad header: Authorization: {said}")
    return True


for _words, _misbehave, _credentials in (
    ("a hub that sends the token back in its error", echo, ""),
    ("a hub with a password in its address that is broken", answer(500), f"user:{PASSWORD}@"),
    ("a hub with a password in its address that knows nothing", answer(404), f"user:{PASSWORD}@"),
):
    recovers(_words, "error, log and traceback show `[secret]` in its place")(
        partial(
            _hidden,
            prepare=partial(lambda hub, m: setattr(hub, "misbehave", m), m=_misbehave),
            credentials=_credentials,
        )
    )


@recovers("a hub that sends the asker to another host", "the token isn't sent along")
def _(at: Place) -> Call:
    at.patch.setenv("HF_TOKEN", TOKEN)

    def call() -> None:
        with (
            serving(at.originals.model, at.path / "cache2", at.patch) as other,
            serving(at.originals.model, at.path / "cache", at.patch) as hub,
        ):
            hub.misbehave = lambda request: (
                "/api/" in request.path and answer(302, Location=f"{other.address}{request.path}")(request)
            )
            locate(NAME)
            assert all(TOKEN in authorization for _, path, authorization in hub.asked if NAME in path)
            assert other.asked and not any(TOKEN in authorization for *_, authorization in other.asked)

    return call


for _setting, _value in {
    "model": f"https://user:{PASSWORD}@host/model",
    "data": f"https://host/rows.jsonl?token={PASSWORD}",
    "revision": TOKEN,
    "eval_data": f"{{path: x, subset: {TOKEN}}}",
}.items():
    fault(f"a secret in the setting `{_setting}`", ConfigError, f"`{_setting}` holds a secret")(
        partial(lambda at, setting, value: at.train(**{setting: value}), setting=_setting, value=_value)
    )


@recovers("a row that holds a token", "events, report and TensorBoard show `[secret]` in its place")
def _(at: Place) -> Call:
    run = RunFolder(at.run())

    def call() -> None:
        with TensorBoardSink(run.tensorboard) as board, EventWriter(run.events, [board]) as writer:
            writer.write(Sampled(step=2, prompt=f"login {TOKEN}", answer=f"Bearer {TOKEN}", when="after"))
            writer.write(Noted(level="warning", message=f"https://u:{PASSWORD}@host {TOKEN}"))
        write_report(run)
        public = run.events.read_text() + run.report.read_text()
        assert "[secret]" in public and TOKEN not in public and PASSWORD not in public

    return call


@fault("a file whose name moves the terminal's cursor", RowError, "\\x1b[2J")
def _(at: Place) -> Call:
    path = at.rows("{", "\x1b[2J\x1b[31mrows.jsonl")
    return lambda: list(load_examples(DataConfig(path=str(path))))


@fault("a row with a megabyte in the place of a role", RowError, "xxx... isn't known; known are assistant")
def _(at: Place) -> Call:
    row = {"messages": [{"role": "x" * 2**20, "content": "a"}]}
    return at.train(data=at.rows(json.dumps(row)))


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{7*7}}"


class Tags(HTMLParser):
    """Collects the elements of a page, and attributes that run code."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = self.images = 0
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.images += tag == "img"
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def tags(page: str) -> Tags:
    found = Tags()
    found.feed(page)
    return found


def _hostile(at: Place, spoil: Callable[[RunFolder], None]) -> Call:
    run = RunFolder(at.run())
    usual = tags(write_report(run).read_text())
    spoil(run)

    def call() -> None:
        page = write_report(run).read_text()
        found = tags(page)
        assert "alert(1)" in page and "49" not in re.findall(r"&amp;(\{\{7\*7\}\}|49)", page)
        assert (found.images, found.handlers) == (0, []) and found.scripts == usual.scripts

    return call


def _add_answer(run: RunFolder) -> None:
    with EventWriter(run.events) as writer:
        writer.write(Sampled(step=0, prompt=HOSTILE, answer=HOSTILE, reference=HOSTILE, when="before"))


def _add_note(run: RunFolder) -> None:
    with EventWriter(run.events) as writer:
        writer.write(Noted(message=HOSTILE))


def _rename_base(run: RunFolder) -> None:
    lines = [json.loads(line) for line in run.events.read_text().splitlines()]
    renamed = [{**line, "base": HOSTILE, "device": HOSTILE} if line["kind"] == "RunStarted" else line for line in lines]
    run.events.write_text("".join(json.dumps(line) + "\n" for line in renamed))


def _change_settings(run: RunFolder) -> None:
    run.config.write_text(json.dumps({"data": {"path": HOSTILE}, HOSTILE: HOSTILE, "quantization": HOSTILE}))


for _words, _spoil in {
    "a prompt, an answer and a reference that are HTML with a script": _add_answer,
    "a note that is HTML with a script": _add_note,
    "a base and a device whose names are HTML with a script": _rename_base,
    "settings whose names and values are HTML with a script": _change_settings,
}.items():
    recovers(_words, "the report shows them as text")(partial(_hostile, spoil=_spoil))


@recovers(
    "an evaluation whose name is a path and HTML", "TensorBoard gets it as a plain name, and nothing else is written"
)
def _(at: Place) -> Call:
    from quatrain.runlog import Evaluated

    folder = at.path / "board"

    def call() -> None:
        with TensorBoardSink(folder) as board:
            board(step(1))
            board(Evaluated(step=1, split=f"../../{HOSTILE}", loss=1.0, metrics={f"/etc/{HOSTILE}": 1.0}, seconds=1.0))
        assert [path.parent for path in at.path.rglob("*") if path.is_file()] == [folder]

    return call


@fault("a run of somebody else whose config says that strangers' code may run", ConfigError, "add --trust-remote-code")
def _(at: Place) -> Call:
    run = at.run()
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("trust_remote_code: false", "trust_remote_code: true"))
    return at.command("generate", run, "hello")


@fault("a config that names a Python object", ConfigError, "is not YAML")
def _(at: Place) -> Call:
    made = at.path / "made"
    config = at.file("config.yaml", f"data: !!python/object/apply:os.system ['touch {made}']\n")

    def call() -> None:
        try:
            read_config(config)
        finally:
            assert not made.exists()

    return call
