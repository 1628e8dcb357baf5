"""One decoder block's share of a decoding step: nine launches.

    x ─► norm ─► qkv ─► attention over the cache (2) ─► o ─► norm ─► gate/up ─► activation ─► down ─► (output)

An adapter adds one launch to each product that it is in, and a norm behind attention or MLP one each.
The stages are those of `blocks/block.py`, for one token of each sequence and without anything kept. The residual stream
travels in two parts for the same reason: the kernel that normalizes their sum makes it.

Legend: B sequences, H hidden.
"""

import torch
from torch import Tensor

from quatrain.blocks.block import DecoderBlock
from quatrain.decoding.cache import Cache
from quatrain.decoding.product import RowProduct
from quatrain.ops.cache_attention import HeadNorms, cache_attention
from quatrain.ops.gated_activation import gated_activation
from quatrain.ops.rms_norm import rms_norm


class BlockStep:
    """The block number `index` of a model, over its part of `cache`."""

    def __init__(self, block: DecoderBlock, index: int, cache: Cache):
        self.spec, self.modules = block.spec, block.modules
        self._keys, self._values, self._lengths = cache.keys[index], cache.values[index], cache.lengths
        self._cos, self._sin = block.tables.of(block.spec.rotary, cache.capacity)
        self._norms = _head_norms(block)
        self._qkv, self._o, self._gate_up, self._down = (RowProduct(product) for product in block.products)

    def __call__(self, residual_BH: Tensor, branch_BH: Tensor | None) -> tuple[Tensor, Tensor]:
        """(residual, branch) at the block's exit, from those at its entry; the new token enters the cache."""
        residual_BH, x_BH = self._sum_and_norm(residual_BH, branch_BH, self.modules.attention_norm)
        branch_BH = self._o(self._attend(self._qkv(x_BH)))
        branch_BH = self._out_norm(branch_BH, self.modules.attention_out_norm)
        residual_BH, x_BH = self._sum_and_norm(residual_BH, branch_BH, self.modules.mlp_norm)
        branch_BH = self._down(gated_activation(self._gate_up(x_BH), activation=self.spec.activation))
        return residual_BH, self._out_norm(branch_BH, self.modules.mlp_out_norm)

    def _attend(self, qkv_BW: Tensor) -> Tensor:
        rows = len(qkv_BW)
        return cache_attention(
            qkv_BW,
            self._keys[:rows],
            self._values[:rows],
            self._lengths[:rows],
            self._cos,
            self._sin,
            scale=self.spec.attention_scale,
            window=self.spec.window,
            softcap=self.spec.softcap,
            norms=self._norms,
        )

    def _sum_and_norm(self, residual_BH: Tensor, branch_BH: Tensor | None, norm) -> tuple[Tensor, Tensor]:
        """The residual stream summed up, and normalized."""
        eps, offset = self.spec.norm_eps, self.spec.norm_offset
        if branch_BH is None:
            return residual_BH, rms_norm(residual_BH, norm.weight, eps=eps, offset=offset)[0]
        sum_BH = torch.empty_like(residual_BH)
        x_BH, _ = rms_norm(branch_BH, norm.weight, eps=eps, offset=offset, residual_TH=residual_BH, sum_out=sum_BH)
        return sum_BH, x_BH

    def _out_norm(self, branch_BH: Tensor, norm) -> Tensor:
        if norm is None:
            return branch_BH
        return rms_norm(branch_BH, norm.weight, eps=self.spec.norm_eps, offset=self.spec.norm_offset)[0]


def _head_norms(block: DecoderBlock) -> HeadNorms | None:
    if not block.has_head_norms:
        return None
    q, k = block.modules.q_norm.weight, block.modules.k_norm.weight
    return HeadNorms(q, k, block.spec.norm_eps, block.spec.norm_offset)
