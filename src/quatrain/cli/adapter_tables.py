"""What `quatrain adapters show` prints: what an adapter is, by kind of module and by block."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from rich.table import Table

from quatrain.adapters.arithmetic import AdapterSummary, LayerSummary


def facts(summary: AdapterSummary) -> list[str]:
    """Lines about the adapter as a whole."""
    adapter = summary.adapter
    known = {
        "layers": f"{len(summary.layers)}, rank {', '.join(map(str, summary.ranks))}",
        "parameters": f"{summary.parameters:,}",
        "‖ΔW‖ of all layers": f"{summary.norm:.4g}",
        "base": adapter.base or "not named",
        "also holds": adapter.beyond_lora,
    }
    if (origin := adapter.provenance) is not None:
        known |= {
            "base's weights": origin.base and origin.base.fingerprint[:12],
            "made": origin.made,
            "base stored in": origin.quantization,
            "scales of": origin.block_size and f"{origin.block_size} weights",
            "computed in": origin.compute_dtype,
            "tokenizer": origin.tokenizer and origin.tokenizer[:12],
            "chat template": origin.chat_template and origin.chat_template[:12],
            "versions": ", ".join(f"{name} {version}" for name, version in origin.versions.items()) or None,
        }
    return [f"{name}: {value}" for name, value in known.items() if value is not None]


def kinds_table(summary: AdapterSummary) -> Table:
    """A row for each kind of module, over all blocks."""
    table = Table(box=None, pad_edge=False)
    for name in ("module", "layers", "[out, in]", "r", "scale", "‖ΔW‖", "largest", "r for 99 %"):
        table.add_column(name, justify="left" if name == "module" else "right")
    for kind, layers in _by_kind(summary).items():
        table.add_row(
            kind,
            str(len(layers)),
            _range(str(list(layer.shape)) for layer in layers),
            _range(layer.r for layer in layers),
            _range(layer.scaling for layer in layers),
            f"{_norm(layers):.4g}",
            f"{max(layer.spectral_norm for layer in layers):.4g}",
            _range(layer.enough for layer in layers),
        )
    return table


def norms_table(summary: AdapterSummary) -> Table:
    """‖ΔW‖ of each layer: blocks downwards, kinds of module across."""
    table = Table("block", box=None, pad_edge=False, title="‖ΔW‖ by layer", title_justify="left")
    kinds = list(_by_kind(summary))
    for kind in kinds:
        table.add_column(kind, justify="right")
    blocks: dict[str, dict[str, list[LayerSummary]]] = defaultdict(lambda: defaultdict(list))
    for layer in summary.layers:
        blocks[_block(layer.name)][_kind(layer.name)].append(layer)
    for block, layers in blocks.items():
        table.add_row(block, *(f"{_norm(layers[kind]):.3g}" if kind in layers else "" for kind in kinds))
    return table


def _by_kind(summary: AdapterSummary) -> dict[str, list[LayerSummary]]:
    kinds: dict[str, list[LayerSummary]] = defaultdict(list)
    for layer in summary.layers:
        kinds[_kind(layer.name)].append(layer)
    return kinds


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _block(name: str) -> str:
    """A name up to its first number."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return "outside of blocks" if number is None else ".".join(parts[: number + 1])


def _norm(layers: Iterable[LayerSummary]) -> float:
    return sum(layer.norm**2 for layer in layers) ** 0.5


def _range(values: Iterable[Any]) -> str:
    """One value, or the smallest and the largest."""
    shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in sorted(set(values))]
    return shown[0] if len(shown) == 1 else f"{shown[0]}–{shown[-1]}"
