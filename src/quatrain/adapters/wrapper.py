"""What stands in a module's place while other weights than LoRA's are trained there."""

from typing import Any

from torch import nn


class Wrapper(nn.Module):
    """Around a frozen ``base_layer``; ``parameter_names`` are what is trained. Other attributes are the base's.

    A model asks its embedding for its size and its norms for their epsilon, so what isn't found here is looked up
    there.
    """

    parameter_names: tuple[str, ...] = ()

    def __init__(self, base_layer: nn.Module):
        super().__init__()
        self.base_layer = base_layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)
