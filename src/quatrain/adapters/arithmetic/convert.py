"""The same adapter at another rank: smaller for a server that takes certain ranks, or one rank for all layers."""

from dataclasses import replace
from pathlib import Path

from quatrain.adapters.arithmetic.combine import Combined
from quatrain.adapters.arithmetic.factors import factors_of, minus, norm, truncated
from quatrain.adapters.arithmetic.inputs import joint_provenance, read_trained
from quatrain.adapters.peft_format import adapter_name, write_adapter
from quatrain.errors import ConfigError
from quatrain.files import check_free


def convert_adapter(adapter: str | Path, out: str | Path, *, r: int) -> Combined:
    """Give every layer of an adapter rank `r` and write it to `out`.

    A rank at least as large as the update's own changes nothing; a smaller one keeps the largest singular values, which
    is the nearest that any adapter of that rank can be. The scale of the result is 1. Whatever else the adapter holds
    (DoRA's magnitudes, trained token rows and modules) stays as it is.

    Args:
        adapter: a folder in PEFT's format.
        out: a new folder.
        r: the new rank.

    Raises:
        ConfigError: `r` is below 1.
        AdapterError: the adapter can't be read or was never trained.
        OutputError: `out` holds something, or can't be written; nothing is left of it then.
    """
    if r < 1:
        raise ConfigError(f"`r` must be at least 1, found {r}")
    check_free(Path(out))
    before = read_trained(adapter)
    exact = {name: factors_of(layer) for name, layer in before.layers.items()}
    layers = {
        name: replace(truncated(factors, r).layer(), magnitude_O=before.layers[name].magnitude_O)
        for name, factors in exact.items()
    }
    made = f"converted to rank {r} from {adapter_name(Path(adapter))}"
    after = replace(before, layers=layers, starts={}, provenance=joint_provenance([before], made))
    write_adapter(after, Path(out))
    distance = sum(norm(minus(factors_of(layers[name]), factors)) ** 2 for name, factors in exact.items())
    total = sum(norm(factors) ** 2 for factors in exact.values())
    return Combined(folder=Path(out), adapter=after, sum_norm=total**0.5, parts_norm=total**0.5, distance=distance**0.5)
