"""A run that is killed at any point of its saves is resumed, and becomes the run that nothing happened to."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from quatrain.adapters import LoraConfig
from quatrain.runlog import RunFolder
from quatrain.training import RunConfig, saving, train
from tests.training.faults import KILLED, FaultyFiles, kill
from tests.training.same import assert_same


@pytest.fixture
def config(config_for) -> RunConfig:
    """Five steps with dropout, three saves, of which the second and third remove the one before."""
    lora = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.2)
    return config_for(lora=lora, max_steps=5, save_steps=2, save_total_limit=1, eval_data=None)


@pytest.fixture
def whole(config, monkeypatch) -> tuple[RunFolder, list[str]]:
    """The folder of a run that nothing happened to, and the points that it passed."""
    files = FaultyFiles(kill)
    monkeypatch.setattr(saving, "Files", lambda: files)
    folder = train(None, None, config, progress=False).folder
    monkeypatch.undo()
    return folder, files.points


def kill_and_resume(config: RunConfig, whole: tuple[RunFolder, list[str]], points: list[int], tmp_path: Path) -> None:
    expected, names = whole
    job = tmp_path / "job.json"
    runs = tmp_path / "killed"
    settings = asdict(replace(config, output_dir=str(runs)))
    job.write_text(json.dumps({"config": settings, "points": points}))
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.killed", str(job)], cwd=root, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [KILLED] * len(points), done.stderr
    for point in points:
        own = replace(config, output_dir=str(runs / str(point)))
        folder = RunFolder(runs / str(point))
        # A run that dies before its first checkpoint has nothing to go on from, and is begun again.
        resume = bool(folder.checkpoint_steps())
        assert resume == (point > names.index("before .step-000002.writing becomes step-000002"))
        assert train(None, None, own, progress=False, resume=resume, overwrite=not resume).status == "completed"
        assert_same(expected, folder)
        assert sorted(p.name for p in folder.checkpoints.iterdir()) == ["step-000005"], names[point]


def test_a_run_killed_while_it_saves_is_resumed(config, whole, tmp_path):
    _, names = whole
    points = [
        names.index("in the middle of optimizer.safetensors"),
        names.index("before .step-000004.writing becomes step-000004"),
        names.index("while removing .step-000002.removing"),
    ]
    kill_and_resume(config, whole, points, tmp_path)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_run_killed_at_any_point_of_its_saves_is_resumed(config, whole, tmp_path):
    points = range(len(whole[1]))
    assert len(points) > 60
    kill_and_resume(config, whole, list(points), tmp_path)
    print(f"{len(points)} points")
