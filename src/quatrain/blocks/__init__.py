"""Decoder blocks that we own: their forward, their hand-written backward, and what they keep in between."""

from quatrain.blocks.kept import Row
from quatrain.blocks.policy import (
    GATE_UP_8BIT,
    KEEP_ALL,
    OFFLOAD,
    OFFLOAD_ATTENTION,
    POLICIES,
    RECOMPUTE_ALL,
    RECOMPUTE_GATE_UP,
    FusedBlocks,
    Policy,
)
from quatrain.blocks.rotary_tables import RotaryTables
from quatrain.blocks.spec import BlockModules, BlockSpec
from quatrain.blocks.stack import BlockStack

__all__ = [
    "GATE_UP_8BIT",
    "KEEP_ALL",
    "OFFLOAD",
    "OFFLOAD_ATTENTION",
    "POLICIES",
    "RECOMPUTE_ALL",
    "RECOMPUTE_GATE_UP",
    "BlockModules",
    "BlockSpec",
    "BlockStack",
    "FusedBlocks",
    "Policy",
    "RotaryTables",
    "Row",
]
