"""The capture's writer and reader: what is written is read, and nothing else is accepted."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import captures

from sparserm_cli.errors import CorruptStoreError, IncompatibleError, UsageError
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.capture.writer import ActivationsWriter, NonFiniteError
from sparserm_cli.store.units.integrity import check
from sparserm_cli.store.units.work_loop import work_units

LENGTHS = [2, 3, 1, 2, 4, 5, 1, 1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("positions", ["response", "pooled"])
def test_what_is_written_is_read(tmp_path: Path, dtype: str, positions: str):
    """Every number of every response, at both layers, by every way of reading."""
    root = captures.capture(tmp_path / "a", dtype=dtype, positions=positions)
    reader = ActivationsReader(root)
    assert reader.response_lengths.tolist() == LENGTHS
    expected = {layer: [captures.values(layer, reader.token_ids(i)) for i in range(8)] for layer in (1, 2)}
    for layer, rows in expected.items():
        assert np.array_equal(reader.pooled(layer, "last"), [vectors[-1] for vectors in rows])
        assert np.array_equal(
            reader.pooled(layer, "mean"), np.stack([vectors.mean(axis=0) for vectors in rows])
        )
        if positions == "response":
            blocks = list(reader.iter_tokens(layer))
            assert np.array_equal(np.concatenate([block.rows for block in blocks]), np.concatenate(rows))
            assert [block.responses for block in blocks] == [range(4), range(4, 6), range(6, 8)]
            assert [block.lengths.tolist() for block in blocks] == [[2, 3, 1, 2], [4, 5], [1, 1]]
            for response in range(8):
                assert np.array_equal(reader.tokens(layer, response), rows[response])
    assert reader.present().all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_tokens_of_a_response_keep_no_unit_alive(
    tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
):
    """Each array owns exactly its own numbers, and responses in order read every unit once."""
    reader = ActivationsReader(captures.capture(tmp_path / "a", dtype=dtype))
    units = []
    read_unit = reader.unit_tokens
    monkeypatch.setattr(
        reader, "unit_tokens", lambda layer, unit, raw: units.append(unit) or read_unit(layer, unit, raw=raw)
    )
    kept = [reader.tokens(2, response) for response in range(8)]
    owners = [tokens if tokens.base is None else tokens.base for tokens in kept]
    assert [array.nbytes for array in owners] == [4 * captures.D_IN * length for length in LENGTHS]
    assert units == [0, 1, 2]
    kept[7][:] = 0
    assert np.array_equal(reader.tokens(2, 7), captures.values(2, reader.token_ids(7)))
    assert np.array_equal(reader.tokens(1, 7), captures.values(1, reader.token_ids(7)))


@pytest.mark.parametrize("response", [-1, 8])
def test_the_tokens_of_a_response_that_is_not_there_are_refused(tmp_path: Path, response: int):
    """A negative number does not count from the end."""
    reader = ActivationsReader(captures.capture(tmp_path / "a"))
    with pytest.raises(UsageError, match=f"^response: expected a number from 0 to 7, found {response}; "):
        reader.tokens(1, response)


def test_rows_tell_prompts_pairs_and_flags(tmp_path: Path):
    """The late response of the first prompt stands with its tree; pairs follow."""
    reader = ActivationsReader(captures.capture(tmp_path / "a"))
    assert [reader.token_ids(i).tolist() for i in range(5)] == [
        [3, 4],
        [3, 4, 5],
        [3],
        [30, 31],
        [9, 10, 11, 12],
    ]
    assert reader.rows.response_prompt.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    assert reader.rows.prompt_group.tolist() == [11, 12, 13]
    assert reader.response_group().tolist() == [11, 11, 11, 11, 12, 12, 13, 13]
    pairs = reader.pairs()
    assert pairs.chosen.tolist() == [0, 0, 4, 6, 3]
    assert pairs.rejected.tolist() == [1, 2, 5, 7, 1]
    assert pairs.row.tolist() == [1, 2, 3, 4, 5]
    assert reader.rows.response_flags.tolist() == [0, 0, 0, 2, 1, 0, 0, 0]
    assert reader.rows.response_characters.tolist() == [2, 3, 1, 0, 0, 0, 0, 0]
    assert [reader.rows.prompt_ids(p).tolist() for p in range(3)] == [[1, 2], [4], [5, 6, 7]]
    rejects = (tmp_path / "a" / "_sparserm" / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in rejects] == [6]


def test_receipts_tell_rows_and_absmax(tmp_path: Path):
    """Filled in by the writer: response tokens, and the largest magnitude by hand (31, 13, 21, + 4)."""
    captures.plan(tmp_path / "a", layers=(2,), hook_names=("blocks.2.hook_resid_post",))
    writer = ActivationsWriter(tmp_path / "a")
    facts = [captures.compute(writer, unit).facts for unit in range(3)]
    assert [fact.rows for fact in facts] == [8, 9, 2]
    assert [fact.absmax for fact in facts] == [35.0, 17.0, 25.0]


@pytest.mark.parametrize("array", ["last", "mean", "tokens"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_row_31_nan_and_infinity_fail_the_unit_and_name_the_response(
    tmp_path: Path, array: str, value: float, dtype: str
):
    """Response 5, the second of unit 1, in layer 2: nothing of the unit is committed."""
    captures.plan(tmp_path / "a", dtype=dtype)
    writer = ActivationsWriter(tmp_path / "a")
    spoilt: list[dict] = []
    write = writer.write_unit

    def spoil(unit: int, layers: dict, facts: object) -> object:
        if unit == 1:
            at = 6 if array == "tokens" else 1  # the tokens of response 5 are rows 4 to 8 of the unit
            values = layers[2][array]
            values[at, 1] = (
                captures.from_float32(np.array([value], np.float32))[0]
                if values.dtype == np.uint16
                else value
            )
            spoilt.append(layers)
        return write(unit, layers, facts)

    writer.write_unit = spoil
    with pytest.raises(NonFiniteError) as error:
        captures.compute(writer, 1)
    assert str(error.value) == (
        f"{tmp_path}/a (unit 1): expected finite numbers, found NaN or infinity in responses 5 of layer 2; "
        "compute in float32, or reject these responses"
    )
    assert writer.store.pending() == [0, 1, 2]
    receipt = write(1, spoilt[0], captures.replace(captures.FACTS, rejected=(5,)))
    assert receipt.facts.rejected == (5,)
    for unit in (0, 2):
        captures.compute(writer, unit)
    assert writer.store.finalize().rejected == (5,)
    assert ActivationsReader(tmp_path / "a").present().tolist() == [True] * 5 + [False] + [True] * 2


def test_wrong_layers_shapes_and_types_are_refused(tmp_path: Path):
    """A writer's mistake never reaches the disk."""
    captures.plan(tmp_path / "a")
    writer = ActivationsWriter(tmp_path / "a")
    good = {"last": np.zeros((2, 3), np.float32), "mean": np.zeros((2, 3), np.float32)}
    tokens = np.zeros((2, 3), np.uint16)
    for layers, text in [
        ({1: {**good, "tokens": tokens}}, "layers"),
        ({1: good, 2: good}, "layer 1 of unit 2"),
        ({1: {**good, "tokens": tokens[:1]}, 2: {**good, "tokens": tokens}}, "layer 1 of unit 2"),
        ({1: {**good, "tokens": tokens.astype(np.float32)}, 2: {}}, "layer 1 of unit 2"),
    ]:
        with pytest.raises(ValueError, match=text):
            writer.write_unit(2, layers, captures.FACTS)
    assert not (tmp_path / "a" / "layers" / "1" / "last" / "c.2.0").exists()


