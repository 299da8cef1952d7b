"""Captures out and in: the same digests, nothing trusted, nothing half written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import captures
from safetensors import safe_open

from sparserm_cli.errors import CorruptStoreError, IncompatibleError, ResourceError, UsageError
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.exchange.capture_files import export_capture, import_capture
from sparserm_cli.store.provenance import content_digest
from sparserm_cli.store.units.integrity import check


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a run directory with a capture, one of whose responses was rejected, and its export."""
    run = tmp_path_factory.mktemp("source")
    captures.plan(run / "activations.zarr")
    captures.fill(run / "activations.zarr", rejected=(5,))
    export_capture(run, run / "capture.h5")
    return run


@pytest.mark.parametrize("changes", [{}, {"dtype": "float32"}, {"positions": "pooled"}], ids=str)
def test_exported_and_imported_a_capture_has_its_digests(tmp_path: Path, changes: dict):
    """Content digest, plan hash and every byte of every chunk."""
    root = captures.capture(tmp_path / "one" / "activations.zarr", **changes)
    export_capture(tmp_path / "one", tmp_path / "capture.h5")
    manifest = import_capture(tmp_path / "capture.h5", tmp_path / "two")
    before, after = ActivationsReader(root), ActivationsReader(tmp_path / "two" / "activations.zarr")
    assert manifest.digest == before.digest == after.digest
    assert before.store.plan_hash == after.store.plan_hash
    assert before.plan == after.plan
    assert check(after.store, deep=True) == []
    for path in root.rglob("c.*"):
        assert path.read_bytes() == (after.root / path.relative_to(root)).read_bytes()
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["activations.zarr"]


def test_rejected_responses_stay_rejected(source: Path, tmp_path: Path):
    """NaN rows are exported and imported as such."""
    import_capture(source / "capture.h5", tmp_path)
    reader = ActivationsReader(tmp_path / "activations.zarr")
    assert reader.rejected == (5,)
    assert np.isnan(reader.pooled(2, "mean")[5]).all()


def test_the_file_is_plain_hdf5_in_the_order_of_the_rows(source: Path):
    """Row i of every dataset is response i, and each dataset has its checksum."""
    reader = ActivationsReader(source / "activations.zarr")
    with h5py.File(source / "capture.h5") as file:
        assert np.array_equal(file["layers/2/last"][:], reader.pooled(2, "last"), equal_nan=True)
        assert file["layers/2/tokens"].attrs["logical_dtype"] == "bfloat16"
        assert file["rows/pair_chosen"][:].tolist() == [0, 0, 4, 6, 3]
        assert json.loads(file["plan"][:].tobytes())["identity"]["model"] == "tiny"
        names: list[str] = []
        file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
        assert len(names) == 3 + 12 + 6
        assert all(file[name].fletcher32 for name in names)


