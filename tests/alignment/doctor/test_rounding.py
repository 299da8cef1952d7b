"""The table of rounding errors: numbers by hand, and a model without a chat template."""

import json
import shutil

import numpy as np
import pytest
from helpers import fitted_run as shared

from sparserm_cli.alignment.doctor.doctor import doctor
from sparserm_cli.alignment.doctor.rounding import ROWS, TRIE, Rounding, rounding_table
from sparserm_cli.config import DoctorConfig


def test_errors_are_relative_and_compared_within_a_type():
    """Vectors of length 10 that are off by 1 and by 2 have errors of 0.1 and 0.2: median 0.15, 95 % 0.195."""
    exact, rows, trie = (
        {3: {"mean": np.array([[10, 0], [0, 10]], np.float32) + np.array(moved, np.float32)}}
        for moved in ([[0, 0], [0, 0]], [[1, 0], [0, 2]], [[0, 2], [4, 0]])
    )
    table = rounding_table(exact, {("float32", TRIE): exact, ("b", ROWS): rows, ("b", TRIE): trie})
    assert table[0] == Rounding(TRIE, "float32", "mean", 0.0, 0.0, None)
    assert (table[1].median, table[1].high) == pytest.approx((0.15, 0.195))
    assert table[1].times_rows is None
    assert (table[2].median, table[2].high) == pytest.approx((0.3, 0.39))
    assert table[2].times_rows == pytest.approx((2.0, 2.0))


def test_what_is_not_finite_is_no_small_error():
    """NaN counts as infinitely wrong."""
    exact, bad = ({0: {"last": np.array([[1.0], [value]], np.float32)}} for value in (1.0, np.nan))
    (row,) = rounding_table(exact, {("b", ROWS): bad})
    assert row.high == np.inf


def test_a_model_without_a_chat_template(tiny_model, tmp_path):
    """A base model is tried on plain text, and its rounding is shown for every type and way."""
    folder = shutil.copytree(tiny_model("gemma3"), tmp_path / "base")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = folder / "tokenizer_config.json"
    stated = json.loads(settings.read_text())
    stated.pop("chat_template", None)
    settings.write_text(json.dumps(stated))
    diagnosis = doctor(DoctorConfig(model=str(folder)), note=shared.QUIET["note"])
    advice = {check.name: check.advice for check in diagnosis.checks}
    assert advice["without the chat template"] == "the model has no chat template: give --template raw"
    shown = [(rounding.dtype, rounding.way, rounding.pooling) for rounding in diagnosis.rounding]
    assert shown == [
        (dtype, way, pooling)
        for dtype, way in (("float32", TRIE), ("bfloat16", ROWS), ("bfloat16", TRIE))
        for pooling in ("last", "mean")
    ]
    assert all(rounding.high < 1e-4 for rounding in diagnosis.rounding[:2])
    assert all(1e-4 < rounding.median < 0.1 for rounding in diagnosis.rounding[2:])
