"""The unit engine: receipts, manifest, damage, retries, two workers; with a toy store of one file a unit."""

import shutil
from pathlib import Path

import pytest
from helpers import toy_units as toy

from sparserm_cli.errors import CorruptStoreError, IncompatibleError, PartialError
from sparserm_cli.store.io.file_facts import FileFact
from sparserm_cli.store.io.local_storage import LocalStorage
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.units.integrity import check, damaged_units, open_complete
from sparserm_cli.store.units.records import UnitFacts
from sparserm_cli.store.units.unit_store import UnitStore
from sparserm_cli.store.units.work_loop import work_units


@pytest.fixture
def store(tmp_path: Path) -> UnitStore:
    """Give a planned store without units done."""
    toy.toy_plan(tmp_path / "toy.zarr")
    return toy.toy_store(tmp_path / "toy.zarr")


def fill(store: UnitStore, **options: int) -> object:
    """Do all units."""
    return work_units(store, lambda unit: toy.toy_compute(store, unit), **options)


def test_serial_workers_and_resumed_runs_have_one_digest(tmp_path: Path):
    """The digest holds no run, host, date or order."""
    digests = set()
    for name, plan in {
        "serial": [(0, 1)],
        "two": [(1, 2), (0, 2)],
        "three": [(2, 3), (0, 3), (1, 3)],
    }.items():
        toy.toy_plan(tmp_path / name)
        for rank, world in plan:
            manifest = fill(toy.toy_store(tmp_path / name, run_id=f"{name}{rank}"), rank=rank, world=world)
        digests.add(manifest.digest)
    assert len(digests) == 1


def test_another_plan_has_another_digest(tmp_path: Path):
    """A changed identity changes the plan hash and the content digest."""
    digests = set()
    for seed in (0, 1):
        toy.toy_plan(tmp_path / str(seed), seed)
        store = toy.toy_store(tmp_path / str(seed))
        digests |= {store.plan_hash, fill(store).digest}
    assert len(digests) == 4


def test_pending_and_ranks(store: UnitStore):
    """Units are dealt out in turn, and what has a receipt is not pending."""
    assert store.pending() == [0, 1, 2, 3]
    assert store.pending(1, 2) == [1, 3]
    toy.toy_compute(store, 1)
    assert store.pending() == [0, 2, 3]
    assert store.pending(1, 2) == [3]


def test_row_03_data_without_receipt_are_done_again(store: UnitStore):
    """A file written before the crash has no receipt: pending, and overwritten with the same bytes."""
    (store.root / "data").mkdir()
    (store.root / "data" / "0.bin").write_bytes(b"half")
    assert store.pending() == [0, 1, 2, 3]
    fill(store)
    assert (store.root / "data" / "0.bin").read_bytes() == b"0:0|0:0|0:0|"


@pytest.mark.parametrize("size", [None, 0, 19])
def test_row_06_data_lost_under_a_receipt_are_done_again(store: UnitStore, size: int | None):
    """After a power loss a receipt may stand over a missing, empty or short file: the unit is pending."""
    for unit in range(4):
        toy.toy_compute(store, unit)
    path = store.root / "data" / "2.bin"
    path.unlink() if size is None else path.write_bytes(path.read_bytes()[:size])
    assert store.pending() == [2]
    assert store.finalize() is None
    fill(store)
    assert path.read_bytes() == b"0:2|" * 5


@pytest.mark.parametrize("spoil", ["cut", "empty", "foreign", "other unit"])
def test_row_04_a_spoilt_receipt_is_no_receipt(store: UnitStore, tmp_path: Path, spoil: str):
    """Half a receipt, none of this plan or of this unit: the unit is pending again."""
    for unit in range(4):
        toy.toy_compute(store, unit)
    path = store.root / "_sparserm" / "receipts" / "00002.json"
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:50])
    elif spoil == "empty":
        path.write_bytes(b"")
    elif spoil == "foreign":
        toy.toy_plan(tmp_path / "other", seed=1)
        other = toy.toy_store(tmp_path / "other")
        toy.toy_compute(other, 2)
        shutil.copy(tmp_path / "other" / "_sparserm" / "receipts" / "00002.json", path)
    else:
        shutil.copy(path.with_name("00001.json"), path)
    assert store.pending() == [2]
    assert damaged_units(check(store, deep=False)) == [2]


def test_row_15_an_unfinished_store_is_refused(store: UnitStore):
    """Exit 4 says how many units are missing and what continues."""
    toy.toy_compute(store, 0)
    with pytest.raises(IncompatibleError) as error:
        open_complete(store)
    assert str(error.value) == (
        f"{store.root}: expected a complete store, found 3 of 4 units missing; "
        "run `sparserm toy` again to continue"
    )
    for unit in (1, 2, 3):
        toy.toy_compute(store, unit)
    with pytest.raises(IncompatibleError, match="found units that were not yet checked"):
        open_complete(store)