def test_a_capture_that_is_there_is_replaced_only_by_force(source: Path, tmp_path: Path):
    """Exit 4 without, the imported one with."""
    captures.capture(tmp_path / "activations.zarr", dtype="float32")
    with pytest.raises(IncompatibleError, match="expected no capture, found one; use --force"):
        import_capture(source / "capture.h5", tmp_path)
    import_capture(source / "capture.h5", tmp_path, force=True)
    assert ActivationsReader(tmp_path / "activations.zarr").plan.settings.dtype == "bfloat16"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_pooled_vectors_for_notebooks(source: Path, tmp_path: Path, suffix: str):
    """Vectors of every layer, whose they are, and which are there; without pickle."""
    target = export_capture(source, tmp_path / "out" / f"pooled{suffix}")
    reader = ActivationsReader(source / "activations.zarr")
    if suffix == ".npz":
        with np.load(target, allow_pickle=False) as file:
            arrays = dict(file)
        digest = str(arrays.pop("digest"))
        identity = json.loads(str(arrays.pop("identity")))
    else:
        with safe_open(target, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            digest, identity = file.metadata()["digest"], json.loads(file.metadata()["identity"])
    assert digest == reader.digest
    assert identity["d_in"] == 3
    assert np.array_equal(arrays["layer1_mean"], reader.pooled(1, "mean"), equal_nan=True)
    assert np.array_equal(arrays["layer2_last"], reader.pooled(2, "last"), equal_nan=True)
    assert arrays["present"].tolist() == [True] * 5 + [False] + [True] * 2
    assert arrays["response_group"].tolist() == [11, 11, 11, 11, 12, 12, 13, 13]
    assert arrays["pair_rejected"].tolist() == [1, 2, 5, 7, 1]
    assert len(arrays) == 4 + 9


def test_another_ending_and_no_capture_are_told(source: Path, tmp_path: Path):
    """Exit 2 lists the endings; exit 4 names the stage."""
    with pytest.raises(UsageError, match=r"expected \.h5 or \.hdf5 or \.npz or \.safetensors, found \.zip"):
        export_capture(source, tmp_path / "a.zip")
    with pytest.raises(IncompatibleError, match="run `sparserm extract` first"):
        export_capture(tmp_path, tmp_path / "a.h5")
    with pytest.raises(IncompatibleError, match="expected an exported capture, found no file"):
        import_capture(tmp_path / "none.h5", tmp_path)


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".safetensors"])
def test_row_07_a_full_disk_leaves_no_export(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
):
    """The name appears only when the file is whole."""
    monkeypatch.setenv("SPARSERM_FAULT_ERROR", "rename:1")
    with pytest.raises(ResourceError, match="no space left"):
        export_capture(source, tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_row_58_an_export_is_read_back_before_it_gets_its_name(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A byte changed on the way to the disk: no file, exit 5."""

    def spoil(name: str) -> None:
        if name == "export-written":
            (part,) = tmp_path.iterdir()
            data = bytearray(part.read_bytes())
            at = data.index(np.array([30, 31], "<u4").tobytes())
            data[at] ^= 1
            part.write_bytes(data)

    monkeypatch.setattr("sparserm_cli.store.exchange.hdf5_export.fault_point", spoil)
    with pytest.raises(CorruptStoreError, match="expected what was written"):
        export_capture(source, tmp_path / "a.h5")
    assert list(tmp_path.iterdir()) == []


def edit(change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Return what opens a file and changes it."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return spoil


def replace_dataset(name: str, **options: Any) -> Callable[[Path], None]:
    """Return what puts another dataset in the place of one."""

    def change(file: Any) -> None:
        values = file[name][:]
        del file[name]
        options.setdefault("data", values)
        file.create_dataset(name, **options)

    return edit(change)


def soft_link(file: Any) -> None:
    """Point to another dataset of the same shape."""
    del file["layers/1/mean"]
    file["layers/1/mean"] = h5py.SoftLink("/layers/1/last")


def external_link(file: Any) -> None:
    """Point to a dataset in another file."""
    del file["layers/1/mean"]
    file["layers/1/mean"] = h5py.ExternalLink("/etc/passwd", "/x")


def linked_group(file: Any) -> None:
    """Point to a group."""
    file.move("layers", "elsewhere")
    file["layers"] = h5py.SoftLink("/elsewhere")


def external_data(file: Any) -> None:
    """Take the bytes of another file."""
    del file["rejects"]
    file.create_dataset("rejects", (10,), "uint8", external=[("/etc/passwd", 0, 10)])


def virtual(file: Any) -> None:
    """Take the bytes of another dataset."""
    del file["layers/1/mean"]
    layout = h5py.VirtualLayout((8, 3), "float32")
    layout[:] = h5py.VirtualSource(".", "/layers/1/last", (8, 3))
    file.create_virtual_dataset("layers/1/mean", layout)


def never_written(file: Any) -> None:
    """Claim a terabyte that is not there."""
    del file["rejects"]
    file.create_dataset("rejects", (2**40,), "uint8", chunks=(2**20,))


def plan_with(**changes: Any) -> Callable[[Path], None]:
    """Return what changes the plan in the file, with a plan hash that fits it."""

    def change(file: Any) -> None:
        value = json.loads(file["plan"][:].tobytes())
        for path, new in changes.items():
            part = value
            *parents, last = path.split("__")
            for name in parents:
                part = part[name]
            part[last] = new
        hashed = {name: value[name] for name in ("type", "version", "identity", "layout")}
        files = [file for file in value["files"] if not file[0].endswith(("zarr.json", "rejects.jsonl"))]
        value["plan_hash"] = content_digest({**hashed, "parents": {}, "files": files})
        data = np.frombuffer(json.dumps(value).encode(), np.uint8)
        del file["plan"]
        file["plan"] = data

    return edit(change)


def number(name: str, at: int, value: int) -> Callable[[Path], None]:
    """Return what changes one number of a rows array."""

    def change(file: Any) -> None:
        file[f"rows/{name}"][at] = value

    return edit(change)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "a whole HDF5 file"),
    "empty": (lambda path: path.write_bytes(b""), "a whole HDF5 file"),
    "no hdf5": (lambda path: path.write_bytes(b"PK\x03\x04" * 100), "a whole HDF5 file"),
    "soft link": (edit(soft_link), "layers/1/mean: expected a dataset in the file itself, found SoftLink"),
    "external link": (edit(external_link), "found ExternalLink"),
    "linked group": (edit(linked_group), "layers/1/last: expected a dataset in the file itself"),
    "external data": (edit(external_data), "rejects: expected a dataset in the file itself"),
    "virtual": (edit(virtual), "layers/1/mean: expected a dataset in the file itself"),
    "never written": (edit(never_written), "rejects: expected every byte stored"),
    "compressed": (replace_dataset("rows/pair_row", compression="gzip"), "uncompressed"),
    "missing": (edit(lambda file: file.__delitem__("rows/pair_row")), "rows/pair_row: expected a dataset"),
    "other shape": (
        replace_dataset("layers/1/mean", data=np.zeros((9, 3), "f4")),
        r"expected \(8, 3\) float32",
    ),
    "other type": (replace_dataset("layers/1/mean", data=np.zeros((8, 3), "f8")), r"found \(8, 3\) float64"),
    "plan no JSON": (replace_dataset("plan", data=np.zeros(5, "u1")), "plan: expected a JSON object"),
    "plan deep": (replace_dataset("plan", data=np.full(10**6, ord("["), "u1")), "nesting without end"),
    "facts": (
        replace_dataset("facts", data=np.frombuffer(b'{"units": [1]}', "u1")),
        "expected facts of units",
    ),
    "few facts": (replace_dataset("facts", data=np.frombuffer(b'{"units": []}', "u1")), "number of units"),
    "path in layer": (plan_with(identity__layers=["../../x", 2]), "a capture's plan"),
    "no layer": (plan_with(identity__layers=[-1, 2]), "whole numbers"),
    "huge unit": (plan_with(layout__tokens_per_unit=10**15), "plan hash|numbers that fit the plan"),
    "negative size": (plan_with(layout__responses=-8), "expected"),
    "no such field": (plan_with(identity__surprise=1), "surprise"),
    "columns": (plan_with(identity__columns="abc"), "a capture's plan"),
    "other inputs": (plan_with(told__inputs=[]), "plan: inputs: expected"),
    "other number": (number("pair_chosen", 0, 1), "plan hash"),
    "pair out of range": (number("pair_chosen", 0, 99), "plan hash"),
    "vector changed": (
        edit(lambda file: file["layers/1/mean"].__setitem__((0, 0), 7.5)),
        "digest: expected ",
    ),
    "vector NaN": (
        edit(lambda file: file["layers/1/mean"].__setitem__((0, 0), np.nan)),
        "NaN or infinity in responses 0",
    ),
}


@pytest.mark.parametrize("way", SPOILT)
def test_row_42_a_file_that_is_not_what_we_export_is_refused_and_leaves_nothing(
    source: Path, tmp_path: Path, way: str
):
    """Links, bombs, names that lead out, cuts and lies: one line, and nothing in the run directory."""
    path = tmp_path / "capture.h5"
    path.write_bytes((source / "capture.h5").read_bytes())
    spoil, text = SPOILT[way]
    spoil(path)
    run = tmp_path / "run"
    with pytest.raises(CorruptStoreError, match=text):
        import_capture(path, run)
    assert not run.exists() or list(run.iterdir()) == []


def test_row_37_an_export_of_a_newer_version_is_refused(source: Path, tmp_path: Path):
    """Exit 4 says to upgrade; a file of another kind is told apart."""
    path = tmp_path / "capture.h5"
    path.write_bytes((source / "capture.h5").read_bytes())
    edit(lambda file: file.attrs.__setitem__("version", 2))(path)
    with pytest.raises(IncompatibleError, match="found version 2; upgrade sparserm"):
        import_capture(path, tmp_path)
    edit(lambda file: file.attrs.__setitem__("type", "weights"))(path)
    with pytest.raises(
        IncompatibleError, match="expected an artifact of type activations-hdf5, found weights"
    ):
        import_capture(path, tmp_path)


def test_row_10_every_flipped_bit_of_a_dataset_is_found(source: Path, tmp_path: Path):
    """In the vectors, the rows and the tokens: fletcher32 or the digest tells."""
    data = (source / "capture.h5").read_bytes()
    reader = ActivationsReader(source / "activations.zarr")
    first = reader.pooled(1, "last")[0].tobytes()
    for at in (data.index(first), data.index(np.array([30, 31], "<u4").tobytes())):
        path = tmp_path / "capture.h5"
        path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        with pytest.raises(CorruptStoreError, match="capture"):
            import_capture(path, tmp_path / "run")
