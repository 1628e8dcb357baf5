"""Fixtures that several rooms need: a small tokenizer with a chat template and a small random Llama on disk."""

import os
import pkgutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Without a GPU the Triton kernels are tested in Triton's interpreter, which has to be chosen before triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Small tensors gain nothing from threads, and idle ones that spin take the other cores from tests beside this one.
torch.set_num_threads(1)


def check_annotations(package: str) -> None:
    """Import ``package`` and the packages in it with the shapes and types of their annotations checked at every call.

    Kernel files are imported on first use, after the hook is gone: triton compiles a function's source, not a wrapper.
    """
    with install_import_hook(package, "beartype.beartype"):
        for room in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
            import_module(room.name)


if find_spec("beartype"):
    check_annotations("quatrain.ops")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device: `make test-gpu` on a machine with one"))


def make_tokenizer(chat_template: str | None = CHATML):
    """A byte-level BPE tokenizer of about 500 tokens, trained on a few sentences, with ChatML's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = ["the quick brown fox jumps over the lazy dog", "user assistant system", "how many apples are there? 12 + 7"]
    core.train_from_iterator(text * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", bos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    """A folder with a random Llama (2 blocks, hidden 64, tied head) in several safetensors shards, and a tokenizer."""
    from tests.llamas import tiny_llama

    folder = tmp_path_factory.mktemp("tiny-llama")
    tiny_llama().save_pretrained(folder, max_shard_size="100KB")
    tokenizer.save_pretrained(folder)
    return folder
