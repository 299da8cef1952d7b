"""Every fault of the fault table's first part, on every kind of file, is found, named and told apart."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import captures

from sparserm_cli.errors import CorruptStoreError
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.capture.row_arrays import ROW_TYPES, TOKEN_IDS
from sparserm_cli.store.features.reader import FeaturesReader
from sparserm_cli.store.units.integrity import check

CAPTURE = [f"layers/2/{name}/c.1.0" for name in ("last", "mean", "tokens")]
PARTS = [f"layers/2/parts/00001/{name}/c.0" for name in ("data", "indices", "indptr")]
METADATA = ["zarr.json", "layers/2/zarr.json", "rows/zarr.json", "rows/pair_row/zarr.json"]
FILES = [
    *[f"activations.zarr/{path}" for path in (*CAPTURE, *METADATA, "layers/2/tokens/zarr.json")],
    *[f"activations.zarr/rows/{name}/c.0" for name in ROW_TYPES],
    *[f"features.zarr/{path}" for path in (*PARTS, *METADATA, "layers/2/parts/00001/zarr.json")],
    "features.zarr/layers/2/parts/00001/data/zarr.json",
    *[f"features.zarr/rows/{name}/c.0" for name in ROW_TYPES if name not in TOKEN_IDS],
]


def flip(data: bytes) -> bytes:
    """Change one bit in the middle."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


