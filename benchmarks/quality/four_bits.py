"""What a kind of four bits costs before any training: perplexity, bits of storage, error on normal weights."""

from typing import Any

import torch
from torch import nn

from benchmarks.gate import relative_error
from benchmarks.quality.cell import Where
from benchmarks.quality.models import parameters_of
from benchmarks.quality.tasks import TASKS, evaluation_batches, samples_of
from benchmarks.timing import release
from quatrain.evaluation import evaluate_loss
from quatrain.models import load_model
from quatrain.models.objective import Objective
from quatrain.quantization import QuantizedModule, quantize_4bit

SIDE = 2048
"""Of the square matrix of normal weights."""


def measure(settings: dict[str, Any], where: Where) -> dict[str, Any]:
    """Measures one `quantization` (None: 16 bits) with `double_quant` and `block_size`."""
    how = {name: settings[name] for name in ("quantization", "double_quant", "block_size")}
    model, _ = load_model(where.model, device=str(where.device), **how)
    found: dict[str, Any] = bits(model) | {"normal_error": _normal_error(how, settings["seed"])}
    objective = Objective(model)
    for task in TASKS:
        samples = samples_of(task, "test", where.data[task], where.model)
        batches = evaluation_batches(samples, most=settings["held_out"], rows=settings["rows"], packed=objective.packs)
        result = evaluate_loss(objective, batches)
        found |= {f"{task}_loss": result.loss, f"{task}_perplexity": result.perplexity}
    del model, objective
    release(where.device)
    return found


def bits(model: nn.Module) -> dict[str, float]:
    """Bits per parameter, counted from the tensors that are there: of the linears of the blocks, and of everything."""
    packed = [m.quantized for m in model.modules() if isinstance(m, QuantizedModule)]
    if packed:
        linears = 8 * sum(w.nbytes for w in packed) / sum(w.numel for w in packed)
    else:
        linears = 8.0 * next(model.parameters()).element_size()
    stored = sum(w.nbytes for w in packed) + sum(p.nbytes for p in model.parameters())
    return {"linear_bits": linears, "model_bits": 8 * stored / parameters_of(model)}


def _normal_error(how: dict[str, Any], seed: int) -> float:
    """‖ŵ − w‖ / ‖w‖ of weights from a normal distribution."""
    weights = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    if how["quantization"] is None:
        return relative_error(weights.bfloat16(), weights)
    packed = quantize_4bit(weights, how["quantization"], how["block_size"], how["double_quant"])
    return relative_error(packed.dequantize(), weights)
