"""Questions for evaluation come from the same rows, rendered as in training."""

import json

import pytest

from quatrain.data import DataConfig, prepare, read_questions
from quatrain.errors import DataError
from tests.data import families as fam
from tests.data.families import assistant, user


def test_a_question_ends_where_the_last_reply_begins(tmp_path):
    tokenizer = fam.make_tokenizer(fam.CHATML)
    rows = [
        {"messages": [user("12?"), assistant("yes"), user("+ 7?"), assistant("19")]},
        {"messages": [user("fox?"), assistant("dog")]},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(path=str(path))
    questions = read_questions(config, tokenizer)
    assert [(q.text, q.reference) for q in questions] == [("+ 7?", "19"), ("fox?", "dog")]
    samples = prepare(config, tokenizer, max_length=200).samples
    for question, sample in zip(questions, samples, strict=True):
        asked = len(question.prompt_ids)
        assert sample.input_ids[:asked].tolist() == question.prompt_ids
        assert tokenizer.decode(sample.input_ids[asked:]) == f"{question.reference}<|im_end|>\n"


def test_completions_ask_their_prompt_and_text_asks_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "how many?", "completion": " 12"}\n')
    tokenizer = fam.make_tokenizer(None)
    (question,) = read_questions(DataConfig(path=str(path)), tokenizer)
    assert (question.text, question.reference) == ("how many?", " 12")
    assert question.prompt_ids == tokenizer("how many?")["input_ids"]
    path.write_text('{"text": "the fox"}\n')
    with pytest.raises(DataError, match="line 1, byte 0: a question needs a prompt and a reply"):
        read_questions(DataConfig(path=str(path)), tokenizer)
