"""The commands as a person runs them, in this process: outputs, errors, exit codes."""

import io
import json
from pathlib import Path

import pytest

from tests.exports.conftest import make_run


def test_help_names_every_command(quatrain):
    code, out, _ = quatrain("--help")
    assert code == 0
    named = (
        "train",
        "chat",
        "generate",
        "eval",
        "compare",
        "judge",
        "merge",
        "export",
        "quantize",
        "adapters",
        "report",
        "doctor",
    )
    for command in named:
        assert command in out
        assert quatrain(command, "--help")[0] == 0


def test_train_leaves_what_the_others_need(run_folder):
    assert (run_folder / "adapter" / "adapter_model.safetensors").is_file()
    assert (run_folder / "report.html").is_file()


def test_settings_are_listed(quatrain):
    code, out, _ = quatrain("train", "--settings")
    assert code == 0 and "learning_rate: 0.0002" in out and "lora.r: 16" in out


def test_a_config_error_is_one_line_and_exits_with_2(quatrain):
    code, out, err = quatrain("train", "data=x", "learning_rat=1")
    assert code == 2
    assert err.startswith("error: there is no setting `learning_rat`") and err.count("\n") == 1
    assert "Traceback" not in out + err


def test_other_errors_exit_with_1(quatrain, tmp_path):
    code, _, err = quatrain("report", tmp_path / "nothing")
    assert code == 1 and err.startswith("error: ") and "Traceback" not in err


def test_debug_shows_the_traceback(quatrain, monkeypatch):
    from quatrain.errors import ConfigError

    with pytest.raises(ConfigError):
        quatrain("--debug", "train", "data=x", "nonsense=1")
    assert quatrain("train", "data=x", "nonsense=1")[0] == 2, "--debug lasts for one call"
    monkeypatch.setattr("quatrain.device.describe", raising(RuntimeError("out of luck")))
    with pytest.raises(RuntimeError, match="out of luck"):
        quatrain("--debug", "doctor")


def raising(error: BaseException):
    def broken(*arguments: object, **settings: object) -> None:
        raise error

    return broken


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "error: OSError: [Errno 28] No space left on device (run"),
        (RuntimeError("CUDA error:\n  out of memory"), "error: RuntimeError: CUDA error: out of memory (run"),
    ],
)
def test_what_the_machine_does_wrong_is_one_line(quatrain, monkeypatch, error, said):
    monkeypatch.setattr("quatrain.device.describe", raising(error))
    code, out, err = quatrain("doctor")
    assert code == 1 and not out
    assert err.startswith(said) and "--debug" in err and err.count("\n") == 1


def test_an_interrupt_is_answered(quatrain, monkeypatch):
    monkeypatch.setattr("quatrain.device.describe", raising(KeyboardInterrupt()))
    assert quatrain("doctor") == (130, "", "interrupted; nothing was saved\n")


@pytest.mark.parametrize("arguments", [["train", "--no-such-option"], ["no-such-command"], ["eval", "model"], []])
def test_wrong_usage_exits_with_2(quatrain, arguments):
    assert quatrain(*arguments)[0] == 2


def test_an_interrupted_training_says_how_to_go_on(quatrain, monkeypatch):
    from quatrain.runlog import CheckpointSaved, RunFolder
    from quatrain.training import RunResult

    given = ("data=my rows.jsonl", "model=m")
    resume_hint = "go on with: quatrain train --resume 'data=my rows.jsonl' model=m\n"

    def stopped(*arguments, sinks, **settings):
        return RunResult(RunFolder(Path("x")), 7, "interrupted")

    monkeypatch.setattr("quatrain.training.train", stopped)
    assert quatrain("train", *given) == (130, f"interrupted after step 7; {resume_hint}", "")

    def stopped_twice(*arguments, sinks, **settings):
        for sink in sinks:
            sink(CheckpointSaved(step=5, path="p", size=1, seconds=1.0))
        raise KeyboardInterrupt

    monkeypatch.setattr("quatrain.training.train", stopped_twice)
    assert quatrain("train", *given) == (130, f"interrupted at once, step 5 is saved; {resume_hint}", "")
    monkeypatch.setattr("quatrain.training.train", raising(KeyboardInterrupt()))
    assert quatrain("train", *given) == (130, "", "interrupted; nothing was saved\n")
    code, out, _ = quatrain("train", "--resume", *given)
    assert code == 130 and out.endswith(resume_hint)


def test_a_second_run_in_the_same_folder_is_refused(quatrain, run_folder, rows, tiny_llama_dir):
    code, _, err = quatrain("train", f"model={tiny_llama_dir}", f"data={rows}", f"output_dir={run_folder}")
    assert code == 1 and "already holds a run" in err


def test_generate_answers_arguments_and_lines(quatrain, run_folder, tmp_path):
    out_file = tmp_path / "answers.jsonl"
    assert quatrain("generate", run_folder, "1 + 1?", "--max-new-tokens", 3)[0] == 0
    code, _, _ = quatrain("generate", run_folder, "--max-new-tokens", 3, "--out", out_file, stdin="one\n\ntwo\n")
    assert code == 0
    answers = [json.loads(line) for line in out_file.read_text().splitlines()]
    assert [a["prompt"] for a in answers] == ["one", "two"] and all(set(a) == {"prompt", "completion"} for a in answers)


def test_chat_answers_lines_from_a_pipe(quatrain, run_folder):
    code, _, err = quatrain(
        "chat", run_folder, "--max-new-tokens", 3, stdin="hello\n/reset\n/system be brief\nagain\n/exit\n"
    )
    assert code == 0 and not err


