"""The events file under crashes, resumes and damage."""

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quatrain.errors import CheckpointError
from quatrain.runlog import CheckpointSaved, EventWriter, Noted, StepDone, read_events, truncate_after
from tests.events import step


def write(path, *events):
    with EventWriter(path) as writer:
        for event in events:
            writer.write(event)


def test_a_reader_sees_each_event_at_once_and_sinks_get_it_too(tmp_path):
    path, seen = tmp_path / "run" / "events.jsonl", []
    with EventWriter(path, sinks=[seen.append]) as writer:
        for event in (step(1), Noted(message="half way"), step(2)):
            writer.write(event)
            assert read_events(path)[-1] == event == seen[-1]
    write(path, step(3))
    assert [type(e).__name__ for e in read_events(path)] == ["StepDone", "Noted", "StepDone", "StepDone"]


@settings(deadline=None)
@given(cut=st.integers(min_value=1, max_value=10_000))
def test_wherever_a_crash_cuts_the_file_the_complete_lines_are_read_and_continued(tmp_path_factory, cut: int):
    path = tmp_path_factory.mktemp("torn") / "events.jsonl"
    events = [step(1), Noted(message="line\u2028separator\n"), step(2)]
    write(path, *events)
    whole = path.read_bytes()
    torn = whole[: cut % len(whole)]
    path.write_bytes(torn)
    survivors = events[: torn.count(b"\n")]
    assert read_events(path) == survivors
    continued = step(3)
    write(path, continued)
    assert read_events(path) == [*survivors, continued]


def test_damage_before_the_end_names_the_line(tmp_path):
    path = tmp_path / "events.jsonl"
    write(path, step(1), step(2))
    path.write_bytes(path.read_bytes().replace(b'{"kind"', b'{"ki\x00d"', 1))
    with pytest.raises(CheckpointError, match="line 1"):
        read_events(path)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(CheckpointError, match="line 1"):
        truncate_after(path, 1)


def test_a_missing_file_is_said_plainly(tmp_path):
    with pytest.raises(CheckpointError, match=r"events\.jsonl isn't there"):
        read_events(tmp_path / "events.jsonl")


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """As on a full disk: what goes beyond isn't written, and of a line as much as there is room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_no_event_and_is_told_once(tmp_path):
    path, seen = tmp_path / "events.jsonl", []
    with EventWriter(path, sinks=[seen.append]) as writer:
        writer.write(step(1))
        with no_file_beyond(path.stat().st_size + 20):
            for number in (2, 3):
                writer.write(step(number))
                assert read_events(path) == [step_of(seen, 1)]
        writer.write(step(4))
    (full, again) = [e for e in seen if isinstance(e, Noted)]
    assert "can't be written" in full.message and "events are held in memory" in full.message
    assert "is written again" in again.message
    assert [e.step for e in read_events(path) if isinstance(e, StepDone)] == [1, 2, 3, 4]
    assert {e.message for e in read_events(path) if isinstance(e, Noted)} == {full.message, again.message}


def step_of(events: list, number: int) -> StepDone:
    return next(e for e in events if isinstance(e, StepDone) and e.step == number)


def test_a_disk_that_stays_full_is_told_at_the_end(tmp_path):
    seen = []
    with no_file_beyond(20), EventWriter(tmp_path / "events.jsonl", sinks=[seen.append]) as writer:
        writer.write(step(1))
    assert "2 events could not be written" in seen[-1].message
    assert read_events(tmp_path / "events.jsonl") == []


def test_a_folder_that_vanished_is_made_again_with_what_was_in_the_file(tmp_path):
    path = tmp_path / "run" / "events.jsonl"
    with EventWriter(path) as writer:
        writer.write(step(1))
        shutil.rmtree(path.parent)
        writer.write(step(2))
        path.rename(tmp_path / "moved")
        path.write_text("another's\n")
        writer.write(step(3))
    assert [e.step for e in read_events(path) if isinstance(e, StepDone)] == [1, 2, 3]
    assert [p.name for p in path.parent.iterdir()] == ["events.jsonl"]


def test_a_file_that_cannot_be_opened_is_said_plainly(tmp_path):
    (tmp_path / "events.jsonl").mkdir()
    with pytest.raises(CheckpointError, match="can't be written"):
        EventWriter(tmp_path / "events.jsonl")


def test_a_file_that_cannot_be_cut_back_stays_as_it_is(tmp_path):
    path = tmp_path / "events.jsonl"
    write(path, step(1), step(2))
    before = path.read_bytes()
    with no_file_beyond(20), pytest.raises(CheckpointError, match="can't be cut back to step 1"):
        truncate_after(path, 1)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["events.jsonl"]


def test_resuming_forgets_later_steps_and_keeps_the_rest(tmp_path):
    path = tmp_path / "events.jsonl"
    saved = CheckpointSaved(step=2, path="checkpoints/step-000002", size=1, seconds=0.1)
    kept = [step(1), step(2), saved, Noted(message="still known")]
    write(path, *kept[:3], step(3, loss=float("nan")), kept[3])
    with path.open("ab") as file:
        file.write(b'{"kind": "Future", "step": 3}\n{"kind": "Future"}\n{"kind": "StepDone", "st')
    truncate_after(path, 2)
    assert read_events(path) == kept
    assert path.read_bytes().endswith(b'{"kind": "Future"}\n')
    assert [p.name for p in tmp_path.iterdir()] == ["events.jsonl"]
