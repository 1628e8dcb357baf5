"""Run benchmarks and write their results and the table made from them.

python -m benchmarks                 all that this machine can run
python -m benchmarks cpu_step        one
python -m benchmarks --table         only the table, from the result files that are there
"""

import argparse
import importlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.table import write_table
from quatrain.device import name

RESULTS = Path(__file__).parent / "results"
CASES = {
    "cpu_attention": "attention of one sample on a CPU, against PyTorch's flash kernel",
    "cpu_step": "a training step of SmolLM2-135M on two CPU cores, against bitsandbytes + PEFT + transformers",
    "gsm8k": "SmolLM2-135M on GSM8K: perplexity in 16 bits, in NF4, after QLoRA; the loss curve beside the peer's",
    "gsm8k_float32": "some steps of that training in float32, where rounding hides nothing",
    "kernels": "the dequantize kernel on a GPU, against a plain copy and bitsandbytes",
    "optimizer": "8-bit AdamW, paged and not, against bitsandbytes",
}
GPU_ONLY = {"kernels"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, and write what was measured.")
    parser.add_argument("cases", nargs="*", metavar="case", help=f"any of: {', '.join(CASES)}")
    parser.add_argument("--table", action="store_true", help="only make the table from the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    for case in [] if arguments.table else arguments.cases or CASES:
        if case in GPU_ONLY and not torch.cuda.is_available():
            print(f"{case}: skipped, it needs a CUDA device")
            continue
        print(f"{case}: {CASES[case]}", flush=True)
        result = importlib.import_module(f"benchmarks.{case}").run()
        path = arguments.results / f"{case}{'_gpu' if torch.cuda.is_available() else ''}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n", encoding="utf-8")
        print(f"{case}: written to {path}", flush=True)
    write_table(arguments.results)


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    packages = {package: version(package) for package in ("torch", "transformers")}
    return {
        "device": name(device),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        **packages,
    }


if __name__ == "__main__":
    main()
