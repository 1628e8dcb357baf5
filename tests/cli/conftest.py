"""The command in this process, and a run that was made with it."""

import io
import json
import sys

import pytest

from quatrain import cli


@pytest.fixture
def quatrain(capsys, monkeypatch):
    """Runs `quatrain ARGUMENTS...`; gives (exit code, output, errors)."""

    def run(*arguments: object, stdin: str | io.TextIOBase = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["quatrain", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin) if isinstance(stdin, str) else stdin)
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "rows.jsonl"
    lines = [{"prompt": f"{a} + 1?", "completion": f"{a + 1}"} for a in range(8)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def run_folder(tiny_llama_dir, rows, tmp_path_factory):
    """A finished run, made through the command."""
    folder = tmp_path_factory.mktemp("cli-run") / "run"
    settings = {
        "model": tiny_llama_dir,
        "data": rows,
        "output_dir": folder,
        "max_steps": 2,
        "lora.r": 2,
        "device": "cpu",
        "compute_dtype": "float32",
    }
    argv, sys.argv = sys.argv, ["quatrain", "train", "--quiet", *(f"{k}={v}" for k, v in settings.items())]
    try:
        with pytest.raises(SystemExit) as end:
            cli.main()
    finally:
        sys.argv = argv
    assert not end.value.code
    return folder