def test_questions_that_cannot_be_answered(tmp_path: Path):
    """A layer not captured, no such pooling, tokens of a pooled capture: usage, with what to run."""
    reader = ActivationsReader(captures.capture(tmp_path / "a", positions="pooled"))
    with pytest.raises(UsageError) as error:
        reader.pooled(3, "mean")
    text = "--layer: expected one of 1, 2, found 3; or run `sparserm extract --layer 3`"
    assert str(error.value) == text
    with pytest.raises(UsageError, match="expected last or mean, found max"):
        reader.pooled(1, "max")
    with pytest.raises(UsageError, match="expected response tokens, found pooled vectors only"):
        next(reader.iter_tokens(1))


def test_row_11_a_partial_capture_gives_a_mask_not_zeros(tmp_path: Path):
    """Refused as it is; with allow_partial the missing responses are NaN and not present."""
    captures.plan(tmp_path / "a")
    writer = ActivationsWriter(tmp_path / "a")
    for unit in (0, 2):
        captures.compute(writer, unit)
    with pytest.raises(IncompatibleError, match="found 1 of 3 units missing; run `sparserm extract` again"):
        ActivationsReader(tmp_path / "a")
    reader = ActivationsReader(tmp_path / "a", allow_partial=True)
    missing = [False] * 4 + [True] * 2 + [False] * 2
    assert (~reader.present()).tolist() == missing
    assert np.isnan(reader.pooled(1, "mean")).all(axis=1).tolist() == missing
    assert [block.unit for block in reader.iter_tokens(2)] == [0, 2]
    assert reader.digest == ""


def test_a_chunk_that_vanishes_after_the_open_is_an_error_not_fill(tmp_path: Path):
    """Belt and braces: zarr would read NaN."""
    reader = ActivationsReader(captures.capture(tmp_path / "a"))
    (tmp_path / "a" / "layers" / "1" / "mean" / "c.1.0").unlink()
    with pytest.raises(CorruptStoreError, match=r"layers/1/mean/c\.1\.0: expected a chunk, found no file"):
        reader.pooled(1, "mean")


def test_one_digest_for_serial_shared_and_resumed_captures(tmp_path: Path):
    """The content digest does not tell who did what when."""
    digests = {ActivationsReader(captures.capture(tmp_path / "serial")).digest}
    captures.plan(tmp_path / "two")
    assert captures.fill(tmp_path / "two", rank=1, world=2) is None
    digests.add(captures.fill(tmp_path / "two", rank=0, world=2).digest)
    captures.plan(tmp_path / "resumed")
    writer = ActivationsWriter(tmp_path / "resumed")
    stop = iter([False, True])
    work_units(writer.store, lambda unit: captures.compute(writer, unit), stop=lambda: next(stop))
    digests.add(captures.fill(tmp_path / "resumed").digest)
    assert len(digests) == 1


def test_row_56_modification_times_mean_nothing(tmp_path: Path):
    """Every file dated 1970: the capture opens, deep check included, and its digest is the same."""
    root = captures.capture(tmp_path / "a")
    digest = ActivationsReader(root).digest
    for path in root.rglob("*"):
        os.utime(path, (0, 0))
    reader = ActivationsReader(root)
    assert reader.digest == digest
    assert check(reader.store, deep=True) == []


def test_row_61_spaces_unicode_and_links_in_paths(tmp_path: Path):
    """A run directory with an odd name, and one reached by a link, work like any other."""
    odd = tmp_path / "mit Leerzeichen & ünïcode 模型 (1)"
    odd.mkdir()
    digest = ActivationsReader(captures.capture(odd / "activations.zarr")).digest
    (tmp_path / "link").symlink_to(odd)
    assert ActivationsReader(tmp_path / "link" / "activations.zarr").digest == digest
    assert ActivationsReader(odd / ".." / odd.name / "activations.zarr").digest == digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", odd.name]
