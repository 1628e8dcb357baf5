"""A base's weights as its files have them, read again after it was loaded in four bits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

from torch import Tensor

from quatrain.adapters.provenance import base_identity
from quatrain.errors import AdapterError, ModelError
from quatrain.models.opening import OpenedBase, open_base
from quatrain.quantization.linears import is_transposed


@contextmanager
def original_weights(
    source: str | Path, fingerprint: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> Iterator[Callable[[str], Tensor]]:
    """Opens a base's files; what comes out gives a linear's weight [out, in] on the CPU by the linear's name.

    Args:
        source: As for `load_model`.
        fingerprint: Of the weights that were loaded.
        revision: As for `load_model`.
        trust_remote_code: As for `load_model`.

    Raises:
        ModelError: The files aren't those any more.
        AdapterError: They hold the weights in four bits only.
    """
    base = open_base(source, quantization=None, device="cpu", revision=revision, trust_remote_code=trust_remote_code)
    try:
        found = base_identity(base.skeleton)
        if found is None or found.fingerprint != fingerprint:
            raise ModelError(f"{source} has changed since it was loaded: its weights are others. Load the model again.")
        by_target = {target: a for a in base.plan.assignments for target in a.targets}
        yield lambda name: _read(base, name, by_target[f"{name}.weight"])
    finally:
        base.weights.close()


def _read(base: OpenedBase, name: str, assignment) -> Tensor:
    if assignment.sources[0] in base.plan.companions:
        raise AdapterError(
            f"{base.where.name} holds {name} in four bits already, and this start needs what it was before: load the "
            "16-bit model, or choose another `init_lora_weights`"
        )
    # Converting uses the recipe up.
    made = deepcopy(assignment).convert([base.weights.read(source) for source in assignment.sources], base.skeleton)
    weight = made[f"{name}.weight"]
    return weight.T if is_transposed(base.skeleton.get_submodule(name)) else weight
