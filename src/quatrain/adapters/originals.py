"""The weights from before quantization, for starts that share them between adapter and base.

A loaded model doesn't have them any more, so whoever loads it leaves a way to read them again, one at a time.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from quatrain.adapters.lora import linear_weight
from quatrain.errors import AdapterError
from quatrain.quantization import QuantizedModule

Read = Callable[[str], Tensor]
"""A linear's weight [out, in] in the precision of its file, by the linear's name."""
Originals = Callable[[], AbstractContextManager[Read]]
"""Opens the files that the model was loaded from."""
_ATTRIBUTE = "_quatrain_originals"


def remember_originals(model: nn.Module, originals: Originals) -> None:
    """Leave with a freshly loaded model how its weights can be read again."""
    setattr(model, _ATTRIBUTE, originals)


def original_weights(model: nn.Module, linears: dict[str, nn.Module], purpose: str) -> AbstractContextManager[Read]:
    """Open the weights that `linears` had before they were quantized; one that isn't quantized has its own.

    Args:
        purpose: what they are for, to begin a message with.

    Raises:
        AdapterError: one is quantized, and nobody has left a way to read what it was, or it is streamed.
    """
    if any(isinstance(linear, QuantizedModule) and linear.is_lodged for linear in linears.values()):
        raise AdapterError(
            f"{purpose} changes the base, and a streamed base can't be changed: load it without streaming"
        )
    if not any(isinstance(linear, QuantizedModule) for linear in linears.values()):
        return nullcontext(lambda name: linear_weight(linears[name]))
    originals: Originals | None = getattr(model, _ATTRIBUTE, None)
    if originals is None:
        raise AdapterError(
            f"{purpose} needs the weights from before quantization, and this model didn't come from files that hold "
            "them: load it with `quatrain.load_model` from the 16-bit model, or train with another `init_lora_weights`"
        )
    return originals()
