"""AdamW as a ``torch.optim.Optimizer`` with state in 8 or 32 bits that may live in host memory.

A parameter under 4,096 elements keeps 32-bit state, as in bitsandbytes: eight bits would save nothing worth having
there, and small tensors are often the sensitive ones.

The arithmetic of both widths is that of ``torch.optim.AdamW``: decoupled decay before the update, ``eps`` added to the
root of the bias-corrected second moment. That is bitsandbytes' arithmetic as well; where its 32-bit kernels add
``eps·correction`` to the uncorrected root, they only factor it differently.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from quatrain.device import free_memory, memory_in_use
from quatrain.errors import CheckpointError, ConfigError, OptimizerError
from quatrain.optim.arena import Arena

SMALLEST_8BIT = 4096

# With paged="auto", state leaves the GPU when the fullest moment so far left less than this many bytes (1 GiB) free:
# room for a longer sample than any so far, or for another program.
PAGING_MARGIN = 1 << 30


class AdamW(torch.optim.Optimizer):
    """AdamW on float32 parameters (adapters are float32 masters), contiguous, one device per group.

    Args:
        params: parameters, or groups of them with their own ``lr``, ``betas``, ``eps`` or ``weight_decay``.
        lr: learning rate; a schedule writes ``param_groups[i]["lr"]``.
        betas: decay rates of the first and second moment.
        eps: added to the root of the corrected second moment.
        weight_decay: decoupled; the parameter shrinks by ``lr·weight_decay`` each step.
        state_bits: 8 (2.03 bytes of state per parameter) or 32 (8 bytes).
        paged: True keeps the state in pinned host memory, False on the GPU, "auto" moves it to the host, once and for
            all, when the GPU runs short (see :data:`PAGING_MARGIN`). On the CPU there is nowhere to page to: no effect.

    Raises ConfigError for a setting out of range, OptimizerError for parameters that it can't update.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        state_bits: Literal[8, 32] = 8,
        paged: Literal["auto", True, False] = "auto",
    ) -> None:
        if state_bits not in (8, 32):
            raise ConfigError(f"state_bits must be 8 or 32, got {state_bits!r}.")
        if paged not in ("auto", True, False):
            raise ConfigError(f'paged must be "auto", true or false, got {paged!r}.')
        self.state_bits = state_bits
        self.paged = paged
        # Per group: its arenas, and for each of its parameters the (arena, place in it).
        self._arenas: list[list[Arena]] = []
        self._places: list[list[tuple[Arena, int]]] = []
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check_settings(group)
            params = _checked_parameters(group["params"])
        except (ConfigError, OptimizerError):
            self.param_groups.pop()
            raise
        wide = [i for i, p in enumerate(params) if self.state_bits == 32 or p.numel() < SMALLEST_8BIT]
        narrow = sorted(set(range(len(params))) - set(wide))
        paged = self.paged is True and any(param.is_cuda for param in params)
        made = {bits: which for bits, which in ((8, narrow), (32, wide)) if which}
        arenas = {bits: (Arena([params[i] for i in which], bits, paged=paged), which) for bits, which in made.items()}
        places = {i: (arena, place) for arena, which in arenas.values() for place, i in enumerate(which)}
        self._arenas.append([arena for arena, _ in arenas.values()])
        self._places.append([places[i] for i in range(len(params))])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient. Returns the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.paged == "auto" and self._runs_short():
            self.page_out()
        for group, arenas in zip(self.param_groups, self._arenas, strict=True):
            settings = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
            for arena in arenas:
                arena.step(**settings)
        return loss

    def _all_arenas(self) -> list[Arena]:
        return [arena for arenas in self._arenas for arena in arenas]

    def _on_gpu(self) -> list[Arena]:
        return [arena for arena in self._all_arenas() if arena.state.device.type == "cuda"]

    def _runs_short(self) -> bool:
        """Did the fullest moment so far leave less than the margin on a GPU that still holds state?"""
        for device in {arena.state.device for arena in self._on_gpu() if arena.state.resident}:
            use = memory_in_use(device)
            if free_memory(device) - (use.peak - use.current) < PAGING_MARGIN:
                return True
        return False

    def page_out(self) -> None:
        """Move the state of parameters on a GPU to pinned host memory. On the CPU: nothing to do."""
        for arena in self._on_gpu():
            arena.page_out()

    def page_in(self) -> None:
        """Move the state back to the GPU. With ``paged="auto"`` the next step may move it out again."""
        for arena in self._on_gpu():
            arena.state.page_in()

    @property
    def is_paged(self) -> bool:
        """True if any state lives in host memory although its parameters are on a GPU."""
        return any(not arena.state.resident for arena in self._all_arenas())

    @property
    def state_bytes(self) -> int:
        """Bytes of all optimizer state, wherever it lives."""
        return sum(arena.state.nbytes for arena in self._all_arenas())

    def _all_places(self) -> list[tuple[Arena, int]]:
        return [place for places in self._places for place in places]

    def _synchronize(self) -> None:
        for arena in self._all_arenas():
            arena.state.synchronize()

    def _saved_states(self) -> dict[int, dict[str, Tensor]]:
        """What each parameter that has made a step has, by its index over all groups."""
        self._synchronize()
        places = enumerate(self._all_places())
        return {i: arena.save(member) for i, (arena, member) in places if arena.steps[member]}

    def _load_states(self, states: dict[int, dict[str, Tensor]]) -> None:
        self._synchronize()
        places = self._all_places()
        unknown = sorted(states.keys() - set(range(len(places))))
        if unknown:
            raise CheckpointError(
                f"Saved optimizer state must belong to one of {len(places)} parameters, found numbers {unknown[:5]}. "
                "The set of trained parameters changed since the checkpoint."
            )
        for i, (arena, member) in enumerate(places):
            if i in states:
                arena.load(member, states[i])
            else:
                arena.clear(member)

    def state_tensors(self) -> dict[str, Tensor]:
        """All state as CPU tensors named ``<parameter index>.<name>``, ready for a safetensors file."""
        return {f"{i}.{name}": t for i, saved in self._saved_states().items() for name, t in saved.items()}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what :meth:`state_tensors` returned: training goes on with the same bits.

        Raises CheckpointError if a name or a tensor doesn't fit these parameters and ``state_bits``.
        """
        states: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            index, _, name = key.partition(".")
            if not index.isdecimal():
                raise CheckpointError(f"Names of saved optimizer state start with a parameter's number, got {key!r}.")
            states.setdefault(int(index), {})[name] = tensor
        self._load_states(states)

    def state_dict(self) -> dict[str, Any]:
        """``param_groups`` with all settings, and ``state``: per parameter index a dict of CPU tensors."""
        return super().state_dict() | {"state": self._saved_states()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        # torch's own loader would cast codes to the parameters' dtype; it only gets the groups.
        super().load_state_dict(state_dict | {"state": {}})
        self._load_states(state_dict["state"])


def _check_settings(group: dict[str, Any]) -> None:
    for name in ("lr", "eps", "weight_decay"):
        if not 0 <= group[name] < float("inf"):
            raise ConfigError(f"{name} must be a number ≥ 0, got {group[name]}.")
    if len(group["betas"]) != 2 or not all(0 <= beta < 1 for beta in group["betas"]):
        raise ConfigError(f"betas must be two numbers ≥ 0 and < 1, got {group['betas']}.")


def _checked_parameters(params: list[Tensor]) -> list[Tensor]:
    for i, param in enumerate(params):
        if param.dtype != torch.float32 or not param.is_contiguous() or param.device != params[0].device:
            raise OptimizerError(
                f"Parameters of a group must be contiguous float32 tensors on one device ({params[0].device}); number "
                f"{i} is {param.dtype} on {param.device}. Train a float32 master copy: 16 bits lose small updates."
            )
    return params
