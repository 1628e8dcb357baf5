"""What a block keeps for its backward, and where.

A frozen weight needs no input kept, so five groups of tensors are all that the backward reads. Each is kept on the
device, or offloaded to pinned host memory and fetched before it is needed, or recomputed from the groups before it:

    x ─► qkv ─► attention (o, log-sum-exp) ─► x2 ─► gate_up

Per token of an 8B Llama, in bf16: x and x2 8 KiB each, qkv 12, attention 8, gate_up 56. Recomputing gate_up costs a
quarter of the block's forward; everything, all of it. In 8 bits gate_up takes 29 KiB and hardly any time, but the
gradients are no longer the same bits (`docs/engine.md` says how far they are off).
"""

from dataclasses import dataclass
from typing import Literal

Where = Literal["keep", "offload", "recompute"]

GROUPS = ("x", "qkv", "attention", "x2", "gate_up")
"""The groups in the order in which the forward makes them."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Where each group of a block's activations is until its backward."""

    x: Literal["keep", "offload"] = "keep"
    """The block's input; what everything else can be recomputed from."""

    qkv: Where = "keep"
    """Queries, keys and values."""

    attention: Where = "keep"
    """Attention's output and log-sum-exp."""

    x2: Where = "keep"
    """The residual stream between attention and the MLP."""

    gate_up: Where | Literal["8bit"] = "keep"
    """The MLP's two projections, more than half of the whole; also in 8 bits, which alone of all this isn't exact."""

    def kept(self, group: str) -> bool:
        """Whether a group is there in the backward without being recomputed."""
        return getattr(self, group) != "recompute"

    @property
    def exact(self) -> bool:
        """Whether gradients are the same bits as with everything kept."""
        return self.gate_up != "8bit"

    @property
    def offloads(self) -> bool:
        """Whether anything leaves the device."""
        return any(getattr(self, group) == "offload" for group in GROUPS)

    @property
    def in_words(self) -> str:
        """For a log: "x, qkv; in host memory attention; recomputed gate_up"."""
        found = {
            where: [g for g in GROUPS if getattr(self, g) == where]
            for where in ("keep", "8bit", "offload", "recompute")
        }
        names = {"keep": "", "8bit": "in 8 bits ", "offload": "in host memory ", "recompute": "recomputed "}
        return "; ".join(names[where] + ", ".join(groups) for where, groups in found.items() if groups)


KEEP_ALL = Policy()
GATE_UP_8BIT = Policy(gate_up="8bit")
RECOMPUTE_GATE_UP = Policy(gate_up="recompute")
OFFLOAD = Policy(x="offload", qkv="offload", attention="offload", x2="offload", gate_up="recompute")
RECOMPUTE_ALL = Policy(qkv="recompute", attention="recompute", x2="recompute", gate_up="recompute")

OFFLOAD_ATTENTION = Policy(x="offload", qkv="recompute", attention="offload", x2="recompute", gate_up="recompute")

POLICIES = {
    "off": KEEP_ALL,
    "gate_up_8bit": GATE_UP_8BIT,
    "gate_up": RECOMPUTE_GATE_UP,
    "offload": OFFLOAD,
    "offload_attention": OFFLOAD_ATTENTION,
    "on": RECOMPUTE_ALL,
}
"""By the values of the setting `gradient_checkpointing`: the further down, the more time a step takes. The last needs
no host memory; the one before it needs least on the device."""

FusedBlocks = Literal["auto", "on", "off"]
"""Whether these blocks compute a model at all: where it has them, nowhere, or on GPUs only."""
