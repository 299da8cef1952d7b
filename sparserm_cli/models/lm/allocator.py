"""Limits on the memory that the C library and oneDNN keep, so that a long capture does not grow."""

import ctypes
import os
import sys

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Parameters of glibc's `mallopt`, from malloc.h."""

LARGEST = 32 << 20
"""Largest `MMAP_THRESHOLD` that glibc takes, in bytes."""

KEPT = 1 << 30
"""Free memory at the end of the heap that the process may keep, in bytes."""

KERNELS = "128"
"""Number of compiled kernels that oneDNN may keep. Each shape of a product needs a kernel of its own. Tries
have about this many shapes; padded rows have so many that oneDNN's own limit of 1024 only costs memory."""


def keep_freed_memory() -> bool:
    """Reuse freed activations without returning them to the kernel first.

    By default glibc maps every large block anew, and the kernel clears each of its pages; that takes an
    eighth of the time of a forward pass on a CPU. The setting applies to the whole process.

    Returns:
        Whether this C library takes the setting.

    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all((mallopt(MMAP_THRESHOLD, LARGEST), mallopt(TRIM_THRESHOLD, KEPT)))


def limit_kernel_cache() -> None:
    """Limit the kernels that oneDNN keeps, unless the environment sets a limit; call it before any kernel."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS)


def return_freed_memory() -> None:
    """Return free memory to the kernel, so that fragmentation does not add up from unit to unit."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
