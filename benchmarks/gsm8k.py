"""SmolLM2-135M on GSM8K: what four bits cost, what QLoRA gains, and whether it is the same training as the peer's.

Three perplexities on held-out answers: the base in 16 bits, in NF4 with double quantization, and that after QLoRA. Then
the same training once more through bitsandbytes + PEFT + transformers: same rows in the same order, same start of every
A, same schedule, 8-bit AdamW. The two loss curves are compared step by step.

GSM8K isn't part of this repository: GSM8K=folder names one with `train.jsonl` and `test.jsonl`; else the hub is asked.
"""

import math
import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.peer import autocast, load_peer
from benchmarks.smollm2 import folder_16bit
from quatrain.adapters import LoraConfig, adapter_parameters, attach_lora
from quatrain.data import DataConfig, Loader, MicroBatch, prepare
from quatrain.evaluation import evaluate_loss
from quatrain.models import load_model
from quatrain.models.objective import Objective
from quatrain.optim import AdamW, lr_multiplier
from quatrain.training.step import train_step

STEPS, ROWS_A_STEP, HELD_OUT, MAX_LENGTH, LEARNING_RATE, RANK, ALPHA = 60, 4, 200, 512, 5e-4, 16, 32


def run() -> dict:
    """Perplexities and both loss curves."""
    folder = folder_16bit()
    plain, tokenizer = load_model(folder, quantization=None)
    held_out = list(batches_of(rows_of("test", HELD_OUT), tokenizer))
    perplexity = {"16-bit base": _perplexity(plain, held_out)}
    del plain
    model, _ = load_model(folder)
    perplexity["NF4 + double quantization"] = _perplexity(model, held_out)
    batches = list(batches_of(rows_of("train", STEPS * ROWS_A_STEP), tokenizer))
    start = adapt(model)
    ours = train_ours(model, batches)
    perplexity["after QLoRA"] = _perplexity(model, held_out)
    dtype = model.dtype
    del model
    theirs = train_theirs(folder, batches, start, dtype)
    return {
        "case": f"SmolLM2-135M, GSM8K, {STEPS} steps of {ROWS_A_STEP} rows, r = {RANK}, {HELD_OUT} held-out rows",
        "perplexity": perplexity,
        **compared(ours, theirs),
    }


def compared(ours: list[float], theirs: list[float]) -> dict:
    """Both curves and how far they are apart."""
    return {
        "loss_quatrain": ours,
        "loss_peer": theirs,
        "largest_relative_difference": max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True)),
        "final_relative_difference": abs(_tail(ours) - _tail(theirs)) / _tail(theirs),
    }


def adapt(model: Any) -> dict[str, torch.Tensor]:
    """Attach the adapter; what it starts from, by name, for the peer to start from too."""
    attach_lora(model, LoraConfig(r=RANK, lora_alpha=ALPHA))
    return {name: p.detach().clone() for name, p in adapter_parameters(model).items()}


def rows_of(split: str, count: int) -> DataConfig:
    fields = {"prompt": "question", "completion": "answer"}
    if folder := os.environ.get("GSM8K"):
        return DataConfig(path=str(Path(folder) / f"{split}.jsonl"), fields=fields, max_rows=count)
    return DataConfig(path="openai/gsm8k", subset="main", split=split, fields=fields, max_rows=count)


def batches_of(rows: DataConfig, tokenizer: Any):
    """Padded batches: the layout that the peer trains on as well."""
    samples = prepare(rows, tokenizer, max_length=MAX_LENGTH).samples
    return Loader(samples, max_length=MAX_LENGTH, batch_size=ROWS_A_STEP, packing=False).epoch(0)


def _perplexity(model: Any, batches: list[MicroBatch]) -> float:
    value = evaluate_loss(Objective(model, packing=False), batches).perplexity
    print(f"  perplexity {value:.4f}", flush=True)
    return value


def _learning_rate(step: int) -> float:
    return LEARNING_RATE * lr_multiplier("cosine", step, warmup_steps=STEPS // 20, total_steps=STEPS)


def train_ours(model: Any, batches: list[MicroBatch]) -> list[float]:
    parameters = list(adapter_parameters(model).values())
    optimizer = AdamW(parameters, lr=LEARNING_RATE)
    objective = Objective(model, packing=False)
    losses = []
    model.train()
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = _learning_rate(step)
        losses.append(train_step(objective, parameters, optimizer, [batch], max_grad_norm=1.0).loss)
        _say("Quatrain", step, losses)
    return losses


def train_theirs(folder: Path, batches: list[MicroBatch], start: dict[str, torch.Tensor], dtype: torch.dtype):
    from bitsandbytes.optim.adamw import AdamW8bit

    model = load_peer(folder, r=RANK, lora_alpha=ALPHA, checkpointing=False, dtype=dtype)
    parameters = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = name.removeprefix("base_model.model.").replace(".default.weight", "")
            parameter.data.copy_(start[key])
            parameters.append(parameter)
    assert len(parameters) == len(start), "the peer adapts other layers"
    optimizer = AdamW8bit(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    losses = []
    model.train()
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = _learning_rate(step)
        labels = torch.full_like(batch.input_ids, -100)
        labels[:, 1:] = batch.targets[:, :-1]
        with autocast(batch.input_ids.device, dtype):
            loss = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        _say("the peer", step, losses)
    return losses


def _say(who: str, step: int, losses: list[float]) -> None:
    if (step + 1) % 20 == 0:
        print(f"  {who}: step {step + 1}, loss {_tail(losses):.4f}", flush=True)


def _tail(losses: list[float]) -> float:
    """Mean of the last tenth of the run, at least one step."""
    last = losses[-max(1, math.ceil(len(losses) / 10)) :]
    return sum(last) / len(last)
