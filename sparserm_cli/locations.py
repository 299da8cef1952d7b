"""The location of a run: a folder of this machine or a prefix on an object store. No file is read here.

Arguments that may be either are annotated `PurePath`, and `Path` means this machine alone, so that the type
checker finds code that would look for an object on the local disk.
"""

import os
from pathlib import Path, PurePath, PurePosixPath

from sparserm_cli.errors import UsageError

OBJECT_STORES = {
    "s3": "sparserm[s3]",
    "s3a": "sparserm[s3]",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
    "memory": "fsspec",
}
"""Protocols whose uploads are atomic and can be made conditional on absence, and the package each needs."""

_THIS_MACHINE = ("file", "local")


class RemotePath(PurePosixPath):
    """A prefix or an object on an object store, such as `s3://bucket/run`."""

    def __str__(self) -> str:
        """Return the URL; the parent class would merge its two slashes."""
        return super().__str__().replace(":/", "://", 1)


def parse_location(text: str | PurePath) -> PurePath:
    """Parse a folder or a URL.

    Only the protocols of `OBJECT_STORES` are accepted. On other object stores, such as `oss`, fsspec cannot
    create an object only if it is absent, which locks need; on file systems, such as `sftp`, it writes in
    place, so that others would see half a file.

    Raises:
        UsageError: the URL has another protocol.

    """
    protocol, separator, rest = str(text).partition("://")
    if not separator:
        return Path(text)
    if protocol in _THIS_MACHINE:
        return Path(rest)
    if protocol not in OBJECT_STORES:
        known = ", ".join(f"{name}://" for name in OBJECT_STORES)
        expected = f"a folder, or a URL of a store that makes whole objects, and only if absent ({known})"
        hint = "mount it and give the folder, or choose another place"
        raise UsageError(str(text), expected, f"{protocol}://", hint)
    return RemotePath(text)


def local_folder(run: PurePath, what: str) -> Path:
    """Return a run directory that must lie on this machine.

    Args:
        run: the run directory.
        what: the command that needs it, such as `sparserm report`.

    Raises:
        UsageError: it lies on an object store.

    """
    if isinstance(run, Path):
        return run
    raise UsageError(
        "--run", f"a folder of this machine for {what}", str(run), "copy the run to a folder first"
    )


def cache_folder() -> Path:
    """Return `$SPARSERM_CACHE`, else `$XDG_CACHE_HOME/sparserm`, else `~/.cache/sparserm`."""
    if own := os.environ.get("SPARSERM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparserm"


def bundled_sae(name: str) -> Path | None:
    """Return the folder of an SAE that is installed with this package, by its name, or None.

    A wheel carries it inside the package, a checkout under `examples/sae`.
    """
    if not name.replace("-", "").isalnum():
        return None
    package = Path(__file__).resolve().parent
    folders = (package / "assets" / "sae" / name, package.parent / "examples" / "sae" / name)
    return next((folder for folder in folders if (folder / "cfg.json").is_file()), None)
