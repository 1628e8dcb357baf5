"""Put a run together from its config: base, adapter, data, optimizer, schedule. Nothing here trains."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from quatrain.adapters import Provenance, adapter_parameters, provenance_of
from quatrain.blocks import POLICIES
from quatrain.data import BadRows, DataConfig, DataSummary, Loader, Prepared, Question, load_examples, prepare
from quatrain.errors import BudgetError, ConfigError, ModelError
from quatrain.evaluation import read_task
from quatrain.memory import Plan
from quatrain.models import load_model
from quatrain.models.new_tokens import add_tokens, with_rows
from quatrain.models.objective import Objective
from quatrain.models.streaming import stream_blocks, streamed_weights
from quatrain.models.tokenizers import has_tokenizer, load_tokenizer
from quatrain.offload import Streaming
from quatrain.optim import AdamW, lr_multiplier, warmup_steps
from quatrain.training.adapting import attach_new, attach_stored
from quatrain.training.carry_out import policies_of, streaming_of
from quatrain.training.config import RunConfig
from quatrain.training.export_target import check_base
from quatrain.training.planning import plan_loaded

Progress = Callable[[str, int, int], None]
"""Told (what, done, of how many) during long work."""


@dataclass
class Setup:
    """Everything that the loop works with."""

    config: RunConfig
    model: nn.Module
    tokenizer: Any
    device: torch.device
    objective: Objective
    data: Prepared
    loader: Loader
    held_out: Loader | None
    questions: list[Question]
    """Of `task_eval`; empty without one."""
    summaries: dict[str, DataSummary]
    """What was read: "training", and "held-out" and "task" if there are any."""
    optimizer: AdamW
    total_micro_batches: int
    plan: Plan | None
    """What memory is to be used for, if that was planned."""
    provenance: Provenance
    """What the adapter will have been trained on."""

    @property
    def epochs_done(self) -> float:
        """Passes over the data so far."""
        at = self.loader.state_dict()
        return at["epoch"] + at["index"] / self.loader.num_batches(at["epoch"])

    @property
    def total_steps(self) -> int:
        return math.ceil(self.total_micro_batches / self.config.gradient_accumulation_steps)

    def micro_batches_of(self, step: int) -> int:
        """Micro-batches of the 1-based `step`; the last one takes what is left."""
        size = self.config.gradient_accumulation_steps
        return min(size, self.total_micro_batches - (step - 1) * size)

    def learning_rate(self, step: int) -> float:
        """The rate for the 1-based `step`: a pure function, so that resuming needs no state."""
        warmup = warmup_steps(self.config.warmup_ratio, self.total_steps)
        factor = lr_multiplier(
            self.config.lr_scheduler_type, step - 1, warmup_steps=warmup, total_steps=self.total_steps
        )
        return self.config.learning_rate * factor


def build(
    config: RunConfig,
    model: nn.Module | None = None,
    tokenizer: Any = None,
    progress: Progress = lambda *_: None,
    plan: Plan | None = None,
    *,
    checkpoint: Path | None = None,
) -> Setup:
    """Load what isn't handed in and join all parts.

    Args:
        config: the run.
        model: a base, with or without an adapter. None: loaded.
        tokenizer: its tokenizer.
        progress: told of long work.
        plan: carried out where it says something, instead of the config.
        checkpoint: folder of the checkpoint whose adapter training goes on with.

    Raises:
        ConfigError: neither a model nor a name of one; other errors as the parts raise them.
    """
    torch.manual_seed(config.seed)
    _look_at_data(config)
    streaming = plan and streaming_of(plan, _existing(Path(config.output_dir)))
    if model is None:
        model, tokenizer = _load_base(config, streaming, progress)
    elif tokenizer is None:
        raise ConfigError("`train` was given a model without its tokenizer; pass both, or neither and name a `model`")
    elif streaming is not None and streamed_weights(model) is None:
        stream_blocks(model, streaming)
    check_base(config.export_to, model, tokenizer)
    pieces = add_tokens(tokenizer, config.new_tokens)
    adapted = attach_stored(model, config, checkpoint)
    lora = config.lora if adapted else with_rows(config.lora, model, pieces)
    data = _prepare(config.train_data, config, model, tokenizer, lambda *at: progress("reading rows", *at))
    if not adapted:
        attach_new(model, lora, pieces, config=config, data=data, tokenizer=tokenizer, progress=progress)
    device = next(model.parameters()).device
    objective = Objective(model.eval(), packing=config.packing, fused_blocks=config.fused_blocks)
    loader = _loader(data, config, tokenizer, objective)
    plan = _set_policy(objective, loader, config, plan)
    summaries = {"training": data.summary}
    return Setup(
        config=config,
        model=model,
        tokenizer=tokenizer,
        device=device,
        objective=objective,
        data=data,
        loader=loader,
        held_out=_held_out(config, tokenizer, objective, progress, summaries),
        questions=_questions(config, tokenizer, summaries),
        summaries=summaries,
        optimizer=_optimizer(model, config, plan),
        plan=plan,
        total_micro_batches=_total_micro_batches(config, loader),
        provenance=provenance_of(model, tokenizer),
    )


def _look_at_data(config: RunConfig) -> None:
    """Read one row of everything: a mistyped path is to be found before minutes of loading, not after hours."""
    for source in (config.train_data, config.held_out, config.task_eval and config.task_eval.data):
        if isinstance(source, DataConfig):
            next(load_examples(source), None)


def _prepare(source: DataConfig, config: RunConfig, model: Any, tokenizer: Any, progress: Callable) -> Prepared:
    rows = model.get_input_embeddings().num_embeddings
    return prepare(source, tokenizer, max_length=config.max_length, vocabulary=rows, progress=progress)


def _questions(config: RunConfig, tokenizer: Any, summaries: dict[str, DataSummary]) -> list[Question]:
    task = config.task_eval
    if task is None:
        return []
    assert isinstance(task.data, DataConfig)
    bad = BadRows(task.data)
    questions = read_task(task, tokenizer, bad)
    summaries["task"] = DataSummary(len(questions), len(questions), bad=bad.counts, bad_first=bad.first)
    return questions


def _load_base(config: RunConfig, streaming: Streaming | None, progress: Progress) -> tuple[nn.Module, Any]:
    if config.model is None:
        raise ConfigError("`model` is required: a hub name, a folder or a GGUF file")
    model, tokenizer = load_model(
        config.model,
        quantization=config.quantization,
        double_quant=config.double_quant,
        block_size=config.block_size,
        keep_in_16bit=tuple(config.keep_in_16bit),
        quantize_head=config.quantize_head,
        quantize_embeddings=config.quantize_embeddings,
        compute_dtype=config.compute_dtype,
        device=config.device,
        streaming=streaming,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        progress=lambda done, total, name: progress("loading the base", done, total),
    )
    if tokenizer is None:
        raise ModelError(
            f"{config.model} holds no tokenizer; add its tokenizer.json, or pass model and tokenizer to train"
        )
    if config.adapter is not None and has_tokenizer(config.adapter):
        tokenizer = load_tokenizer(config.adapter)
    return model, tokenizer


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there: the run's own is made when nothing can go wrong any more."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def _loader(data: Prepared, config: RunConfig, tokenizer: Any, objective: Objective) -> Loader:
    return Loader(
        data.samples,
        max_length=config.max_length,
        batch_size=config.per_device_train_batch_size,
        packing=objective.packs,
        fixed_tokens=objective.wants_fixed_tokens,
        pad_token_id=tokenizer.pad_token_id or 0,
        seed=config.seed,
    )


def _held_out(
    config: RunConfig, tokenizer: Any, objective: Objective, progress: Progress, summaries: dict[str, DataSummary]
) -> Loader | None:
    if config.held_out is None:
        return None
    told = partial(progress, "reading held-out rows")
    data = _prepare(config.held_out, config, objective.model, tokenizer, told)
    summaries["held-out"] = data.summary
    return _loader(data, config, tokenizer, objective)


def _optimizer(model: nn.Module, config: RunConfig, plan: Plan | None) -> AdamW:
    asked: Literal["auto"] | bool = {"auto": "auto", "always": True, "never": False}[config.optim_paged]
    return AdamW(
        _groups(adapter_parameters(model), config.loraplus_lr_ratio),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        state_bits=8 if config.optim == "adamw_8bit" else 32,
        paged=asked if plan is None else plan.paged_optimizer or "auto",
    )


def _groups(parameters: dict[str, nn.Parameter], ratio: float | None) -> list[dict[str, Any]]:
    """Parameters by the factor on their learning rate, `lr_ratio`: LoRA+ lets B and vectors learn faster than A.

    In A's direction the update's size depends on B and the other way round, and B starts at zero: with one rate for
    both, wide layers learn too slowly (Hayou et al. 2024, arXiv 2402.12354). The groups are those of PEFT's
    ``create_loraplus_optimizer``.
    """
    if ratio is None:
        return [{"params": list(parameters.values()), "lr_ratio": 1.0}]
    fast = {name for name, p in parameters.items() if name.endswith(".lora_B") or p.ndim == 1}
    groups = {1.0: parameters.keys() - fast, ratio: fast}
    return [
        {"params": [p for name, p in parameters.items() if name in members], "lr_ratio": factor}
        for factor, members in groups.items()
    ]


def _total_micro_batches(config: RunConfig, loader: Loader) -> int:
    if config.max_steps is not None:
        return config.max_steps * config.gradient_accumulation_steps
    whole, part = divmod(config.num_train_epochs, 1)
    count = sum(loader.num_batches(epoch) for epoch in range(int(whole)))
    return max(1, count + round(part * loader.num_batches(int(whole))))


def _set_policy(objective: Objective, loader: Loader, config: RunConfig, plan: Plan | None) -> Plan | None:
    """Decide what is kept of each block, by `plan` or by one made now. → that plan."""
    wanted = config.gradient_checkpointing
    if objective.engine is not None:
        plan = plan or _plan_now(objective, loader, config)
        if plan is None:
            objective.keep(POLICIES["on"])
        else:
            objective.keep(policies_of(plan), plan.head_chunk_tokens)
    elif wanted == "on" or (wanted == "auto" and next(objective.model.parameters()).is_cuda):
        _checkpoint_activations(objective.model)
    elif wanted not in ("auto", "off"):
        raise ConfigError(
            f"`gradient_checkpointing: {wanted}` needs blocks of our own, which this run doesn't use "
            f"({'; '.join(objective.notes) or 'set `fused_blocks: on`'}); set it to on or off"
        )
    return plan


def _plan_now(objective: Objective, loader: Loader, config: RunConfig) -> Plan | None:
    """A plan for what is loaded already and for the rows that there are; None if it sees too little memory."""
    try:
        return plan_loaded(config, objective.model, loader.most_tokens)
    except BudgetError as error:
        objective.notes.append(f"{error}. It is tried all the same, keeping as little as can be")
        return None


def _checkpoint_activations(model: Any) -> None:
    # transformers 5.23 renamed the method; 5.17 has the old name only.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
