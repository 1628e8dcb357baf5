"""Readers of texts: rows, configs, chat templates, and what our own run folders hold, which may be anybody's."""

import gzip
import io
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from quatrain.data import DataConfig, load_examples
from quatrain.data.examples import Conversation
from quatrain.data.render import Renderer
from quatrain.report import write_report
from quatrain.runlog import RunFolder, truncate_after
from quatrain.runlog.events import Evaluated, Noted, RunFinished, RunStarted, Sampled, StepDone, to_json
from quatrain.runlog.owner import from_json, this_process
from quatrain.runlog.owner import to_json as owner_to_json
from quatrain.training import read_config
from quatrain.training.seal import flaw
from quatrain.training.state import read_state
from tests.conftest import CHATML, make_tokenizer
from tests.fuzz.reader import Reader

ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": []}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    {"instruction": "a", "input": "b", "output": "c", "system": "d", "history": [["e", "f"]]},
    {"prompt": "a", "completion": "b"},
    {"text": "a"},
    {"message_tree_id": "t", "prompt": {"role": "prompter", "text": "a", "replies": [
        {"role": "assistant", "text": "b", "rank": 0, "replies": []}]}},
    {"message_id": "1", "parent_id": None, "role": "prompter", "text": "a", "rank": None},
]  # fmt: skip


def _row_seeds() -> list[bytes]:
    return [json.dumps(row).encode() + b"\n" for row in ROWS] + [json.dumps(ROWS[:1] * 2).encode()]


def _csv_seeds() -> list[bytes]:
    return [b'prompt,completion\na,b\n"c\nd","e""f"\n', b"\xef\xbb\xbftext\r\na\r\n"]


def _gzip_seeds() -> list[bytes]:
    return [gzip.compress(b'{"text": "a"}\n', mtime=0)]


@cache
def _parquet_seeds() -> list[bytes]:
    import pyarrow
    from pyarrow import parquet

    files = []
    for rows in (ROWS[:1], ROWS[3:4]):
        buffer = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
        files.append(buffer.getvalue())
    return files


def _read_rows(content: bytes, folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(content)
    for where, _ in load_examples(DataConfig(path=str(path))):
        assert where


def _yaml_seeds() -> list[bytes]:
    return [
        b"model: org/name\ndata: {path: rows.jsonl, max_rows: 7, fields: {prompt: q}}\nlora:\n  r: 4\n",
        b"data: x\nlearning_rate: 2e-4\ngradient_checkpointing: on\ntask_eval: {data: y, metrics: [exact_match]}\n",
        b"data: &a [*b, !!python/object/apply:os.system ['true']]\nseed: 0x1f\noutput_dir: 2024-01-01\n",
    ]


def _read_yaml(content: bytes, folder: Path) -> None:
    path = folder / "config.yaml"
    path.write_bytes(content)
    read_config(path)


@cache
def _tokenizer() -> Any:
    return make_tokenizer()


def _template_seeds() -> list[bytes]:
    return [
        CHATML.encode(),
        b"{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        b"{% else %}[{{ m.role }}]{{ m.content | trim }}{% endif %}{% endfor %}",
        b"{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages | tojson }}",
        b"{{ ''.__class__.__mro__[1].__subclasses__() }}{% set x = namespace(y=1) %}{{ strftime_now('%Y') }}",
    ]


def _read_template(content: bytes, folder: Path) -> None:
    tokenizer = _tokenizer()
    tokenizer.chat_template = content.decode(errors="replace")
    renderer = Renderer(tokenizer)
    roles = ("system", "user", "assistant", "user", "assistant")
    talk = Conversation(tuple({"role": role, "content": f"{role} {i}"} for i, role in enumerate(roles)))
    renderer.encode([renderer.render(talk)])
    renderer.prompt_ids(talk)


def _manifest_seeds() -> list[bytes]:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    return [json.dumps({"version": 1, "files": {"state.json": {"size": 0, "sha256": empty}}}).encode()]


def _read_manifest(content: bytes, folder: Path) -> None:
    (folder / "state.json").touch()
    (folder / "manifest.json").write_bytes(content)
    flaw(folder, ["state.json"])


def _event_seeds() -> list[bytes]:
    step = StepDone(
        step=1, loss=2.0, learning_rate=1e-4, grad_norm=float("nan"), tokens=9, supervised_tokens=8, seconds=1.0,
        memory=1, peak_memory=2, epoch=0.5, time=0.0,
    )  # fmt: skip
    start = RunStarted(
        base="b", device="CPU", total_steps=2, trainable_parameters=1, total_parameters=2, base_bytes=3,
        compute_dtype="float32", rows=1, tokens=2, supervised_tokens=1, versions={"torch": "2"}, time=0.0,
    )  # fmt: skip
    events = [
        start, step, Evaluated(step=0, split="eval", loss=1.0, metrics={"f1": 0.5}, seconds=1.0, time=0.0),
        Sampled(step=0, prompt="<script>alert(1)</script>", answer="a", when="before", time=0.0),
        Noted(message="m", time=0.0),
        RunFinished(step=1, status="completed", seconds=1.0, tokens=2, peak_memory=3, time=0.0),
    ]  # fmt: skip
    return [to_json(event).encode() for event in events] + ["\n".join(map(to_json, [start, step, step])).encode()]


def _read_events(content: bytes, folder: Path) -> None:
    run = RunFolder(folder)
    run.events.write_bytes(content + b"\n")
    write_report(run)
    assert "<script>alert" not in run.report.read_text()
    truncate_after(run.events, 0)


def _state_seeds() -> list[bytes]:
    state = {"step": 1, "tokens": 2, "base": "f", "data": {"epoch": 0, "index": 1}, "random": {"cpu": "AAAA"}}
    return [json.dumps(state).encode()]


def _value_error_is_fine(read: Callable[[], object]) -> None:
    """Where the caller answers ValueError, as our own files' readers document."""
    try:
        read()
    except (ValueError, RecursionError):
        return


def _read_state(content: bytes, folder: Path) -> None:
    path = folder / "state.json"
    path.write_bytes(content)
    _value_error_is_fine(partial(read_state, path))


def _read_owner(content: bytes, folder: Path) -> None:
    _value_error_is_fine(partial(from_json, content))


READERS = (
    Reader("jsonl", _row_seeds, partial(_read_rows, name="rows.jsonl")),
    Reader("json", _row_seeds, partial(_read_rows, name="rows.json")),
    Reader("csv", _csv_seeds, partial(_read_rows, name="rows.csv")),
    Reader("gzip", _gzip_seeds, partial(_read_rows, name="rows.jsonl.gz")),
    Reader("parquet", _parquet_seeds, partial(_read_rows, name="rows.parquet")),
    Reader("yaml", _yaml_seeds, _read_yaml),
    Reader("chat_template", _template_seeds, _read_template),
    Reader("manifest", _manifest_seeds, _read_manifest),
    Reader("events", _event_seeds, _read_events),
    Reader("checkpoint_state", _state_seeds, _read_state),
    Reader("lock", lambda: [owner_to_json(this_process())], _read_owner),
)
