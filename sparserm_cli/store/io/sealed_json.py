"""JSON files, plain and sealed with a digest."""

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import xxhash

from sparserm_cli.errors import CorruptStoreError
from sparserm_cli.store.io.storage import storage_of

SEAL = "seal"


def canonical_json(value: Any) -> bytes:
    """Return the canonical JSON text for digests: sorted keys, ASCII, no spaces.

    Raises:
        ValueError: a number is NaN or infinite.

    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def write_json_atomic(path: PurePath, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, indented by two spaces, with its keys in the order given.

    Raises:
        ValueError: a number is NaN or infinite.
        ResourceError: as `write_atomic`.

    """
    storage_of(path).write_atomic((json.dumps(value, indent=2, allow_nan=False) + "\n").encode("ascii"))


def read_json(path: PurePath, hint: str = "remove it and run the stage again") -> dict[str, Any]:
    """Read a JSON file of this package strictly.

    Args:
        path: the file.
        hint: the command for the user to run if it cannot be read.

    Raises:
        CorruptStoreError: the file is missing, truncated, not UTF-8, or not a JSON object, or it has a
            duplicate key or a NaN.

    """
    try:
        data = storage_of(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise CorruptStoreError(str(path), "a JSON object", "no file", hint) from None
    return json_object(data, str(path), hint)


def json_object(data: bytes, where: str, hint: str) -> dict[str, Any]:
    """Parse `data` as a JSON object; raises CorruptStoreError as `read_json`."""
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        found = f"bytes that are not UTF-8 at offset {error.start}"
        raise CorruptStoreError(where, "a JSON object", found, hint) from None
    except RecursionError:
        raise CorruptStoreError(where, "a JSON object", "nesting without end", hint) from None
    except ValueError as error:
        raise CorruptStoreError(where, "a JSON object", f"broken JSON ({error})", hint) from None
    if not isinstance(value, dict):
        raise CorruptStoreError(where, "a JSON object", f"a {type(value).__name__}", hint)
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; raises ValueError for a duplicate key."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def _no_constant(name: str) -> None:
    """Raise ValueError for NaN and Infinity, which JSON does not have."""
    raise ValueError(f"{name} is no JSON number")


def write_sealed(path: PurePath, value: Mapping[str, Any]) -> None:
    """Write a JSON object with a `seal`, the xxh3-128 of all other fields, which reveals any change.

    Raises:
        ValueError: a number is NaN or infinite.
        ResourceError: as `write_atomic`.

    """
    sealed = {**value, SEAL: _seal(value)}
    fields = (f"{json.dumps(name)}: {json.dumps(item, allow_nan=False)}" for name, item in sealed.items())
    storage_of(path).write_atomic(("{\n" + ",\n".join(fields) + "\n}\n").encode("ascii"))


def read_sealed(path: PurePath, hint: str = "remove it and run the stage again") -> dict[str, Any]:
    """Read the output of `write_sealed` and return it without the seal.

    Raises:
        CorruptStoreError: as `read_json`, or the seal does not match the content.

    """
    value = read_json(path, hint)
    seal, expected = value.pop(SEAL, None), _seal(value)
    if seal != expected:
        raise CorruptStoreError(str(path), f"seal {expected}", f"{seal}", hint)
    return value


def _seal(value: Mapping[str, Any]) -> str:
    """Return the digest of a JSON value."""
    return xxhash.xxh3_128(canonical_json(value)).hexdigest()
