"""What a cell trains: the base as its method wants it, what is trained on it, and the objective."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from benchmarks.quality.bottleneck import attach_bottlenecks
from benchmarks.quality.objectives import ThroughModel
from quatrain.adapters import LoraConfig, adapter_parameters, attach_lora
from quatrain.models import load_model
from quatrain.models.objective import Objective
from quatrain.quantization import QuantizedModule

Method = Literal["full", "lora", "houlsby", "prompt"]
"""Full fine-tuning; LoRA, which is QLoRA on a quantized base; Houlsby's adapters; prompt tuning."""
Quantization = Literal["nf4", "fp4", "int4"]
Targets = Literal["all", "attention", "query and value"]

ALPHA = 32
"""The same for all ranks, as in the paper, which searches the learning rate instead: the two act alike."""
_LINEARS: dict[Targets, Any] = {
    "all": "all-linear",
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "query and value": ("q_proj", "v_proj"),
}


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A base and what is trained on it."""

    model: Any
    tokenizer: Any
    objective: Any
    """What :class:`quatrain.models.objective.Objective` offers."""
    trained: list[nn.Parameter]
    base_parameters: int


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What a method does to a base."""

    method: Method
    quantization: Quantization | None = None
    """None: 16 bits."""
    block_size: int = 64
    targets: Targets = "all"
    r: int = 16
    """Rank; of Houlsby's adapters the inner width, of prompt tuning the number of vectors, of full fine-tuning 0."""
    start: Literal["plain", "loftq"] = "plain"
    """How LoRA begins: B = 0, or what the base lost to quantization."""
    own_blocks: bool = True
    """LoRA on Quatrain's own blocks where the device runs them; False: on transformers' modules, as all others."""


def tuned(how: Tuning, source: str, device: torch.device, seed: int) -> Tuned:
    """The base of `source`, ready to be trained as `how` says, drawn by `seed`."""
    torch.manual_seed(seed)
    model, tokenizer = load_model(
        source,
        quantization=how.quantization,
        block_size=how.block_size,
        compute_dtype="float32" if how.method == "full" else "auto",
        device=str(device),
    )
    size = parameters_of(model)
    objective, trained = _METHODS[how.method](how, model, source, device, seed)
    return Tuned(model=model, tokenizer=tokenizer, objective=objective, trained=trained, base_parameters=size)


def parameters_of(model: nn.Module) -> int:
    """Parameters that a model stands for, quantized ones included."""
    packed = sum(m.quantized.numel for m in model.modules() if isinstance(m, QuantizedModule))
    return packed + sum(p.numel() for p in model.parameters())


def _lora(how: Tuning, model: Any, source: str, device: torch.device, seed: int) -> tuple[Any, list[nn.Parameter]]:
    start = "loftq" if how.start == "loftq" else True
    config = LoraConfig(
        r=how.r, lora_alpha=ALPHA, target_modules=_LINEARS[how.targets], init_lora_weights=start, loftq_iter=1
    )
    attach_lora(model, config, seed=seed)
    return _objective(model, how.own_blocks), list(adapter_parameters(model).values())


def _full(how: Tuning, model: Any, source: str, device: torch.device, seed: int) -> tuple[Any, list[nn.Parameter]]:
    model.requires_grad_(True)
    return ThroughModel(model, device), list(model.parameters())


def _houlsby(how: Tuning, model: Any, source: str, device: torch.device, seed: int) -> tuple[Any, list[nn.Parameter]]:
    trained = attach_bottlenecks(model, how.r, seed)
    return _objective(model, own_blocks=False), trained


def _objective(model: Any, own_blocks: bool) -> Objective:
    """Rows are packed where own blocks may run; transformers' modules are fastest on padded ones."""
    return Objective(model.eval(), packing=own_blocks, fused_blocks="auto" if own_blocks else "off")


def _prompt(how: Tuning, model: Any, source: str, device: torch.device, seed: int) -> tuple[Any, list[nn.Parameter]]:
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=how.r,
        prompt_tuning_init="SAMPLE_VOCAB",
        tokenizer_name_or_path=source,
    )
    prompted = get_peft_model(model, config)
    trained = [parameter for parameter in prompted.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    return ThroughModel(prompted, device), trained


_METHODS = {"lora": _lora, "full": _full, "houlsby": _houlsby, "prompt": _prompt}
