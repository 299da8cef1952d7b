"""What the C library and oneDNN keep in memory: enough to be fast, and no more the longer a capture runs."""

import ctypes
import os
import sys

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Parameters of glibc's `mallopt`, from malloc.h."""

LARGEST = 32 << 20
"""Bytes; glibc takes no larger `MMAP_THRESHOLD`."""

KEPT = 1 << 30
"""Bytes of free memory at the end of the heap that the process may keep."""

KERNELS = "128"
"""Compiled kernels that oneDNN may keep. Each shape of a product is another kernel; tries have about as
many shapes in all, padded rows so many that its own limit of 1024 costs memory and saves no time."""


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


def limit_kernel_cache() -> None:
    """Let oneDNN keep few kernels, unless the environment says how many; for before its first kernel."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS)


def return_freed_memory() -> None:
    """Give free memory back to the kernel, so that what one unit has scattered does not add to the next."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
