"""What an adapter looks like: rank, scale, dropout, and which linears carry one. The names are PEFT's."""

from dataclasses import dataclass

from quatrain.errors import ConfigError


def parse_layers(layers: int | str | list[int] | tuple[int, ...]) -> tuple[int, ...]:
    """Block indices from ``3``, ``[0, 1]`` or a text of indices and inclusive ranges such as ``"0-3,8"``."""
    if isinstance(layers, int):
        layers = [layers]
    if isinstance(layers, str):
        expanded: list[int] = []
        for part in layers.split(","):
            first, dash, last = part.strip().partition("-")
            if not first.isdigit() or (dash and not last.isdigit()):
                raise ConfigError(
                    f"`layers_to_transform` takes block indices and ranges such as '0-3,8', found {part.strip()!r}"
                )
            expanded.extend(range(int(first), int(last or first) + 1))
        layers = expanded
    return tuple(sorted(set(layers)))


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021): W x becomes W x + s · B A x, with A [r, in] and B [out, r] trained."""

    r: int = 16
    """Rank of the update. 16 is enough for most tasks; QLoRA's own recipe uses 64."""

    lora_alpha: float = 32
    """Numerator of the scale s = lora_alpha / r (or lora_alpha / √r, see `use_rslora`)."""

    lora_dropout: float = 0.0
    """Probability of dropping an element of the adapter's input while training. The base's input is never dropped."""

    target_modules: str | tuple[str, ...] | list[str] = "all-linear"
    """Which linears: "all-linear" (every linear but the output head; QLoRA's finding is that all of them are needed to
    match full fine-tuning), a list of names or name endings, or one regular expression over whole module names."""

    layers_to_transform: int | str | tuple[int, ...] | list[int] | None = None
    """Restrict to these blocks: an index, a list of indices, or ranges as in "0-3,8". None: all blocks."""

    use_rslora: bool = False
    """Scale by lora_alpha / √r, which keeps the update's size when r grows (Kalajdzievski 2023)."""

    def __post_init__(self):
        if self.r < 1:
            raise ConfigError(f"`r` must be at least 1, found {self.r}")
        if self.lora_alpha <= 0:
            raise ConfigError(f"`lora_alpha` must be positive, found {self.lora_alpha}")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"`lora_dropout` must be in [0, 1), found {self.lora_dropout}")
        if not self.target_modules:
            raise ConfigError("`target_modules` is empty: name at least one linear, or use 'all-linear'")
        if not isinstance(self.target_modules, str):
            object.__setattr__(self, "target_modules", tuple(self.target_modules))
        if self.layers_to_transform is not None:
            object.__setattr__(self, "layers_to_transform", parse_layers(self.layers_to_transform))
