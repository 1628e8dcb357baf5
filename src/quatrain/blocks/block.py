"""A decoder block whose forward and backward are written out.

Autograd would keep the input of every operation: norms, products, activations, dropout masks. Here the block itself
decides (`Policy`), and keeps at most 4H + 2(A+G)·D/2 + 2F numbers a token. The forward is a chain of *stages*, each of
which makes one group of kept tensors from those before it; the backward runs again those whose results weren't kept:

    x ─► qkv ─► attention ─► x2 ─► gate_up ─► (output)

The residual stream comes in as two tensors, what it was before the last MLP and what that MLP adds, because the sum is
made by the same kernel that normalizes it. It leaves in the same way.

Legend: T tokens, H hidden, A query heads, G key/value heads, D head size, F feed-forward, E = columns + tail of a
product (see `product.py`).
"""

import torch
from torch import Tensor

from quatrain.blocks.kept import Kept, Row, there
from quatrain.blocks.policy import KEEP_ALL, Policy
from quatrain.blocks.product import JoinedProduct
from quatrain.blocks.rotary_tables import RotaryTables
from quatrain.blocks.spec import BlockModules, BlockSpec
from quatrain.blocks.workspace import Workspace
from quatrain.ops.block_attention import attention_forward
from quatrain.ops.gated_activation import EightBits, gated_activation
from quatrain.ops.rms_norm import rms_norm
from quatrain.ops.rotary import rotary_

MOST_ADAPTERS = 7
"""Adapters that a block can have, and so the dropout streams that it takes."""


