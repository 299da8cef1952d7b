"""bfloat16 numbers in numpy, which has no such type, as 16-bit integers.

bfloat16 is the upper half of a float32: sign, 8 bits of exponent, 7 of fraction. Widening is exact; narrowing
rounds to nearest, ties to even, as torch does.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float32, UInt16

NAN_BITS = 0x7FC0
_EXPONENT = 0x7F80
_MAGNITUDE = 0x7FFF


def to_float32(bits: UInt16[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Return the float32 numbers that bfloat16 bits represent, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def from_float32(values: Float32[np.ndarray, "*shape"]) -> UInt16[np.ndarray, "*shape"]:
    """Return the bits of the nearest bfloat16 numbers, ties to even; every NaN becomes 0x7fc0."""
    wide = np.ascontiguousarray(values).view(np.uint32)
    rounded = (wide + (((wide >> 16) & 1) + 0x7FFF)) >> 16
    return np.where(np.isnan(values), NAN_BITS, rounded).astype(np.uint16)


def is_finite(values: np.ndarray) -> Bool[np.ndarray, "*shape"]:
    """Return which float32 numbers, or bfloat16 bits given as uint16, are finite."""
    if values.dtype == np.uint16:
        return np.asarray(np.not_equal(values & _EXPONENT, _EXPONENT))
    return np.asarray(np.isfinite(values))


def absmax(values: np.ndarray) -> float:
    """Return the largest finite absolute value of float32 numbers or bfloat16 bits; 0 if there is none."""
    finite = is_finite(values)
    if not finite.any():
        return 0.0
    if values.dtype == np.uint16:
        return float(to_float32((values[finite] & _MAGNITUDE).max(keepdims=True))[0])
    return float(np.abs(values[finite]).max())


ITEM_BYTES: Mapping[str, int] = {"bfloat16": 2, "float32": 4}
