"""What this machine reaches: copies, the bus, bfloat16 products and attention at the shapes of the training cases.

Every floor is taken against these rows; measure them in the same session as the rest.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention, can_use_flash_attention
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.case import TORCH, Case, Kind, Play, Row, Rows, Setting
from benchmarks.floor import (
    BOTH_WAYS,
    COPY,
    DEVICE_TO_HOST,
    HOST_TO_DEVICE,
    attention_flops,
    attention_label,
    products_label,
)
from benchmarks.measurements import training
from benchmarks.shapes import SHAPES, Shape
from benchmarks.timing import kernel_ms

KIND = Kind(
    title="Ceilings",
    note="What plain PyTorch reaches on this machine, on random data. Products: forward and input gradient of a "
    "block's joined linears, weights in rotation. Attention: causal, grouped heads, the faster of FlashAttention and "
    "cuDNN. Copies count bytes read and written, the bus counts one way.",
    shows=("teraflops", "gigabytes_per_second"),
)
COPIED, OVER_THE_BUS = 4 << 30, 1 << 30
BACKENDS = {
    SDPBackend.CUDNN_ATTENTION: can_use_cudnn_attention,
    SDPBackend.FLASH_ATTENTION: can_use_flash_attention,
}


def batches() -> list[tuple[str, int, int]]:
    """(model, samples, length) of the training cases on a GPU, each once."""
    found = [case.options for case in training.CASES if case.device == "cuda"]
    return list(dict.fromkeys((work["model"], work["samples"], work["length"]) for work in found))


def measure(setting: Setting) -> Rows:
    rows = _copies(setting)
    for model, tokens in dict.fromkeys((model, samples * length) for model, samples, length in batches()):
        rows[products_label(model, tokens)] = _products(SHAPES[model], tokens, setting)
    for model, samples, length in batches():
        forward, backward = _attention(SHAPES[model], samples, length, setting)
        rows[attention_label(model, samples, length, "forward")] = forward
        rows[attention_label(model, samples, length, "backward")] = backward
    return rows


def _copies(setting: Setting) -> Rows:
    def timed(launch: Callable[[int], object], moved: int) -> Row:
        return Row(samples_ms=kernel_ms(launch, launches=2, rounds=setting.repetitions(9)), bytes=moved)

    here = torch.zeros(2, COPIED, dtype=torch.uint8, device=setting.device)
    host = torch.zeros(2, OVER_THE_BUS, dtype=torch.uint8).pin_memory()
    near = here[:, :OVER_THE_BUS]
    other = torch.cuda.Stream(setting.device)

    def both_ways(_: int) -> None:
        current = torch.cuda.current_stream(setting.device)
        other.wait_stream(current)
        with torch.cuda.stream(other):
            host[0].copy_(near[0], non_blocking=True)
        near[1].copy_(host[1], non_blocking=True)
        current.wait_stream(other)

    return {
        COPY: timed(lambda _: here[0].copy_(here[1]), 2 * COPIED),
        HOST_TO_DEVICE: timed(lambda _: near[0].copy_(host[0], non_blocking=True), OVER_THE_BUS),
        DEVICE_TO_HOST: timed(lambda _: host[0].copy_(near[0], non_blocking=True), OVER_THE_BUS),
        BOTH_WAYS: timed(both_ways, OVER_THE_BUS),
    }


def _products(shape: Shape, tokens: int, setting: Setting) -> Row:
    """All of a block's products, one after the other, forward and for the input's gradient."""

    def random(*size: int) -> Tensor:
        return torch.randn(size, device=setting.device, dtype=torch.bfloat16)

    sets = [[random(*size) for size in shape.joined_linears] for _ in range(2)]
    xs = {inputs: random(tokens, inputs) for _, inputs in shape.joined_linears}
    ys = {outputs: random(tokens, outputs) for outputs, _ in shape.joined_linears}

    def launch(i: int) -> None:
        for weight in sets[i]:
            outputs, inputs = weight.shape
            torch.mm(xs[inputs], weight.T)
            torch.mm(ys[outputs], weight)

    flops = 4 * tokens * sum(outputs * inputs for outputs, inputs in shape.joined_linears)
    samples = kernel_ms(launch, rotation=2, launches=_launches(flops), rounds=setting.repetitions(9))
    return Row(samples_ms=samples, flops=flops)


def _attention(shape: Shape, samples: int, length: int, setting: Setting) -> tuple[Row, Row]:
    """Forward and backward of one block's attention, each with the backend that is faster at it."""
    flops = attention_flops(shape, samples=samples, length=length) // shape.blocks
    heads = (shape.heads, shape.kv_heads, shape.kv_heads)
    rows: list[tuple[Row, Row]] = []
    for backend, can_use in BACKENDS.items():
        q, k, v = (_random_heads(samples, count, length, shape.head_size, setting) for count in heads)
        if not can_use(SDPAParams(q, k, v, None, 0.0, True, True)):
            continue
        with sdpa_kernel(backend):
            times = [
                kernel_ms(launch, rotation=1, launches=_launches(flops), rounds=setting.repetitions(9))
                for launch in _attention_launches(q, k, v)
            ]
        rows.append((Row(samples_ms=times[0], flops=flops), Row(samples_ms=times[1], flops=flops * 5 // 2)))
    forward, backward = zip(*rows, strict=True)
    return _fastest(forward), _fastest(backward)


def _fastest(rows: Sequence[Row]) -> Row:
    return min(rows, key=lambda row: min(row.samples_ms))


def _random_heads(samples: int, heads: int, length: int, size: int, setting: Setting) -> Tensor:
    drawn = torch.randn(samples, heads, length, size, device=setting.device, dtype=torch.bfloat16)
    return drawn.requires_grad_()


def _attention_launches(q: Tensor, k: Tensor, v: Tensor) -> Iterator[Callable[[int], object]]:
    def attend() -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    yield lambda _: attend()
    out = attend()
    upstream = torch.randn_like(out)
    yield lambda _: torch.autograd.grad(out, (q, k, v), upstream, retain_graph=True)


def _launches(flops: int) -> int:
    """Enough for some 30 ms a round at 500 TFLOP/s, at least one."""
    return max(1, min(16, int(15e12 / flops)))


CASES = (
    Case(
        name="ceilings",
        kind=KIND,
        title="",
        contenders={TORCH: Play(partial(measure))},
        device="cuda",
        options={"copied_bytes": COPIED, "bus_bytes": OVER_THE_BUS},
        limit_s=180,
    ),
)
