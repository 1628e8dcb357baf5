"""Several adapters at the prompt: switched between, side by side, and one after the other in `generate`."""

import json

import pytest

from quatrain.adapters import AdapterSet
from tests.cli.test_adapters import trained


@pytest.fixture(scope="module")
def code(tiny_llama_dir, tmp_path_factory):
    return trained(tiny_llama_dir, tmp_path_factory.mktemp("adapters") / "code")


@pytest.fixture
def asked(monkeypatch):
    """Who was asked what, answered by a count instead of a model."""
    seen = []

    def stream_reply(model, tokenizer, history, on_text, **settings):
        from quatrain.adapters import adapter_layers

        ranks = {layer.r for layer in adapter_layers(model).values()}
        seen.append((ranks, [message["content"] for message in history]))
        on_text(f"answer {len(seen)}")

    monkeypatch.setattr("quatrain.evaluation.stream_reply", stream_reply)
    return seen


def test_chat_switches_and_the_conversation_goes_on(quatrain, run_folder, code, asked):
    lines = "one\n/adapter code\ntwo\n/adapter base\nthree\n/adapter nobody\n/reset\n/system short\nfour\n"
    status, out, err = quatrain("chat", run_folder, "--adapter", code, stdin=lines)
    assert status == 0 and not err
    assert [ranks for ranks, _ in asked] == [{4}, {4}, set(), set()]
    assert asked[2][1] == ["one", "answer 1", "two", "answer 2", "three"] and asked[3][1] == ["short", "four"]
    assert "there are base, code, run; base answers" in out


def test_chat_shows_everybody_side_by_side(quatrain, run_folder, code, asked):
    lines = "one\n/compare\ntwo\n/compare\nthree\n"
    status, out, err = quatrain("chat", run_folder, "--adapter", f"poet={code}", stdin=lines)
    assert status == 0 and not err
    assert [ranks for ranks, _ in asked] == [{4}, set(), {4}, {2}, {4}]
    assert all(f"answer {i}" in out for i in (2, 3, 4)) and all(name in out for name in ("base", "poet", "run"))
    assert asked[3][1] == ["one", "answer 1", "two"]
    assert asked[4][1] == ["one", "answer 1", "two", "answer 3", "three"], "each remembers its own answer"


def test_ctrl_c_stops_all_of_them(quatrain, run_folder, monkeypatch):
    asked = []

    def stream_reply(model, tokenizer, history, on_text, **settings):
        asked.append([message["content"] for message in history])
        on_text("half")
        if len(asked) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("quatrain.evaluation.stream_reply", stream_reply)
    status, _, err = quatrain("chat", run_folder, stdin="/compare\none\n\ntwo\n/etc is a folder\n")
    assert status == 0 and not err
    assert asked[:3] == [["one"], ["one", "half", "two"], ["one", "", "two"]]
    assert asked[3][-1] == "/etc is a folder", "only commands are taken for such"


def test_generate_answers_with_each(quatrain, run_folder, code, tmp_path):
    options = ("--max-new-tokens", 2, "--adapter", f"a={code}", "--adapter", f"b={run_folder}")
    status, out, _ = quatrain("generate", run_folder, "hello", "world", *options)
    assert status == 0 and [line.partition(":")[0] for line in out.splitlines() if ":" in line] == ["a", "b", "a", "b"]
    assert quatrain("generate", run_folder, "hello", "world", *options, "--out", tmp_path / "out.jsonl")[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["adapter"]) for row in rows] == [(p, n) for p in ("hello", "world") for n in "ab"]


def test_generate_takes_an_adapter_alone(quatrain, run_folder, code, monkeypatch):
    loaded = []
    load = AdapterSet.load_adapter
    monkeypatch.setattr(AdapterSet, "load_adapter", lambda *a, **k: (loaded.append(a[2]), load(*a, **k))[1])
    status, out, _ = quatrain("generate", run_folder, "hello", "--max-new-tokens", 2, "--adapter", code)
    assert status == 0 and loaded == ["code"] and not out.startswith("code:")


@pytest.mark.parametrize(
    ("given", "words"), [(["a=x", "a=y"], "'a' is taken"), (["base=x"], "'base' is taken"), (["x/n", "y/n"], "'n' is")]
)
def test_names_are_their_own(quatrain, run_folder, given, words):
    options = [part for adapter in given for part in ("--adapter", adapter)]
    status, _, err = quatrain("chat", run_folder, *options)
    assert status == 2 and words in err and err.count("\n") == 1
