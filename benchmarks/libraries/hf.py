"""The peer most people use: bitsandbytes for 4-bit linears, PEFT for LoRA, transformers for the model; with Liger's
kernels where asked for."""

from pathlib import Path
from typing import Any

import torch

from benchmarks.libraries.peft_training import PeftTraining
from benchmarks.work import Work
from quatrain.device import compute_dtype


def open_training(folder: Path, work: Work, device: torch.device) -> PeftTraining:
    """Checkpointed where the work asks for it."""
    return _open(folder, work, device, checkpointing=work.recompute != "nothing")


def open_checkpointed(folder: Path, work: Work, device: torch.device) -> PeftTraining:
    """PEFT's default."""
    return _open(folder, work, device, checkpointing=True)


def open_with_liger(folder: Path, work: Work, device: torch.device) -> PeftTraining:
    from liger_kernel.transformers import apply_liger_kernel_to_llama  # pyright: ignore[reportMissingImports]

    apply_liger_kernel_to_llama()
    return open_training(folder, work, device)


def _open(folder: Path, work: Work, device: torch.device, *, checkpointing: bool) -> PeftTraining:
    model = load(folder, device)
    model = adapt(model, r=work.r, alpha=work.r, dropout=work.dropout, checkpointing=checkpointing)
    return PeftTraining(model, work, device)


def imports() -> None:
    """What loading needs, so that importing isn't part of its time."""
    import bitsandbytes  # noqa: F401
    from transformers import AutoModelForCausalLM, LlamaForCausalLM  # noqa: F401


def load(folder: Path, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """The base in NF4 with double quantization; products in `dtype`, by default what the machine computes fastest."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = dtype or compute_dtype(device)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantization, dtype=dtype, device_map={"": str(device)}
    )


def adapt(model: Any, *, r: int, alpha: int, dropout: float, checkpointing: bool) -> Any:
    """Prepared as PEFT's documentation says, every linear of the blocks adapted."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    model = prepare_model_for_kbit_training(
        model, use_gradient_checkpointing=checkpointing, gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    model.config.use_cache = False
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)
