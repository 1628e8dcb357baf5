"""Who takes part: methods under the names that tables call them by."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.quality.models import Tuning
from benchmarks.quality.training import Training

FULL, LORA, QLORA = "full fine-tuning", "LoRA, 16 bits", "QLoRA, NF4"
FP4, INT4 = "QLoRA, FP4", "QLoRA, INT4"
LORA_ATTENTION, QLORA_ATTENTION = "LoRA, 16 bits, attention only", "QLoRA, NF4, attention only"
LORA_FIRST, HOULSBY, PROMPT = (
    "LoRA, 16 bits, query and value only",
    "Houlsby's adapters, 16 bits",
    "prompt tuning, 16 bits",
)
LORA_PLAIN, QLORA_PLAIN = "LoRA, 16 bits, on transformers' modules", "QLoRA, NF4, on transformers' modules"

MAIN: Mapping[str, Tuning] = {
    FULL: Tuning(method="full", r=0),
    LORA: Tuning(method="lora"),
    QLORA: Tuning(method="lora", quantization="nf4"),
    FP4: Tuning(method="lora", quantization="fp4"),
    INT4: Tuning(method="lora", quantization="int4"),
    LORA_ATTENTION: Tuning(method="lora", targets="attention"),
    QLORA_ATTENTION: Tuning(method="lora", quantization="nf4", targets="attention"),
}
OTHERS: Mapping[str, Tuning] = {
    LORA_FIRST: Tuning(method="lora", targets="query and value"),
    HOULSBY: Tuning(method="houlsby", r=64),
    PROMPT: Tuning(method="prompt", r=50),
}
EVERYONE: Mapping[str, Tuning] = {**MAIN, **OTHERS}
PLAIN: Mapping[str, Tuning] = {
    LORA_PLAIN: Tuning(method="lora", own_blocks=False),
    QLORA_PLAIN: Tuning(method="lora", quantization="nf4", own_blocks=False),
}
"""The same losses, at the cost that all others have."""


def contest(task: str, how: Tuning) -> str:
    """Whoever shares it shares a learning rate: method, base and layers, on one task."""
    return f"{task}, {how.method}, {how.quantization or '16 bits'}, {how.targets}"


def optimizer_of(how: Tuning) -> str:
    """State of full fine-tuning is in 32 bits, so that nothing is held against it."""
    return "32-bit" if how.method == "full" else "8-bit"


def training(how: Tuning, **settings: object) -> Training:
    """`how` with the rest of a training's settings."""
    return Training(**{**vars(how), "optimizer": optimizer_of(how), **settings})  # pyright: ignore


def usual(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows whose training has the usual length, which is its task's shortest."""
    shortest: dict[str, int] = {}
    for row in rows:
        shortest[row["task"]] = min(row["steps"], shortest.get(row["task"], row["steps"]))
    return [row for row in rows if row["steps"] == shortest[row["task"]]]


def is_of(row: Mapping[str, Any], how: Tuning) -> bool:
    """Whether the row's training is of just this kind."""
    return all(row[name] == value for name, value in vars(how).items())
