"""comparison.json and evaluation.json: read back as they were, refused when changed or newer."""

import json
from pathlib import Path

import pytest

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.artifacts.results import COMPARISON, EVALUATION, Results
from sparserm_cli.store.io.sealed_json import write_sealed

FOUND = {"protocol": {"folds": 5}, "runs": {"one": {"pairs": 3}}}


@pytest.mark.parametrize("kind", [EVALUATION, COMPARISON])
def test_results_read_back(kind: Results, tmp_path: Path) -> None:
    """With their type and version, in a folder that was not there."""
    path = kind.path(tmp_path / "new")
    assert path.name == f"{kind.type}.json"
    kind.write(path, FOUND)
    assert kind.read(path) == {"type": kind.type, "version": 1, **FOUND}


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    """A digit that another program wrote."""
    path = COMPARISON.path(tmp_path)
    COMPARISON.write(path, FOUND)
    path.write_text(path.read_text().replace('"pairs": 3', '"pairs": 4'))
    with pytest.raises(CorruptStoreError, match="seal"):
        COMPARISON.read(path)


@pytest.mark.parametrize(
    ("change", "message"), [({"version": 2}, "upgrade sparserm"), ({"type": "x"}, "type comparison")]
)
def test_another_format_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    """A newer version, another artifact."""
    write_sealed(tmp_path / "c.json", {"type": "comparison", "version": 1, **change})
    assert json.loads((tmp_path / "c.json").read_text())["seal"]
    with pytest.raises(IncompatibleError, match=message):
        COMPARISON.read(tmp_path / "c.json")
