"""Every event survives its line of JSON, whatever strings and numbers it holds."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quatrain.runlog import Evaluated, Event, Noted, StepDone
from quatrain.runlog.events import KINDS, from_json, to_json

text = st.text(st.characters(codec=None))  # lone surrogates and line separators included


def same(a: object, b: object) -> bool:
    """Equality in which NaN equals NaN."""
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


@given(st.sampled_from(sorted(KINDS)).flatmap(lambda kind: st.builds(KINDS[kind])), text)
def test_an_event_survives_its_line(event: Event, message: str):
    for original in (event, Noted(message=message)):
        line = to_json(original)
        assert "\n" not in line
        restored = from_json(line)
        assert restored is not None and type(restored) is type(original)
        assert same(dataclasses.asdict(restored), dataclasses.asdict(original))


@given(st.builds(StepDone), st.dictionaries(text, st.floats()))
def test_lines_are_strict_json(step: StepDone, metrics: dict[str, float]):
    def refuse(constant: str):
        raise AssertionError(f"{constant} isn't JSON")

    for event in (step, Evaluated(step=1, split="eval", metrics=metrics, seconds=1.0)):
        json.loads(to_json(event), parse_constant=refuse)


def test_speed_of_a_step_that_took_no_time_is_zero():
    fields = {"step": 1, "loss": 1.0, "learning_rate": 1e-4, "grad_norm": 1.0, "tokens": 512, "supervised_tokens": 100}
    fields |= {"memory": 1, "peak_memory": 2, "epoch": 0.5}
    assert StepDone(seconds=2.0, **fields).tokens_per_second == 256
    assert StepDone(seconds=0.0, **fields).tokens_per_second == 0


def test_fields_of_a_later_version_are_ignored_and_unknown_kinds_skipped():
    assert from_json('{"kind": "Noted", "time": 1.0, "message": "hi", "colour": "red"}') == Noted(
        time=1.0, message="hi"
    )
    assert from_json('{"kind": "Danced", "time": 1.0}') is None


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "[1]",
        "{}",
        '{"kind": ["Noted"], "message": "hi"}',
        '{"kind": "Noted"}',
        '{"kind": "Noted", "message": "hi", "level": "shout"}',
        '{"kind": "CheckpointSaved", "step": "many", "path": "x", "size": 1, "seconds": 1}',
    ],
)
def test_a_line_that_does_not_fit_its_kind_is_refused(line: str):
    with pytest.raises(ValueError):
        from_json(line)
