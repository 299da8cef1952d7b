"""Facts of this machine for bug reports (versions, device, extras), and the cleaning of its cache."""

import os
import platform
import shutil
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from sparserm_cli import __version__
from sparserm_cli.locations import cache_folder

PACKAGES = ("torch", "transformers", "sae-lens", "safetensors", "zarr", "h5py", "datasets", "numpy", "typer")
EXTRAS = {"serve": "fastapi", "align": "trl", "ray": "ray", "s3": "s3fs"}
"""Extra of this package to one of the packages that it installs."""
DAY = 86400.0
"""Seconds."""


class CacheEntry(NamedTuple):
    """One entry of a cache.

    Fields:
        name: its name within the cache, such as `models/gguf-1234`, or the id of a repository of the hub.
        path: the file or folder.
        bytes: the space that it takes.
        used: when one of its files was last read or written, in seconds since 1970.
    """

    name: str
    path: Path
    bytes: int
    used: float


def environment() -> dict[str, Any]:
    """Return versions, device, extras and cache of this machine, as JSON; torch names the device."""
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "sparserm": __version__,
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "devices": gpus or ["cpu"],
        "packages": {name: _version(name) for name in PACKAGES},
        "extras": {extra: _version(package) for extra, package in EXTRAS.items()},
        "cache": str(cache_folder()),
        "cache_bytes": sum(entry.bytes for entry in cache_entries()),
    }


def cache_entries() -> list[CacheEntry]:
    """Return the models, objects and measurements in the cache folder, the largest first.

    There are none where the folder does not exist.
    """
    folder = cache_folder()
    paths = [path for path in folder.glob("*/*") if path.parent.is_dir()]
    paths += [path for path in folder.glob("*") if not path.is_dir()]
    return sorted((_entry(path, folder) for path in paths), key=lambda entry: -entry.bytes)


def hub_entries() -> list[CacheEntry]:
    """Return the models and data sets in the cache of the Hugging Face hub, the largest first."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    entries = [
        CacheEntry(
            repository.repo_id, repository.repo_path, repository.size_on_disk, repository.last_accessed
        )
        for repository in repositories
    ]
    return sorted(entries, key=lambda entry: -entry.bytes)


def prune_cache(days: float) -> list[CacheEntry]:
    """Remove what was not used for so many days, and return it; it is fetched again when it is needed."""
    old = [entry for entry in cache_entries() if time.time() - entry.used >= days * DAY]
    for entry in old:
        if entry.path.is_dir():
            shutil.rmtree(entry.path)
        else:
            entry.path.unlink()
    return old


def _entry(path: Path, folder: Path) -> CacheEntry:
    """Measure one entry."""
    facts = [file.lstat() for file in (path, *path.rglob("*")) if not file.is_dir()] or [path.lstat()]
    used = max(max(file_stat.st_mtime, file_stat.st_atime) for file_stat in facts)
    return CacheEntry(
        str(path.relative_to(folder)), path, sum(file_stat.st_size for file_stat in facts), used
    )


def _version(name: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
