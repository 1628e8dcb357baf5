"""SmolLM2-135M on GSM8K: what four bits cost, what QLoRA gains, and whether it is the same training as the peer's.

Quatrain measures three perplexities on held-out answers: the base in 16 bits, in NF4 with double quantization, and that
after QLoRA. It and bitsandbytes + PEFT train on the same rows in the same order from the same A, with the same schedule
and 8-bit AdamW, and their loss curves are compared step by step. In bfloat16 two correct programs drift apart by
rounding alone, most in the first steps, where AdamW moves each weight by the sign of its gradient; in float32 what
remains is what the programs do differently.

GSM8K isn't part of this repository: GSM8K=folder names one with `train.jsonl` and `test.jsonl`; else the hub is asked.
"""

import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.case import HF, QUATRAIN, Case, Contender, Kind, Play, Row, Rows, Setting
from benchmarks.libraries import hf
from benchmarks.libraries.peft_training import autocast, plain_name
from quatrain.device import compute_dtype

ROWS_A_STEP, HELD_OUT, MAX_LENGTH, LEARNING_RATE, RANK, ALPHA = 4, 200, 512, 5e-4, 16, 32
CURVE = "loss curve"


@dataclass(frozen=True)
class Run:
    """One training run, in which type of products, and whether perplexities are measured around it."""

    steps: int
    schedule: int
    """Steps that the learning rate's schedule is made for."""
    dtype: Literal["auto", "bfloat16", "float32"]
    perplexity: bool


def remark(case: Case, entries: Mapping[str, Any]) -> str:
    """How far apart the two curves are."""
    curves = [entries.get(who.name, {}).get("rows", {}).get(CURVE) for who in (QUATRAIN, HF)]
    if None in curves:
        return ""
    ours, theirs = (curve["losses"] for curve in curves if curve is not None)
    largest = max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))
    last = abs(tail(ours) - tail(theirs)) / tail(theirs)
    return f"{case.title}: the loss of a step differs by at most {largest:.4%}, of the run's last tenth by {last:.4%}."


KIND = Kind(
    title="The same training, and what it gains",
    note=f"SmolLM2-135M on GSM8K, {ROWS_A_STEP} rows a step, r = {RANK}, perplexity of {HELD_OUT} held-out answers. "
    "Rows, their order, the start of the adapter and the schedule are the same for both.",
    shows=("perplexity",),
    remark=remark,
)


def ours(run: Run, setting: Setting) -> Rows:
    from quatrain.adapters import LoraConfig, adapter_parameters, attach_lora
    from quatrain.models import load_model

    folder, device = setting.models / "smollm2", str(setting.device)
    rows: Rows = {}
    model, tokenizer = load_model(folder, compute_dtype=run.dtype, device=device)
    held_out = batches_of("test", HELD_OUT, tokenizer) if run.perplexity else []
    if run.perplexity:
        plain, _ = load_model(folder, quantization=None, device=device)
        rows["16-bit base"] = _perplexity(plain, held_out)
        del plain
        rows["NF4 + double quantization"] = _perplexity(model, held_out)
    attach_lora(model, LoraConfig(r=RANK, lora_alpha=ALPHA))
    adapter = adapter_parameters(model)
    start(adapter)
    batches = batches_of("train", run.steps * ROWS_A_STEP, tokenizer)
    rows[CURVE] = Row(values={"losses": _train_ours(run, model, list(adapter.values()), batches)})
    if run.perplexity:
        rows["after QLoRA"] = _perplexity(model, held_out)
    return rows


def _train_ours(run: Run, model: Any, parameters: list[Any], batches: Sequence[Any]) -> list[float]:
    from quatrain.models.objective import Objective
    from quatrain.optim import AdamW
    from quatrain.training.step import train_step

    optimizer = AdamW(parameters, lr=LEARNING_RATE)
    objective = Objective(model, packing=False)
    model.train()

    def step(batch: Any) -> float:
        return train_step(objective, parameters, optimizer, [batch], max_grad_norm=1.0).loss

    return curve_of(run, step, optimizer, batches)


