"""What comes out of `load_model` is an ordinary Hugging Face model: it generates, and it trains in Trainer and TRL."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainingArguments

from quatrain.errors import ModelError
from quatrain.models import body, head, load_model
from quatrain.quantization import QuantizedLinear


@pytest.fixture
def loaded(tiny_llama_dir: Path):
    return load_model(tiny_llama_dir, compute_dtype="float32", device="cpu")


class Beside(nn.Module):
    """The least that is trainable: a rank-1 path beside a linear."""

    def __init__(self, base: QuantizedLinear):
        super().__init__()
        self.base_layer = base
        self.a = nn.Parameter(torch.randn(1, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + x @ self.a.T @ self.b.T


def adapt(model: Any) -> list[nn.Parameter]:
    for block in model.model.layers:
        block.mlp.up_proj = Beside(block.mlp.up_proj)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def test_generate(loaded):
    model, tokenizer = loaded
    ids = tokenizer("the quick brown fox", return_tensors="pt")
    cached = model.generate(**ids, max_new_tokens=6, do_sample=False)
    fresh = model.generate(**ids, max_new_tokens=6, do_sample=False, use_cache=False)
    assert torch.equal(cached, fresh)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_trainer(loaded, tmp_path: Path, checkpointing: bool):
    model, tokenizer = loaded
    trainable = adapt(model)
    before = [parameter.detach().clone() for parameter in trainable]
    ids = tokenizer("how many apples are there?")["input_ids"]
    rows = [{"input_ids": ids, "labels": ids}] * 4
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, learning_rate=0.1, report_to=[], use_cpu=True, save_strategy="no",
        gradient_checkpointing=checkpointing, disable_tqdm=True,
    )  # fmt: skip
    result = Trainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows)).train()
    assert result.training_loss > 0
    assert all(not torch.equal(old, new) for old, new in zip(before[1::2], trainable[1::2], strict=True))


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_trl(loaded, tmp_path: Path):
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    model, tokenizer = loaded
    adapt(model)
    rows = Dataset.from_list([{"prompt": "how many apples?", "completion": " 19"}] * 4)
    arguments = SFTConfig(
        output_dir=str(tmp_path), max_steps=2, report_to=[], use_cpu=True, bf16=False, save_strategy="no",
        disable_tqdm=True, max_length=32,
    )  # fmt: skip
    result = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer).train()
    assert result.training_loss > 0


def test_parts(loaded):
    model, _ = loaded
    assert body(model) is model.model
    assert head(model) is model.lm_head
    with pytest.raises(ModelError, match="body from its head"):
        body(model.model)
    with pytest.raises(ModelError, match="no output embeddings"):
        head(nn.Linear(2, 2))


def test_moving_it_keeps_the_weights(loaded):
    model, _ = loaded
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        expected = model(ids).logits
        half = model.to(torch.bfloat16)(ids).logits
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), expected, atol=0.02, rtol=0.1)
