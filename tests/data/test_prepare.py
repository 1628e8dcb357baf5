"""From a file to samples and a summary that says what became of every row."""

import json
from pathlib import Path

import numpy as np
import pytest

from quatrain.data import Completion, Conversation, DataConfig, Renderer, Text, load_examples, prepare, render_prompt
from quatrain.errors import ConfigError, DataError
from tests.data import families as fam
from tests.data.families import assistant, user

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def write(path, *rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def chat(question: str, answer: str) -> dict:
    return {"messages": [user(question), assistant(answer)]}


@pytest.fixture(scope="module")
def chatml():
    return fam.make_tokenizer(fam.CHATML, eos="<|im_end|>")


def test_the_summary_counts_and_shows(tmp_path, chatml):
    rows = [chat("say fox", "fox"), chat("say", " \n"), chat("q", "jumps " * 30), chat("q " * 60, "a")]
    seen = []
    config = DataConfig(path=write(tmp_path / "a.jsonl", *rows, {"messages": []}, {"messages": [user("q")]}))
    prepared = prepare(config, chatml, max_length=40, progress=lambda *where: seen.append(where))
    summary = prepared.summary
    assert (summary.rows, summary.samples, summary.cut) == (6, 2, 1)
    assert summary.dropped == {"no reply in it": 2, "an empty reply": 1, "no learned token within 40 tokens": 1}
    assert summary.tokens == prepared.samples.num_tokens == sum(len(sample) for sample in prepared.samples)
    assert summary.supervised_tokens == sum(int(sample.supervised.sum()) for sample in prepared.samples)
    assert summary.lengths[0] == len(prepared.samples[0]) and summary.lengths[100] > 40
    assert summary.packing_fill == summary.tokens / 80
    header = "<|im_start|>user\nsay fox<|im_end|>\n<|im_start|>assistant\n"
    assert summary.example == [(header, False), ("fox<|im_end|>", True), ("\n", False)]
    assert seen == [(6, 0), (6, 6)]
    text = str(summary)
    assert "6 rows → 2 samples" in text and "left out: 2 (no reply in it)" in text
    assert f"{header}⟦fox<|im_end|>⟧" in text


def test_cut_samples_are_the_beginnings_and_long_ones_can_be_dropped(tmp_path, chatml):
    path = write(tmp_path / "a.jsonl", chat("q", "a"), chat("q", "jumps " * 30))
    whole = prepare(DataConfig(path=path), chatml, max_length=1000).samples
    cut = prepare(DataConfig(path=path), chatml, max_length=30).samples
    assert cut[1].input_ids.tolist() == whole[1].input_ids[:30].tolist()
    dropped = prepare(DataConfig(path=path, on_long="drop"), chatml, max_length=30)
    assert len(dropped.samples) == 1 and dropped.summary.dropped == {"longer than 30 tokens": 1}


def test_tokens_that_the_embedding_has_no_row_for_are_counted_and_left_out(tmp_path):
    tokenizer = fam.make_tokenizer(fam.CHATML, eos="<|im_end|>")
    rows = len(tokenizer)
    tokenizer.add_tokens(["<image>"])
    image = "q <image>"
    path = write(tmp_path / "a.jsonl", chat("q", "a"), chat(image, "a"), chat("q", "jumps " * 30 + "<image>"))
    assert len(prepare(DataConfig(path=path), tokenizer, max_length=30).samples) == 3
    kept = prepare(DataConfig(path=path), tokenizer, max_length=30, vocabulary=rows)
    assert kept.summary.dropped == {f"a token beyond the embedding's {rows:,} rows": 1}
    assert kept.summary.cut == 1, "what lies behind the cut doesn't count"
    assert max(sample.input_ids.max() for sample in kept.samples) < rows
    only_bad = DataConfig(path=write(tmp_path / "b.jsonl", chat(image, "a")))
    with pytest.raises(DataError, match=r"no sample is left .*beyond the embedding's"):
        prepare(only_bad, tokenizer, max_length=30, vocabulary=rows)


def test_nothing_left_is_an_error_with_the_reasons(tmp_path, chatml):
    config = DataConfig(path=write(tmp_path / "a.jsonl", chat("q " * 60, "a"), chat("q", "")))
    reasons = r"no sample is left .*1 rows: an empty reply; 1 rows: no learned token within 40 tokens"
    with pytest.raises(DataError, match=reasons):
        prepare(config, chatml, max_length=40)
    with pytest.raises(ConfigError, match="`max_length` must be at least 2"):
        prepare(config, chatml, max_length=1)


def test_a_row_that_the_template_refuses_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl", chat("q", "a"), {"messages": [user("q"), user("q"), assistant("a")]})
    with pytest.raises(DataError, match=r"a.jsonl, line 2, byte \d+: the chat template refuses .*alternate"):
        prepare(DataConfig(path=path), fam.make_tokenizer(fam.GEMMA), max_length=100)


def test_prompt_and_completion_become_a_chat_when_there_is_a_template(tmp_path, chatml):
    path = write(tmp_path / "a.jsonl", {"question": "12 + 7?", "answer": "19"})
    fields = {"prompt": "question", "completion": "answer"}
    as_chat = prepare(DataConfig(path=path, fields=fields), chatml, max_length=100)
    expected = chatml.apply_chat_template([user("12 + 7?"), assistant("19")], tokenize=True, return_dict=False)
    assert as_chat.samples[0].input_ids.tolist() == expected
    plain = prepare(DataConfig(path=path, fields=fields, chat="never"), chatml, max_length=100)
    assert plain.summary.example == [("<s>12 + 7?", False), ("19<|im_end|>", True)]


@pytest.mark.parametrize("sentencepiece", [False, True])
def test_a_base_model_reads_prompt_and_completion_as_text(sentencepiece):
    tokenizer = fam.make_tokenizer(None, sentencepiece=sentencepiece)
    renderer = Renderer(tokenizer)
    example = Completion("how many? ", "the fox")
    sample = renderer.encode([renderer.render(example)])[0]
    assert sample.input_ids.tolist() == [*tokenizer("how many? the fox")["input_ids"], tokenizer.eos_token_id]
    assert tokenizer.decode(sample.input_ids[sample.supervised]) in ("the fox</s>", " the fox</s>")
    example = Completion("how many?", " the fox")
    prompt = renderer.prompt_ids(example)
    assert renderer.encode([renderer.render(example)])[0].input_ids[: len(prompt)].tolist() == prompt


def test_text_is_learned_whole_but_for_its_first_token():
    tokenizer = fam.make_tokenizer(fam.CHATML)
    renderer = Renderer(tokenizer)
    sample = renderer.encode([renderer.render(Text("the quick fox"))])[0]
    assert tokenizer.decode(sample.input_ids) == "<s>the quick fox</s>"
    assert sample.supervised.tolist() == [False] + [True] * (len(sample) - 1)
    assert renderer.prompt_ids(Text("the quick fox")) == []


def test_batches_of_all_kinds_keep_their_order():
    renderer = Renderer(fam.make_tokenizer(fam.CHATML), chat="never")
    kinds = [Text("a"), Conversation((user("b"), assistant("c"))), Completion("d", "e"), Text("f")]
    rendered = [renderer.render(kind) for kind in kinds]
    together = [sample.input_ids.tolist() for sample in renderer.encode(rendered)]
    assert together == [renderer.encode([one])[0].input_ids.tolist() for one in rendered]


def test_a_tokenizer_that_adds_its_own_eos_gets_no_second():
    from tokenizers import processors

    tokenizer = fam.make_tokenizer(None)
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=special
    )
    renderer = Renderer(tokenizer)
    example = Completion("how", " many")
    sample = renderer.encode([renderer.render(example)])[0]
    assert tokenizer.decode(sample.input_ids) == "<s>how many</s>"
    assert tokenizer.decode(sample.input_ids[sample.supervised]) == " many</s>"
    assert tokenizer.decode(renderer.prompt_ids(example)) == "<s>how"


