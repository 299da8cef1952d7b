"""A local cache of objects: an object that has not changed is not downloaded again.

A copy begins with the digest of its content, so that a damaged copy is downloaded again. The folder may be
removed at any time, and it is emptied when it would grow beyond `MOST_BYTES`.
"""

from collections.abc import Callable
from contextlib import suppress

import xxhash

from sparserm_cli.errors import ResourceError
from sparserm_cli.locations import cache_folder
from sparserm_cli.store.io import local_disk as disk

MOST_BYTES = 8 * 2**30
"""Largest total size of all copies, in bytes."""

_DIGEST_BYTES = 16


def kept(key: str, fetch: Callable[[], bytes]) -> bytes:
    """Return the cached content of a key; if there is none, call `fetch` and cache its result.

    Args:
        key: a file name that is unique to this content.
        fetch: returns the content.

    """
    copy = cache_folder() / "objects" / key
    with suppress(OSError):
        content = copy.read_bytes()
        data = content[_DIGEST_BYTES:]
        if content[:_DIGEST_BYTES] == xxhash.xxh3_128_digest(data):
            return data
    data = fetch()
    with suppress(OSError, ResourceError):  # the cache only saves time, so a failure is no error
        if disk.bytes_below(copy.parent) + len(data) > MOST_BYTES:
            disk.remove(copy.parent)
        disk.make_folder(copy.parent)
        disk.write_atomic(copy, xxhash.xxh3_128_digest(data) + data, sync=False)
    return data
