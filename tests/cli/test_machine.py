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
    """Lay out a cache with an old file of 3 bytes and a new model of 5, and no cache of the hub."""
    folder = tmp_path / "cache"
    (folder / "models" / "new").mkdir(parents=True)
    (folder / "models" / "new" / "weights").write_bytes(b"12345")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (folder / "old").write_bytes(b"123")
    long_ago = time.time() - 40 * 86400
    os.utime(folder / "old", (long_ago, long_ago))
    monkeypatch.setenv("SPARSERM_CACHE", str(folder))
    return folder


def test_cache_lists_entries_by_size(cache):
    """The largest first; nothing is removed unless that is asked for."""
    output = json.loads(sparserm("cache", "--json").stdout)
    assert [(entry["name"], entry["bytes"]) for entry in output["entries"]] == [("models/new", 5), ("old", 3)]
    assert (output["cache"], output["bytes"], output["removed"]) == (str(cache), 8, [])
    assert (cache / "old").exists()


def test_cache_prunes_what_was_not_used(cache):
    """30 days by default; what was used since is kept."""
    shown = sparserm("cache", "--prune").stdout.splitlines()
    assert shown[0] == f"{cache}: 5 B in 1 entry; removed 3 B in 1 entry"
    assert [path.name for path in cache.iterdir()] == ["models"]
    output = json.loads(sparserm("cache", "--prune", "--older-than", 0, "--json").stdout)
    assert [entry["name"] for entry in output["removed"]] == ["models/new"]
    assert output["entries"] == []


def test_cache_tells_of_the_hub_and_keeps_it(cache, tmp_path):
    """Models that transformers has fetched are listed with their sizes, and left to the hub's own tool."""
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "weights").write_bytes(b"1234567")
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    output = json.loads(sparserm("cache", "--json", "--prune", "--older-than", 0).stdout)
    assert [(entry["name"], entry["bytes"]) for entry in output["hub"]] == [("org/name", 7)]
    assert (snapshot / "weights").exists()
    lines = sparserm("cache").stdout.splitlines()
    assert lines[0] == f"{cache}: 0 B in 0 entries; the hub's own cache is kept, `hf cache` removes from it"
    assert lines[2].split() == ["hub:", "org/name", "7", "B", "0"]


def test_env_tells_versions_extras_and_cache(cache):
    """What a bug report needs; what is not installed is said."""
    output = json.loads(sparserm("env", "--json").stdout)
    assert output["sparserm"] == __version__
    assert output["packages"]["torch"]
    assert set(output["extras"]) == {"serve", "align", "ray", "s3"}
    assert (output["cache"], output["cache_bytes"]) == (str(cache), 8)
