"""Two days' worth of steps in small: does anything grow?  ``python -m tests.training.soak [STEPS]``

One process trains a small Llama for thousands of steps with evaluations and checkpoints on the way. Every 250 steps the
run is stopped and resumed, so that all that belongs to a run (model, loader, files, trackers) is made anew again and
again, and what one of them leaves behind adds up. After each such session host memory, open files, threads and the
processor time of its median step are noted; the result goes to `benchmarks/results/soak.json`.

Processor time and not the clock's: on a machine with other work a step takes as long as it is let.
"""

import gc
import json
import os
import platform
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

import psutil
import torch

from quatrain.adapters import LoraConfig
from quatrain.runlog import Event, StepDone
from quatrain.training import RunConfig, train
from tests.conftest import make_tokenizer
from tests.llamas import tiny_llama

STEPS = 5000
SESSION = 250
RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "soak.json"
_WARM_UP = 4
"""Sessions in which libraries still fill their caches."""


@dataclass(frozen=True)
class Session:
    """What was there at its end."""

    step: int
    memory: int
    """Resident bytes of the process."""
    files: int
    """Open file descriptors."""
    threads: int
    step_seconds: float
    """Processor time of the median step."""


class Clock:
    """Notes the processor time between steps, and stops the run after `last`."""

    def __init__(self, last: int):
        self.last, self.times = last, [time.process_time()]

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self.times.append(time.process_time())
            if event.step == self.last:
                signal.raise_signal(signal.SIGTERM)

    def median_step(self) -> float:
        return median(after - before for before, after in zip(self.times[1:], self.times[2:], strict=False))


def soak(folder: Path, steps: int) -> list[Session]:
    """Train in `folder` and look around after each session."""
    config = make_inputs(folder, steps)
    process, found = psutil.Process(), []
    for last in range(SESSION, steps + 1, SESSION):
        clock = Clock(last)
        result = train(None, None, config, progress=False, resume=last > SESSION, sinks=[clock])
        assert result.step == last
        gc.collect()
        found.append(
            Session(
                step=last,
                memory=process.memory_info().rss,
                files=process.num_fds(),
                threads=process.num_threads(),
                step_seconds=clock.median_step(),
            )
        )
    return found


def growth(sessions: list[Session]) -> dict[str, float]:
    """How much more each quantity is in the last quarter of the sessions than in the first one after the warm-up."""
    warm = sessions[_WARM_UP:]
    part = max(1, len(warm) // 4)

    def of(name: str) -> float:
        first, last = ([getattr(s, name) for s in some] for some in (warm[:part], warm[-part:]))
        return fmean(last) / fmean(first) - 1

    return {name: of(name) for name in ("memory", "files", "threads", "step_seconds")}


def make_inputs(folder: Path, steps: int) -> RunConfig:
    tiny_llama(tie_word_embeddings=False).save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    rows = [{"prompt": f"{a} + {b}?", "completion": f"{a + b} apples"} for a in range(20) for b in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RunConfig(
        model=str(folder / "model"),
        data=str(folder / "rows.jsonl"),
        eval_data={"path": str(folder / "rows.jsonl"), "max_rows": 20},
        output_dir=folder / "run",
        compute_dtype="float32",
        device="cpu",
        lora=LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1),
        max_length=64,
        max_steps=steps,
        gradient_accumulation_steps=1,
        eval_steps=50,
        save_steps=50,
    )


def main() -> None:
    torch.set_num_threads(1)
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        sessions = soak(Path(folder), steps)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "growth": {name: round(value, 5) for name, value in growth(sessions).items()},
        "sessions": [asdict(session) for session in sessions],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["growth"]))


if __name__ == "__main__":
    main()
