"""Keep the C library from giving memory back to the kernel that the next block of the model takes again."""

import ctypes
import sys

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Parameters of glibc's `mallopt`, from malloc.h."""

LARGEST = 32 << 20
"""Bytes; glibc takes no larger `MMAP_THRESHOLD`."""

KEPT = 1 << 30
"""Bytes of free memory at the end of the heap that the process may keep."""


def keep_freed_memory() -> bool:
    """Let freed activations be used again without a detour through the kernel.

    Left alone, glibc maps every large block anew, and the kernel clears each of its pages: an eighth of the
    time of a forward pass on a CPU. Holds for the whole process.

    Returns:
        Whether this C library could be told so.

    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all((mallopt(MMAP_THRESHOLD, LARGEST), mallopt(TRIM_THRESHOLD, KEPT)))
