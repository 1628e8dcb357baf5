"""Modules that are trained whole beside the adapter and saved with it: PEFT's `modules_to_save`.

A head that has to learn new tokens, a norm, a classifier. The copy that is trained is float32, as all masters are; in
forward it is cast to what the module computes in, so that the model's other parts don't notice.
"""

import copy
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from quatrain.adapters.wrapper import Wrapper
from quatrain.quantization import QuantizedEmbedding, QuantizedLinear


class SavedModule(Wrapper):
    """A trained float32 copy of ``base_layer``; of one in four bits, of its dequantized weights."""

    def __init__(self, base_layer: nn.Module):
        super().__init__(base_layer)
        plain = _plain(base_layer)
        self._dtypes = {name: parameter.dtype for name, parameter in plain.named_parameters()}
        # A cast of values that are float32 already shares them; the base's must stay as they are.
        self.trained = copy.deepcopy(plain).float().requires_grad_(True)

    @property
    def parameter_names(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(f"trained.{name}" for name, _ in self.trained.named_parameters())

    @property
    def weight(self) -> Tensor:
        """The trained weight in the dtype that the module computes in."""
        weight: Tensor = self.trained.weight  # pyright: ignore[reportAssignmentType]
        return weight.to(self._dtypes["weight"])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        cast = {name: parameter.to(self._dtypes[name]) for name, parameter in self.trained.named_parameters()}
        return functional_call(self.trained, cast, args, kwargs)


def _plain(module: nn.Module) -> nn.Module:
    """The module itself, or an ordinary one with the weights that a 4-bit one stands for."""
    if isinstance(module, QuantizedLinear):
        linear = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
        linear.weight = nn.Parameter(module.weight)
        linear.bias = module.bias  # pyright: ignore[reportAttributeAccessIssue]
        return linear
    if isinstance(module, QuantizedEmbedding):
        return nn.Embedding.from_pretrained(module.weight)
    return module
