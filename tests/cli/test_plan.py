"""`quatrain plan`: from a config.json and from a run's settings, and refused with the least that would do."""

import json

from typer.testing import CliRunner

from quatrain.cli.main import app
from tests.memory.models import LLAMA_8B


def test_a_plan_is_printed_with_its_parts_and_reasons(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    shown = CliRunner().invoke(app, ["plan", str(tmp_path), "--gpu", "rtx4090", "--memory", "20GB", "lora.r=8"])
    assert shown.exit_code == 0, shown.output
    for words in ("of 20.0 GB", "4-bit codes", "peak of a step", "if all blocks kept", "ways that fit"):
        assert words in shown.output


def test_settings_in_a_file_need_no_data(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    (tmp_path / "run.yaml").write_text(f"model: {tmp_path}\nmemory: 1GB\n")
    shown = CliRunner().invoke(app, ["plan", str(tmp_path / "run.yaml"), "--gpu", "h100"])
    assert shown.exit_code == 1 and "doesn't fit into 1.0 GB" in shown.output
