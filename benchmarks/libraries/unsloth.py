"""Unsloth, the fastest peer: its own loading, patched models, compiled pieces."""

from pathlib import Path
from typing import Any

import torch

from benchmarks.libraries.peft_training import PeftTraining
from benchmarks.shapes import SHAPES
from benchmarks.work import Work

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

LONGEST = 2048


def open_training(folder: Path, work: Work, device: torch.device) -> PeftTraining:
    """Keeping activations, or Unsloth's own checkpointing, which offloads them, where the work asks for it."""
    from unsloth import FastLanguageModel

    linears = next(iter(SHAPES.values())).linears
    model = FastLanguageModel.get_peft_model(
        load(folder, device, longest=max(work.length, LONGEST)),
        r=work.r,
        lora_alpha=work.r,
        lora_dropout=work.dropout,
        target_modules=[name.rpartition(".")[2] for name in linears],
        bias="none",
        use_gradient_checkpointing=False if work.recompute == "nothing" else "unsloth",
        random_state=0,
    )
    return PeftTraining(model, work, device)


def imports() -> None:
    """What loading needs, so that importing isn't part of its time."""
    from unsloth import FastLanguageModel  # noqa: F401


def load(folder: Path, device: torch.device, longest: int = LONGEST) -> Any:
    """The frozen base in four bits, for samples of up to `longest` tokens."""
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=longest, dtype=torch.bfloat16, load_in_4bit=True
    )
    return model


def load_for_decoding(folder: Path, device: torch.device) -> Any:
    from unsloth import FastLanguageModel

    model = load(folder, device)
    FastLanguageModel.for_inference(model)
    return model
