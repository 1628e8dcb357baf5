"""Tokenizers: a padding token without a new row, and no token without a row."""

import logging
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from quatrain.errors import ModelError
from quatrain.models import load_model, load_tokenizer
from quatrain.models.tokenizers import check_vocabulary
from tests.conftest import make_tokenizer
from tests.models.families import config_of


@pytest.mark.parametrize(("changes", "pads"), [({}, "<|endoftext|>"), ({"pad_token": None}, "<|im_end|>")])
def test_padding(tmp_path: Path, changes: dict, pads: str):
    tokenizer = make_tokenizer()
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.pad_token == pads
    assert len(loaded) == len(tokenizer)


def test_the_unknown_token_pads_before_the_end_token(tmp_path: Path):
    tokenizer = make_tokenizer()
    tokenizer.pad_token, tokenizer.unk_token = None, "<|endoftext|>"
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token == "<|endoftext|>"


def test_nothing_to_pad_with(tmp_path: Path):
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="padding, unknown or end token"):
        load_tokenizer(tmp_path)


def test_a_folder_without_one(tmp_path: Path):
    with pytest.raises(ModelError, match="must have a tokenizer"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_of_another_model(tmp_path: Path):
    AutoModelForCausalLM.from_config(config_of("qwen2")).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="which has 160"):
        load_model(tmp_path, device="cpu")


def test_added_tokens_beyond_the_last_row_are_noted(caplog):
    tokenizer = make_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    with caplog.at_level(logging.WARNING):
        check_vocabulary(tokenizer, rows)
    assert "<image>" in caplog.text
