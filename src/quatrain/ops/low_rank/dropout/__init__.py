"""Dropout whose mask is computed, never stored: forward and backward draw the same numbers again.

A stored mask costs a byte per element and adapter (PyTorch's) or an eighth of one (bits), in memory that training
doesn't have; the random numbers of a counter-based generator cost a few integer operations and no memory at all. The
generator is Philox-4x32-10, as in PyTorch's own CUDA dropout and in ``triton.language.philox``: ten rounds that turn a
counter of four 32-bit words, under a key of two, into four words of random bits.

The mask of one element is a function of (seed, stream, row t, column k) alone, hence independent of tiles, devices and
of who asks:

    key      low and high half of the seed
    counter  (k // 8, t, stream, 0)
    bits     the four words, low half before high half, are eight numbers; element k owns number k % 8
    kept     where the lower 15 bits of its number are at least round(p · 32768)

Eight elements share a call, because a call for each, as in ``tl.rand``, would take several times as long as reading the
element. Of 16 bits one stays unused, because the GPU can compare two such numbers in one instruction if it takes them
for half-precision floats without a sign. Fifteen bits realize p to within 1/65536, and kept elements are scaled by the
inverse of the realized probability, so that the expectation is exact.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
"""

from .reference import GROUP, Dropout, check_dropout, keep_mask, philox

__all__ = ["GROUP", "Dropout", "check_dropout", "keep_mask", "philox"]
