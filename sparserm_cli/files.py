"""Regular files of this machine: opening them without waiting for a pipe, and their digests."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from sparserm_cli.errors import CorruptStoreError, ResourceError, SparseRMError

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_HINT = "move it away and run the same command again"


@contextmanager
def open_file(path: Path, refusal: type[SparseRMError] = CorruptStoreError) -> Iterator[BufferedReader]:
    """Open a regular file for reading; pipes and devices, which may block or never end, are refused.

    Args:
        path: the file.
        refusal: the error that is raised for a folder, a pipe, a device or a loop of links.

    Raises:
        FileNotFoundError: there is no such file.
        ResourceError: this user has no permission to read it.

    """
    try:
        handle = os.open(path, _READ)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise refusal(str(path), "a file", "a loop of links", _HINT) from None
        if error.errno in {errno.EACCES, errno.EPERM}:
            hint = "give yourself the right to read it"
            raise ResourceError(str(path), "a file to read", "no permission", hint) from None
        raise
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise refusal(str(path), "a file", _KINDS.get(stat.S_IFMT(mode), "a device"), _HINT)
    with os.fdopen(handle, "rb") as file:
        yield file


def refuse_pipes(paths: Iterable[Path], refusal: type[SparseRMError]) -> None:
    """Raise `refusal` if a path is a pipe or a device, for which a library would wait without end."""
    for path in sorted(paths):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise refusal(str(path), "a file", "a pipe or a device", "move it away")


def hash_file(
    path: Path, algorithm: Callable[[], Any], refusal: type[SparseRMError] = CorruptStoreError
) -> tuple[str, int]:
    """Return the digest of a file's bytes in hexadecimal, and their number; raises as `open_file`.

    Args:
        path: the file.
        algorithm: returns the hash object, such as `hashlib.sha256` or `xxhash.xxh3_128`.
        refusal: as `open_file`.

    """
    with open_file(path, refusal) as file:
        digest = hashlib.file_digest(file, algorithm)
        return str(digest.hexdigest()), file.tell()
