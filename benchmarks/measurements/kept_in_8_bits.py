"""How far gradients are off where gate and up are kept in 8 bits, beside what computing in bfloat16 does to them.

SmolLM2-135M in NF4 on a micro-batch of GSM8K. The reference keeps everything and computes in float32; the loss is the
same whatever is kept, so gradients are all that can differ.
"""

from typing import Any

import torch
from torch import Tensor

from benchmarks.case import ONE_CORE, QUATRAIN, Case, Kind, Play, Row, Rows, Setting
from benchmarks.measurements.loss_curves import ALPHA, RANK, ROWS_A_STEP, batches_of

KIND = Kind(
    title="Gate and up in 8 bits",
    note="SmolLM2-135M in NF4 on four rows of GSM8K: distance of the adapter's gradient from the one in float32 with "
    "everything kept, in percent of its length; all of it, and the matrix that is furthest off.",
    shows=("gradient_error_percent", "worst_matrix_percent"),
)


def measure(setting: Setting) -> Rows:
    """A row for each way but the reference."""
    from quatrain.blocks import GATE_UP_8BIT, KEEP_ALL

    exact = _gradient("float32", KEEP_ALL, setting)
    return {
        "float32, gate and up in 8 bits": _compared(_gradient("float32", GATE_UP_8BIT, setting), exact),
        "bfloat16, everything kept": _compared(_gradient("bfloat16", KEEP_ALL, setting), exact),
        "bfloat16, gate and up in 8 bits": _compared(_gradient("bfloat16", GATE_UP_8BIT, setting), exact),
    }


def _gradient(dtype: str, policy: Any, setting: Setting) -> dict[str, Tensor]:
    """Of an adapter that isn't zero, by matrix."""
    from quatrain.adapters import LoraConfig, adapter_parameters, attach_lora
    from quatrain.models import load_model
    from quatrain.models.engine import Engine

    model, tokenizer = load_model(setting.models / "smollm2", compute_dtype=dtype, device=str(setting.device))
    attach_lora(model, LoraConfig(r=RANK, lora_alpha=ALPHA))
    adapter: dict[str, Any] = dict(adapter_parameters(model))
    generator = torch.Generator().manual_seed(0)
    for matrix in adapter.values():
        matrix.data.copy_(0.01 * torch.randn(matrix.shape, generator=generator))
    engine = Engine(model)
    engine.set_policy(policy)
    (batch,) = batches_of("train", ROWS_A_STEP, tokenizer)
    engine.accumulate(batch)
    return {name: matrix.grad.clone() for name, matrix in adapter.items()}


def _compared(found: dict[str, Tensor], exact: dict[str, Tensor]) -> Row:
    differences = {name: (found[name] - exact[name]).norm() for name in exact}
    every = torch.stack(list(differences.values())).norm() / torch.stack([g.norm() for g in exact.values()]).norm()
    worst = max(differences[name] / exact[name].norm() for name in exact)
    return Row(
        values={
            "gradient_error_percent": round(100 * every.item(), 2),
            "worst_matrix_percent": round(100 * worst.item(), 2),
        }
    )


CASES = (
    Case(
        name="gate_up_8bit",
        kind=KIND,
        title="",
        contenders={QUATRAIN: Play(measure)},
        device="cpu",
        options={"rows": ROWS_A_STEP, "r": RANK},
        models=("smollm2",),
        environment=ONE_CORE,
    ),
)
