"""A plan's numbers as the arguments of those who carry it out."""

from pathlib import Path

from quatrain.blocks import POLICIES, Policy
from quatrain.memory import Plan
from quatrain.offload import Streaming


def streaming_of(plan: Plan, folder: Path) -> Streaming | None:
    """Which blocks are streamed; None if all are resident.

    Args:
        folder: where blocks on disk go.
    """
    if not plan.streamed_blocks and not plan.disk_blocks:
        return None
    return Streaming(host=plan.streamed_blocks, disk=plan.disk_blocks, slots=plan.stream_slots, folder=folder)


def policies_of(plan: Plan) -> list[Policy]:
    """What each block keeps."""
    return [POLICIES[name] for name in plan.policies]
