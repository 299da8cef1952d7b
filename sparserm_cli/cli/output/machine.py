"""The output of `env` and `cache`, as text for people and as JSON."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparserm_cli.console import Output
from sparserm_cli.formatting import size

if TYPE_CHECKING:
    from sparserm_cli.cli.machine import CacheEntry


def env(out: Output, facts: Mapping[str, Any]) -> None:
    """Print versions, device, extras and cache."""
    lines = [f"sparserm {facts['sparserm']}, Python {facts['python']}, {facts['system']}"]
    lines.append(f"devices: {', '.join(facts['devices'])}; {facts['processors']} processors")
    lines.append(
        "packages: " + ", ".join(f"{name} {_shown(version)}" for name, version in facts["packages"].items())
    )
    lines.append(
        "extras: " + ", ".join(f"{name} {_shown(version)}" for name, version in facts["extras"].items())
    )
    lines.append(f"cache: {facts['cache']}, {size(facts['cache_bytes'])}")
    out.result(facts, "\n".join(lines))


def cache(
    out: Output,
    folder: str,
    kept: "Sequence[CacheEntry]",
    hub: "Sequence[CacheEntry]",
    removed: "Sequence[CacheEntry]",
) -> None:
    """Print the entries of the cache and of the hub's cache, and what was removed from the former."""
    total = sum(entry.bytes for entry in kept)
    data = {
        "cache": folder,
        "bytes": total,
        "entries": [_json(entry) for entry in kept],
        "hub": [_json(entry) for entry in hub],
        "removed": [_json(entry) for entry in removed],
    }
    named = [(entry.name, entry) for entry in kept] + [(f"hub: {entry.name}", entry) for entry in hub]
    rows = [[name, size(entry.bytes), f"{_days(entry):.0f}"] for name, entry in named]
    title = f"{folder}: {size(total)} in {_entries(kept)}"
    if removed:
        title += f"; removed {size(sum(entry.bytes for entry in removed))} in {_entries(removed)}"
    if hub:
        title += "; the hub's own cache is kept, `hf cache` removes from it"
    out.table(data, title, ["entry", "size", "days since use"], rows)


def _entries(entries: "Sequence[CacheEntry]") -> str:
    return f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"


def _json(entry: "CacheEntry") -> dict[str, Any]:
    return {"name": entry.name, "bytes": entry.bytes, "days_since_use": round(_days(entry), 2)}


def _days(entry: "CacheEntry") -> float:
    return max(0.0, time.time() - entry.used) / 86400.0


def _shown(version: str | None) -> str:
    return version or "not installed"