def test_no_store_is_told_apart(tmp_path: Path):
    """A missing store names the stage to run; a folder without a plan is corrupt."""
    with pytest.raises(IncompatibleError) as error:
        toy.toy_store(tmp_path / "none")
    assert (
        str(error.value)
        == f"{tmp_path}/none: expected a store of toy, found nothing; run `sparserm toy` first"
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorruptStoreError, match=r"plan\.json: expected a JSON object, found no file"):
        toy.toy_store(tmp_path / "empty")


DAMAGES = {
    "missing": (lambda path, other: path.unlink(), "expected 16 bytes, found no file"),
    "zero-length": (lambda path, other: path.write_bytes(b""), "expected 16 bytes, found 0 bytes"),
    "cut by one": (lambda path, other: path.write_bytes(path.read_bytes()[:-1]), "found 15 bytes"),
    "cut in half": (lambda path, other: path.write_bytes(path.read_bytes()[:8]), "found 8 bytes"),
    "swapped": (lambda path, other: shutil.copy(other, path), "expected 16 bytes, found 20 bytes"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_row_11_row_12_missing_empty_and_cut_files_refuse_to_open(store: UnitStore, damage: str):
    """The quick check of every open names the file and the unit."""
    fill(store)
    spoil, text = DAMAGES[damage]
    spoil(store.root / "data" / "1.bin", store.root / "data" / "2.bin")
    with pytest.raises(CorruptStoreError) as error:
        open_complete(store)
    assert str(error.value).startswith(f"{store.root}/data/1.bin (unit 1): ")
    assert text in str(error.value)
    assert error.value.exit_code == 5


def test_row_11_all_damaged_units_are_listed(store: UnitStore):
    """The error names the first file and every other unit."""
    fill(store)
    for unit in (1, 2, 3):
        (store.root / "data" / f"{unit}.bin").unlink()
    with pytest.raises(CorruptStoreError, match=r"no file \(and 2 more damaged: units 2, 3\); run"):
        open_complete(store)


@pytest.mark.parametrize("flip", [0, 5, 15])
def test_row_10_row_13_changed_bytes_of_the_same_length_are_found_deep(store: UnitStore, flip: int):
    """A flipped bit leaves the size; only the deep check sees it, and names the unit."""
    fill(store)
    path = store.root / "data" / "1.bin"
    data = bytearray(path.read_bytes())
    data[flip] ^= 1
    path.write_bytes(data)
    open_complete(store)
    assert check(store, deep=False) == []
    damage = check(store, deep=True)
    assert [(problem.path, problem.unit) for problem in damage] == [("data/1.bin", 1)]


def test_damage_to_the_plans_own_files_is_told(store: UnitStore):
    """What the planner wrote is checked too; only a new plan mends it."""
    fill(store)
    (store.root / "static").write_bytes(b"statik")
    damage = check(store, deep=True)
    assert [(problem.path, problem.unit, problem.repairable) for problem in damage] == [
        ("static", None, False)
    ]
    (store.root / "static").unlink()
    with pytest.raises(CorruptStoreError, match="the plan itself is damaged: run the stage with --force"):
        open_complete(store)


@pytest.mark.parametrize("name", ["plan.json", "MANIFEST.json"])
@pytest.mark.parametrize("spoil", ["cut", "empty", "number"])
def test_row_14_a_spoilt_plan_or_manifest_is_named(store: UnitStore, name: str, spoil: str):
    """Exit 5 with the path, never a traceback, even where the JSON is still well formed."""
    fill(store)
    path = store.root / "_sparserm" / name
    text = path.read_text()
    path.write_text(
        {"cut": text[:-10], "empty": "", "number": text.replace("16", "17").replace("4", "5")}[spoil]
    )
    with pytest.raises(CorruptStoreError) as error:
        open_complete(toy.toy_store(store.root))
    assert str(path) in str(error.value)


def test_a_manifest_of_another_plan_is_refused(store: UnitStore, tmp_path: Path):
    """A whole, sealed manifest of another store is foreign."""
    toy.toy_plan(tmp_path / "other", seed=1)
    fill(toy.toy_store(tmp_path / "other"))
    fill(store)
    shutil.copy(tmp_path / "other" / "_sparserm" / "MANIFEST.json", store.root / "_sparserm")
    with pytest.raises(CorruptStoreError, match=f"expected plan {store.plan_hash}"):
        open_complete(store)


def test_row_09_two_workers_on_one_unit_are_hashed_again_and_settled(store: UnitStore):
    """The other worker's data under our receipt: found at finalize, and redone."""
    for unit in range(toy.UNITS):
        store.start(unit)
        toy.toy_compute(store, unit)
    other = toy.toy_store(store.root, "other")
    other.start(2)
    data = bytearray((store.root / "data" / "2.bin").read_bytes())
    data[0] ^= 1
    (store.root / "data" / "2.bin").write_bytes(data)
    assert store.finalize() is None
    assert store.pending() == [2]
    manifest = fill(store)
    assert manifest is not None
    assert check(store, deep=True) == []
    assert not (store.root / "_sparserm" / "started").exists()


def test_row_58_what_is_read_back_must_be_what_was_written(store: UnitStore):
    """A disk that returns other bytes than it was given is found before the receipt."""
    (store.root / "data").mkdir()
    storage_of(store.root / "data" / "0.bin").write_atomic(b"given")
    given = storage_of(store.root / "data" / "0.bin").digest()
    (store.root / "data" / "0.bin").write_bytes(b"taken")
    written = {"data/0.bin": FileFact("data/0.bin", 5, given)}
    with pytest.raises(CorruptStoreError, match="the disk is not to be trusted"):
        store.commit(0, ["data/0.bin"], UnitFacts(1), written)
    assert store.pending() == [0, 1, 2, 3]


def test_row_53_a_unit_that_fails_three_times_is_given_up_and_repeated_by_the_next_run(store: UnitStore):
    """The others are done, exit 7 names the unit and the error; a new run tries it again."""
    tries = []

    def compute(unit: int) -> None:
        if unit == 1:
            tries.append(unit)
            raise RuntimeError("CUDA out of memory")
        toy.toy_compute(store, unit)

    with pytest.raises(PartialError) as error:
        work_units(store, compute)
    assert str(error.value) == (
        f"{store.root}: expected 4 units, found 1 failed, the first is unit 1 with RuntimeError: CUDA out of "
        "memory; run `sparserm toy` again to repeat only those"
    )
    assert error.value.exit_code == 7
    assert tries == [1, 1, 1]
    assert store.pending() == [1]
    assert [failure["error"] for failure in store.failures(1)] == ["RuntimeError: CUDA out of memory"] * 3
    again = toy.toy_store(store.root, "second run")
    assert fill(again) is not None
    assert not (store.root / "_sparserm" / "failures").exists()


def test_a_unit_that_fails_once_is_tried_again(store: UnitStore):
    """One failure costs one more try."""
    tries = []

    def compute(unit: int) -> None:
        tries.append(unit)
        if tries == [0]:
            raise MemoryError
        toy.toy_compute(store, unit)

    assert work_units(store, compute) is not None
    assert tries == [0, 1, 2, 3, 0]


def test_receipts_tell_how_often_a_unit_was_started(store: UnitStore):
    """Once here, twice where another process began it before."""
    store.start(0)
    toy.toy_compute(store, 0)
    store.start(1)
    other = toy.toy_store(store.root, "other")
    other.start(1)
    toy.toy_compute(other, 1)
    assert [store.receipt(unit).attempts for unit in (0, 1)] == [1, 2]


def test_a_compute_that_commits_nothing_is_a_failure(store: UnitStore):
    """The loop ends even if nothing is ever written."""
    with pytest.raises(PartialError, match="unit 0 with no receipt was written"):
        work_units(store, lambda unit: None)


def test_stop_finishes_the_unit_in_hand(store: UnitStore):
    """Asked to stop after the second unit, two units are done and the next run does the others."""
    answers = iter([False, False, True])
    assert work_units(store, lambda unit: toy.toy_compute(store, unit), stop=lambda: next(answers)) is None
    assert store.pending() == [2, 3]
    seen = []
    work_units(store, lambda unit: toy.toy_compute(store, unit), progress=lambda *done: seen.append(done))
    assert seen == [(1, 2), (2, 2)]


def test_a_finished_store_is_not_computed_again_but_checked(store: UnitStore):
    """A rerun computes nothing, and does not call a damaged store complete."""
    fill(store)
    assert work_units(store, lambda unit: pytest.fail("computed again")) is not None
    (store.root / "data" / "3.bin").unlink()
    with pytest.raises(CorruptStoreError, match=r"data/3\.bin \(unit 3\)"):
        fill(store)


def test_repair_redoes_only_the_damaged_units(store: UnitStore):
    """Receipts of damaged units go, the rest is kept, and the digest returns."""
    digest = fill(store).digest
    (store.root / "data" / "3.bin").unlink()
    store.drop(damaged_units(check(store, deep=True)))
    assert store.pending() == [3]
    assert fill(store).digest == digest


def test_opening_reads_two_files_whatever_the_number_of_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Plan and manifest are read; a receipt never; each unit's file is asked for its size once."""
    toy.toy_plan(tmp_path / "many", units=40)
    fill(toy.toy_store(tmp_path / "many"))
    read, sizes = [], []
    read_bytes, size = LocalStorage.read_bytes, LocalStorage.size
    monkeypatch.setattr(LocalStorage, "read_bytes", lambda file: read.append(file.path) or read_bytes(file))
    monkeypatch.setattr(LocalStorage, "size", lambda file, below="": sizes.append(below) or size(file, below))
    open_complete(toy.toy_store(tmp_path / "many"))
    assert {path.name for path in read} == {"plan.json", "MANIFEST.json"}
    files = [below for below in sizes if below]
    assert len(files) == 41
    assert len(set(files)) == 41
