"""comparison.json: read back as it was, refused when changed or newer."""

import json
from pathlib import Path

import pytest

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.comparison import comparison_path, read_comparison, write_comparison
from sparserm_cli.store.files import write_sealed

FOUND = {"protocol": {"folds": 5}, "runs": {"one": {"pairs": 3}}}


def test_a_comparison_reads_back(tmp_path: Path) -> None:
    """With its type and version, in a folder that was not there."""
    path = comparison_path(tmp_path / "new")
    write_comparison(path, FOUND)
    assert read_comparison(path) == {"type": "comparison", "version": 1, **FOUND}


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    """A digit that another program wrote."""
    path = comparison_path(tmp_path)
    write_comparison(path, FOUND)
    path.write_text(path.read_text().replace('"pairs": 3', '"pairs": 4'))
    with pytest.raises(CorruptStoreError, match="seal"):
        read_comparison(path)


@pytest.mark.parametrize(
    ("change", "message"), [({"version": 2}, "upgrade sparserm"), ({"type": "x"}, "type comparison")]
)
def test_another_format_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    """A newer version, another artifact."""
    write_sealed(tmp_path / "c.json", {"type": "comparison", "version": 1, **change})
    assert json.loads((tmp_path / "c.json").read_text())["seal"]
    with pytest.raises(IncompatibleError, match=message):
        read_comparison(tmp_path / "c.json")