def test_what_is_worth_a_note(tmp_path):
    path = write(tmp_path / "a.jsonl", chat("q", "a"))
    (note,) = prepare(DataConfig(path=path), fam.make_tokenizer(None), max_length=100).summary.notes
    assert "no chat template" in note
    thinking = fam.make_tokenizer(fam.THINKING_PROMPT)
    (note,) = prepare(DataConfig(path=path), thinking, max_length=100).summary.notes
    assert "in 1 of the first 1 samples the prompt that generation will use doesn't begin the sample" in note


def test_only_fast_tokenizers():
    class Slow:
        is_fast = False

    with pytest.raises(DataError, match=r"The tokenizer \(Slow\) must be a fast one"):
        Renderer(Slow())  # pyright: ignore[reportArgumentType]


def test_gsm8k(tokenizer):
    if not SHARED.is_dir():
        pytest.skip("needs shared/data beside the repository")
    fields = {"prompt": "question", "completion": "answer"}
    config = DataConfig(path=str(SHARED / "gsm8k" / "train.jsonl"), fields=fields, max_rows=2000)
    prepared = prepare(config, tokenizer, max_length=2048)
    assert prepared.summary.rows == prepared.summary.samples == 2000
    # This tokenizer needs twice the tokens of a real one, so only some four samples share a row.
    assert prepared.summary.packing_fill > 0.96
    assert prepared.summary.notes == []


