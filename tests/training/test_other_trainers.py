"""A model from `load_model` with an adapter is an ordinary model to transformers' Trainer and TRL's SFTTrainer."""

import json

import pytest
import torch

from quatrain.adapters import LoraConfig, adapter_parameters, attach_lora
from quatrain.models import load_model


@pytest.fixture
def adapted(tiny_llama_dir):
    model, tokenizer = load_model(tiny_llama_dir, compute_dtype="float32", device="cpu")
    return attach_lora(model, LoraConfig(r=4)), tokenizer


def moved(model, train) -> bool:
    """Did training change the adapter and leave the 4-bit base alone?"""
    base = {name: buffer.clone() for name, buffer in model.named_buffers() if "codes" in name}
    before = {name: p.detach().clone() for name, p in adapter_parameters(model).items()}
    train()
    assert base and all(torch.equal(dict(model.named_buffers())[name], codes) for name, codes in base.items())
    return all(not torch.equal(before[name], p) for name, p in adapter_parameters(model).items())


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_transformers_trainer(adapted, tmp_path):
    from transformers import Trainer, TrainingArguments

    model, _ = adapted
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(3, 500, (8, 12)).tolist()]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=4, report_to=[], use_cpu=True,
        save_strategy="no", learning_rate=1e-2, disable_tqdm=True,
    )  # fmt: skip
    assert moved(model, Trainer(model=model, args=arguments, train_dataset=rows).train)  # pyright: ignore


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_trl_sft_trainer(adapted, tmp_path):
    from datasets import load_dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    model, tokenizer = adapted
    file = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "how many?"}, {"role": "assistant", "content": "seven"}]
    file.write_text((json.dumps({"messages": turns}) + "\n") * 8)
    rows = load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    arguments = SFTConfig(
        output_dir=str(tmp_path / "out"), max_steps=4, per_device_train_batch_size=4, report_to=[], use_cpu=True,
        bf16=False, save_strategy="no", learning_rate=1e-2, disable_tqdm=True, max_length=32,
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    assert moved(model, trainer.train)


def test_generate(adapted):
    model, _ = adapted
    ids = torch.randint(3, 500, (2, 5))
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    assert out.shape[1] <= 9 and torch.equal(out[:, :5], ids)
