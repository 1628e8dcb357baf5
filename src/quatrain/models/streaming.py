"""A model whose blocks' 4-bit weights don't all stay on the device.

The modules stay in their places and hold views of the blobs that they are in, so the model is an ordinary one: it can
be saved, fingerprinted and run by its own layers, which fetch each weight when they need it. Training on blocks of our
own is where streaming is quick.
"""

from collections.abc import Callable, Sequence

from torch import nn

from quatrain.errors import ModelError
from quatrain.models.parts import body
from quatrain.offload import StreamedWeights, Streaming
from quatrain.quantization import QuantizedModule, QuantizedTensor
from quatrain.quantization.linears import is_linear

_ATTRIBUTE = "quatrain_streaming"

BeforeMoving = Callable[[dict[str, QuantizedTensor]], object]
"""Shown a block's weights by parameter name while they are still on the device."""


class StreamedBlocks:
    """Moves the blocks of `model` into their blobs, each as soon as it is complete.

    Raises:
        ModelError: the model has no such blocks.
    """

    def __init__(self, model: nn.Module, streaming: Streaming, device):
        self.weights = StreamedWeights(streaming, device)
        self._blocks: Sequence[nn.Module] = _blocks(model)
        self._names = {module: name for name, module in model.named_modules() if module in set(self._blocks)}
        beyond = [index for index in (*streaming.host, *streaming.disk) if not 0 <= index < len(self._blocks)]
        if beyond:
            raise ModelError(f"Streamed blocks must be among the model's {len(self._blocks)}; there is no {beyond[0]}.")
        setattr(model, _ATTRIBUTE, self.weights)

    def take_complete(self, name: str, show: BeforeMoving = lambda _: None) -> None:
        """Move the block that the parameter `name` belongs to, if it is to be streamed and nothing of it is missing."""
        for index, block in enumerate(self._blocks):
            if name.startswith(f"{self._names[block]}.") and self.weights.wants(index):
                # Of unusual checkpoints the norms, which stay on the device, come last.
                if not any(module.weight.is_meta for module in block.modules() if is_linear(module)):
                    self._take(index, show)
                return

    def take_all(self) -> None:
        """Move all blocks of a model that is complete."""
        for index in range(len(self._blocks)):
            if self.weights.wants(index):
                self._take(index, lambda _: None)
        self.weights.settle()

    def _take(self, index: int, show: BeforeMoving) -> None:
        block = self._blocks[index]
        found = {name: m for name, m in block.named_modules() if isinstance(m, QuantizedModule)}
        show({f"{self._names[block]}.{name}.weight": module.quantized for name, module in found.items()})
        if not found:
            raise ModelError(f"Only 4-bit weights are streamed; {self._names[block]} has none. Set `quantization`.")
        self.weights.take(index, list(found.values()))


def stream_blocks(model: nn.Module, streaming: Streaming) -> None:
    """Move blocks of a model that is loaded off its device."""
    StreamedBlocks(model, streaming, next(model.parameters()).device).take_all()


def streamed_weights(model: nn.Module) -> StreamedWeights | None:
    """What streams the model's blocks; None if all are resident."""
    return getattr(model, _ATTRIBUTE, None)


def _blocks(model: nn.Module) -> Sequence[nn.Module]:
    layers = getattr(body(model), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(f"Streaming needs a list of decoder blocks, which {type(model).__name__} doesn't have.")
    return list(layers)
