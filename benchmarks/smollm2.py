"""SmolLM2-135M-Instruct for benchmarks: the GGUF file, and a 16-bit folder made from it once, for peers to read."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def gguf() -> Path:
    """Path of the GGUF file, fetched if need be."""
    command = [sys.executable, str(ROOT / "scripts" / "fetch_smollm2.py"), "--gguf"]
    return Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


def folder_16bit() -> Path:
    """A folder with the model in bfloat16 and its tokenizer."""
    from quatrain import load_model

    source = gguf()
    folder = source.parent / "bfloat16"
    if not (folder / "model.safetensors").exists():
        model, tokenizer = load_model(source, quantization=None, compute_dtype="bfloat16", device="cpu")
        tokenizer.save_pretrained(folder)  # pyright: ignore[reportOptionalMemberAccess]
        model.save_pretrained(folder)
    return folder
