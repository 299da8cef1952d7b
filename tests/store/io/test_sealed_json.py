"""Atomic writes, folders by rename, strict JSON, sweeping, full and read-only disks."""

import errno
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserm_cli.errors import CorruptStoreError, ResourceError
from sparserm_cli.store.io import atomic as building
from sparserm_cli.store.io import local_disk as disk
from sparserm_cli.store.io import sealed_json as files
from sparserm_cli.store.io.process_id import ProcessId, boot_id, this_process, token
from sparserm_cli.store.io.storage import storage_of

DEAD = token(ProcessId(this_process().host, boot_id(), 2**22 + 1, 5))
LIVE = token(this_process())


def test_write_atomic_replaces_and_leaves_no_temporary_file(tmp_path: Path):
    """The second write wins and the folder holds one file."""
    target = tmp_path / "a.bin"
    storage_of(target).write_atomic(b"one")
    storage_of(target).write_atomic(memoryview(b"second"))
    assert target.read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_digests_of_known_bytes(tmp_path: Path):
    """The digests are those of the published test vectors of an empty file and `abc`."""
    empty, abc = tmp_path / "empty", tmp_path / "abc"
    empty.write_bytes(b"")
    abc.write_bytes(b"abc")
    assert storage_of(empty).digest() == "99aa06d3014798d86001c324468d497f"
    assert disk.sha256_file(abc) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_size_of_a_missing_file_is_minus_one(tmp_path: Path):
    """Absence is a value, not an exception; a file used as a folder is absence too."""
    (tmp_path / "file").write_bytes(b"12")
    assert storage_of(tmp_path / "file").size() == 2
    assert storage_of(tmp_path / "none").size() == -1
    assert storage_of(tmp_path / "file" / "below").size() == -1


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (b'{"a": 1', "broken JSON (Expecting ',' delimiter: line 1 column 8 (char 7))"),
        (b"", "broken JSON (Expecting value: line 1 column 1 (char 0))"),
        (b'{"a": NaN}', "broken JSON (NaN is no JSON number)"),
        (b'{"a": 1, "a": 2}', "broken JSON (a key stands twice)"),
        (b"[1]", "a list"),
        (b'{"a": "\xff"}', "bytes that are not UTF-8 at offset 7"),
        (b"[" * 100_000, "nesting without end"),
    ],
)
def test_row_14_broken_json_is_named(tmp_path: Path, text: bytes, content: str):
    """Each way to break our JSON gives exit 5 with path and hint."""
    path = tmp_path / "plan.json"
    path.write_bytes(text)
    with pytest.raises(CorruptStoreError) as error:
        files.read_json(path, "do this")
    assert str(error.value) == f"{path}: expected a JSON object, found {content}; do this"
    assert error.value.exit_code == 5


def test_row_14_missing_json_is_named(tmp_path: Path):
    """A file that should be there and is not is a corrupt store."""
    with pytest.raises(CorruptStoreError, match="found no file"):
        files.read_json(tmp_path / "plan.json")


def test_nan_is_never_written(tmp_path: Path):
    """`allow_nan=False`: the old file stays."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json_atomic(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=7))
def test_a_seal_finds_every_flipped_bit(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int):
    """Any flipped bit of a sealed file is found, or leaves the meaning as it was (white space)."""
    path = tmp_path_factory.mktemp("sealed") / "a.json"
    value = {"name": "x", "size": 12, "ratio": 0.5}
    files.write_sealed(path, value)
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data)
    with suppress(CorruptStoreError):
        assert files.read_sealed(path) == value


def test_atomic_folder_appears_whole_or_not_at_all(tmp_path: Path):
    """An exception inside leaves the old folder and no leftover."""
    final = tmp_path / "reward"
    with building.atomic_folder(final) as part:
        (part / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), building.atomic_folder(final) as part:
        (part / "a").write_text("new") // 0
    assert (final / "a").read_text() == "old"
    with building.atomic_folder(final) as part:
        (part / "b").write_text("new")
    assert [path.name for path in final.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["reward"]


def test_atomic_file_appears_whole_or_not_at_all(tmp_path: Path):
    """The same for one file that another library writes."""
    final = tmp_path / "frequency.parquet"
    with pytest.raises(ZeroDivisionError), building.atomic_file(final) as part:
        part.write_bytes(b"half") // 0
    assert list(tmp_path.iterdir()) == []
    with building.atomic_file(final) as part:
        part.write_bytes(b"whole")
    assert final.read_bytes() == b"whole"


def test_row_04_sweep_removes_what_dead_processes_left(tmp_path: Path):
    """Leftovers of dead processes go, those of live ones and other people's files stay."""
    inner = tmp_path / "activations.zarr" / "layers"
    inner.mkdir(parents=True)
    gone = [inner / f"c.0.0.{DEAD}.0.part", tmp_path / f"reward.{DEAD}.3.part"]
    gone[0].write_bytes(b"x")
    gone[1].mkdir()
    stay = [inner / f"c.1.0.{LIVE}.0.part", tmp_path / "mine.part", tmp_path / "movie.partial"]
    for path in stay:
        path.write_bytes(b"x")
    zarr_leftover = inner / f"c.2.0.{'0a' * 16}.partial"
    zarr_leftover.write_bytes(b"x")
    assert sorted(building.sweep(tmp_path, everything=False)) == sorted(gone)
    assert all(path.exists() for path in [*stay, zarr_leftover])
    assert sorted(building.sweep(tmp_path, everything=True)) == sorted([stay[0], zarr_leftover])
    assert stay[1].exists()
    assert stay[2].exists()


