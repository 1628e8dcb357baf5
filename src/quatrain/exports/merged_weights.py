"""A base with an adapter folded in, as tensors that are read one at a time.

Every export reads from here: the 16-bit checkpoint, the 4-bit one and the GGUF file differ in what becomes of a tensor,
not in where it comes from. No model is in memory: for each tensor the base's file, the codes that training would have
made of it, and the adapter's two thin matrices are enough. Arithmetic is float32, so the sum is rounded once, by
whoever writes it.

**Onto which base?** Training saw the base through four bits: W₄ = dequantize(quantize(W)), less what the adapter's
start took out of it. An adapter has learned a task and, on the way, to make up for what four bits lost. W₄ + ΔW is
the function that was trained; W + ΔW starts from better weights, that the adapter never saw. `docs/export.md` has what
we measured.
"""

from collections.abc import Generator, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from quatrain.adapters.stored import StoredAdapter
from quatrain.errors import AdapterError
from quatrain.models.load_plan import LoadPlan
from quatrain.models.naming import NamePlan, Stored
from quatrain.models.opening import OpenedBase
from quatrain.quantization import quantize_4bit
from quatrain.quantization.bitsandbytes_format import from_bitsandbytes
from quatrain.quantization.linears import is_transposed

Onto = Literal["dequantized", "original"]
"""Which base an adapter is folded into: what it was trained on, or the checkpoint's own 16-bit weights."""


