"""`quatrain.train` under a budget, start to end: what its plan predicted, beside what the run measured of itself.

The other cases drive the engine; here a checkpoint is loaded from files as a plan says, trained on text, and the run's
own events are read back.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.case import ONE_CORE, QUATRAIN, Case, Kind, Play, Row, Rows, Setting
from benchmarks.timing import release

KIND = Kind(
    title="Runs under a budget",
    note="`quatrain.train` with `memory` set, which plans the run and carries that out: the most that tensors "
    "occupied, its median step, and the errors of the plan in percent of what was measured. Random weights, steps of "
    "8 rows.",
    shows=("allocated_gib", "ms", "peak_error_percent", "time_error_percent"),
)
_ROWS_A_STEP = 8


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run."""

    model: str
    memory: str
    length: int
    steps: int = 6

    @property
    def label(self) -> str:
        return f"{self.model}, {self.length} tokens, {self.memory}"


def measure(trials: Sequence[Trial], setting: Setting) -> Rows:
    """A row for each run."""
    rows: Rows = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for trial in trials:
            release(setting.device)
            rows[trial.label] = run(trial, setting, folder)
            print(trial.label, rows[trial.label].values, flush=True)
    return rows


def run(trial: Trial, setting: Setting, folder: Path) -> Row:
    """Train, and read what the run says of its plan."""
    import quatrain
    from quatrain.runlog import PlanChecked, Planned, read_events

    data = folder / "rows.jsonl"
    row = json.dumps({"text": "x" * (trial.length - 1)})  # the benchmarks' tokenizers know bytes only
    data.write_text("\n".join([row] * _ROWS_A_STEP * trial.steps), encoding="utf-8")
    result = quatrain.train(
        None,
        None,
        quatrain.RunConfig(
            model=str(setting.models / trial.model),
            data=str(data),
            output_dir=str(folder / trial.memory),
            memory=trial.memory,
            max_length=trial.length,
            per_device_train_batch_size=_ROWS_A_STEP,
            gradient_accumulation_steps=1,
            max_steps=trial.steps,
            device=str(setting.device),
            fused_blocks="on",
        ),
        progress=False,
    )
    events = read_events(result.folder.events)
    (planned,) = [event for event in events if isinstance(event, Planned)]
    (checked,) = [event for event in events if isinstance(event, PlanChecked)]
    return _row(planned, checked, trial)


def _row(planned: Any, checked: Any, trial: Trial) -> Row:
    milliseconds = 1e3 * checked.measured_seconds
    values = {
        "predicted_gib": round(checked.predicted_peak / 2**30, 3),
        "predicted_ms": round(1e3 * checked.predicted_seconds, 2),
        "peak_error_percent": round(100 * (checked.predicted_peak / checked.measured_peak - 1), 2),
        "time_error_percent": round(100 * (1e3 * checked.predicted_seconds / milliseconds - 1), 1),
        "budget_gib": round(planned.budget / 2**30, 3),
        "parts": planned.parts,
    }
    return Row(
        samples_ms=[milliseconds],
        tokens=_ROWS_A_STEP * trial.length,
        allocated_gib=checked.measured_peak / 2**30,
        values=values,
    )


TRIALS = (
    Trial(model="300m", memory="6GB", length=2048),
    Trial(model="300m", memory="2.5GB", length=2048),
    Trial(model="300m", memory="1.8GB", length=2048),
)
TINY = (Trial(model="tiny", memory="8GB", length=64, steps=2),)


def _case(name: str, trials: Sequence[Trial], device: Any, **more: Any) -> Case:
    return Case(
        name=name,
        kind=KIND,
        title="",
        contenders={QUATRAIN: Play(lambda setting: measure(trials, setting))},
        device=device,
        options={"trials": [asdict(trial) for trial in trials]},
        models=tuple(dict.fromkeys(trial.model for trial in trials)),
        **more,
    )


CASES = (
    _case("planned_run", TRIALS, "cuda", limit_s=120),
    _case("selftest_planned_run", TINY, "cpu", environment=ONE_CORE, listed=False),
)
