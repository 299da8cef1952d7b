"""Runs on an object store: the content of a run on the disk, whole or not there at all."""

import json
import os
import pickle
import shutil
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import fsspec
import pytest
from helpers.runs import capture, digests, whole_run
from helpers.small_artifacts import directions

from sparserm_cli.errors import CorruptStoreError, IncompatibleError, TemporaryError, UsageError
from sparserm_cli.locations import RemotePath, local_folder, parse_location
from sparserm_cli.store.artifacts.directions import read_directions
from sparserm_cli.store.artifacts.frequency import frequency_path, read_frequency
from sparserm_cli.store.artifacts.reward import read_reward, reward_path
from sparserm_cli.store.capture.artifact import capture_path, remove_capture
from sparserm_cli.store.capture.plan import check_space
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.exchange.capture_files import import_capture
from sparserm_cli.store.io import fault_points as faults
from sparserm_cli.store.io import object_cache
from sparserm_cli.store.io import object_store as remote
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.run.locks import RUN_LOCK, run_lock, worker_lock
from sparserm_cli.store.run.status import status
from sparserm_cli.store.run.verify import repair, verify
from sparserm_cli.store.units.unit_store import MANIFEST, PLAN, is_planned

pytestmark = pytest.mark.slow


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """Give an empty run on an object store in this process's memory."""
    fsspec.filesystem("memory").store.clear()
    monkeypatch.setenv("SPARSERM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(faults, "_passed", Counter())
    return parse_location("memory://bucket/run")


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """Give the digests of the same run in a folder."""
    run = tmp_path_factory.mktemp("disk") / "run"
    whole_run(run)
    return digests(run)


# --- names ---


def test_a_url_is_a_name_and_no_file_of_this_machine():
    """Joining and printing keep both slashes; it survives pickling, as workers need."""
    run = parse_location("s3://bucket/run")
    assert isinstance(run, RemotePath)
    assert not isinstance(run, Path)
    assert str(run / "reward" / "config.json") == "s3://bucket/run/reward/config.json"
    assert (str(run.parent), run.name) == ("s3://bucket", "run")
    assert pickle.loads(pickle.dumps(run)) == run  # noqa: S301
    assert parse_location("runs/one") == Path("runs/one")


@pytest.mark.parametrize(
    "url", ["sftp://host/run", "oss://bucket/run", "dir::s3://bucket/run", "zip://run::s3://bucket/a.zip"]
)
def test_a_url_of_what_keeps_no_promise_is_refused(url):
    """Where a file may be seen half written, or two may make it, nothing could be trusted."""
    with pytest.raises(UsageError) as caught:
        parse_location(url)
    assert str(caught.value) == (
        f"{url}: expected a folder, or a URL of a store that makes whole objects, and only if absent "
        "(s3://, s3a://, gs://, gcs://, abfs://, abfss://, az://, memory://), "
        f"found {url.partition('://')[0]}://; mount it and give the folder, or choose another place"
    )


@pytest.mark.parametrize("protocol", ["file", "local"])
def test_a_url_of_this_machine_is_a_folder(protocol):
    """It is written as folders are, by rename."""
    assert parse_location(f"{protocol}:///runs/one") == Path("/runs/one")


def test_a_store_that_heeds_no_condition_is_refused(memory, monkeypatch):
    """Else two runs would both hold the lock."""
    store = fsspec.filesystem("memory")
    heedless = type(store).pipe_file
    monkeypatch.setattr(type(store), "pipe_file", lambda self, path, data, **_: heedless(self, path, data))
    monkeypatch.setattr(remote, "_verified_buckets", set())
    with pytest.raises(IncompatibleError) as caught, run_lock(memory):
        pass
    assert str(caught.value) == (
        "memory://bucket/run/run.lock: expected a store that makes an object only if it is absent, found one "
        "that replaced it; choose another --run, since two runs could not be told apart here"
    )


def test_what_needs_a_folder_says_so(tmp_path, memory):
    """An import writes many files by rename."""
    with pytest.raises(UsageError) as caught:
        import_capture(tmp_path / "a.h5", memory)
    assert str(caught.value) == (
        "--run: expected a folder of this machine for `sparserm import`, found memory://bucket/run; "
        "copy the run to a folder first"
    )
    assert local_folder(tmp_path, "anything") == tmp_path


def test_a_package_that_is_missing_is_named(monkeypatch):
    """The extra that brings it is told."""
    remote._filesystem.cache_clear()
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UsageError) as caught:
        status(parse_location("s3://bucket/run"))
    assert str(caught.value) == (
        "s3://bucket/run/activations.zarr/_sparserm/plan.json: expected the package for s3://, found none; "
        "pip install 'sparserm[s3]'"
    )


