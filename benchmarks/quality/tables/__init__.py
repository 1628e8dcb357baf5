"""The tables: which cells each consists of, and its text. A module has TITLE, `cells` and `markdown`."""

from collections.abc import Mapping
from types import ModuleType

from benchmarks.quality.tables import data_types, learning_rates, methods, optimizers, parity

TABLES: Mapping[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module for module in (data_types, learning_rates, parity, optimizers, methods)
}
NEEDS: Mapping[str, tuple[str, ...]] = {"parity": ("learning_rates",), "methods": ("learning_rates", "parity")}
"""Tables that another one is made from."""