def theirs(run: Run, setting: Setting) -> Rows:
    from bitsandbytes.optim.adamw import AdamW8bit

    from quatrain.models.tokenizers import load_tokenizer

    folder = setting.models / "smollm2"
    dtype = compute_dtype(setting.device, run.dtype)
    model = hf.load(folder, setting.device, dtype)
    model = hf.adapt(model, r=RANK, alpha=ALPHA, dropout=0.0, checkpointing=False)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    start({plain_name(name): parameter for name, parameter in named.items()})
    parameters = list(named.values())
    optimizer = AdamW8bit(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    model.train()

    def step(batch: Any) -> float:
        ids, targets = batch.input_ids.to(setting.device), batch.targets.to(setting.device)
        labels = torch.full_like(ids, -100)
        labels[:, 1:] = targets[:, :-1]
        with autocast(setting.device, dtype):
            loss = model(input_ids=ids, attention_mask=batch.attention_mask.to(setting.device), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    batches = batches_of("train", run.steps * ROWS_A_STEP, load_tokenizer(folder))
    return {CURVE: Row(values={"losses": curve_of(run, step, optimizer, batches)})}


def start(adapter: Mapping[str, Tensor]) -> None:
    """Writes the same start into anyone's adapter: a random A that depends on its name alone, B = 0."""
    for name, tensor in adapter.items():
        if name.endswith("lora_A"):
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            bound = tensor.shape[1] ** -0.5
            tensor.data.copy_(torch.empty(tensor.shape).uniform_(-bound, bound, generator=generator))
        else:
            tensor.data.zero_()


def batches_of(split: str, count: int, tokenizer: Any) -> list[Any]:
    """Padded batches: the layout that the peer trains on as well."""
    from quatrain.data import DataConfig, Loader, prepare

    source: dict[str, Any] = {"path": "openai/gsm8k", "subset": "main", "split": split}
    if folder := os.environ.get("GSM8K"):
        source = {"path": str(Path(folder) / f"{split}.jsonl")}
    rows = DataConfig(**source, fields={"prompt": "question", "completion": "answer"}, max_rows=count)
    samples = prepare(rows, tokenizer, max_length=MAX_LENGTH).samples
    return list(Loader(samples, max_length=MAX_LENGTH, batch_size=ROWS_A_STEP, packing=False).epoch(0))


def _perplexity(model: Any, batches: Sequence[Any]) -> Row:
    from quatrain.evaluation import evaluate_loss
    from quatrain.models.objective import Objective

    return Row(values={"perplexity": evaluate_loss(Objective(model, packing=False), batches).perplexity})


def curve_of(
    run: Run, step: Callable[[Any], float], optimizer: torch.optim.Optimizer, batches: Sequence[Any]
) -> list[float]:
    from quatrain.optim import lr_multiplier

    losses = []
    for number, batch in enumerate(batches):
        factor = lr_multiplier("cosine", number, warmup_steps=run.schedule // 20, total_steps=run.schedule)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * factor
        losses.append(step(batch))
        if (number + 1) % 20 == 0:
            print(f"step {number + 1}, loss {tail(losses):.4f}", flush=True)
    return losses


def tail(losses: Sequence[float]) -> float:
    """Mean of the last tenth of the run, at least one step."""
    last = losses[-max(1, math.ceil(len(losses) / 10)) :]
    return sum(last) / len(last)


def _case(name: str, title: str, run: Run, device: Literal["cpu", "cuda"], environment: dict[str, str]) -> Case:
    plays: dict[Contender, Play] = {HF: Play(partial(theirs, run)), QUATRAIN: Play(partial(ours, run))}
    return Case(
        name=name,
        kind=KIND,
        title=title,
        contenders=plays,
        device=device,
        options=asdict(run),
        models=("smollm2",),
        limit_s=3600 if device == "cpu" else 300,
        environment=environment,
    )


_CPU = {"OMP_NUM_THREADS": "2"}
CASES = (
    _case("gsm8k", "60 steps, two CPU cores", Run(60, 60, "auto", True), "cpu", _CPU),
    _case("gsm8k_float32", "The first 12 of these steps in float32", Run(12, 60, "float32", False), "cpu", _CPU),
    _case("gsm8k_gpu", "200 steps, GPU", Run(200, 200, "auto", True), "cuda", {}),
)