# --- the same store ---


def test_a_run_in_memory_has_the_digests_of_one_on_the_disk(memory, on_disk):
    """All artifacts; the deep check reads every byte back and finds no damage; nothing is left over."""
    whole_run(memory)
    assert digests(memory) == on_disk
    assert verify(memory, deep=True).damaged == ()
    assert status(memory).next_command == ""
    names = fsspec.filesystem("memory").find(str(memory))
    assert [name for name in names if ".part" in name or ".lock" in name or "/started/" in name] == []
    assert list(storage_of(memory).parts_folder().iterdir()) == []


def test_two_workers_share_one_plan(memory, on_disk):
    """Each does its units; the second to come finds nothing missing and writes the manifest."""
    with worker_lock(memory, 0):
        assert capture(memory, 0, 2) is None
    assert status(memory)["activations"].state == "partial"
    with worker_lock(memory, 1):
        shared = capture(memory, 1, 2)
    assert shared.digest == on_disk["activations"]


@pytest.mark.parametrize(("kind", "step"), [("put", 3), ("remove", 1)])
def test_row_03_a_run_cut_off_at_any_put_ends_with_the_usual_digest(memory, on_disk, monkeypatch, kind, step):
    """From the n-th put or removal on all fail; what is there then is never taken for more than it is."""
    for n in range(1, 1000, step):
        fsspec.filesystem("memory").store.clear()
        faults._passed.clear()
        monkeypatch.setenv("SPARSERM_FAULT_ERROR", f"{kind}:{n}:EIO")
        with suppress(OSError), run_lock(memory):
            capture(memory)
        failed = faults._passed[kind] >= n
        monkeypatch.delenv("SPARSERM_FAULT_ERROR")
        storage_of(memory / RUN_LOCK).remove()  # its holder, this process, is not dead
        assert capture(memory).digest == on_disk["activations"]
        if not failed:
            break
    assert n > 4


def test_replacing_a_plan_leaves_nothing_of_the_old_one(memory, monkeypatch):
    """The manifest goes first, then the plan: what is left of the old store can be taken for nothing."""
    capture(memory)
    root = capture_path(memory)
    seen, remove = [], remote.ObjectStorage.remove
    monkeypatch.setattr(remote.ObjectStorage, "remove", lambda item: (seen.append(item.path), remove(item)))
    remove_capture(root)
    assert seen == [root / MANIFEST, root / PLAN]
    assert fsspec.filesystem("memory").find(str(root)) == []
    assert not is_planned(root)


def test_damage_is_found_and_mended_by_units(memory, on_disk):
    """A lost, a cut and a changed object; only their units are done again."""
    whole_run(memory)
    store = fsspec.filesystem("memory")
    chunk = str(capture_path(memory) / "layers/1/mean/c.{}.0")
    store.rm_file(chunk.format(0))
    store.pipe_file(chunk.format(1), store.cat_file(chunk.format(1))[:-1])
    with pytest.raises(CorruptStoreError, match=r"c\.0\.0 \(unit 0\): expected .* found no file"):
        ActivationsReader(capture_path(memory))
    changed = bytearray(store.cat_file(chunk.format(2)))
    changed[0] ^= 1
    store.pipe_file(chunk.format(2), bytes(changed))
    assert repair(memory)[0].units == (0, 1, 2)
    assert capture(memory).digest == on_disk["activations"]


