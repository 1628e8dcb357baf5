"""Exports: what base + adapter become for those who serve them.

    open, check ─► write aside, read back ─► load as a stranger would ─► compare with base + adapter ─► rename

Nothing appears under the name that was asked for before all of this has ended well.
"""

from pathlib import Path
from typing import get_args

import torch

from quatrain.errors import ConfigError
from quatrain.exports.comparing import compare_with_trained
from quatrain.exports.four_bit import LEAST_SURVIVAL
from quatrain.exports.gguf import GGUF_TYPES
from quatrain.exports.merged_weights import Onto
from quatrain.exports.progress import Progress, silent
from quatrain.exports.result import Exported
from quatrain.exports.subject import Trained, open_subject
from quatrain.exports.writers import GGUF_FILE, WRITERS, Wishes
from quatrain.files import check_free, written_aside
from quatrain.training.export_target import GGUF_TARGETS, ExportTarget

TOLERANCE: dict[Onto, float] = {"dequantized": 0.02, "original": 0.5}
"""Largest KL(base + adapter ‖ result) in nats that passes by default. Folded into the base that was trained on, only
rounding is left; the original is another function, and how far from the trained one it may be is a matter of degree."""
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def merge(
    run: Trained,
    out: str | Path,
    *,
    base: Onto = "dequantized",
    original: str | Path | None = None,
    dtype: str = "auto",
    measure: bool = True,
    tolerance: float | None = None,
    device: str = "auto",
    max_shard_size: str = "5GB",
    force: bool = False,
    progress: Progress = silent,
) -> Exported:
    """Fold an adapter into its base, as a 16-bit checkpoint that transformers and vLLM load without Quatrain.

    Arguments, errors and result are those of :func:`export` to safetensors.
    """
    return export(
        run,
        out,
        to="safetensors",
        base=base,
        original=original,
        dtype=dtype,
        measure=measure,
        tolerance=tolerance,
        device=device,
        max_shard_size=max_shard_size,
        force=force,
        progress=progress,
    )


def export(
    run: Trained,
    out: str | Path,
    *,
    to: ExportTarget,
    base: Onto | None = None,
    original: str | Path | None = None,
    dtype: str = "auto",
    gguf_type: str = "f16",
    measure: bool = True,
    tolerance: float | None = None,
    least_survival: float = LEAST_SURVIVAL,
    device: str = "auto",
    max_shard_size: str = "5GB",
    force: bool = False,
    progress: Progress = silent,
) -> Exported:
    """Write base + adapter in a form that others serve, and compare it with what it is of.

    Writing 16 bits takes host memory for one shard, GGUF for one tensor, four bits for the 4-bit model. Measuring then
    loads base + adapter and the result, one after the other, on `device`.

    Args:
        run: a finished run or its folder, or an adapter's folder.
        out: the folder to make; it must not hold anything yet.
        to: `safetensors`, a 16-bit checkpoint; `bnb-4bit`, bitsandbytes' 4-bit checkpoint; `gguf`; `ollama`, a GGUF
            file with a Modelfile; `lora-gguf`, the adapter alone for llama.cpp.
        base: what the adapter is folded into: `dequantized`, the base as training saw it through four bits, or
            `original`, its 16-bit weights. None: the original for bnb-4bit, else the dequantized.
        original: the 16-bit checkpoint, for a base that is stored in four bits.
        dtype: of a 16-bit checkpoint: `bfloat16`, `float16`, or `auto`, what the base is stored in.
        gguf_type: of a GGUF file's matrices: `f16`, `bf16` or `q8_0`.
        measure: compare the result with base + adapter on the run's held-out rows, or its first training rows.
        tolerance: largest KL(base + adapter ‖ result) in nats that passes. None: `TOLERANCE`.
        least_survival: smallest share of the adapter's change that four bits may leave.
        device: where it is computed: `auto`, `cpu`, `cuda` or `cuda:1`.
        max_shard_size: largest file of a 16-bit checkpoint.
        force: take the adapter although it was trained on a base with other weights.
        progress: told (what, done, of how many).

    Raises:
        ConfigError: a wrong argument.
        AdapterError: the adapter is damaged, changes nothing, wasn't trained on this base or doesn't fit it; or the
            result is further from base + adapter than `tolerance`, or has less of the adapter than `least_survival`.
        ModelError: the base can't be read, or can't be written in this form.
        OutputError: the result can't be written. Nothing is left of it then, as with all of these.
    """
    _check_choice("to", to, get_args(ExportTarget))
    _check_choice("base", base, (None, *get_args(Onto)))
    _check_choice("dtype", dtype, ("auto", *_DTYPES))
    _check_choice("gguf_type", gguf_type, tuple(GGUF_TYPES))
    out = Path(out)
    check_free(out)
    subject = open_subject(run, device=device, original=original, force=force)
    onto: Onto = base or ("original" if to == "bnb-4bit" and subject.has_original else "dequantized")
    if not subject.is_quantized:
        onto = "original"
    wishes = Wishes(
        onto=onto,
        dtype=_DTYPES.get(dtype) or subject.stored_dtype(),
        gguf_type=gguf_type,
        max_shard_size=max_shard_size,
        least_survival=least_survival,
        progress=progress,
    )
    compared = None
    with written_aside(out) as aside:
        written = WRITERS[to](subject, aside, wishes)
        if measure and to != "lora-gguf":
            compared = compare_with_trained(
                subject,
                aside / GGUF_FILE if to in GGUF_TARGETS else aside,
                onto,
                dtype=wishes.dtype if to == "safetensors" else None,
                tolerance=TOLERANCE[onto] if tolerance is None else tolerance,
                progress=progress,
            )
    return Exported(folder=out, to=to, onto=onto, written=written, compared=compared)


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"`{name}` must be one of {', '.join(map(str, choices))}, found {value!r}")
