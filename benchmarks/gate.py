"""The gate before a figure counts: on a small random model of the same family, a contender must agree with float32.

The model is quantized as the large one is, its adapter starts from random A *and* B (with B = 0, as in training, half
of the backward would multiply zeros), and the samples aren't a whole number of any kernel's tiles. What is compared
comes out of the very path that is timed. The weights are a fresh network's, so the loss is ln V + 1/2 ± 0.07 for a
model that computes nonsense: it has to agree to a fraction of that scatter. The gradient is the sharper test.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.case import Setting, WrongResult
from benchmarks.checkpoints import END_TOKEN
from benchmarks.plain_llama import PlainLlama
from benchmarks.shapes import SHAPES, Shape
from benchmarks.timing import release
from benchmarks.work import OpenTraining, Work
from quatrain.device import compute_dtype

GATE_MODELS = {"8b": "gate_8b", "1b": "gate_1b", "smollm2": "gate_1b", "tiny": "tiny"}
"""The small model that stands in at the gate: same family, same size of heads."""
SAMPLES, LENGTH = 3, 150

LOSS_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-3, torch.float16: 2e-3}
"""Relative error of the loss. In 16 bits rounding moves single losses by 1 % and their mean over 447 by less than
0.1 %; nonsense moves the mean by 1 %."""
GRADIENT_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Relative error, by norm, of the gradients of all A and of all B. Eight bits of mantissa cost 1 to 2 % over the two
blocks; a wrong term costs tens of per cent."""
LOGIT_MARGIN = 0.15
"""How far below the best logit a greedily chosen token's may be, in float32: ties within rounding. Logits of the gate's
models have a standard deviation of 1, so the best of 1,024 lies near 3.2 and a token chosen by mistake near 0."""


def training_gate(open_training: OpenTraining, work: Work, setting: Setting) -> dict[str, float]:
    """Loss and gradients of `open_training`'s step without dropout, against autograd in float32."""
    name = GATE_MODELS[work.model]
    small = replace(work, model=name, samples=SAMPLES, length=LENGTH, dropout=0.0, cap_gib=None)
    if work.peer_samples is not None:
        small = replace(small, peer_samples=1)
    shape, folder = SHAPES[name], setting.models / name
    ids_BS = _tokens(shape, SAMPLES, LENGTH)
    training = open_training(folder, small, setting.device)
    start = _start(training.adapter, shape, work.r)
    for key, tensor in training.adapter.items():
        tensor.data.copy_(start[key])
    loss, gradients = training.gradients(training.prepare(ids_BS))
    del training
    release(setting.device)
    learned = {key: tensor.requires_grad_() for key, tensor in start.items()}
    true_loss = PlainLlama(folder, shape).loss(ids_BS, learned)
    true_loss.backward()
    errors = {"loss": abs(loss - true_loss.item()) / true_loss.item()}
    for half in ("lora_A", "lora_B"):
        keys = [key for key in learned if key.endswith(half)]
        errors[f"gradient of {half}"] = _relative_error(gradients, {key: learned[key].grad for key in keys})
    return _judged(errors, setting.device)


def loss_gate(loss_of: Callable[[Path, Tensor], float], model: str, setting: Setting) -> dict[str, float]:
    """Loss of a loaded base: ``loss_of(folder, ids_BS)`` against float32."""
    name = GATE_MODELS[model]
    shape, folder = SHAPES[name], setting.models / name
    ids_BS = _tokens(shape, SAMPLES, LENGTH)
    found = loss_of(folder, ids_BS)
    with torch.no_grad():
        true = PlainLlama(folder, shape).loss(ids_BS).item()
    return _judged({"loss": abs(found - true) / true}, setting.device)


def decode_gate(continue_: Callable[[Path, Tensor], Tensor], model: str, setting: Setting) -> dict[str, float]:
    """Greedy decoding: ``continue_(folder, prompts_BS)`` gives prompts with their continuations, whose every token must
    be the likeliest in float32 after what stands before it. The token that would end a text stands back: so many tokens
    are asked for."""
    name = GATE_MODELS[model]
    shape, folder = SHAPES[name], setting.models / name
    prompts_BS = _tokens(shape, 2, 37)
    full_BS = continue_(folder, prompts_BS).cpu()
    if not torch.equal(full_BS[:, : prompts_BS.shape[1]], prompts_BS) or full_BS.shape[1] == prompts_BS.shape[1]:
        raise WrongResult("the prompt doesn't come back with a continuation behind it")
    with torch.no_grad():
        logits = PlainLlama(folder, shape).logits(full_BS)[:, prompts_BS.shape[1] - 1 : -1]
    chosen = logits.gather(-1, full_BS[:, prompts_BS.shape[1] :, None])
    logits[..., END_TOKEN] = float("-inf")
    short = (logits.amax(-1, keepdim=True) - chosen).max().item()
    if not short <= LOGIT_MARGIN:
        raise WrongResult(f"a token was chosen whose logit is {short:.3f} below the best (at most {LOGIT_MARGIN})")
    return {"logits below the best": short}


def relative_error(found: Tensor, true: Tensor) -> float:
    """‖found − true‖ / ‖true‖ in float64; NaN where anything is NaN."""
    return ((found.double() - true.double()).norm() / true.double().norm()).item()


def _judged(errors: dict[str, float], device: torch.device) -> dict[str, float]:
    dtype = compute_dtype(device)
    for what, error in errors.items():
        limit = (LOSS_TOLERANCE if what == "loss" else GRADIENT_TOLERANCE)[dtype]
        if not error <= limit:
            raise WrongResult(f"{what}: relative error {error:.2e} against float32 (at most {limit:.0e})")
    return {what: float(f"{error:.2e}") for what, error in errors.items()}


def _tokens(shape: Shape, rows: int, length: int) -> Tensor:
    return torch.randint(3, shape.vocabulary, (rows, length))


def _start(adapter: dict[str, Tensor], shape: Shape, r: int) -> dict[str, Tensor]:
    """Random A and B for every linear of the blocks; the adapter must consist of just these."""
    start = {}
    for block in range(shape.blocks):
        for name, (outputs, inputs) in shape.linears.items():
            key = f"model.layers.{block}.{name}"
            start[f"{key}.lora_A"] = torch.randn(r, inputs) * inputs**-0.5
            start[f"{key}.lora_B"] = torch.randn(outputs, r) * 0.3 * r**-0.5
    if adapter.keys() != start.keys():
        raise WrongResult(f"other layers are adapted: {sorted(adapter.keys() ^ start.keys())[:4]}")
    return start


def _relative_error(found: dict[str, Tensor], true: dict[str, Tensor | None]) -> float:
    pairs = [(found[key], gradient) for key, gradient in true.items() if gradient is not None]
    return relative_error(*(torch.cat([t.detach().cpu().flatten() for t in side]) for side in zip(*pairs, strict=True)))
