"""What an export says it has done."""

from dataclasses import dataclass
from pathlib import Path

from quatrain.exports.agreement import Agreement
from quatrain.exports.four_bit import Survival, total_survival
from quatrain.exports.merged_weights import Onto
from quatrain.training.export_target import ExportTarget


@dataclass(frozen=True, kw_only=True)
class Written:
    """What the files hold."""

    kind: str
    """How matrices are encoded: `bfloat16`, `nf4`, `q8_0`, …"""
    survival: dict[str, Survival] | None = None
    """What four bits leave of each layer's change, by module name; None in other forms."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How near a result is to base + adapter."""

    trained_loss: float
    """Of base + adapter."""
    positions: int
    """At which logits were compared."""
    written: Agreement
    """Of what was written."""
    other: Agreement | None
    """Of a merge onto the other base; None where there is none, or the form isn't `safetensors`."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A finished export."""

    folder: Path
    to: ExportTarget
    onto: Onto
    """The base that the adapter was folded into."""
    written: Written
    compared: Compared | None
    """None if it wasn't measured, or if the adapter was written alone."""

    def __str__(self) -> str:
        how = "the adapter alone" if self.to == "lora-gguf" else f"adapter folded into the {self.onto} base"
        lines = [f"{self.to} ({self.written.kind}), {how}: {self.folder}"]
        if survival := self.written.survival:
            worst = min(survival, key=lambda name: survival[name].share)
            lines.append(
                f"of the adapter's change {total_survival(survival):.1%} survived, least in {worst} "
                f"({survival[worst].share:.1%})"
            )
        if found := self.compared:
            lines.append(f"base + adapter: loss {found.trained_loss:.4f} over {found.positions} tokens")
            lines.append(f"written: {found.written}")
            lines += [f"onto the other base: {found.other}"] if found.other else []
        return "\n".join(lines)
