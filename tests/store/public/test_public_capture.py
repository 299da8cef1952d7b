"""A capture read the way a notebook does: one row per response, in every form, from new and old stores."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from helpers import captures

from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.store.public.capture import Capture, open_capture

GOLDEN = Path(__file__).parents[1] / "golden" / "version-1"
IDS = [
    [3, 4],
    [3, 4, 5],
    [3],
    [30, 31],
    [9, 10, 11, 12],
    [9, 10, 11, 12, 13],
    [20],
    [21],
]


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    """Give a capture of three units, whose arrays have rows that belong to nobody."""
    run = tmp_path_factory.mktemp("run")
    captures.capture(run / "activations.zarr")
    return open_capture(run)


def expected(layer: int, response: int) -> np.ndarray:
    """Return the residual stream that a response is said to have."""
    return captures.values(layer, np.array(IDS[response], np.uint32))


def test_pooled_vectors_have_one_row_per_response(capture: Capture):
    """Eight rows for eight responses, though the array has twelve."""
    assert len(capture) == 8
    for layer in capture.layers:
        means = np.stack([expected(layer, response).mean(axis=0) for response in range(8)])
        assert np.array_equal(capture.pooled(layer, "mean"), means)
        last = np.stack([expected(layer, response)[-1] for response in range(8)])
        assert np.array_equal(capture.pooled(layer, "last"), last)


def test_pairs_have_the_vectors_of_their_own_responses(capture: Capture):
    """Row by row, the first prompt's late response included."""
    pairs = capture.pairs.to_pandas()
    assert pairs.columns.tolist() == ["row", "chosen", "rejected", "prompt", "group"]
    assert pairs.values.tolist() == [
        [1, 0, 1, 0, 11],
        [2, 0, 2, 0, 11],
        [3, 4, 5, 1, 12],
        [4, 6, 7, 2, 13],
        [5, 3, 1, 0, 11],
    ]
    chosen, rejected = capture.pair_vectors(1, "last")
    assert np.array_equal(chosen, np.stack([expected(1, response)[-1] for response in pairs.chosen]))
    assert np.array_equal(rejected, np.stack([expected(1, response)[-1] for response in pairs.rejected]))


def test_prompts_and_responses_are_tables(capture: Capture):
    """With the token ids that the model's tokenizer can decode."""
    prompts = capture.prompts.to_numpy()
    assert prompts["group"].tolist() == [11, 12, 13]
    assert prompts["tokens"].tolist() == [2, 1, 3]
    assert [ids.tolist() for ids in prompts["token_ids"]] == [[1, 2], [4], [5, 6, 7]]
    responses = capture.responses.to_pandas()
    assert [ids.tolist() for ids in responses.token_ids] == IDS
    assert [capture.token_ids(response).tolist() for response in range(8)] == IDS
    assert responses.prompt.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    assert responses.straddled.tolist() == [False] * 4 + [True] + [False] * 3
    assert responses.truncated.tolist() == [False] * 3 + [True] + [False] * 4
    assert responses.present.all()
    assert repr(capture.responses).startswith("Table of 8 rows: response, prompt, tokens, characters, ")
    with pytest.raises(KeyError, match="'text' is none of response, prompt"):
        capture.responses["text"]


def test_a_table_is_a_dataset_too(capture: Capture):
    """Vectors become lists of one length, and come back as one array."""
    table = capture.pooled_table(2, "mean")
    dataset = table.to_dataset()
    assert dataset.num_rows == 8
    assert dataset[1]["token_ids"] == IDS[1]
    assert dataset[1]["vector"] == expected(2, 1).mean(axis=0).tolist()
    assert np.array_equal(table["vector"], capture.pooled(2, "mean"))
    assert capture.pairs.to_dataset()[4]["chosen"] == 3
    tokens = capture.tokens_table(2, 1)
    assert tokens["token_id"].tolist() == IDS[1]
    assert np.array_equal(tokens["vector"], expected(2, 1))
    assert tokens.to_pandas().vector[2].tolist() == expected(2, 1)[2].tolist()


def test_tokens_are_those_of_the_response(capture: Capture):
    """One by one and as a stream."""
    for response in (7, 0, 5, 4):
        assert np.array_equal(capture.tokens(1, response), expected(1, response))
    streamed = dict(capture.iter_tokens(2))
    assert list(streamed) == list(range(8))
    assert all(np.array_equal(rows, expected(2, response)) for response, rows in streamed.items())


