"""Decoding on blocks of our own: prompts are read once, then each step adds one token to every sequence.

A step of a small batch does so little arithmetic that what counts is how many bytes it reads and how many kernels it
launches. So weights stay in four bits all the way into the product (`ops/linear_4bit`), keys and values lie in a cache
of fixed size whose lengths are kept on the device, and the whole step is recorded once as a CUDA graph.
"""

from quatrain.decoding.decoder import Decoder
from quatrain.decoding.sampling import Sampling

__all__ = ["Decoder", "Sampling"]
