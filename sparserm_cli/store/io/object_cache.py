"""Copies of objects on this machine: what is still the same is not fetched again.

A copy begins with the digest of the rest, so that one that was damaged is fetched anew. The folder may be
removed at any time; when it would grow too large, it is.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import PurePath

import xxhash

from sparserm_cli.errors import ResourceError
from sparserm_cli.locations import cache_folder
from sparserm_cli.store.io import local_disk as disk
from sparserm_cli.store.io import object_store as remote

MOST_BYTES = 8 * 2**30
"""Of all copies together."""

_DIGEST_BYTES = 16


def read(path: PurePath) -> bytes:
    """Return the bytes of an object; where the store says that it is still the same, those of a copy.

    Raises:
        FileNotFoundError: there is no such object.
        IncompatibleError, TemporaryError: as `remote.remote_errors`.

    """
    key = f"{path} {remote.version(path)}".encode()
    return kept(xxhash.xxh3_128_hexdigest(key), lambda: remote.read(path))


def kept(key: str, fetch: Callable[[], bytes]) -> bytes:
    """Return what is kept under a key; else what `fetch` gives, which is kept from then on.

    Args:
        key: a file name that other content would not have.
        fetch: gives the content.

    """
    copy = cache_folder() / "objects" / key
    with suppress(OSError):
        content = copy.read_bytes()
        data = content[_DIGEST_BYTES:]
        if content[:_DIGEST_BYTES] == xxhash.xxh3_128_digest(data):
            return data
    data = fetch()
    with suppress(OSError, ResourceError):  # a copy saves time, no more
        if disk.bytes_below(copy.parent) + len(data) > MOST_BYTES:
            disk.remove(copy.parent)
        disk.make_folder(copy.parent)
        disk.write_atomic(copy, xxhash.xxh3_128_digest(data) + data, sync=False)
    return data
