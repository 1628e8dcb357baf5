"""What every module with a frozen 4-bit weight has in common: its storage.

The four tensors of a ``QuantizedTensor`` are buffers, so that they move with the module and are no parameters that an
optimizer would take. They aren't saved under their own names: ``state_dict`` has bitsandbytes' (``weight``,
``weight.absmax``, …), so that checkpoints are exchangeable. ``module.to(dtype)``, ``half()`` and the like change
``compute_dtype`` and ordinary parameters, never the codes and scales.

A weight may also be *lodged*: it lies where somebody put it, in host memory or on a disk, and comes to the device for
each use only. Moving the module leaves it there.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from quatrain.errors import QuantizationError

from .bitsandbytes_format import from_bitsandbytes, stored_names, to_bitsandbytes
from .tensor import QuantizedTensor, quantize_4bit

_STORED = ("codes", "scales", "nested_scales", "offset")


class QuantizedModule(nn.Module):
    """A module whose ``weight`` [rows, columns] is stored in four bits."""

    codes: Tensor
    scales: Tensor
    nested_scales: Tensor | None
    offset: Tensor | None

    def __init__(self, weight: QuantizedTensor, compute_dtype: torch.dtype):
        super().__init__()
        self.compute_dtype = compute_dtype
        self._computes_on: torch.device | None = None
        for name in _STORED:
            self.register_buffer(name, None, persistent=False)
        self.hold(weight)

    @property
    def quantized(self) -> QuantizedTensor:
        """The weight in four bits (the module's own tensors, not copies)."""
        return QuantizedTensor(**{name: self._buffers[name] for name in _STORED}, **self._layout)

    @property
    def weight(self) -> Tensor:
        """The weight [rows, columns] in ``compute_dtype`` on ``compute_device``, dequantized anew at each access."""
        return self.quantized.to(self.compute_device).dequantize(self.compute_dtype)

    @property
    def is_lodged(self) -> bool:
        """Whether the weight lies elsewhere than where the module computes, whatever the module is moved to."""
        return self._computes_on is not None

    @property
    def compute_device(self) -> torch.device:
        """Where the module computes, and what is trained beside it belongs."""
        return self.codes.device if self._computes_on is None else self._computes_on

    def lodge(self, weight: QuantizedTensor) -> None:
        """Hold the same weight in other memory. From now on what is put into it is written there."""
        self._computes_on = self.compute_device
        self._point_to(weight)

    def quantize_like_own(self, weight: Tensor) -> QuantizedTensor:
        """`weight` [rows, columns] in four bits, with the type, block size and kind of scales of the module's own."""
        own = self.quantized
        made = quantize_4bit(
            weight.to(self.compute_device).contiguous(), own.quant_type, own.block_size, own.is_double_quantized
        )
        return replace(made, dtype=own.dtype)

    def hold(self, weight: QuantizedTensor) -> None:
        """Take `weight`, of the same shape, in place of the present one."""
        if not self.is_lodged:
            self._point_to(weight)
            return
        own = self.quantized
        if _kind(own) != _kind(weight):
            raise QuantizationError(
                f"A weight that is streamed must stay {own.quant_type} in blocks of {own.block_size}, with its "
                f"scales; got {weight.quant_type} in blocks of {weight.block_size}. Load it before streaming."
            )
        for name, tensor in own.tensors().items():
            tensor.copy_(weight.tensors()[name])

    def _point_to(self, weight: QuantizedTensor) -> None:
        for name in _STORED:
            self._buffers[name] = getattr(weight, name)
        self._layout = {name: getattr(weight, name) for name in ("shape", "dtype", "quant_type", "block_size")}

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move or cast the module; a cast reaches the bias and ``compute_dtype``, but scales stay float32."""
        exact = {name: self._buffers[name] for name in _STORED}
        if self.is_lodged:
            self._buffers.update(dict.fromkeys(_STORED))
        super()._apply(fn, recurse)
        for name, before in exact.items():
            after = self._buffers[name]
            if before is not None and after is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        like = fn(torch.empty(0, dtype=self.compute_dtype, device=self._computes_on))
        if self.is_lodged:
            self._computes_on = like.device
            self._buffers.update(exact)
        self.compute_dtype = like.dtype
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
                assign = local_metadata.get("assign_to_params_buffers", False)
                self._load_weight(from_bitsandbytes(state_dict, name), assign)
            except QuantizationError as error:
                error_msgs.append(str(error))
        elif strict:
            missing_keys.append(name)

    def _load_weight(self, weight: QuantizedTensor, assign: bool) -> None:
        shape = self._layout["shape"]
        if weight.shape != shape:
            raise QuantizationError(f"The stored weight must be {list(shape)}, got {list(weight.shape)}.")
        device = self.codes.device
        self.hold(weight if assign else weight.map(lambda tensor: tensor.to(device, copy=True)))


def _kind(weight: QuantizedTensor) -> tuple[str, int, bool]:
    return weight.quant_type, weight.block_size, weight.is_double_quantized
