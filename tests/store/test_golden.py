"""Stores written by released versions: each must open for ever, with the digest and numbers of then.

`golden/version-1` holds what `captures` makes of one layer; nothing may rewrite it. A new format version adds
a folder and leaves the old ones.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import captures

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.store.capture.plan import ExtractSettings
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.exchange.capture_files import export_capture, import_capture
from sparserm_cli.store.features.reader import FeaturesReader
from sparserm_cli.store.io.sealed_json import read_sealed, write_sealed
from sparserm_cli.store.units.integrity import check

GOLDEN = Path(__file__).with_name("golden") / "version-1"
ACTIVATIONS_DIGEST = "3cbc9524740ade6917e31b148b2527a88e4c7a032a6af0a2275ce7c6cf63b867"
FEATURES_DIGEST = "c1eaf6edfad3e956b2ecfac33f3fe5cb49180c1b345f56b6a96b958bce7efbe4"


def test_row_37_a_version_1_capture_opens_with_its_digest():
    """Every byte is as it was, and so are the numbers."""
    reader = ActivationsReader(GOLDEN / "activations.zarr")
    assert reader.digest == ACTIVATIONS_DIGEST
    assert check(reader.store, deep=True) == []
    assert reader.response_lengths.tolist() == [2, 3, 1, 2, 4, 5, 1, 1]
    tokens = np.concatenate([reader.token_ids(i) for i in range(8)])
    read = np.concatenate([block.rows for block in reader.iter_tokens(1)])
    assert np.array_equal(read, captures.values(1, tokens))
    assert reader.pooled(1, "last")[0].tolist() == [5.0, 6.0, 0.0]
    assert np.isnan(reader.rows.pair_margin).tolist() == [True] * 5


def test_row_37_a_version_1_encoding_opens_with_its_digest():
    """And it still fits the capture it was made from."""
    reader = FeaturesReader(GOLDEN / "features.zarr")
    assert reader.digest == FEATURES_DIGEST
    assert check(reader.store, deep=True) == []
    reader.check_parent(ActivationsReader(GOLDEN / "activations.zarr").lineage.as_parent())
    first = next(reader.iter_blocks(1)).csr
    assert first.indptr[:5].tolist() == [0, 0, 1, 1, 2]
    assert first.data[:2].tolist() == [4.0, 4.0]


def test_the_format_written_today_is_that_of_version_1(tmp_path: Path):
    """The same capture made now has the same chunks, so the version need not change."""
    layer = {"layers": (1,), "hook_names": ("blocks.1.hook_resid_post",)}
    root = captures.capture(tmp_path / "activations.zarr", **layer)
    golden = GOLDEN / "activations.zarr"
    chunks = {str(path.relative_to(golden)): path.read_bytes() for path in golden.rglob("c.*")}
    assert chunks == {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("c.*")}


def test_a_version_1_capture_is_exported_and_imported(tmp_path: Path):
    """Through today's HDF5 to the digest of then."""
    shutil.copytree(GOLDEN, tmp_path / "run")
    export_capture(tmp_path / "run", tmp_path / "a.h5")
    assert import_capture(tmp_path / "a.h5", tmp_path / "new").digest == ACTIVATIONS_DIGEST


def test_a_plan_from_before_a_setting_existed_is_read_and_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A setting added later has its default, and the plan keeps its hash."""
    identity = ExtractSettings.identity
    monkeypatch.setattr(
        ExtractSettings, "identity", lambda self: {k: v for k, v in identity(self).items() if k != "dedupe"}
    )
    captures.capture(tmp_path / "old" / "activations.zarr")
    monkeypatch.undo()
    reader = ActivationsReader(tmp_path / "old" / "activations.zarr")
    assert reader.plan.settings.dedupe is False
    export_capture(tmp_path / "old", tmp_path / "a.h5")
    assert import_capture(tmp_path / "a.h5", tmp_path / "new").digest == reader.digest


def test_row_37_a_version_from_the_future_is_refused_by_name(tmp_path: Path):
    """Exit 4 says to upgrade, before anything else of it is read."""
    shutil.copytree(GOLDEN, tmp_path / "run")
    for name, kind in (("activations.zarr", ActivationsReader), ("features.zarr", FeaturesReader)):
        plan = tmp_path / "run" / name / "_sparserm" / "plan.json"
        write_sealed(plan, {**read_sealed(plan), "version": 2})
        with pytest.raises(IncompatibleError) as error:
            kind(tmp_path / "run" / name)
        text = "expected format version 1 or older, found version 2; upgrade sparserm"
        assert str(error.value) == f"{tmp_path}/run/{name}: {text}"
