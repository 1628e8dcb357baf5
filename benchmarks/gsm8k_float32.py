"""The same few QLoRA steps through Quatrain and through bitsandbytes + PEFT, in float32.

In bfloat16 two correct programs drift apart by rounding alone, most in the first steps, where AdamW moves each weight
by the sign of its gradient. In float32 what remains is what the programs do differently.
"""

import torch

from benchmarks.gsm8k import ROWS_A_STEP, adapt, batches_of, compared, rows_of, train_ours, train_theirs
from benchmarks.smollm2 import folder_16bit
from quatrain.models import load_model

STEPS = 12


def run() -> dict:
    """Both loss curves over the first steps of the schedule of `gsm8k`."""
    folder = folder_16bit()
    model, tokenizer = load_model(folder, compute_dtype="float32")
    batches = list(batches_of(rows_of("train", STEPS * ROWS_A_STEP), tokenizer))
    start = adapt(model)
    ours = train_ours(model, batches)
    del model
    theirs = train_theirs(folder, batches, start, torch.float32)
    case = f"The first {STEPS} of these steps in float32"
    return {"case": case, **compared(ours, theirs)}
