"""What a GPU says of itself, for whoever estimates how fast it is."""

from typing import NamedTuple

import torch


class GpuFacts(NamedTuple):
    name: str
    """Such as "NVIDIA H200"."""
    memory: int
    """Bytes in all."""
    generation: int
    """The major compute capability."""
    multiprocessors: int


def gpu_facts(device: torch.device) -> GpuFacts:
    """The facts of a CUDA device."""
    found = torch.cuda.get_device_properties(device)
    return GpuFacts(found.name, found.total_memory, found.major, found.multi_processor_count)