@pytest.mark.parametrize("name", ["en_100_tree.jsonl", "en_100_message.jsonl"])
def test_oasst(name):
    if not SHARED.is_dir():
        pytest.skip("needs shared/data beside the repository")
    path = str(SHARED / "oasst" / name)
    best = [example for _, example in load_examples(DataConfig(path=path))]
    everything = [example for _, example in load_examples(DataConfig(path=path, paths="all"))]
    assert len(best) == 100
    assert set(map(repr, best)) <= set(map(repr, everything)) and len(everything) == 564
    for example in everything:
        assert isinstance(example, Conversation)
        roles = [message["role"] for message in example.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


@pytest.fixture(scope="module")
def smollm2():
    import os

    from transformers import AutoTokenizer

    path = Path(os.environ.get("QUATRAIN_SMOLLM2", ""))
    if not path.is_file():
        pytest.skip("needs QUATRAIN_SMOLLM2, the path of the model's GGUF file")
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@pytest.mark.smollm2
def test_smollm2s_own_tokenizer(smollm2):
    messages = [user("12 + 7?"), assistant("19"), user("19? Why 19?"), assistant("über 🦊\n\n  end")]
    renderer = Renderer(smollm2)
    sample = renderer.encode([renderer.render(Conversation(tuple(messages)))])[0]
    assert sample.input_ids.tolist() == smollm2.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert smollm2.decode(sample.input_ids[sample.supervised]) == "19<|im_end|>über 🦊\n\n  end<|im_end|>"
    prompt = render_prompt(messages[:1], smollm2)
    assert sample.input_ids[: len(prompt)].tolist() == prompt
    assert np.flatnonzero(sample.supervised)[0] == len(prompt)


@pytest.mark.smollm2
def test_smollm2_on_gsm8k(smollm2):
    if not SHARED.is_dir():
        pytest.skip("needs shared/data beside the repository")
    fields = {"prompt": "question", "completion": "answer"}
    config = DataConfig(path=str(SHARED / "gsm8k" / "test.jsonl"), fields=fields)
    prepared = prepare(config, smollm2, max_length=2048)
    assert prepared.summary.samples == 1319 and prepared.summary.notes == []
    assert prepared.summary.packing_fill > 0.97
