"""A training step of SmolLM2-135M on 1 × 512 tokens: Quatrain against bitsandbytes + PEFT + transformers.

Both see the same tokens, compute in the dtype that Quatrain picks for the machine, adapt every linear of the body with
r = 16 and update with 8-bit AdamW; the whole step counts: forward, backward, clipping, update. Each contender is a
process of its own, and they take turns, so that a busy minute of the machine doesn't hit one alone. Before any time
counts, the first step's loss must agree.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from benchmarks.peer import autocast, load_peer
from benchmarks.smollm2 import folder_16bit
from quatrain.device import compute_dtype

TOKENS, RANK, WARMUP, STEPS, ROUNDS, THREADS = 512, 16, 2, 6, 2, 2
CONTENDERS = {
    "quatrain": "Quatrain",
    "peer": "bitsandbytes + PEFT + transformers",
    "peer_checkpointed": "bitsandbytes + PEFT + transformers, activations checkpointed (PEFT's default)",
}


def run() -> dict:
    """All contenders in turns; medians over all timed steps, and the ratio to the faster of the peer's two ways."""
    folder_16bit()
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    losses: dict[str, float] = {}
    for _ in range(ROUNDS):
        for contender in CONTENDERS:
            command = [sys.executable, "-m", "benchmarks.cpu_step", contender]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            report = json.loads(out.strip().splitlines()[-1])
            seconds[contender] += report["seconds"]
            losses[contender] = report["first_loss"]
            print(f"  {CONTENDERS[contender]}: {statistics.median(report['seconds']):.3f} s a step", flush=True)
    if abs(losses["quatrain"] - losses["peer"]) > 0.01 * losses["peer"]:
        raise SystemExit(f"the contenders compute different losses: {losses}")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    best_peer = min(medians["peer"], medians["peer_checkpointed"])
    return {
        "case": f"SmolLM2-135M, 1 × {TOKENS} tokens, r = {RANK} on all linears, {THREADS} threads",
        "median_seconds": {CONTENDERS[name]: median for name, median in medians.items()},
        "all_seconds": {CONTENDERS[name]: times for name, times in seconds.items()},
        "first_loss": {CONTENDERS[name]: loss for name, loss in losses.items()},
        "times_as_fast": best_peer / medians["quatrain"],
    }


def contend(contender: str) -> dict:
    """The first loss and the seconds of each timed step of one contender, in this process."""
    torch.set_num_threads(THREADS)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 49000, (1, TOKENS), generator=generator)
    step = quatrain_step(ids) if contender == "quatrain" else peer_step(ids, contender == "peer_checkpointed")
    first = step()
    for _ in range(WARMUP - 1):
        step()
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return {"first_loss": first, "seconds": seconds}


def quatrain_step(ids: torch.Tensor) -> Callable[[], float]:
    from quatrain.adapters import LoraConfig, adapter_parameters, attach_lora
    from quatrain.data import Loader, Sample, Samples
    from quatrain.models import load_model
    from quatrain.models.objective import Objective
    from quatrain.optim import AdamW
    from quatrain.training.step import train_step

    model, _ = load_model(folder_16bit(), device="cpu")
    attach_lora(model, LoraConfig(r=RANK, lora_alpha=RANK))
    learned = torch.ones(TOKENS, dtype=torch.bool)
    learned[0] = False
    samples = Samples([Sample(ids[0].int().numpy(), learned.numpy())])
    batches = list(Loader(samples, max_length=TOKENS, batch_size=1, packing=True).epoch(0))
    objective = Objective(model)
    parameters = list(adapter_parameters(model).values())
    optimizer = AdamW(parameters, lr=1e-4)
    model.train()

    def step() -> float:
        with objective.ready():
            return train_step(objective, parameters, optimizer, batches, max_grad_norm=1.0).loss

    return step


def peer_step(ids: torch.Tensor, checkpointing: bool) -> Callable[[], float]:
    from bitsandbytes.optim.adamw import AdamW8bit

    dtype = compute_dtype(ids.device)
    model = load_peer(folder_16bit(), r=RANK, lora_alpha=RANK, checkpointing=checkpointing, dtype=dtype)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW8bit(parameters, lr=1e-4)
    model.train()

    def step() -> float:
        with autocast(ids.device, dtype):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("contender", choices=CONTENDERS)
    print(json.dumps(contend(parser.parse_args().contender)))
