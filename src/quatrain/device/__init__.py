"""What the machine is and what it has left: the only place that probes hardware.

Every other room takes a ``torch.device`` and a ``torch.dtype`` as given, so that a plan or a test can pretend to run
on any machine. ``choose`` picks those two, ``memory`` reads how much is used and free, ``pinned`` gets host memory
that a GPU copies from, and ``facts`` lists everything that ``quatrain doctor`` prints.
"""

from quatrain.device.choose import compute_dtype, has_fast_bfloat16, pick
from quatrain.device.facts import Fact, describe, name
from quatrain.device.gpu import GpuFacts, gpu_facts
from quatrain.device.memory import MemoryUse, free_memory, limit_memory, memory_in_use, reset_peak
from quatrain.device.pinned import host_empty

__all__ = [
    "Fact",
    "GpuFacts",
    "MemoryUse",
    "compute_dtype",
    "describe",
    "free_memory",
    "gpu_facts",
    "has_fast_bfloat16",
    "host_empty",
    "limit_memory",
    "memory_in_use",
    "name",
    "pick",
    "reset_peak",
]