def test_a_response_that_was_rejected_is_not_present(tmp_path: Path):
    """Its vectors are NaN, and the stream leaves it out."""
    captures.plan(tmp_path / "activations.zarr")
    captures.fill(tmp_path / "activations.zarr", rejected=(5,))
    capture = open_capture(tmp_path)
    assert capture.responses["present"].tolist() == [True] * 5 + [False] + [True] * 2
    assert np.isnan(capture.pooled(1, "mean")).all(axis=1).tolist() == [False] * 5 + [True] + [False] * 2
    assert [response for response, _ in capture.iter_tokens(1)] == [0, 1, 2, 3, 4, 6, 7]


def test_what_cannot_be_read_is_refused(capture: Capture, tmp_path: Path):
    """With what would have been right, and what to run."""
    with pytest.raises(UsageError) as usage:
        capture.pooled(3, "mean")
    assert str(usage.value) == "--layer: expected one of 1, 2, found 3; or run `sparserm extract --layer 3`"
    with pytest.raises(UsageError, match="expected last or mean, found max"):
        capture.pooled(1, "max")
    for call in (capture.token_ids, lambda response: capture.tokens(1, response)):
        with pytest.raises(UsageError) as usage:
            call(8)
        assert str(usage.value) == "response: expected a number from 0 to 7, found 8; correct it"
    with pytest.raises(IncompatibleError, match="run `sparserm extract`"):
        open_capture(tmp_path)
    captures.capture(tmp_path / "pooled" / "activations.zarr", positions="pooled")
    pooled = open_capture(tmp_path / "pooled")
    assert not pooled.has_tokens
    with pytest.raises(UsageError, match="expected response tokens, found pooled vectors only"):
        next(pooled.iter_tokens(1))


def test_a_store_of_version_1_is_read_with_one_row_per_response():
    """Its arrays do not say how they are laid out, and need not."""
    capture = open_capture(GOLDEN)
    assert capture.layers == (1,)
    assert repr(capture) == (
        "Capture of tiny, layer 1: 8 responses to 3 prompts in 5 pairs, tokens and pooled vectors of width 3"
    )
    last = np.stack([expected(1, response)[-1] for response in range(8)])
    assert np.array_equal(capture.pooled(1, "last"), last)
    assert np.array_equal(capture.tokens(1, 5), expected(1, 5))


@pytest.mark.parametrize("layer", [1, 2])
def test_the_arrays_say_how_to_find_a_response(tmp_path: Path, layer: int):
    """What their attributes say, taken literally with zarr alone, finds every response."""
    root = captures.capture(tmp_path / "activations.zarr")
    group = zarr.open_group(root, mode="r")
    starts, lengths = group["rows/unit_response_start"][:], group["rows/response_length"][:]
    pooled, tokens = group[f"layers/{layer}/last"], group[f"layers/{layer}/tokens"]
    assert pooled.attrs["row_of_response"] == (
        "response i of unit u is row u * 4 + i - rows/unit_response_start[u]"
    )
    assert tokens.attrs["row_of_response"] == (
        "response i of unit u begins at row u * 9 + the sum of rows/response_length from "
        "rows/unit_response_start[u] to before i"
    )
    assert pooled.attrs["read_with"] == f'sparserm_cli.open_capture(run).pooled({layer}, "last")'
    assert tokens.attrs["read_with"] == f"sparserm_cli.open_capture(run).tokens({layer}, i)"
    assert (pooled.attrs["rows_per_unit"], tokens.attrs["rows_per_unit"]) == (4, 9)
    assert pooled.shape == (12, captures.D_IN)
    for response in range(8):
        unit = int(np.searchsorted(starts, response, side="right")) - 1
        rows = expected(layer, response)
        assert np.array_equal(pooled[unit * 4 + response - starts[unit]], rows[-1])
        begin = unit * 9 + int(lengths[starts[unit] : response].sum())
        stored = tokens[begin : begin + lengths[response]]
        assert np.array_equal((stored.astype(np.uint32) << 16).view(np.float32), rows)
    attributes = json.loads((root / f"layers/{layer}/mean/zarr.json").read_text())["attributes"]
    assert (
        attributes["rows_are"] == "responses, unit by unit, with unused rows of NaN at the end of each unit"
    )