CUTS: dict[str, Callable[[bytes], bytes]] = {
    "zero-length": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "one byte less": lambda data: data[:-1],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a complete run directory that nobody changes."""
    run = tmp_path_factory.mktemp("whole")
    captures.encoding(run)
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Iterator[Path]:
    """Give a copy of it to be damaged."""
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def unit_of(file: str) -> int | None:
    """Return the unit a file belongs to: 1, or none for the plan's."""
    return 1 if "c.1.0" in file or "00001" in file else None


def open_store(file: str, run: Path) -> ActivationsReader | FeaturesReader:
    """Open the store a file belongs to."""
    kind = ActivationsReader if file.startswith("activations") else FeaturesReader
    return kind(run / file.partition("/")[0])


def read_all(store: ActivationsReader | FeaturesReader) -> None:
    """Read every vector or latent."""
    layers = (1, 2)
    for layer in layers:
        if isinstance(store, ActivationsReader):
            store.pooled(layer, "mean")
            store.pooled(layer, "last")
            list(store.iter_tokens(layer))
        else:
            list(store.iter_blocks(layer))


def assert_refused(file: str, run: Path) -> None:
    """Assert that the store does not open, with exit code 5, naming file and unit."""
    with pytest.raises(CorruptStoreError) as error:
        open_store(file, run)
    unit = "" if unit_of(file) is None else " (unit 1)"
    assert str(error.value).startswith(f"{run / file}{unit}: expected ")
    assert error.value.exit_code == 5


@pytest.mark.parametrize("file", FILES)
def test_row_11_a_missing_file_refuses_to_open(run: Path, file: str):
    """Zarr alone would read fill values."""
    (run / file).unlink()
    assert_refused(file, run)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("file", FILES)
def test_row_12_row_14_an_empty_or_cut_file_refuses_to_open(run: Path, file: str, cut: str):
    """Arrays' metadata too; the size tells."""
    (run / file).write_bytes(CUTS[cut]((run / file).read_bytes()))
    assert_refused(file, run)


@pytest.mark.parametrize("file", [file for file in FILES if not file.endswith("zarr.json")])
def test_row_10_a_flipped_bit_is_found_on_reading_and_by_the_deep_check(run: Path, file: str):
    """The size is right, so the store opens; the checksum names array and unit, and deep names the file."""
    (run / file).write_bytes(flip((run / file).read_bytes()))
    store = open_store(file, run)
    assert check(store.store, deep=False) == []
    damage = check(store.store, deep=True)
    name = file.partition("/")[2]
    assert [(problem.path, problem.unit) for problem in damage] == [(name, unit_of(file))]
    with pytest.raises(CorruptStoreError, match="checksum") as error:
        store.rows.read(name.split("/")[1]) if name.startswith("rows") else read_all(store)
    assert str(error.value).startswith(str(run / file.rpartition("/c.")[0]))
    assert ("(unit 1)" in str(error.value)) == (unit_of(file) == 1)


@pytest.mark.parametrize("file", [file for file in FILES if file.endswith("zarr.json")])
def test_row_10_a_flipped_bit_in_metadata_is_found_by_the_deep_check(run: Path, file: str):
    """A digit may become another digit and stay JSON: only the digest tells."""
    (run / file).write_bytes(flip((run / file).read_bytes()))
    damage = check(open_store(file, run).store, deep=True)
    assert [(problem.path, problem.unit) for problem in damage] == [(file.partition("/")[2], unit_of(file))]


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_block_that_is_all_zeros_or_all_fill_is_written(tmp_path: Path, value: float):
    """Zarr alone writes no file for such a block, and it could not be told from a lost one."""
    captures.plan(tmp_path / "activations.zarr")
    writer = captures.ActivationsWriter(tmp_path / "activations.zarr")
    span, tokens = writer.rows.span(0), int(writer.rows.lengths(0).sum())
    rows = np.full((tokens, captures.D_IN), value, np.float32)
    arrays = {"last": rows[: len(span)], "mean": rows[: len(span)], "tokens": captures.from_float32(rows)}
    facts = captures.replace(captures.FACTS, rejected=tuple(span) if np.isnan(value) else ())
    receipt = writer.write_unit(0, dict.fromkeys((1, 2), arrays), facts)
    assert [file.path for file in receipt.files] == [
        f"layers/{layer}/{name}/c.0.0" for layer in (1, 2) for name in ("last", "mean", "tokens")
    ]
    assert all((writer.root / file.path).stat().st_size == file.size > 0 for file in receipt.files)


def test_a_unit_without_latents_is_written(tmp_path: Path):
    """Indices of a unit are zeros where only the first latent fires; where none does, there are no files."""
    captures.capture(tmp_path / "activations.zarr")
    reader = ActivationsReader(tmp_path / "activations.zarr")
    captures.plan_features(tmp_path / "features.zarr", reader, captures.SAES[:1])
    writer = captures.FeaturesWriter(tmp_path / "features.zarr")
    for unit, fires in enumerate((1, 0)):
        tokens = int(writer.rows.lengths(unit).sum())
        latents = captures.Csr(
            np.ones(tokens * fires, np.float32),
            np.zeros(tokens * fires, captures.index_type(6)),
            np.arange(tokens + 1) * fires,
        )
        receipt = writer.write_unit(unit, {1: latents}, captures.FACTS)
        arrays = {file.path.split("/")[4] for file in receipt.files if "/c.0" in file.path}
        assert "indptr" in arrays
        if fires:
            assert arrays == {"data", "indices", "indptr"}


SIBLINGS = {
    **{f"activations.zarr/{path}": path.replace("c.1.0", "c.2.0") for path in CAPTURE},
    "activations.zarr/layers/1/mean/c.1.0": "layers/2/mean/c.1.0",
    "activations.zarr/layers/2/last/c.1.0": "layers/2/mean/c.1.0",
    "activations.zarr/rows/pair_chosen/c.0": "rows/pair_rejected/c.0",
    "activations.zarr/rows/response_length/c.0": "rows/response_characters/c.0",
    "features.zarr/layers/2/parts/00001/data/c.0": "layers/1/parts/00001/data/c.0",
    "features.zarr/rows/pair_row/c.0": "rows/pair_chosen/c.0",
}


@pytest.mark.parametrize("file", SIBLINGS)
def test_row_13_a_file_swapped_for_a_whole_sibling_is_found_by_the_deep_check(run: Path, file: str):
    """Same size, good checksum, wrong numbers: no codec can tell, the manifest can."""
    top, _, name = file.partition("/")
    sibling = run / top / SIBLINGS[file]
    assert sibling.stat().st_size == (run / file).stat().st_size
    changed = sibling.read_bytes() != (run / file).read_bytes()
    shutil.copy(sibling, run / file)
    store = open_store(file, run)
    read_all(store)
    damage = check(store.store, deep=True)
    assert [(problem.path, problem.unit) for problem in damage] == (
        [(name, unit_of(file))] if changed else []
    )


@pytest.mark.parametrize("array", ["data", "indices", "indptr"])
def test_row_13_a_part_swapped_for_one_of_another_size_refuses_to_open(run: Path, array: str):
    """Units of different length: the size tells."""
    parts = run / "features.zarr" / "layers" / "2" / "parts"
    shutil.copy(parts / "00000" / array / "c.0", parts / "00001" / array / "c.0")
    assert_refused(f"features.zarr/layers/2/parts/00001/{array}/c.0", run)


@pytest.mark.parametrize("store", ["activations.zarr", "features.zarr"])
def test_damage_is_mended_by_doing_only_the_damaged_units_again(run: Path, store: str):
    """One missing file and one flipped bit in two units: two units again, same digest, no damage."""
    files = CAPTURE if store.startswith("a") else PARTS
    root = run / store
    digest = open_store(store, run).digest
    (root / files[0]).unlink()
    other = root / files[1].replace("c.1.0", "c.2.0").replace("00001", "00002")
    other.write_bytes(flip(other.read_bytes()))
    before = {path: path.stat().st_ino for path in root.rglob("c.*")}
    kind = captures.ActivationsWriter if store.startswith("a") else captures.FeaturesWriter
    writer = kind(root)
    damage = check(writer.store, deep=True)
    assert sorted({problem.unit for problem in damage}) == [1, 2]
    writer.store.drop([1, 2])
    if store.startswith("a"):
        manifest = captures.fill(root)
    else:
        manifest = captures.encode(root, run / "activations.zarr")
    assert manifest.digest == digest
    assert check(writer.store, deep=True) == []
    rewritten = {path for path in root.rglob("c.*") if before.get(path) != path.stat().st_ino}
    assert rewritten
    assert not any("c.0.0" in path.name or "00000" in str(path) for path in rewritten)


def test_row_57_readers_need_no_writing(whole: Path, monkeypatch: pytest.MonkeyPatch):
    """On a read-only medium everything opens, reads and verifies: no operation changes the disk."""
    monkeypatch.setenv("SPARSERM_FAULT_ERROR", "operation:1:EROFS")
    for name in ("activations.zarr", "features.zarr"):
        store = open_store(name, whole)
        read_all(store)
        assert check(store.store, deep=True) == []
