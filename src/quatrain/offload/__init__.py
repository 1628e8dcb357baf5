"""Weights that don't stay on the device: in pinned host memory or on disk, and here when their block's turn comes."""

from quatrain.offload.streamed import StreamedWeights, Streaming

__all__ = ["StreamedWeights", "Streaming"]
