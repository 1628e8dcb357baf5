"""Time of one optimizer step on a model's LoRA adapters: Quatrain's AdamW beside bitsandbytes' and PyTorch's.

    python benchmarks/optimizer.py results.json                # a GPU (Llama-3.1-8B, r=64) if there is one
    python benchmarks/optimizer.py results.json --device cpu   # SmolLM2-135M, r=16

All optimizers take turns, step by step, in one process, each on its own copy of the parameters and on fresh random
gradients; the figure is the median (and the least) of the steps after a warm-up. On a GPU steps are timed by events
that also span the host's share of the work. bitsandbytes joins if it is installed.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

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
WARM_UP = 5


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON file to write")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=MODELS)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()

    device = torch.device(arguments.device)
    name, _, _, rank = MODELS[device.type]
    params = adapters(device)
    facts = {
        "benchmark": "optimizer",
        "model": name,
        "rank": rank,
        "tensors": len(params),
        "parameters": sum(p.numel() for p in params),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "steps": arguments.steps,
        "state_bytes": {bits: AdamW(params, lr=1e-4, state_bits=bits, paged=False).state_bytes for bits in (8, 32)},
    }
    result = facts | {"time": measure(device, arguments.steps)}
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
