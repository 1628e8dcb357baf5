"""How near base + adapter is to the 16-bit model before the first step, for each way of starting an adapter.

On SmolLM2-135M and on a matrix of random values, which has no main directions to find. The error of a weight is that of
base + s·B A, as a share of the weight: by Frobenius norm, and by the nuclear norm that the papers of PiSSA and LoftQ
report. What the model makes of it is the divergence of its next-token distributions from the 16-bit model's, on
held-out answers of GSM8K. Then a few steps are trained, and the loss of what is handed over is compared with what was
trained: on the published weights, and on these in four bits as they are, where nobody takes the start's part out.
"orthogonal" is left out: it computes what the plain start computes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.case import ONE_CORE, Case, Contender, Kind, Play, Row, Rows, Setting
from benchmarks.measurements.loss_curves import batches_of

RANKS = (16, 64)
SIDE = 1024
HELD_OUT, STEPS, LEARNING_RATE = 8, 4, 2e-4
STARTS: dict[Contender, dict[str, Any]] = {
    Contender("plain", "true (QLoRA)"): {},
    Contender("eva", "eva"): {"init_lora_weights": "eva"},
    Contender("olora", "olora"): {"init_lora_weights": "olora"},
    Contender("pissa", "pissa"): {"init_lora_weights": "pissa"},
    Contender("loftq_1", "loftq, 1 turn"): {"init_lora_weights": "loftq", "loftq_iter": 1},
    Contender("loftq_5", "loftq, 5 turns"): {"init_lora_weights": "loftq", "loftq_iter": 5},
}
KIND = Kind(
    title="How near an adapter starts to the 16-bit model",
    note="NF4 with double quantization, all linears. Mean error of the weights in %, by Frobenius and by nuclear norm; "
    "KL divergence from the 16-bit model in nats per token. SmolLM2-135M's weights are those of its Q4_1 file, on "
    f"answers of GSM8K; the Gaussian matrix is {SIDE}×{SIDE}. Loss: on held-out answers after {STEPS} steps; on "
    "16 and on four bits, that of the adapter handed over to somebody with that base as it is.",
    shows=("frobenius", "nuclear", "kl", "loss"),
)


def measure(settings: dict[str, Any], setting: Setting) -> Rows:
    folder = str(setting.models / "smollm2")
    reference, tokenizer = _load(folder, None)
    held_out, training = batches_of("test", HELD_OUT, tokenizer), batches_of("train", 4 * STEPS, tokenizer)
    expected = list(_distributions(reference, held_out))
    del reference
    rows: Rows = {}
    for r in RANKS:
        model = _load(folder, "nf4")[0]
        _attach(model, r, settings, training)
        errors = _mean_errors(model)
        rows[f"SmolLM2-135M, r = {r}"] = Row(values={**errors, "kl": _divergence(model, held_out, expected)})
        noise = _gaussian()
        _attach(noise, r, settings, training)
        rows[f"Gaussian, r = {r}"] = Row(values=_mean_errors(noise))
        if r == RANKS[0]:
            rows |= _handed_over(model, folder, training, held_out)
    return rows


def _load(folder: str, quantization: Any) -> tuple[Any, Any]:
    from quatrain.models import load_model

    return load_model(folder, quantization=quantization, compute_dtype="float32", device="cpu")


def _attach(model: nn.Module, r: int, settings: dict[str, Any], training: list[Any]) -> None:
    from quatrain.adapters import LoraConfig, attach_lora

    batches = [(batch.input_ids, batch.targets >= 0) for batch in training]
    if isinstance(model, _OneLinear):
        batches = [(torch.randn(4, SIDE), torch.ones(4, 1, dtype=torch.bool)) for _ in range(SIDE)]
    attach_lora(model, LoraConfig(r=r, lora_alpha=r, **settings), batches=batches)


class _OneLinear(nn.Module):
    """A model of one quantized matrix; its tokens are vectors already."""

    def __init__(self, linear: nn.Module):
        super().__init__()
        self.linear = linear

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
        return self.linear(input_ids)


def _gaussian() -> nn.Module:
    from contextlib import nullcontext

    from quatrain.adapters.originals import remember_originals
    from quatrain.quantization import QuantizedLinear

    torch.manual_seed(0)
    linear = nn.Linear(SIDE, SIDE, bias=False)
    nn.init.normal_(linear.weight, std=0.02).requires_grad_(False)
    model = _OneLinear(QuantizedLinear.from_linear(linear))
    remember_originals(model, lambda: nullcontext(lambda _: linear.weight))
    return model


@torch.no_grad()
def _mean_errors(model: nn.Module) -> dict[str, float]:
    """In % of the weight, over all adapted layers."""
    from quatrain.adapters import adapter_layers
    from quatrain.adapters.lora import linear_weight
    from quatrain.adapters.originals import original_weights

    layers = adapter_layers(model)
    found: dict[str, list[float]] = {"frobenius": [], "nuclear": []}
    with original_weights(model, {n: layer.base_layer for n, layer in layers.items()}, "measuring") as read:
        for name, layer in layers.items():
            weight = read(name).float()
            start = linear_weight(layer.base_layer).float() + layer.scaling * layer.lora_B @ layer.lora_A
            for norm, size in (("frobenius", torch.linalg.matrix_norm), ("nuclear", _nuclear)):
                found[norm].append(float(100 * size(start - weight) / size(weight)))
    return {norm: sum(errors) / len(errors) for norm, errors in found.items()}


def _nuclear(matrix: Tensor) -> Tensor:
    m = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T).double()
    return torch.linalg.eigvalsh(m @ m.T).clamp_min(0).sqrt().sum()


@torch.no_grad()
def _distributions(model: Any, batches: list[Any]) -> Iterator[Tensor]:
    """Log-probabilities [N, V] at the supervised positions of each batch."""
    for batch in batches:
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        yield F.log_softmax(logits[batch.targets >= 0].float(), dim=-1)


def _divergence(model: Any, batches: list[Any], expected: list[Tensor]) -> float:
    """Mean KL(16 bits ‖ model) per token."""
    found = zip(_distributions(model, batches), expected, strict=True)
    parts = [F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1) for ours, theirs in found]
    return float(torch.cat(parts).mean())


def _handed_over(model: Any, folder: str, training: list[Any], held_out: list[Any]) -> Rows:
    """Losses of a short training's result: as trained, and of its adapter's folder on fresh bases."""
    from tempfile import TemporaryDirectory

    from quatrain.adapters import load_adapter, save_adapter
    from quatrain.adapters.starts.start import STARTS as TAKEN_OUT

    _train(model, training)
    losses = {"as trained": _loss(model, held_out)}
    with TemporaryDirectory() as adapter:
        save_adapter(model, adapter)
        # As PEFT sees the folder; Quatrain would take out of the base again what training had taken out.
        (Path(adapter) / TAKEN_OUT).unlink(missing_ok=True)
        for name, quantization in (("on 16 bits", None), ("on four bits", "nf4")):
            losses[name] = _loss(load_adapter(_load(folder, quantization)[0], adapter), held_out)
    return {f"r = {RANKS[0]} after {STEPS} steps, {name}": Row(values={"loss": loss}) for name, loss in losses.items()}


def _train(model: Any, training: list[Any]) -> None:
    from quatrain.adapters import adapter_parameters
    from quatrain.models.objective import Objective
    from quatrain.optim import AdamW
    from quatrain.training.step import train_step

    parameters = list(adapter_parameters(model).values())
    objective = Objective(model, packing=False, fused_blocks="off")
    optimizer: Any = AdamW(parameters, lr=LEARNING_RATE)
    model.train()
    for batch in training:
        train_step(objective, parameters, optimizer, [batch], max_grad_norm=1.0)
    model.eval()


def _loss(model: Any, batches: list[Any]) -> float:
    from quatrain.evaluation import evaluate_loss
    from quatrain.models.objective import Objective

    return evaluate_loss(Objective(model, packing=False, fused_blocks="off"), batches).loss


_MEASURES: dict[Contender, Callable[[Setting], Rows]] = {
    who: partial(measure, settings) for who, settings in STARTS.items()
}

CASES = (
    Case(
        name="adapter_starts",
        kind=KIND,
        title="",
        contenders={who: Play(measured) for who, measured in _MEASURES.items()},
        device="cpu",
        options={"ranks": RANKS, "side": SIDE, "held_out": HELD_OUT, "steps": STEPS},
        models=("smollm2",),
        limit_s=1800,
        environment=ONE_CORE,
    ),
)
