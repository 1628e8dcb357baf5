"""The forms that are exported, and who is asked to continue each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quatrain.exports import Exported, export
from quatrain.exports.merged_weights import Onto
from quatrain.training.export_target import ExportTarget


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to hand a run on."""

    name: str
    to: ExportTarget
    base: Onto
    gguf_type: str = "f16"
    file: str = ""
    """What in the folder is loaded; the folder itself if empty."""
    engines: tuple[str, ...] = ()
    """Others than Quatrain that load it."""
    exact: bool = False
    """Whether every token has to be the same as in float32."""
    rounds_inputs: bool = False
    """Whether the engine rounds what goes into a product to BF16 as well. Quatrain then answers a second time, rounding
    in the same places, and there every token has to be the same."""


FORMS = (
    Form(name="safetensors", to="safetensors", base="dequantized", engines=("transformers", "vllm"), exact=True),
    Form(name="GGUF F16", to="gguf", base="dequantized", file="model.gguf", engines=("llama.cpp",), exact=True),
    Form(
        name="GGUF BF16",
        to="gguf",
        base="dequantized",
        gguf_type="bf16",
        file="model.gguf",
        engines=("llama.cpp",),
        rounds_inputs=True,
    ),
    Form(name="GGUF Q8_0", to="gguf", base="dequantized", gguf_type="q8_0", file="model.gguf", engines=("llama.cpp",)),
    Form(name="bnb-4bit", to="bnb-4bit", base="original", engines=("transformers",)),
    Form(name="bnb-4bit, onto the dequantized", to="bnb-4bit", base="dequantized"),
)


def write(form: Form, run: Path, folder: Path, *, measure: bool = True) -> tuple[Path, dict[str, Any]]:
    """Export a run in one form. Returns what is loaded, and the measurements, if there are any."""
    out = folder / form.name.replace(" ", "_").replace(",", "")
    # No bounds: what they would refuse is what is to be seen here.
    result = export(
        run, out, to=form.to, base=form.base, gguf_type=form.gguf_type, tolerance=float("inf"),
        least_survival=float("-inf"), measure=measure,
    )  # fmt: skip
    return out / form.file, measured(result) if measure else {}


def measured(result: Exported) -> dict[str, Any]:
    """The figures of an export, without the places of this machine."""
    assert result.compared is not None
    found: dict[str, Any] = {
        "trained_loss": result.compared.trained_loss,
        "positions": result.compared.positions,
        "written": vars(result.compared.written),
    }
    if result.compared.other is not None:
        found["onto the original"] = vars(result.compared.other)
    if result.written.survival:
        from quatrain.exports.four_bit import total_survival

        survival = result.written.survival
        found["survival"] = {
            "total": total_survival(survival),
            "least": min(layer.share for layer in survival.values()),
            "layers": {name: [round(layer.share, 4), round(layer.noise, 2)] for name, layer in survival.items()},
        }
    return found
