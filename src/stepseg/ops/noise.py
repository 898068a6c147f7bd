"""Random numbers by hash: what is drawn for a place depends on a seed and the place alone."""

from torch import Tensor


def hash_numbers(x_T: Tensor) -> Tensor:
    """Mix int64 values into numbers in ``[0, 2**32)`` that look random (a 32-bit finaliser)."""
    mask = 0xFFFFFFFF
    x_T = x_T & mask
    x_T = ((x_T ^ (x_T >> 16)) * 0x7FEB352D) & mask
    x_T = ((x_T ^ (x_T >> 15)) * 0x846CA68B) & mask
    return x_T ^ (x_T >> 16)


def seeded(seed: int, number: int) -> int:
    """What to add to places for the draw `number`, up to 64, of a seed; any seed fits."""
    return (seed * 64 + number) * 0x9E3779B1 & 0xFFFFFFFF
