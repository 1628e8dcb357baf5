"""What is on the device in every moment of a run, given where weights and optimizer state are kept."""

from functools import cached_property

from quatrain.memory import weights
from quatrain.memory.request import Request
from quatrain.memory.weights import FourBits

STREAM_SLOTS = 2
"""Streamed blocks that the device has room for: the one at work and the one on its way."""
READ_AHEAD = 512 << 20
"""Bytes of 16-bit weights on their way to a GPU while a model is loaded."""


class Standing:
    """Sums over a model's linears, made once for all candidates."""

    def __init__(self, request: Request):
        self._request, self._model, self._on_gpu = request, request.model, request.card.is_gpu

    def parts(self, streamed: int, *, paged: bool) -> dict[str, int]:
        """Bytes by part with `streamed` blocks away, and the optimizer's state too if it is `paged`."""
        blocks = len(self._model.blocks)
        body, ends = self._blocks, self._ends
        # Blocks are alike but for linears that somebody keeps in 16 bits, so a count of them takes its share of all.
        return {
            "4-bit codes": body.codes * (blocks - streamed) // blocks + ends.codes,
            "scales": body.scales * (blocks - streamed) // blocks + ends.scales,
            "16-bit weights": self._sixteen_bits,
            "adapters": self._adapters,
            "gradients": 4 * self._model.adapter_parameters,
            "optimizer state": self._page_slots if paged else self.optimizer,
            "streaming buffers": STREAM_SLOTS * self.blob if streamed else 0,
            "libraries": self._request.card.library_bytes,
        }

    def loading(self, parts: dict[str, int]) -> int:
        """The fullest moment of loading: what stays, and weights in 16 bits that arrive: on a GPU those on their way,
        on a CPU the one that is being quantized."""
        stays = sum(parts[part] for part in ("4-bit codes", "scales", "16-bit weights", "streaming buffers"))
        arriving = READ_AHEAD if self._on_gpu else self._model.item * self._largest
        return stays + max(arriving, self._attaching)

    @property
    def _attaching(self) -> int:
        """What attaching takes for a moment: DoRA looks at each weight in float32, and a module to be trained whole is
        copied, from 16 bits if it was in four."""
        largest = max(linear.numel for linear in self._model.linears)
        squares = (self._model.item + 2 * 4) * largest if self._model.extras.magnitudes else 0
        return max(squares, self._model.item * max(map(sum, self._model.extras.modules), default=0))

    @cached_property
    def _largest(self) -> int:
        """Elements of the largest matrix."""
        model = self._model
        return max(max(linear.numel for linear in model.linears), model.vocabulary * model.hidden)

    @cached_property
    def blob(self) -> int:
        """The most that a block's 4-bit weights take."""
        model = self._model
        return max(weights.block_weights(b, model, on_gpu=self._on_gpu).total for b in dict.fromkeys(model.blocks))

    @cached_property
    def optimizer(self) -> int:
        """All of AdamW's state."""
        return weights.optimizer_bytes(self._model, self._request.state_bits)

    @cached_property
    def _page_slots(self) -> int:
        return weights.page_slots_bytes(self._model, self._request.state_bits)

    @cached_property
    def _blocks(self) -> FourBits:
        found = {
            b: weights.block_weights(b, self._model, on_gpu=self._on_gpu) for b in dict.fromkeys(self._model.blocks)
        }
        return FourBits(
            sum(found[b].codes for b in self._model.blocks), sum(found[b].scales for b in self._model.blocks)
        )

    @cached_property
    def _ends(self) -> FourBits:
        return weights.quantized_ends(self._model, on_gpu=self._on_gpu)

    @cached_property
    def _sixteen_bits(self) -> int:
        return weights.sixteen_bit_bytes(self._model)

    @cached_property
    def _adapters(self) -> int:
        return weights.adapter_bytes(self._model)