def test_what_the_plan_knows_is_read_once_a_machine(memory, tmp_path, monkeypatch):
    """Rows arrays come from the cache; a spoilt copy there is read anew; a changed object is refused."""
    capture(memory)
    lengths = ActivationsReader(capture_path(memory)).response_lengths.tolist()
    rows = str(capture_path(memory) / "rows/response_length/c.0")
    store = fsspec.filesystem("memory")
    content = store.cat_file(rows)
    store.pipe_file(rows, b"\0" * len(content))
    assert ActivationsReader(capture_path(memory)).response_lengths.tolist() == lengths
    for copy in (tmp_path / "cache" / "objects").iterdir():
        copy.write_bytes(b"spoilt")
    with pytest.raises(CorruptStoreError, match="expected xxh3-128"):
        _ = ActivationsReader(capture_path(memory)).response_lengths
    store.pipe_file(rows, content)
    assert ActivationsReader(capture_path(memory)).response_lengths.tolist() == lengths


@pytest.fixture
def small_artifacts(memory, tmp_path, monkeypatch):
    """Give a function that reads all small artifacts and returns their digests and the objects fetched."""
    whole_run(memory)
    shutil.rmtree(tmp_path / "cache" / "objects")
    fetched, read = [], remote.ObjectStorage.read_bytes
    monkeypatch.setattr(
        remote.ObjectStorage, "read_bytes", lambda item: (fetched.append(item.path.name), read(item))[1]
    )

    def give():
        fetched.clear()
        made = read_frequency(memory), read_directions(memory), read_reward(reward_path(memory)).config
        return [artifact.lineage.digest for artifact in made], [
            name for name in fetched if not name.endswith(".json")
        ]

    return give


def test_small_artifacts_are_fetched_once(small_artifacts, memory, tmp_path):
    """Again only if the object has been put anew, or the copy on this machine is damaged."""
    first, fetched = small_artifacts()
    tensors = ["model.safetensors", "controls.safetensors"]
    assert fetched == ["frequency.parquet", "directions.safetensors", *tensors]
    assert small_artifacts() == (first, [])
    store, path = fsspec.filesystem("memory"), str(frequency_path(memory))
    store.pipe_file(path, store.cat_file(path))
    assert small_artifacts() == (first, ["frequency.parquet"])
    directions(memory, 2.0)
    second, fetched = small_artifacts()
    assert fetched == ["directions.safetensors"]
    assert [data == two for data, two in zip(first, second, strict=True)] == [True, False, True]
    for copy in (tmp_path / "cache" / "objects").iterdir():
        content = bytearray(copy.read_bytes())
        content[-1] ^= 1
        copy.write_bytes(content)
    assert small_artifacts() == (second, ["frequency.parquet", "directions.safetensors", *tensors])
    assert small_artifacts() == (second, [])


def test_copies_take_no_more_than_they_may(small_artifacts, tmp_path, monkeypatch):
    """Where one would be too many, those that are there go."""
    monkeypatch.setattr(object_cache, "MOST_BYTES", 10_000)
    first, _ = small_artifacts()
    kept = [copy.stat().st_size for copy in (tmp_path / "cache" / "objects").iterdir()]
    assert 0 < sum(kept) <= 10_000
    assert small_artifacts()[0] == first


def test_locks_hold_and_a_dead_holders_lock_is_taken_over(memory):
    """As on the disk: a second run is told who holds it; who is gone holds nothing."""
    with run_lock(memory), pytest.raises(TemporaryError, match=f"with pid {os.getpid()}"), run_lock(memory):
        pass
    with worker_lock(memory, 3), pytest.raises(TemporaryError, match=r"worker-3\.lock"), run_lock(memory):
        pass
    holder = {
        "host": os.uname().nodename,
        "boot": "another",
        "pid": 1,
        "ticks": 1,
        "run_id": "",
        "nonce": "x",
    }
    storage_of(memory / RUN_LOCK).write_atomic(json.dumps(holder).encode())
    with run_lock(memory):
        assert str(os.getpid()) in storage_of(memory / RUN_LOCK).read_bytes().decode()
    assert storage_of(memory).names() == []


def test_an_object_store_is_never_full(memory):
    """There is no free space to compare with."""
    assert storage_of(memory).free_bytes() is None
    check_space(memory, 2**60)


def test_a_small_artifact_is_whole_or_not_there(memory, monkeypatch):
    """While its files are put there is neither the old nor the new one."""
    whole_run(memory)
    monkeypatch.setenv("SPARSERM_FAULT_ERROR", "folder-put:1:EIO")
    with pytest.raises(OSError, match="folder-put"):
        directions(memory, 2.0)
    assert status(memory)["directions"].state == "absent"
