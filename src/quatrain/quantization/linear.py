"""A frozen linear layer whose weight stays in four bits.

``forward`` dequantizes the weight, multiplies, and drops it; ``backward`` dequantizes it again for the input's gradient.
Between the two nothing is kept but the 4-bit tensor, which the module holds anyway: autograd's own linear would keep the
16-bit weight of every layer alive until its backward, which is the whole model in 16 bits.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from quatrain.errors import QuantizationError

from .bitsandbytes_format import from_bitsandbytes, stored_names, to_bitsandbytes
from .tensor import QuantizedTensor, quantize_4bit


class _FrozenLinear(torch.autograd.Function):
    """``x @ dequantize(weight).T + bias``, with gradients for ``x`` and ``bias``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, weight: QuantizedTensor) -> Tensor:
        # Not save_for_backward: hooks that offload saved activations have no business with a resident weight.
        ctx.weight = weight
        ctx.bias_dtype = None if bias is None else bias.dtype
        return nn.functional.linear(x, weight.dequantize(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grad_outputs
        grad_x = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ ctx.weight.dequantize(grad.dtype)
        if ctx.needs_input_grad[1]:
            grad_bias = grad.flatten(0, -2).sum(0).to(ctx.bias_dtype)
        return grad_x, grad_bias, None


class QuantizedLinear(nn.Module):
    """``nn.Linear`` with a frozen 4-bit weight.

    The weight is dequantized to ``compute_dtype`` (under autocast to autocast's type), ``x`` is cast to it, and the result is
    cast back to the type of ``x``; under autocast it stays in autocast's type, as with ``nn.Linear``. ``module.to(dtype)``,
    ``half()`` and the like change ``compute_dtype`` and the bias, never the codes and scales.

    ``state_dict`` has bitsandbytes' names (``weight``, ``weight.absmax``, …), so that checkpoints are exchangeable.
    """

    codes: Tensor
    scales: Tensor
    nested_scales: Tensor | None
    offset: Tensor | None
    bias: nn.Parameter | None

    def __init__(self, weight: QuantizedTensor, bias: nn.Parameter | None, compute_dtype: torch.dtype):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.compute_dtype = compute_dtype
        self.register_parameter("bias", bias)
        for name in _STORED:
            self.register_buffer(name, None, persistent=False)
        self._hold(weight)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        *,
        quant_type: str = "nf4",
        block_size: int = 64,
        double_quant: bool = True,
        compute_dtype: torch.dtype | None = None,
    ) -> "QuantizedLinear":
        """Quantize ``linear``'s weight; its bias is shared. ``compute_dtype`` is the weight's type by default."""
        weight = quantize_4bit(linear.weight, quant_type, block_size, double_quant)
        return cls.from_quantized(weight, linear.bias, compute_dtype or linear.weight.dtype)

    @classmethod
    def from_quantized(
        cls, weight: QuantizedTensor, bias: nn.Parameter | None = None, compute_dtype: torch.dtype | None = None
    ) -> "QuantizedLinear":
        """A layer around a quantized ``weight`` [out, in]; ``compute_dtype`` is the weight's original type by default."""
        return cls(weight, bias, compute_dtype or weight.dtype)

    @property
    def quantized(self) -> QuantizedTensor:
        """The weight in four bits (the module's own tensors, not copies)."""
        return QuantizedTensor(**{name: self._buffers[name] for name in _STORED}, **self._layout)

    @property
    def weight(self) -> Tensor:
        """The weight [out, in] in ``compute_dtype``, dequantized anew at each access."""
        return self.quantized.dequantize(self.compute_dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] → [..., out]."""
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            with torch.autocast(x.device.type, enabled=False):
                return _FrozenLinear.apply(x.to(dtype), self.bias, self.quantized)
        return _FrozenLinear.apply(x.to(self.compute_dtype), self.bias, self.quantized).to(x.dtype)

    def extra_repr(self) -> str:
        kind = f"{self.quantized.quant_type}, blocks of {self.quantized.block_size}"
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, {kind}"

    def _hold(self, weight: QuantizedTensor) -> None:
        for name in _STORED:
            self._buffers[name] = getattr(weight, name)
        self._layout = {name: getattr(weight, name) for name in ("shape", "dtype", "quant_type", "block_size")}

    def _apply(self, fn: Any, recurse: bool = True) -> "QuantizedLinear":
        """Move or cast the module; a cast reaches the bias and ``compute_dtype``, but scales stay float32."""
        exact = {name: self._buffers[name] for name in _STORED}
        super()._apply(fn, recurse)
        for name, before in exact.items():
            after = self._buffers[name]
            if before is not None and after is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        self.compute_dtype = fn(torch.empty(0, dtype=self.compute_dtype)).dtype
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update(to_bitsandbytes(self.quantized, f"{prefix}weight"))

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        name = f"{prefix}weight"
        ours = stored_names(state_dict, name)
        others = {key: tensor for key, tensor in state_dict.items() if key not in ours}
        super()._load_from_state_dict(others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        if ours:
            try:
                self._load_weight(from_bitsandbytes(state_dict, name), assign=local_metadata.get("assign_to_params_buffers", False))
            except QuantizationError as error:
                error_msgs.append(str(error))
        elif strict:
            missing_keys.append(name)

    def _load_weight(self, weight: QuantizedTensor, assign: bool) -> None:
        if weight.shape != (self.out_features, self.in_features):
            raise QuantizationError(
                f"The stored weight must be [{self.out_features}, {self.in_features}], got {list(weight.shape)}."
            )
        device = self.codes.device
        self._hold(weight if assign else weight.map(lambda tensor: tensor.to(device, copy=True)))


_STORED = ("codes", "scales", "nested_scales", "offset")
