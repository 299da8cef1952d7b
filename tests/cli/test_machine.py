"""`env` and `cache`: what this machine has, and tidying up."""

import json
import os
import time

import pytest
from typer.testing import CliRunner

from sparserm_cli import __version__
from sparserm_cli.cli.main import app


def sparserm(*words):
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Lay out a cache with an old file of 3 bytes and a new folder of 5."""
    folder = tmp_path / "cache"
    (folder / "new").mkdir(parents=True)
    (folder / "new" / "weights").write_bytes(b"12345")
    (folder / "old").write_bytes(b"123")
    long_ago = time.time() - 40 * 86400
    os.utime(folder / "old", (long_ago, long_ago))
    monkeypatch.setenv("SPARSERM_CACHE", str(folder))
    return folder


def test_cache_lists_entries_by_size(cache):
    """The largest first; nothing is removed unless that is asked for."""
    output = json.loads(sparserm("cache", "--json").stdout)
    assert [(entry["name"], entry["bytes"]) for entry in output["entries"]] == [("new", 5), ("old", 3)]
    assert (output["cache"], output["bytes"], output["removed"]) == (str(cache), 8, [])
    assert (cache / "old").exists()


def test_cache_prunes_what_was_not_used(cache):
    """30 days by default; what was used since is kept."""
    shown = sparserm("cache", "--prune").stdout.splitlines()
    assert shown[0] == f"{cache}: 5 B in 1 entries; removed 3 B in 1 entries"
    assert [path.name for path in cache.iterdir()] == ["new"]
    output = json.loads(sparserm("cache", "--prune", "--older-than", 0, "--json").stdout)
    assert [entry["name"] for entry in output["removed"]] == ["new"]
    assert output["entries"] == []


def test_env_tells_versions_extras_and_cache(cache):
    """What a bug report needs; what is not installed is said."""
    output = json.loads(sparserm("env", "--json").stdout)
    assert output["sparserm"] == __version__
    assert output["packages"]["torch"]
    assert set(output["extras"]) == {"serve", "align", "ray", "s3"}
    assert (output["cache"], output["cache_bytes"]) == (str(cache), 8)
