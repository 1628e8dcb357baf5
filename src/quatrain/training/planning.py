"""The plan of a run: its settings and its base's config, put before the memory planner.

    settings ─► which linears are quantized, which carry an adapter ─┐
    config.json ─► shapes ───────────────────────────────────────────┼─► plan
    device, budget, host ────────────────────────────────────────────┘

Nothing is loaded. With `memory` the plan is a contract: it may cut a step's rows into other micro-batches, stream
blocks and page the optimizer's state, and what doesn't fit is refused. Without it, it decides what blocks keep in the
memory that is free.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from quatrain import device as hardware
from quatrain.adapters.peft_config import read_config as read_adapter_config
from quatrain.adapters.targets import match_targets
from quatrain.blocks import POLICIES, Policy
from quatrain.device.choose import DTYPES
from quatrain.errors import ConfigError
from quatrain.memory import Plan, make_plan
from quatrain.memory.amounts import parse_bytes
from quatrain.memory.architectures import Treatment, is_known, linear_names, linear_sizes, shape_of
from quatrain.memory.card import Card, card_like, card_named, processor
from quatrain.memory.request import Request
from quatrain.memory.shape import Extras, ModelShape
from quatrain.models.base_shape import config_of_base, extras_of, loose_names, loose_shape, treatment_of
from quatrain.ops.block_attention import available_backends
from quatrain.quantization.selection import Candidate, select
from quatrain.training.config import RunConfig
from quatrain.training.config_file import read_config

_FLOPS_OF_A_CORE = {2: 180e9, 4: 60e9}
"""Operations a second by bytes of a number (`device/choose.py` has the measurement)."""
_MOST_MICRO_BATCHES = 6
"""Ways to cut a step into micro-batches that are looked at."""


def plan(
    config: RunConfig | Mapping[str, Any] | str | Path,
    *,
    gpu: str | None = None,
    memory: str | None = None,
    host_memory: str | None = None,
) -> Plan:
    """Plan a run before anything is loaded.

    Args:
        config: a run's settings, or a base: a hub name, a folder, a GGUF file, a `config.json`, or what stands in one.
        gpu: a card to plan for that needn't be there, such as "rtx4090"; None: the device of the settings.
        memory: the device's budget, such as "24GB"; None: the settings', or all of a named card, or what is free.
        host_memory: what may be pinned of the host's memory; None: two thirds of what is free here.

    Raises:
        BudgetError: nothing fits; says what the least is made of and the nearest change that would fit.
        ConfigError, ModelError: a setting or the base's config can't be understood.
    """
    settings, base = _settings(config)
    return make_plan(request_for(settings, base, gpu=gpu, memory=memory, host_memory=host_memory))


def request_for(
    settings: RunConfig,
    base: Mapping[str, Any],
    *,
    gpu: str | None = None,
    memory: str | None = None,
    host_memory: str | None = None,
) -> Request:
    """What the planner is asked; arguments are `plan`'s, with the base's config apart."""
    budget = memory or settings.memory
    free = gpu is not None or budget is not None
    device = None if gpu else hardware.pick(settings.device)
    card = card_here(device, settings) if device is not None else card_named(gpu or "")
    model = base_shape(settings, base, _item(settings, device))
    own_blocks = model.fused and (settings.fused_blocks == "on" or (settings.fused_blocks == "auto" and card.is_gpu))
    policies, inexact = _policies(settings, card, own_blocks=own_blocks)
    return Request(
        model=model,
        card=card,
        budget=parse_bytes(budget) if budget else _room(device, card),
        host=parse_bytes(host_memory) if host_memory else _host_room(),
        max_length=settings.max_length,
        rows=settings.per_device_train_batch_size * settings.gradient_accumulation_steps,
        rows_at_once=_rows_at_once(settings, free=free),
        policies=policies,
        inexact=inexact,
        state_bits=8 if settings.optim == "adamw_8bit" else 32,
        paging=settings.optim_paged,
        own_blocks=own_blocks,
        may_stream=settings.quantization is not None and free,
    )


def plan_loaded(settings: RunConfig, model: nn.Module, tokens: int) -> Plan:
    """What blocks keep in the memory that is free, for a model that is loaded with its adapters and blocks of our own.

    Args:
        tokens: of the longest row.

    Raises:
        BudgetError: there is less than any way needs.
    """
    config: Any = model.config
    device = next(model.parameters()).device
    card = card_here(device, settings)
    policies, inexact = _policies(settings, card, own_blocks=True)
    return make_plan(
        Request(
            model=shape_of(config.get_text_config().to_dict(), treatment_of(model)),
            card=card,
            budget=_room(device, card),
            host=_host_room(),
            max_length=tokens,
            rows=settings.gradient_accumulation_steps,
            rows_at_once=(1,),
            policies=policies,
            inexact=inexact,
            state_bits=8 if settings.optim == "adamw_8bit" else 32,
            paging=settings.optim_paged,
            may_stream=False,
        )
    )


def plan_contract(settings: RunConfig, model: nn.Module | None, stored: Path | None) -> tuple[RunConfig, Plan | None]:
    """(settings, plan) of a run that has `memory` set, and its device held to it; without it, the settings alone.

    Args:
        model: one that was handed over, and is loaded already.
        stored: the config of the run that is resumed: its micro-batches stay, or its place in the data would be lost.
    """
    if settings.memory is None:
        return settings, None
    if stored is not None:
        before = read_config(stored)
        rows = before.per_device_train_batch_size
        steps = before.gradient_accumulation_steps
        settings = replace(settings, per_device_train_batch_size=rows, gradient_accumulation_steps=steps)
    config: Any = model.config if model is not None else None
    base = config.to_dict() if config is not None else _settings(settings)[1]
    request = request_for(settings, base)
    if stored is not None:
        request = replace(request, rows_at_once=(settings.per_device_train_batch_size,))
    made = make_plan(request)
    device = hardware.pick(settings.device) if model is None else next(model.parameters()).device
    hardware.limit_memory(device, made.budget - request.card.context)
    return as_planned(settings, made), made


def as_planned(config: RunConfig, made: Plan) -> RunConfig:
    """The settings with the micro-batches that a plan has chosen."""
    rows = made.micro_batch_tokens // config.max_length
    return replace(config, per_device_train_batch_size=rows, gradient_accumulation_steps=made.micro_batches)


def base_shape(settings: RunConfig, base: Mapping[str, Any], item: int) -> ModelShape:
    """The base with what becomes of its weights and with the adapters of the settings."""
    known = is_known(base)
    if known:
        sizes = linear_sizes(base)
        names = {name: sizes[name.split(".", 3)[3]] for name in linear_names(base)}
    else:
        names = loose_names(base)
    treatment = Treatment(
        four_bits=_quantized(settings, base, names).__contains__,
        rank=_ranks(settings, list(names)),
        dropout=settings.lora.lora_dropout > 0,
        block_size=settings.block_size,
        double_quant=_double_quant(settings, base),
        quantize_head=settings.quantize_head and settings.quantization is not None,
        quantize_embeddings=settings.quantize_embeddings and settings.quantization is not None,
        item=item,
    )
    shape = shape_of(base, treatment) if known else loose_shape(base, treatment)
    return replace(shape, extras=_extras(settings, base))


def card_here(device: torch.device, settings: RunConfig) -> Card:
    """The device that is there."""
    if device.type == "cuda":
        facts = hardware.gpu_facts(device)
        card = card_like(facts.name, facts.memory, facts.generation, facts.multiprocessors)
        backend: Any = available_backends(device)[0]
        return replace(card, backend=backend)
    return processor(
        psutil.virtual_memory().total,
        cores=torch.get_num_threads(),
        flops_of_a_core=_FLOPS_OF_A_CORE[_item(settings, device)],
        context=psutil.Process().memory_info().rss,
    )


def _settings(config: RunConfig | Mapping[str, Any] | str | Path) -> tuple[RunConfig, Mapping[str, Any]]:
    """(settings, the base's config)."""
    if isinstance(config, Mapping):
        return RunConfig(data=_NO_DATA), config
    if not isinstance(config, RunConfig):
        config = RunConfig(data=_NO_DATA, model=str(config))
    if config.model is None:
        raise ConfigError("a plan needs a base: set `model`, or pass a base's config.json")
    found = config_of_base(config.model, revision=config.revision, trust_remote_code=config.trust_remote_code)
    return config, found


_NO_DATA = "none"
"""A plan reads no rows."""


def _item(settings: RunConfig, device: torch.device | None) -> int:
    """Bytes of a number in the compute dtype; cards that aren't there compute in 16 bits."""
    if device is None:
        return DTYPES.get(settings.compute_dtype, torch.bfloat16).itemsize
    return hardware.compute_dtype(device, settings.compute_dtype).itemsize


def _room(device: torch.device | None, card: Card) -> int:
    """What a process may take without a budget: all of a card that isn't there, or what is free of the one that is."""
    if device is None:
        return card.memory
    taken = hardware.memory_in_use(device).current
    return hardware.free_memory(device) + taken + (card.context if card.is_gpu else 0)


def _host_room() -> int:
    # Pinned memory can't be swapped out, so the host keeps a good part of what it has for itself.
    return hardware.free_memory(torch.device("cpu")) * 2 // 3


def _rows_at_once(settings: RunConfig, *, free: bool) -> tuple[int, ...]:
    """Micro-batches to choose among: with a budget any that cut the same rows evenly, else those of the settings."""
    if not free:
        return (settings.per_device_train_batch_size,)
    rows = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    divisors = [count for count in range(1, rows + 1) if rows % count == 0]
    return tuple(divisors[:_MOST_MICRO_BATCHES])


_Policies = Mapping[str, Policy]


def _policies(settings: RunConfig, card: Card, *, own_blocks: bool) -> tuple[_Policies, _Policies]:
    """(what may be kept, the same with what the settings rule out or nothing): the settings' policy, or any that the
    device and who computes the blocks can carry out."""
    wanted = settings.gradient_checkpointing
    if wanted != "auto":
        return {wanted: POLICIES[wanted]}, {}
    if not own_blocks:
        return {name: POLICIES[name] for name in ("off", "on")}, {}
    possible = {name: policy for name, policy in POLICIES.items() if card.is_gpu or not policy.offloads}
    if settings.activations_8bit:
        return possible, {}
    return {name: policy for name, policy in possible.items() if policy.exact}, possible


def _extras(settings: RunConfig, base: Mapping[str, Any]) -> Extras:
    """What is trained beside low-rank updates, by the settings or by the adapter that is continued."""
    if settings.adapter is not None:
        stored = read_adapter_config(Path(settings.adapter))
        modules, magnitudes = stored.modules_to_save, stored.use_dora
        rows = {table: len(indices) for table, indices in stored.token_rows.items()}
    else:
        lora, asked = settings.lora, settings.lora.trainable_token_indices
        modules, magnitudes = tuple(lora.modules_to_save), lora.use_dora
        tables = asked if isinstance(asked, Mapping) else {"": asked}
        rows = {table: len(indices) for table, indices in tables.items() if indices}
    return extras_of(base, magnitudes=magnitudes, modules=modules, rows=rows, new_tokens=len(settings.new_tokens))


def _quantized(settings: RunConfig, base: Mapping[str, Any], names: Mapping[str, tuple[int, int]]) -> set[str]:
    """Names of the linears that are stored in four bits."""
    if settings.quantization is None and "quantization_config" not in base:
        return set()
    decisions = select(
        [Candidate(name=f"{name}.weight", shape=shape, role="linear") for name, shape in names.items()],
        block_size=settings.block_size,
        keep_in_16bit=tuple(settings.keep_in_16bit),
    )
    return {name.removesuffix(".weight") for name, decision in decisions.items() if decision.quantize}


def _double_quant(settings: RunConfig, base: Mapping[str, Any]) -> bool:
    """A checkpoint that is in four bits already keeps its own way."""
    stored = base.get("quantization_config")
    return bool(stored.get("bnb_4bit_use_double_quant")) if isinstance(stored, dict) else settings.double_quant


def _ranks(settings: RunConfig, names: list[str]) -> Callable[[str], int]:
    if settings.adapter is not None:
        stored = read_adapter_config(Path(settings.adapter))
        return lambda name: int(stored.rank_of(name)) if stored.selection.takes(name) else 0
    chosen = set(match_targets(names, settings.lora))
    return lambda name: settings.lora.r if name in chosen else 0
