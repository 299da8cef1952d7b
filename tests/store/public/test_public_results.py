"""Latents, frequencies and directions read the way a notebook does."""

from pathlib import Path

import numpy as np
import pytest
from helpers import captures
from helpers import small_artifacts as small
from scipy import sparse

from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.store.public.directions import open_directions
from sparserm_cli.store.public.features import Features, open_features
from sparserm_cli.store.public.frequency import open_frequency

GOLDEN = Path(__file__).parents[1] / "golden" / "version-1"
LENGTHS = [2, 3, 1, 2, 4, 5, 1, 1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a run directory with made-up artifacts up to the directions."""
    run = tmp_path_factory.mktemp("run")
    captures.encoding(run)
    small.frequency(run)
    small.directions(run, row=2.0)
    return run


@pytest.fixture(scope="module")
def features(run: Path) -> Features:
    """Give its features."""
    return open_features(run)


def test_tokens_are_sparse_rows(features: Features):
    """Response 1 is tokens 3, 4 and 5: no latent, one, and two of them."""
    rows = features.tokens(1, 1)
    assert isinstance(rows, sparse.csr_array)
    assert rows.toarray().tolist() == [[0] * 6, [4, 0, 0, 0, 0, 0], [5, 0, 6, 0, 0, 0]]
    assert features.tokens(2, 1).shape == (3, 70_000)
    assert features.tokens(1, 7).toarray().tolist() == [[0] * 6]
    assert features.tokens(1, 0).toarray().tolist() == [[0] * 6, [4, 0, 0, 0, 0, 0]]


def test_the_matrix_is_all_tokens_in_order(features: Features):
    """Its rows are those of the responses one after the other, by any way of reading."""
    matrix = features.matrix(2)
    assert matrix.shape == (sum(LENGTHS), 70_000)
    assert features.offsets.tolist() == [0, *np.cumsum(LENGTHS).tolist()]
    for response, rows in features.iter_tokens(2):
        part = matrix[features.offsets[response] : features.offsets[response + 1]]
        assert (part != rows).nnz == 0
        assert rows.shape == (LENGTHS[response], 70_000)


def test_pooled_latents_have_one_row_per_response(features: Features):
    """Of response 1 latent 0 is worth 4 and 5, and latent 2 is worth 6, over three tokens."""
    first = {
        pooling: features.pooled(1, pooling).toarray()[1].tolist() for pooling in ("mean", "max", "count")
    }
    assert first == {"mean": [3, 0, 2, 0, 0, 0], "max": [5, 0, 6, 0, 0, 0], "count": [2, 0, 1, 0, 0, 0]}
    dense = [tokens.toarray() for _, tokens in features.iter_tokens(1)]
    np.testing.assert_allclose(
        features.pooled(1).toarray(), np.stack([tokens.mean(axis=0) for tokens in dense])
    )
    np.testing.assert_array_equal(
        features.pooled(1, "max").toarray(), [tokens.max(axis=0) for tokens in dense]
    )
    assert features.pooled(2, "count").shape == (8, 70_000)


def test_entries_are_a_table(features: Features):
    """One row per latent that fires; the same numbers as the matrix."""
    entries = features.entries(1)
    assert entries.columns == ("response", "token", "feature", "value")
    of_first = entries.to_pandas().query("response == 1").values.tolist()
    assert of_first == [[1, 1, 0, 4], [1, 2, 0, 5], [1, 2, 2, 6]]
    assert entries.to_dataset().num_rows == len(entries) == features.matrix(1).nnz


def test_features_that_cannot_be_read_are_refused(features: Features, tmp_path: Path):
    """A layer, a pooling, a response or a folder that is not there."""
    with pytest.raises(UsageError, match="pooling: expected mean or max or count, found 'sum'; choose one"):
        features.pooled(1, "sum")
    with pytest.raises(UsageError, match="response: expected a number from 0 to 7, found -1; correct it"):
        features.tokens(1, -1)
    with pytest.raises(UsageError):
        features.tokens(3, 0)
    with pytest.raises(IncompatibleError, match="run `sparserm encode`"):
        open_features(tmp_path)


def test_features_of_version_1_are_read():
    """As those of today."""
    features = open_features(GOLDEN)
    assert repr(features) == "Features of 8 responses: layer 1 by sae-a (6)"
    assert features.tokens(1, 1).toarray()[2].tolist() == [5, 0, 6, 0, 0, 0]


def test_frequencies_are_a_table(run: Path):
    """One row per latent, with the columns of the file."""
    frequencies = open_frequency(run)
    assert repr(frequencies) == "Frequencies of 6 latents by token, layer 1"
    table = frequencies.table.to_pandas()
    assert table.feature.tolist() == [0, 1, 2, 3, 4, 5]
    assert {"rate_chosen", "rate_rejected", "difference", "q"} <= set(table.columns)
    assert frequencies.table["fold_rate_chosen"].shape == (6, 3)
    assert frequencies.measures(1).difference.tolist() == [0.0] * 6
    assert frequencies.totals.pairs == 1
    with pytest.raises(UsageError, match="layer: expected one of 1, found 2; choose one"):
        frequencies.measures(2)


def test_directions_are_a_table_and_vectors(run: Path):
    """In the same order."""
    directions = open_directions(run)
    assert repr(directions) == "PreferenceDirections: 2, layer 1"
    assert directions.table.to_pandas()[["layer", "direction", "feature", "side"]].values.tolist() == [
        [1, 0, 3, 1],
        [1, 1, 4, -1],
    ]
    assert directions.vectors(1).tolist() == [[2.0] * 3] * 2
    assert directions.table.to_dataset()[1]["feature"] == 4
    with pytest.raises(UsageError, match="layer: expected one of 1, found 2; choose one"):
        directions.vectors(2)
