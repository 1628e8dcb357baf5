"""What an adapter looks like: rank, scale, dropout, and which linears carry one. The names are PEFT's."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from quatrain.adapters.starts.names import changes_base, checked_name
from quatrain.errors import ConfigError

ALL_LINEAR = "all-linear"


def parse_layers(layers: int | str | list[int] | tuple[int, ...]) -> tuple[int, ...]:
    """Block indices from ``3``, ``[0, 1]`` or a text of indices and inclusive ranges such as ``"0-3,8"``."""
    if isinstance(layers, int):
        layers = [layers]
    if isinstance(layers, str):
        expanded: list[int] = []
        for part in layers.split(","):
            first, dash, last = part.strip().partition("-")
            if not first.isdigit() or (dash and (not last.isdigit() or int(last) < int(first))):
                raise ConfigError(
                    f"`layers_to_transform` takes block indices and rising ranges such as '0-3,8', "
                    f"found {part.strip()!r}"
                )
            expanded.extend(range(int(first), int(last or first) + 1))
        layers = expanded
    if not layers:
        raise ConfigError("`layers_to_transform` is empty: name at least one block, or leave it out for all blocks")
    return tuple(sorted(set(layers)))


def parse_targets(targets: str | tuple[str, ...] | list[str]) -> str | tuple[str, ...]:
    """Names from a list or a text such as ``"q_proj, v_proj"``; "all-linear" and regular expressions stay texts.

    A dot alone makes no expression: ``self_attn.q_proj`` is the ending of a name.
    """
    if not isinstance(targets, str):
        return tuple(targets)
    names = [name.strip() for name in targets.split(",")]
    if targets == ALL_LINEAR or not all(re.fullmatch(r"\w+(\.\w+)*", name) for name in names):
        return targets
    return tuple(names)


def parse_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """Names from a list or a text such as ``"lm_head, norm"``."""
    return tuple(part.strip() for part in names.split(",")) if isinstance(names, str) else tuple(names)


def _parse_rows(rows: Any) -> Any:
    """Row numbers as tuples, whichever way they were given."""
    if isinstance(rows, Mapping):
        return {table: tuple(map(int, indices)) for table, indices in rows.items()}
    return tuple(map(int, rows))


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021): W x becomes W x + s · B A x, with A [r, in] and B [out, r] trained."""

    r: int = 16
    """Rank of the update. 16 is enough for most tasks; QLoRA's own recipe uses 64."""

    lora_alpha: float = 32
    """Numerator of the scale s = lora_alpha / r (or lora_alpha / √r, see `use_rslora`)."""

    lora_dropout: float = 0.0
    """Probability of dropping an element of the adapter's input while training. The base's input is never dropped."""

    target_modules: str | tuple[str, ...] | list[str] = ALL_LINEAR
    """Which linears: "all-linear" (every linear but the output head; QLoRA's finding is that all of them are needed to
    match full fine-tuning), names or name endings as a list or as in "q_proj, v_proj", or one regular expression over
    whole module names."""

    layers_to_transform: int | str | tuple[int, ...] | list[int] | None = None
    """Restrict to these blocks: an index, a list of indices, or ranges as in "0-3,8". None: all blocks."""

    use_rslora: bool = False
    """Scale by lora_alpha / √r, which keeps the update's size when r grows (Kalajdzievski 2023)."""

    use_dora: bool = False
    """Also learn each output's magnitude, and let A and B turn the weight's rows only (DoRA, Liu et al. 2024). Mostly
    better at small ranks; slower, since blocks of our own don't compute it."""

    init_lora_weights: bool | str = True
    """What A and B are at the start, by PEFT's names. true, "gaussian" and "orthogonal" are drawn; "eva" looks at what
    each layer is given on the run's rows. "pissa" (or the faster "pissa_niter_4"), "olora" and "loftq" share the
    weights between adapter and base, so that both together start nearer to the 16-bit model than the quantized base is;
    they need a base from 16-bit files."""

    loftq_iter: int = 5
    """Times that LoftQ quantizes and corrects in turn; the paper's figure is 5."""

    eva_rho: float = 2.0
    """EVA gives layers ranks by how much of their input the directions explain, up to this many times `r`, `r` on
    average. 1 leaves all ranks at `r`."""

    modules_to_save: str | tuple[str, ...] | list[str] = ()
    """Modules that are trained whole and saved with the adapter, by name or name ending, such as `lm_head`."""

    trainable_token_indices: tuple[int, ...] | list[int] | Mapping[str, tuple[int, ...] | list[int]] = ()
    """Rows of the input embedding that are trained (and of the head, where it shares them); or rows by table, as in
    {"embed_tokens": [5, 6], "lm_head": [5, 6]}."""

    def __post_init__(self):
        if self.r < 1:
            raise ConfigError(f"`r` must be at least 1, found {self.r}")
        if self.lora_alpha <= 0:
            raise ConfigError(f"`lora_alpha` must be positive, found {self.lora_alpha}")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"`lora_dropout` must be in [0, 1), found {self.lora_dropout}")
        if self.loftq_iter < 1:
            raise ConfigError(f"`loftq_iter` must be at least 1, found {self.loftq_iter}")
        if self.eva_rho < 1:
            raise ConfigError(f"`eva_rho` must be at least 1, found {self.eva_rho}")
        object.__setattr__(self, "init_lora_weights", checked_name(self.init_lora_weights))
        if self.use_dora and changes_base(self.init_lora_weights):
            raise ConfigError(
                f"`use_dora` and init_lora_weights={self.init_lora_weights!r} exclude each other: magnitudes of a base "
                "that was changed can't be handed over. Leave one out"
            )
        if not self.target_modules:
            raise ConfigError("`target_modules` is empty: name at least one linear, or use 'all-linear'")
        object.__setattr__(self, "target_modules", parse_targets(self.target_modules))
        object.__setattr__(self, "modules_to_save", parse_names(self.modules_to_save))
        object.__setattr__(self, "trainable_token_indices", _parse_rows(self.trainable_token_indices))
        if self.layers_to_transform is not None:
            object.__setattr__(self, "layers_to_transform", parse_layers(self.layers_to_transform))
