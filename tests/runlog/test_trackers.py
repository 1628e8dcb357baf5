"""A tracker that fails is left alone for a while and tried again; nobody else notices."""

import pytest

from quatrain.runlog import EventWriter, Noted, RunFinished, TensorBoardSink, read_events
from tests.events import step
from tests.runlog.test_tensorboard import scalars


class Flaky:
    """Fails at the steps it is told."""

    def __init__(self, *bad: int):
        self.bad, self.seen = bad, []

    def __call__(self, event) -> None:
        number = getattr(event, "step", None)
        if number in self.bad:
            raise ConnectionError("the server\nis down")
        self.seen.append(number)


def run(tmp_path, steps: int, *sinks):
    path = tmp_path / "events.jsonl"
    with EventWriter(path, sinks=sinks) as writer:
        for number in range(1, steps + 1):
            writer.write(step(number))
        writer.write(RunFinished(step=steps, status="completed", seconds=1.0, tokens=1, peak_memory=1))
    return [event for event in read_events(path) if isinstance(event, Noted)]


def test_its_failing_and_its_coming_back_are_said_once(tmp_path):
    flaky, well = Flaky(3), Flaky()
    failed, works = run(tmp_path, 9, flaky, well)
    assert "the tracker Flaky failed (ConnectionError: the server is down)" in failed.message
    assert failed.level == "warning" and "Training goes on" in failed.message
    assert "works again" in works.message
    assert flaky.seen[:2] == [1, 2] and flaky.seen[-2:] == [9, 9]
    assert [number for number in well.seen if number] == [*range(1, 10), 9]


def test_one_that_never_works_is_tried_less_and_less_and_at_the_end(tmp_path):
    calls = []

    def broken(event) -> None:
        calls.append(event)
        raise ValueError("always")

    (failed,) = run(tmp_path, 1000, broken)
    assert "ValueError: always" in failed.message
    assert len(calls) < 16 and isinstance(calls[-1], RunFinished)


def test_what_isnt_an_error_goes_through(tmp_path):
    def stop(event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 1, stop)


def test_tensorboard_on_a_disk_that_fails_goes_on_in_a_new_file(tmp_path):
    board = tmp_path / "board"
    board.write_text("in the way")
    path = tmp_path / "events.jsonl"
    with TensorBoardSink(board) as sink, EventWriter(path, sinks=[sink]) as writer:
        writer.write(step(1))
        board.unlink()
        for number in range(2, 9):
            writer.write(step(number))
    failed, works = [event for event in read_events(path) if isinstance(event, Noted)]
    assert "TensorBoardSink failed" in failed.message and "works again" in works.message
    drawn = [number for number, _ in scalars(board)["train/loss"]]
    assert drawn[-1] == 8 and 1 not in drawn
