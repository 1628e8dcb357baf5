"""Time of one optimizer step on a model's LoRA adapters: Quatrain's AdamW beside bitsandbytes' and PyTorch's.

On a GPU the adapter is that of Llama-3.1-8B with r = 64, on the CPU that of SmolLM2-135M with r = 16.

All optimizers take turns, step by step, in one process, each on its own copy of the parameters and on fresh random
gradients; the figure is the median (and the least) of the steps after a warm-up. On a GPU steps are timed by events
that also span the host's share of the work. bitsandbytes joins if it is installed.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from quatrain.optim import AdamW

# Inputs and outputs of one block's linears, the number of blocks, and the rank.
MODELS = {
    "cpu": (
        "SmolLM2-135M",
        [(576, 576), (576, 192), (576, 192), (576, 576), (576, 1536), (576, 1536), (1536, 576)],
        30,
        16,
    ),
    "cuda": (
        "Llama-3.1-8B",
        [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), (4096, 14336), (4096, 14336), (14336, 4096)],
        32,
        64,
    ),
}
WARM_UP, STEPS = 5, 30


def adapters(device: torch.device) -> list[torch.nn.Parameter]:
    """LoRA matrices A [rank, in] and B [out, rank] of every linear."""
    _, linears, blocks, rank = MODELS[device.type]
    shapes = [s for i, o in linears for s in ((rank, i), (o, rank))] * blocks
    return [torch.nn.Parameter(0.01 * torch.randn(s, device=device)) for s in shapes]


def contestants(device: torch.device) -> dict[str, Callable[[list], torch.optim.Optimizer]]:
    ours = {
        "quatrain 8-bit": lambda p: AdamW(p, lr=1e-4, state_bits=8, paged=False),
        "quatrain 32-bit": lambda p: AdamW(p, lr=1e-4, state_bits=32, paged=False),
        "torch 32-bit": lambda p: torch.optim.AdamW(p, lr=1e-4, weight_decay=0.0),
    }
    if device.type == "cuda":
        ours["quatrain 8-bit, paged"] = lambda p: AdamW(p, lr=1e-4, state_bits=8, paged=True)
        ours["quatrain 32-bit, paged"] = lambda p: AdamW(p, lr=1e-4, state_bits=32, paged=True)
    try:
        from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit
    except ImportError:
        return ours
    ours["bitsandbytes 8-bit"] = lambda p: AdamW8bit(p, lr=1e-4, weight_decay=0.0)
    if device.type == "cuda":
        ours["bitsandbytes 8-bit, paged"] = lambda p: PagedAdamW8bit(p, lr=1e-4, weight_decay=0.0)
    return ours


def milliseconds(step: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        start = time.perf_counter()
        step()
        return 1e3 * (time.perf_counter() - start)
    torch.cuda.synchronize(device)
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    step()
    torch.cuda.synchronize(device)  # paged state drains on another stream, which belongs to the step
    after.record()
    after.synchronize()
    return before.elapsed_time(after)


def measure(device: torch.device, steps: int) -> dict[str, dict[str, float]]:
    optimizers = {name: make(adapters(device)) for name, make in contestants(device).items()}
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    for step in range(WARM_UP + steps):
        for name, optimizer in optimizers.items():
            params: list[Tensor] = optimizer.param_groups[0]["params"]
            for p in params:
                p.grad = 1e-3 * torch.randn_like(p)
            elapsed = milliseconds(optimizer.step, device)
            optimizer.zero_grad()
            if step >= WARM_UP:
                times[name].append(elapsed)
    return {
        name: {"median_ms": round(statistics.median(t), 3), "least_ms": round(min(t), 3)} for name, t in times.items()
    }


def run() -> dict:
    """Medians and least times of all contestants on this machine's device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, _, _, rank = MODELS[device.type]
    params = adapters(device)
    times = measure(device, STEPS)
    return {
        "case": f"An optimizer step on the adapter of {model}, r = {rank} on all linears",
        "tensors": len(params),
        "parameters": sum(p.numel() for p in params),
        "state_bytes": {bits: AdamW(params, lr=1e-4, state_bits=bits, paged=False).state_bytes for bits in (8, 32)},
        "median_ms": {name: time["median_ms"] for name, time in times.items()},
        "least_ms": {name: time["least_ms"] for name, time in times.items()},
    }