def test_ctrl_c_stops_a_reply_and_keeps_what_was_said(quatrain, run_folder, monkeypatch):
    histories = []

    def stream_reply(model, tokenizer, history, on_text, **settings):
        histories.append(list(history))
        on_text("half a")
        if len(histories) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("quatrain.evaluation.stream_reply", stream_reply)
    code, out, err = quatrain("chat", run_folder, stdin="one\ntwo\n")
    assert code == 0 and not err and out.startswith("half a …\n")
    said = [(message["role"], message["content"]) for message in histories[1]]
    assert said == [("user", "one"), ("assistant", "half a"), ("user", "two")]


def test_ctrl_c_at_the_prompt_leaves(quatrain, run_folder, monkeypatch):
    monkeypatch.setattr("rich.console.Console.input", raising(KeyboardInterrupt()))
    assert quatrain("chat", run_folder) == (0, "", "")


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
@pytest.mark.parametrize("command", ["chat", "generate"])
def test_input_that_is_not_utf_8_is_an_error_of_one_line(quatrain, run_folder, command, errors):
    stdin = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8", errors=errors)
    code, _, err = quatrain(command, run_folder, stdin=stdin)
    assert code == 1 and err.startswith("error: the input must be UTF-8 text") and err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["generate", "m", "hi"], ["compare", "a", "b"]])
def test_an_output_without_a_folder_is_refused_before_any_work(quatrain, tmp_path, arguments):
    code, _, err = quatrain(*arguments, "--out", tmp_path / "nowhere" / "x.json")
    assert code == 2 and "there is no folder" in err


def test_quantize_writes_a_folder_that_loads(quatrain, tiny_llama_dir, rows, tmp_path):
    code, out, _ = quatrain("quantize", tiny_llama_dir, tmp_path / "small", "--device", "cpu")
    assert code == 0 and "in 4 bits (nf4)" in out and "not quantized" in out
    assert quatrain("eval", tmp_path / "small", "--data", rows, "--out", tmp_path / "out")[0] == 0


def test_quantize_can_take_the_embedding_too(quatrain, tiny_llama_dir, tmp_path):
    sizes = []
    for name, options in (("a", []), ("b", ["--quantize-embeddings", "--quantize-head"])):
        assert quatrain("quantize", tiny_llama_dir, tmp_path / name, "--device", "cpu", *options)[0] == 0
        sizes.append(sum(file.stat().st_size for file in (tmp_path / name).glob("*.safetensors")))
    assert sizes[1] < sizes[0] - 512 * 64


def test_quantize_refuses_an_occupied_folder_before_it_works(quatrain, tiny_llama_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("quatrain.models.load_model", raising(AssertionError("loaded")))
    (tmp_path / "file").touch()
    for occupied in (tiny_llama_dir, tmp_path / "file"):
        code, _, err = quatrain("quantize", tiny_llama_dir, occupied)
        assert code == 2 and "must be a folder without weights" in err


@pytest.fixture(scope="module")
def trained_folder(tiny_llama_dir, rows, tokenizer, tmp_path_factory):
    """A run whose adapter does something."""
    return make_run(tmp_path_factory.mktemp("cli-trained") / "run", tiny_llama_dir, rows, tokenizer)


def test_merge_and_export_say_what_they_measured(quatrain, trained_folder, tmp_path):
    code, out, _ = quatrain("merge", trained_folder, tmp_path / "merged", "--dtype", "float16")
    assert code == 0 and "safetensors (float16)" in out and "KL" in out and "other base" in out
    code, out, _ = quatrain("export", trained_folder, tmp_path / "gguf", "--to", "gguf", "--gguf-type", "q8_0")
    assert code == 0 and "gguf (q8_0)" in out and (tmp_path / "gguf" / "model.gguf").is_file()
    code, out, _ = quatrain("export", trained_folder, tmp_path / "nf4", "--to", "bnb-4bit", "--no-measure")
    assert code == 0 and "survived" in out


def test_help_says_the_bounds_that_hold(quatrain):
    from quatrain.exports.exporting import TOLERANCE
    from quatrain.exports.four_bit import LEAST_SURVIVAL

    text = " ".join(quatrain("export", "--help")[1].replace("│", " ").split())
    assert f"Default: {TOLERANCE['dequantized']}, or {TOLERANCE['original']} onto the original base" in text
    assert f"[default: {LEAST_SURVIVAL}]" in text


def test_wrong_exports_are_one_line(quatrain, trained_folder, tmp_path):
    for to, code in (("onnx", 2), ("bnb-4bit", 1)):
        found, _, err = quatrain("export", trained_folder, tmp_path / "out", "--to", to, "--least-survival", "2")
        assert found == code and err.splitlines()[-1].startswith("error: ") and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_report_makes_a_page_of_results_and_refuses_other_files(quatrain, tmp_path):
    figures = {"mean": 0.5, "low": 0.4, "high": 0.6}
    task = {"task": "quiz", "asked": "a1", "questions": 6, "metrics": {"accuracy": figures}}
    (tmp_path / "results.json").write_text(json.dumps({"model": "base", "tasks": {"quiz-a1": task}}))
    code, out, _ = quatrain("report", tmp_path)
    assert code == 0 and "results.html" in out and "50.0 (40.0 to 60.0)" in (tmp_path / "results.html").read_text()
    (tmp_path / "other.json").write_text("{}")
    code, _, err = quatrain("report", tmp_path / "other.json")
    assert code == 1 and "a page is made from" in err and "Traceback" not in err


def test_report_prints_the_numbers(quatrain, run_folder):
    code, out, _ = quatrain("report", run_folder)
    assert code == 0 and "report.html" in out


def test_doctor(quatrain):
    code, out, _ = quatrain("doctor")
    from quatrain.device import describe

    assert code == int(any(fact.ok is False for fact in describe())) and "torch" in out
