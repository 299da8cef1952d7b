"""A Parquet table in one file, in which any changed byte is detected.

Parquet's own checksums cover only its pages. The seal covers the whole file: under `sparserm.seal` the
metadata hold the xxh3-128 that the file has while a placeholder of the same length stands in its place.
"""

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from sparserm_cli.errors import CorruptStoreError
from sparserm_cli.store.io.sealed_json import json_object
from sparserm_cli.store.io.storage import storage_of

_HEAD, _SEAL = b"sparserm", b"sparserm.seal"
_PLACEHOLDER = b"here stands the seal of the file"


def write_sealed_table(path: PurePath, table: Any, head: Mapping[str, Any]) -> None:
    """Write a table whole or not at all.

    Args:
        path: path of the file.
        table: table of pyarrow.
        head: JSON object that the metadata hold under `sparserm`.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
        ValueError: a number of `head` is NaN or infinite.

    """
    metadata = {_HEAD: json.dumps(head, allow_nan=False), _SEAL: _PLACEHOLDER}
    table, sink = table.replace_schema_metadata(metadata), pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data = sink.getvalue().to_pybytes()
    storage_of(path).write_atomic(data.replace(_PLACEHOLDER, _digest(data)))


def read_sealed_table(path: PurePath, sealed_since: int, hint: str) -> tuple[Any, dict[str, Any]]:
    """Return the table that `write_sealed_table` wrote, and its head.

    Args:
        path: path of the file.
        sealed_since: first `version` in the head with which files have a seal.
        hint: the command that the user should run if the file cannot be read.

    Raises:
        CorruptStoreError: a byte of the file has changed.

    """
    data = storage_of(path).read_cached()
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        metadata = file.metadata.metadata
        head = json_object(metadata[_HEAD], str(path), hint)
        if _SEAL not in metadata and head["version"] < sealed_since:
            return file.read(), head
        seal = metadata[_SEAL]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        found = f"a file that does not read ({type(error).__name__})"
        raise CorruptStoreError(str(path), "a sealed Parquet table", found, hint) from None
    digest = _digest(data.replace(seal, _PLACEHOLDER))
    if digest != seal:
        found = f"xxh3-128 {digest.decode()}"
        raise CorruptStoreError(str(path), f"xxh3-128 {seal.decode(errors='replace')}", found, hint)
    return file.read(), head


def _digest(data: bytes) -> bytes:
    """Return the xxh3-128 of some bytes as 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(data).encode()
