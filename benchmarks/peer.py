"""The peer most people use: bitsandbytes for 4-bit linears, PEFT for LoRA, transformers for the model."""

from pathlib import Path
from typing import Any

import torch


def load_peer(folder: Path, *, r: int, lora_alpha: int, checkpointing: bool, dtype: torch.dtype) -> Any:
    """A PEFT model on a bitsandbytes base, prepared as PEFT's documentation says, every linear of the body adapted."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantization, dtype=dtype)
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    model.config.use_cache = False
    config = LoraConfig(r=r, lora_alpha=lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def autocast(device: torch.device, dtype: torch.dtype):
    """PEFT keeps adapters in float32; as trainers do, products run under autocast."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