class DecoderBlock:
    """Attention and MLP of one layer.

    Args:
        index: the block's place; numbers its dropout streams.
        workspace, tables: shared by all blocks of a model.
    """

    def __init__(self, spec: BlockSpec, modules: BlockModules, index: int, workspace: Workspace, tables: RotaryTables):
        self.spec, self.modules, self.workspace, self.tables = spec, modules, workspace, tables
        self.policy: Policy = KEEP_ALL
        first = index * MOST_ADAPTERS
        self.qkv = JoinedProduct(modules.qkv, first, workspace)
        self.o = JoinedProduct((modules.o,), first + 3, workspace)
        self.gate_up = JoinedProduct(modules.gate_up, first + 4, workspace)
        self.down = JoinedProduct((modules.down,), first + 6, workspace)

    @property
    def products(self) -> tuple[JoinedProduct, ...]:
        return self.qkv, self.o, self.gate_up, self.down

    @property
    def has_head_norms(self) -> bool:
        """Whether q and k are normalized head by head."""
        return self.modules.q_norm is not None

    def forward(
        self, residual_TH: Tensor, branch_TH: Tensor | None, row: Row, kept: Kept, *, for_backward: bool = False
    ) -> tuple[Tensor, Tensor]:
        """(residual, branch) at the block's exit, from those at its entry; `kept` is filled.

        With `for_backward` also with gate and up in 8 bits, if the policy wants that.
        The branch lies in the workspace: the next block must take it up before it writes its own.
        """
        x_TE = self._enter(residual_TH, branch_TH, kept)
        self.make_qkv(x_TE, row, kept)
        self.make_attention(row, kept)
        x_TE = self.make_x2(row, kept)
        self.make_gate_up(x_TE, row, kept)
        if for_backward and self.policy.gate_up == "8bit":
            kept.gate_up_codes, kept.gate_up_scales = EightBits.room(len(x_TE), self.down.in_features, x_TE.device)
        return there(kept.x2), self._leave(row, kept)

    def _enter(self, residual_TH: Tensor, branch_TH: Tensor | None, kept: Kept) -> Tensor:
        """Sum up the residual stream and normalize it. → [T, E] with the tail still open."""
        if branch_TH is None:
            kept.x = residual_TH
            return self.normalized(residual_TH, self.modules.attention_norm, self.qkv)[0]
        kept.x = torch.empty_like(residual_TH)
        return self._sum_normalized(residual_TH, branch_TH, kept.x, self.modules.attention_norm, self.qkv)

    def make_qkv(self, x_TE: Tensor, row: Row, kept: Kept) -> None:
        """q, k and v from the normalized input."""
        kept.qkv = x_TE.new_empty(len(x_TE), self.spec.qkv_width)
        self.qkv.forward(x_TE, row.seed, kept.qkv)
        kept.h_qkv = self.qkv.hidden(x_TE).clone()
        if not self.has_head_norms:
            self.rotate(self.heads(kept.qkv, "qk"), row)

    def make_attention(self, row: Row, kept: Kept) -> None:
        """Attention's output, and behind it its adapter's x·Aᵀ."""
        q, k, v = self.roped(there(kept.qkv), row)
        kept.o = q.new_empty(len(q), self.o.extended)
        out = kept.o[:, : self.o.in_features].unflatten(1, (self.spec.num_heads, -1))
        _, kept.lse = attention_forward(q, k, v, row.segments, out=out, **self.attention_options(row))
        self.o.extend(kept.o, row.seed)

    def make_x2(self, row: Row, kept: Kept) -> Tensor:
        """The residual stream after attention. → normalized for the MLP, [T, E]."""
        x_TH = there(kept.x)
        attended_TH = self.workspace.get("branch", *x_TH.shape)
        self.o.multiply(there(kept.o), attended_TH)
        if self.modules.attention_out_norm is not None:
            kept.attention_out = attended_TH.clone()
            self.norm(kept.attention_out, self.modules.attention_out_norm, out=attended_TH)
        kept.x2 = torch.empty_like(x_TH)
        return self._sum_normalized(x_TH, attended_TH, kept.x2, self.modules.mlp_norm, self.gate_up)

    def make_gate_up(self, x_TE: Tensor, row: Row, kept: Kept) -> None:
        """Gate and up from the normalized residual stream."""
        kept.gate_up = x_TE.new_empty(len(x_TE), self.gate_up.out_features)
        self.gate_up.forward(x_TE, row.seed, kept.gate_up)
        kept.h_gate_up = self.gate_up.hidden(x_TE).clone()

    def _leave(self, row: Row, kept: Kept) -> Tensor:
        """What the MLP adds to the residual stream [T, H], in the workspace."""
        gate_up = there(kept.gate_up)
        act_TE = self.workspace.get("wide", len(gate_up), self.down.extended)
        act_TF = act_TE[:, : self.down.in_features]
        gated_activation(gate_up, activation=self.spec.activation, out=act_TF, eight_bits=kept.eight_bits)
        branch_TH = self.workspace.get("branch", len(gate_up), self.down.out_features)
        self.down.forward(act_TE, row.seed, branch_TH)
        kept.h_down = self.down.hidden(act_TE).clone()
        if self.modules.mlp_out_norm is not None:
            kept.mlp_out = branch_TH.clone()
            self.norm(kept.mlp_out, self.modules.mlp_out_norm, out=branch_TH)
        return branch_TH

    def norm(self, x_TH: Tensor, norm, *, out: Tensor) -> Tensor:
        """Normalize rows or heads into `out`. → the reciprocal root mean square of each, float32."""
        _, rstd = rms_norm(x_TH, norm.weight, eps=self.spec.norm_eps, offset=self.spec.norm_offset, out=out)
        return rstd

    def normalized(self, x_TH: Tensor, norm, product: JoinedProduct) -> tuple[Tensor, Tensor]:
        """(the normalized x as the input [T, E] of `product`, reciprocal root mean squares [T])."""
        x_TE = self.workspace.get("x", len(x_TH), product.extended)
        return x_TE, self.norm(x_TH, norm, out=x_TE[:, : product.in_features])

    def _sum_normalized(self, residual_TH, branch_TH, sum_TH, norm, product: JoinedProduct) -> Tensor:
        x_TE = self.workspace.get("x", len(branch_TH), product.extended)
        rms_norm(
            branch_TH,
            norm.weight,
            eps=self.spec.norm_eps,
            offset=self.spec.norm_offset,
            residual_TH=residual_TH,
            sum_out=sum_TH,
            out=x_TE[:, : product.in_features],
        )
        return x_TE

    def heads(self, qkv: Tensor, which: str) -> Tensor:
        """A view [T, heads, D] of `qkv` [T, (A + 2G)·D]: "q", "k", "v", or "qk" together."""
        a, g = self.spec.num_heads, self.spec.num_kv_heads
        bounds = {"q": (0, a), "k": (a, a + g), "v": (a + g, a + 2 * g), "qk": (0, a + g)}[which]
        return qkv.view(len(qkv), a + 2 * g, self.spec.head_dim)[:, slice(*bounds)]

    def roped(self, qkv: Tensor, row: Row) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v as attention takes them."""
        q, k, v = (self.heads(qkv, which) for which in "qkv")
        if self.has_head_norms:
            both = self.workspace.get("roped", len(qkv), q.shape[1] + k.shape[1], self.spec.head_dim)
            self.norm(q, self.modules.q_norm, out=both[:, : q.shape[1]])
            self.norm(k, self.modules.k_norm, out=both[:, q.shape[1] :])
            self.rotate(both, row)
            q, k = both[:, : q.shape[1]], both[:, q.shape[1] :]
        return q, k, v

    def rotate(self, x_TAD: Tensor, row: Row, *, inverse: bool = False) -> None:
        """The rotary embedding in place."""
        cos, sin = self.tables.of(self.spec.rotary, row.segments.max_length)
        rotary_(x_TAD, row.positions, cos, sin, inverse=inverse)

    def attention_options(self, row: Row) -> dict:
        """Keyword arguments of attention, the same forward and backward."""
        window = self.spec.window
        reaches_all = window is None or window >= row.segments.max_length
        return {
            "scale": self.spec.attention_scale,
            "window": None if reaches_all else window,
            "softcap": self.spec.softcap,
        }