def test_sweep_puts_back_a_folder_moved_aside(tmp_path: Path):
    """Killed between the two renames of a replacement: the old folder returns; after both: it goes."""
    old = tmp_path / f"reward.{DEAD}.7.old"
    old.mkdir()
    (old / "a").write_text("old")
    building.sweep(tmp_path, everything=False)
    assert (tmp_path / "reward" / "a").read_text() == "old"
    old.mkdir()
    building.sweep(tmp_path, everything=False)
    assert [path.name for path in tmp_path.iterdir()] == ["reward"]


@pytest.mark.parametrize("way", ["file", "folder"])
def test_row_100_a_second_try_removes_what_the_first_left(tmp_path: Path, way: str):
    """Beside a file or a folder, in one that nobody sweeps; what belongs to others or to the living stays."""
    final = tmp_path / "export"
    gone = tmp_path / f"export.{DEAD}.0.part"
    stay = [
        tmp_path / name for name in (f"export.{LIVE}.9999.part", f"export.h5.{DEAD}.0.part", "export.part")
    ]
    for path in (gone, *stay):
        path.mkdir()
    atomic = building.atomic_file if way == "file" else building.atomic_folder
    with atomic(final) as part:
        (part if way == "file" else part / "a").write_text("new")
    assert sorted(tmp_path.iterdir()) == sorted([final, *stay])


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EFBIG"])
@pytest.mark.parametrize("point", ["write", "fsync", "rename"])
def test_row_07_full_disk_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, point: str
):
    """A full disk at any operation: exit 6 with the bytes needed, the old file whole, nothing left over."""
    target = tmp_path / "a.bin"
    storage_of(target).write_atomic(b"old")
    monkeypatch.setenv("SPARSERM_FAULT_ERROR", f"{point}:1:{code}")
    with pytest.raises(ResourceError, match="expected 12,345 bytes on the disk") as error:
        storage_of(target).write_atomic(bytes(12345))
    assert error.value.exit_code == 6
    monkeypatch.delenv("SPARSERM_FAULT_ERROR")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_row_07_a_real_file_size_limit_gives_exit_6(tmp_path: Path):
    """RLIMIT_FSIZE makes the kernel refuse: EFBIG becomes ResourceError."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom sparserm_cli.errors import ResourceError\n"
        "from sparserm_cli.store.io.local_disk import write_atomic\n"
        "try:\n    write_atomic(Path(sys.argv[1]), bytes(100_000))\n"
        "except ResourceError as error:\n    sys.exit(error.exit_code)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
        check=False,
    )
    assert result.returncode == 6
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", ["EROFS", "EACCES"])
def test_row_57_a_read_only_folder_gives_exit_6_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
):
    """The probe fails before any work is done and names the folder."""
    monkeypatch.setenv("SPARSERM_FAULT_ERROR", f"write:1:{code}")
    with pytest.raises(ResourceError, match="choose another --run directory") as error:
        disk.probe_writable(tmp_path)
    assert error.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_row_57_a_file_in_the_place_of_the_folder_gives_exit_6(tmp_path: Path):
    """`--run FILE` is told apart from a folder."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError, match="a file where a folder should be"):
        disk.probe_writable(tmp_path / "file" / "run")


def test_probe_leaves_nothing(tmp_path: Path):
    """The probe makes the folder and leaves it empty."""
    disk.probe_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_row_58_a_stale_handle_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """ESTALE on the first tries is no failure; for ever it is."""
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    tries = []

    def read(path: Path) -> bytes:
        tries.append(path)
        if len(tries) < 3:
            raise OSError(errno.ESTALE, "stale")
        return b"abc"

    monkeypatch.setattr(disk, "_read", read)
    assert storage_of(path).read_bytes() == b"abc"
    assert len(tries) == 3
    monkeypatch.undo()
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("SPARSERM_FAULT_ERROR", "read:1:ESTALE")
    with pytest.raises(OSError, match="Stale"):
        storage_of(path).digest()


def test_kill_at_every_operation_leaves_old_or_new(tmp_path: Path):
    """A process killed before its n-th file operation leaves the old bytes or the new ones, for every n."""
    target = tmp_path / "a"
    target.write_bytes(b"old")
    code = (
        "import sys\nfrom pathlib import Path\nfrom sparserm_cli.store.io.local_disk import write_atomic\n"
        "write_atomic(Path(sys.argv[1]), b'new new')\n"
    )
    for n in range(1, 20):
        env = {**os.environ, "SPARSERM_FAULT_OP": str(n)}
        result = subprocess.run([sys.executable, "-c", code, str(target)], env=env, check=False)
        if result.returncode == 0:
            break
        assert result.returncode == -signal.SIGKILL
        assert target.read_bytes() in (b"old", b"new new")
        building.sweep(tmp_path, everything=False)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
    else:
        pytest.fail("the write never got through")
    assert n > 4
    assert target.read_bytes() == b"new new"
