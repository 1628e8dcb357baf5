"""SmolLM2-135M-Instruct for benchmarks: the one model with trained weights, as a 16-bit folder that peers can read."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def gguf() -> str:
    """Path of the GGUF file: the one that QUATRAIN_SMOLLM2 names, else fetched."""
    if named := os.environ.get("QUATRAIN_SMOLLM2"):
        return named
    command = [sys.executable, str(ROOT / "scripts" / "fetch_smollm2.py"), "--gguf"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def write_16bit(folder: Path) -> None:
    """The model in bfloat16 and its tokenizer."""
    from quatrain import load_model

    model, tokenizer = load_model(gguf(), quantization=None, compute_dtype="bfloat16", device="cpu")
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
