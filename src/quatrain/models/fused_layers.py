"""Our own blocks inside a Hugging Face model, for whoever trains it with a loop that isn't ours.

`train` drives the blocks itself (`engine.py`). transformers' `Trainer`, TRL, or a loop of your own call the model, so
there each decoder layer has to run its block: its instance gets a class derived from its own, whose forward takes the
block where one fits and the layer's own forward everywhere else. Names, parameters, hooks and `isinstance` stay what
they were, and no class of transformers is changed.

One block fits while gradients are wanted, for rows that aren't padded and without a cache of keys and values, which is
what a trainer with packed or equally long rows sends. Generation and evaluation run as before.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from quatrain.blocks import KEEP_ALL, Policy, Row
from quatrain.blocks.backward import backward
from quatrain.blocks.block import DecoderBlock
from quatrain.blocks.flat_adapter import parameters_of, point_gradients, views
from quatrain.blocks.kept import Kept
from quatrain.blocks.workspace import Workspace
from quatrain.errors import ModelError
from quatrain.models.families import describe
from quatrain.models.parts import body
from quatrain.models.streaming import streamed_weights
from quatrain.ops.block_attention import Segments


def fuse_blocks(model: nn.Module, policy: Policy = KEEP_ALL) -> nn.Module:
    """Let `model`'s decoder layers train on blocks of our own. Returns the same model.

    Call it after adapters are attached; attach others, and it has to be called again.

    Args:
        policy: what each block keeps for its backward. What would be offloaded is kept: only `train` can tell when it
            is needed again.

    Raises:
        ModelError: the model isn't of a family that has blocks of our own, or its weights are streamed.
    """
    if streamed_weights(model) is not None:
        raise ModelError("the model's weights are streamed, which only `train` can do in time")
    spec = describe(model)
    device, dtype = spec.final_norm.weight.device, model.dtype
    workspace = Workspace(device, dtype)  # pyright: ignore
    for index, (layer, parts) in enumerate(zip(body(model).layers, spec.blocks, strict=True)):  # pyright: ignore
        unfuse(layer)
        numbers, modules = parts
        block = DecoderBlock(numbers, modules, index, workspace, spec.tables)
        block.policy = policy
        layer.fused = Fused(block)
        layer.__class__ = _fused_class(type(layer))
    return model


def unfuse_blocks(model: nn.Module) -> nn.Module:
    """Give the decoder layers their own forward back. Returns the same model."""
    for layer in body(model).layers:  # pyright: ignore
        unfuse(layer)
    return model


def unfuse(layer: Any) -> None:
    """Undo `fuse_blocks` on one layer; one that isn't fused stays as it is."""
    if isinstance(layer, _FusedLayer):
        del layer.fused
        layer.__class__ = type(layer).__mro__[2]


class Fused:
    """The block of one layer, and when it runs."""

    def __init__(self, block: DecoderBlock):
        self.block = block
        self.parameters = parameters_of(block.products)
        self.dropout = any(product.dropout_p for product in block.products)

    def fits(self, config: Any, training: bool, arguments: dict[str, Any]) -> bool:
        """Whether a call of the layer is what the block computes: causal rows without padding, without a cache."""
        # Only PyTorch's attention says by having no mask that a row is nothing but causal.
        plain = config._attn_implementation == "sdpa" and arguments.get("attention_mask") is None
        # Models make a cache unless told not to, in training too, where nobody reads it.
        uncached = training or arguments.get("past_key_values") is None
        return plain and uncached and torch.is_grad_enabled()

    def row(self, rows: int, tokens: int, position_ids: Tensor, training: bool) -> Row:
        """`rows` samples of `tokens` tokens each, as one packed row."""
        device = position_ids.device
        ends = torch.arange(0, (rows + 1) * tokens, tokens, dtype=torch.int32, device=device)
        seed = torch.randint(1 << 62, (1,)).to(device) if training and self.dropout else None
        return Row(position_ids.expand(rows, tokens).reshape(-1), Segments(ends, tokens), seed)


class _FusedLayer(nn.Module):
    """What goes before a decoder layer's own class."""

    fused: Fused

    def forward(self, hidden_states: Tensor, **arguments: Any) -> Tensor:
        if not self.fused.fits(self.self_attn.config, self.training, arguments):  # pyright: ignore
            return super().forward(hidden_states, **arguments)
        rows, tokens, _ = hidden_states.shape
        row = self.fused.row(rows, tokens, arguments["position_ids"], self.training)
        return _RunBlock.apply(hidden_states, self.fused.block, row, *self.fused.parameters)  # pyright: ignore


@cache
def _fused_class(layer_class: type) -> type:
    return type(f"Fused{layer_class.__name__}", (_FusedLayer, layer_class), {})


class _RunBlock(torch.autograd.Function):
    """A block as autograd sees it: hidden states [B, T, H] and the adapters' parameters."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, block: DecoderBlock, row: Row, *parameters: Tensor) -> Tensor:
        for product in block.products:
            product.refresh()
        kept = Kept()
        x_TH = hidden.reshape(-1, hidden.shape[-1])
        residual_TH, branch_TH = block.forward(x_TH, None, row, kept, for_backward=True)
        out_TH = residual_TH + branch_TH
        kept.follow(block.policy)
        ctx.block, ctx.row, ctx.kept, ctx.parameters = block, row, kept, parameters
        return out_TH.view(hidden.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple:
        if ctx.kept is None:
            raise ModelError("a fused block runs backward once a forward: what it keeps is used up by that")
        (d_BTH,) = gradients
        d_TH = d_BTH.reshape(-1, d_BTH.shape[-1]).clone()
        flat = torch.zeros(sum(p.numel() for p in ctx.parameters), device=d_TH.device)
        point_gradients(ctx.block.products, flat)
        backward(ctx.block, d_TH, ctx.row, ctx.kept, input_needs_gradient=ctx.needs_input_grad[0])
        ctx.kept = None
        return (d_TH.view(d_BTH.shape), None, None, *views(flat, ctx.parameters))