class MergedWeights:
    """The tensors of `base` under the names that they are stored under, those that `adapter` changes changed.

    A source of weights like a checkpoint's folder, so that a model can be filled from it.
    """

    def __init__(self, base: OpenedBase, adapter: StoredAdapter, onto: Onto, dtype: torch.dtype | None = None):
        """
        Args:
            base: The base, opened with the quantization that the adapter was trained with.
            adapter: Known to fit `base`.
            onto: Which base it is folded into.
            dtype: What tensors are rounded to, but for those that the architecture keeps in float32. None: not rounded.

        Raises:
            AdapterError: It changes a parameter that isn't stored as such, or the original of a base that is stored in
                four bits is asked for.
        """
        plan = base.plan
        if onto == "original" and plan.companions:
            raise AdapterError(
                f"the 16-bit weights aren't in {base.where.name}, which is in four bits; name the checkpoint that it "
                "was made from with `original`"
            )
        self.base, self.onto, self.dtype = base, onto, dtype
        self.adapter = adapter.as_trained(_quantized(base) if onto == "dequantized" else ())
        self._target = {a.sources[0]: a.target for a in plan.assignments if a.converter is None}
        self._changed = _changed(adapter)
        self._check_reachable()
        self._check_rows()
        parts = {part for stored, all_parts in plan.companions.items() for part in all_parts if part != stored}
        self.tensors = {name: self._as_merged(name) for name in base.weights.tensors if name not in parts}

    @property
    def plan(self) -> LoadPlan:
        """Which of these tensors becomes which parameter."""
        return LoadPlan(assignments=self.base.plan.assignments, companions={})

    def target(self, name: str) -> str | None:
        """The parameter that a stored tensor is; None if several tensors make one, or one makes several."""
        return self._target.get(name)

    def is_adapted(self, name: str) -> bool:
        """Whether the adapter changes this tensor."""
        return self._target.get(name) in self._changed

    @property
    def needed(self) -> list[str]:
        """The stored tensors that the model is made of, by shard of the base, so that each is opened once."""
        return [name for assignment in self.plan.assignments for name in assignment.sources]

    def type_of(self, name: str) -> torch.dtype | None:
        """What a floating-point tensor is rounded to; None if it isn't rounded."""
        target = self._target.get(name)
        if self.dtype is None or target is None:
            return self.dtype
        owner, _, leaf = target.rpartition(".")
        own = getattr(self.base.skeleton.get_submodule(owner), leaf).dtype
        return torch.float32 if own == torch.float32 != self.base.placement.compute_dtype else self.dtype

    def read(self, name: str) -> Tensor:
        """The merged tensor, rounded to `type_of(name)`; unrounded it is in float32 if anything changes it, else as it
        is stored.

        Raises:
            AdapterError: It isn't finite, or doesn't fit into float16.
        """
        tensor, dtype = self.update(name, self.frozen(name)), self.type_of(name)
        if dtype is None or not tensor.is_floating_point():
            return tensor
        rounded = tensor.to(dtype)
        if dtype == torch.float16 and not rounded.isfinite().all():
            raise AdapterError(
                f"{name} holds numbers that float16 has no room for (beyond 65504); write it in bfloat16"
            )
        return rounded

    def frozen(self, name: str) -> Tensor:
        """The tensor of the base that the adapter is folded into."""
        target, parts = self._target.get(name), self.base.plan.companions.get(name)
        placement = self.base.placement
        if parts is not None:
            stored = {part: self.base.weights.read(part) for part in parts}
            return from_bitsandbytes(stored, name).to(placement.device).dequantize(torch.float32)
        tensor = self.base.weights.read(name)
        through_4bit = self.onto == "dequantized" and placement.quant_type is not None
        if target is None or not through_4bit or not self.base.decisions[target].quantize:
            return tensor
        assert placement.quant_type is not None
        module, matrix_OI = target.rpartition(".")[0], self.turned(target, tensor.to(placement.device)).contiguous()
        if (start := self.adapter.starts.get(module)) is not None:
            matrix_OI = start.rest(matrix_OI.float(), self.adapter.layers[module].scaling)
        codes = quantize_4bit(matrix_OI, placement.quant_type, placement.block_size, placement.double_quant)
        return self.turned(target, codes.dequantize(torch.float32))

    def update(self, name: str, weight: Tensor) -> Tensor:
        """`weight` as the adapter makes it; itself if it leaves this one alone.

        Raises:
            AdapterError: It isn't finite then.
        """
        if not self.is_adapted(name):
            return weight
        merged = self.adapter.merge(self._target[name], weight.to(self.base.placement.device))
        if not merged.isfinite().all():
            raise AdapterError(f"{name} isn't finite once the adapter is folded in; its training has diverged")
        return merged

    def sample(self, name: str) -> bytes:
        """The first and last bytes of what is stored."""
        return self.base.weights.sample(name)

    def arriving(self, groups: list[list[str]], device: torch.device) -> Generator[dict[str, Tensor], None, None]:
        """The tensors of each group in turn."""
        return ({name: self.read(name) for name in names} for names in groups)

    def plan_names(self, model: Any, stored: Iterable[str]) -> NamePlan:
        """Finds a parameter of a skeleton for each stored name."""
        return self.base.weights.plan_names(model, stored)

    def close(self) -> None:
        """Gives open files back."""
        self.base.weights.close()

    def turned(self, target: str, weight: Tensor) -> Tensor:
        """Between [out, in], in which weights are quantized and adapted, and what the module stores."""
        module = self.base.skeleton.get_submodule(target.rpartition(".")[0])
        return weight.T if is_transposed(module) else weight

    def _as_merged(self, name: str) -> Stored:
        stored, target = self.base.weights.tensors[name], self._target.get(name)
        if name not in self.base.plan.companions or target is None:
            return stored
        shape = tuple(self.base.skeleton.get_parameter(target).shape)
        return Stored(shape=shape, nbytes=stored.nbytes, shard=stored.shard)

    def _check_reachable(self) -> None:
        if absent := sorted(self._changed.difference(self._target.values())):
            raise AdapterError(
                f"{self.base.where.name} has no stored tensor of its own for {absent[0]} ({len(absent)} such), so the "
                "adapter can't be folded in tensor by tensor; use base and adapter side by side"
            )

    def _check_rows(self) -> None:
        for module, rows in self.adapter.token_rows.items():
            count = self.base.skeleton.get_parameter(f"{module}.weight").shape[0]
            if max(rows.indices) >= count:
                raise AdapterError(
                    f"the adapter has trained token {max(rows.indices)}, and {self.base.where.name} has {count} rows "
                    f"in {module}: merging doesn't lengthen the vocabulary. Use base and adapter side by side"
                )


def _quantized(base: OpenedBase) -> list[str]:
    """The modules whose weights training quantized, and which aren't stored so."""
    if base.placement.quant_type is None or base.plan.companions:
        return []
    return [name.removesuffix(".weight") for name, decision in base.decisions.items() if decision.quantize]


def _changed(adapter: StoredAdapter) -> set[str]:
    """The parameters that an adapter changes."""
    whole = {f"{module}.{leaf}" for module, leaves in adapter.modules.items() for leaf in leaves}
    return whole | {f"{module}.weight" for module in (*adapter.layers, *adapter.token_rows)}
