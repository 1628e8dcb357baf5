"""Decoder blocks that we own: their forward, their hand-written backward, and what they keep in between."""

from quatrain.blocks.kept import Row
from quatrain.blocks.policy import (
    KEEP_ALL,
    OFFLOAD_ALL_BUT_GATE_UP,
    OFFLOAD_X_AND_ATTENTION,
    RECOMPUTE_ALL,
    RECOMPUTE_GATE_UP,
    Policy,
)
from quatrain.blocks.rotary_tables import RotaryTables
from quatrain.blocks.spec import BlockModules, BlockSpec
from quatrain.blocks.stack import BlockStack

__all__ = [
    "KEEP_ALL",
    "OFFLOAD_ALL_BUT_GATE_UP",
    "OFFLOAD_X_AND_ATTENTION",
    "RECOMPUTE_ALL",
    "RECOMPUTE_GATE_UP",
    "BlockModules",
    "BlockSpec",
    "BlockStack",
    "Policy",
    "RotaryTables",
    "Row",
]
