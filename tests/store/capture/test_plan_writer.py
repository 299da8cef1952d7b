"""Planning: what is added is laid out in trees and units, once, and a killed plan leaves nothing."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers import captures, crash_driver
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sparserm_cli.errors import BadInputError, CorruptStoreError, IncompatibleError, ResourceError, UsageError
from sparserm_cli.store.arrays import external_sort as tables
from sparserm_cli.store.arrays.external_sort import ScratchFolder
from sparserm_cli.store.capture.layout import cut_units
from sparserm_cli.store.capture.plan import InputFact, check_inputs, check_space
from sparserm_cli.store.capture.plan_writer import PlanWriter
from sparserm_cli.store.capture.row_arrays import CHUNK
from sparserm_cli.store.capture.rows import Rows
from sparserm_cli.store.capture.spool import distinct
from sparserm_cli.store.capture.writer import ActivationsWriter
from sparserm_cli.store.io.atomic import sweep
from sparserm_cli.store.io.local_disk import sha256_file

token_ids = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(lambda ids: np.array(ids, np.uint32))
added = st.lists(st.tuples(token_ids, token_ids), min_size=1, max_size=25)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    data=st.data(),
    token_cap=st.integers(1, 20),
    response_cap=st.integers(1, 6),
)
def test_units_hold_whole_trees_under_both_caps(
    lengths: list[int], data: st.DataObject, token_cap: int, response_cap: int
):
    """Every response is in one unit; only what alone is over a cap goes over it or is cut."""
    steps = data.draw(st.lists(st.integers(0, 1), min_size=len(lengths), max_size=len(lengths)))
    prompts = np.cumsum(steps).astype(np.int32)
    size = np.array(lengths, np.int32)
    start = cut_units(size, prompts, token_cap, response_cap)
    assert start[0] == 0
    assert start[-1] == len(lengths)
    assert (np.diff(start) > 0).all()
    for low, high in pairwise(start):
        assert high - low <= response_cap
        assert size[low:high].sum() <= token_cap or high - low == 1
        if high < len(lengths) and prompts[high] == prompts[high - 1]:
            tree = size[prompts == prompts[high]]
            assert len(tree) > response_cap or tree.sum() > token_cap


def test_units_by_hand():
    """Trees of 4, 5 and 3 tokens under a cap of 9; then a tree of 4 responses under a cap of 2."""
    lengths, prompts = np.array([2, 2, 5, 3], np.int32), np.array([0, 0, 1, 2], np.int32)
    assert cut_units(lengths, prompts, 9, 10).tolist() == [0, 3, 4]
    assert cut_units(lengths, prompts, 8, 10).tolist() == [0, 2, 4]
    assert cut_units(lengths, np.zeros(4, np.int32), 100, 2).tolist() == [0, 2, 4]
    assert cut_units(np.array([50, 1], np.int32), np.array([0, 1], np.int32), 9, 9).tolist() == [0, 1, 2]


@hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=added, cap=st.integers(1, 12), block=st.sampled_from([1, 2, 5, tables.BLOCK]))
def test_what_is_added_is_planned_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[np.ndarray, np.ndarray]],
    cap: int,
    block: int,
):
    """Round trip in blocks of any size: trees by first appearance, no response twice, their pairs."""
    before, tables.BLOCK = tables.BLOCK, block
    try:
        _plan_and_compare(tmp_path_factory, rows, cap)
    finally:
        tables.BLOCK = before


def _plan_and_compare(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[np.ndarray, np.ndarray]], cap: int
):
    """Plan some rows, and compare with what plain dictionaries say."""
    root = tmp_path_factory.mktemp("plan") / "a"
    expected: dict[tuple, list[tuple]] = {}
    with PlanWriter(root, captures.settings(unit_tokens=cap)) as writer:
        handles = []
        for row, (prompt, response) in enumerate(rows):
            handles.append(writer.add(prompt, response, group=int(prompt[0])))
            writer.add_pair(handles[-1], handles[0], row)
            tree = expected.setdefault(tuple(prompt), [])
            if tuple(response) not in tree:
                tree.append(tuple(response))
        plan = writer.freeze({})
    reader = ActivationsWriter(root)
    assert reader.plan == plan
    planned: list[tuple] = []
    for unit in range(plan.layout.units):
        for tree in reader.trees(unit):
            assert tree.first == len(planned)
            planned += [(tuple(tree.prompt_ids), tuple(response)) for response in tree.responses]
    assert planned == [(prompt, response) for prompt, tree in expected.items() for response in tree]
    pairs = reader.rows.pairs
    responses = [(tuple(prompt), tuple(response)) for prompt, response in rows]
    kept = [row for row, response in enumerate(responses) if response != responses[0]]
    assert [planned[i] for i in pairs.chosen] == [responses[row] for row in kept]
    assert [planned[i] for i in pairs.rejected] == [responses[0]] * len(kept)
    assert pairs.row.tolist() == kept
    assert plan.layout.pairs == len(kept)
    assert plan.bytes > 0
    lengths, prompts = reader.rows.response_length, reader.rows.response_prompt
    assert reader.rows.unit_response_start.tolist() == cut_units(lengths, prompts, cap, 4).tolist()


def test_a_response_is_kept_once(tmp_path: Path):
    """Equal tokens are one response, however far apart; the same tokens after another prompt are another."""
    with PlanWriter(tmp_path / "a", captures.settings()) as writer:
        first = writer.add(captures.ids(1), captures.ids(2, 3), group=1, characters=5)
        other = writer.add(captures.ids(1, 2), captures.ids(3), group=2)
        again = writer.add(captures.ids(1), captures.ids(2, 3), group=3, characters=6)
        writer.add_pair(first, other, 1)
        writer.add_pair(first, again, 2)
        writer.add_pair(again, other, 3)
        with pytest.raises(ValueError, match="at least one token"):
            writer.add(captures.ids(1), captures.ids(), group=1)
        writer.freeze({})
    rows = ActivationsWriter(tmp_path / "a").rows
    assert rows.response_characters.tolist() == [5, 0]
    assert rows.prompt_group.tolist() == [1, 2]
    assert [pair.tolist() for pair in rows.pairs] == [[0, 0], [1, 1], [1, 3]]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("block", [1, 2, 100])
def test_dedupe_keeps_the_first_of_equal_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int):
    """The same two responses the other way round are another pair."""
    monkeypatch.setattr(tables, "BLOCK", block)
    with PlanWriter(tmp_path / "a", captures.settings(dedupe=True)) as writer:
        for row in range(3):
            a, b = (writer.add(captures.ids(1), captures.ids(length), group=1) for length in (2, 3))
            writer.add_pair(*((b, a) if row == 1 else (a, b)), row)
        writer.freeze({})
    pairs = ActivationsWriter(tmp_path / "a").rows.pairs
    assert [pair.tolist() for pair in pairs] == [[0, 1], [1, 0], [0, 1]]


@pytest.mark.parametrize("block", [1, 100])
def test_margins_stay_with_their_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int):
    """Through left-out and repeated pairs; a pair without a margin has NaN."""
    monkeypatch.setattr(tables, "BLOCK", block)
    with PlanWriter(tmp_path / "a", captures.settings(dedupe=True)) as writer:
        a, b, c = (writer.add(captures.ids(1), captures.ids(length), group=1) for length in (2, 3, 4))
        margins = {(a, a): 9.0, (a, b): 0.5, (b, c): None, (c, a): -2.0}
        for row, (pair, margin) in enumerate([*margins.items(), ((a, b), 7.0)]):
            writer.add_pair(*pair, row, margin)
        writer.freeze({})
    rows = ActivationsWriter(tmp_path / "a").rows
    assert rows.pairs.row.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(rows.pair_margin, [0.5, np.nan, -2.0])
    assert rows.layout.margins == 2


def test_a_capture_without_margins_has_no_array_of_them(tmp_path: Path):
    """Its plan and its files are those of earlier releases."""
    plan = captures.plan(tmp_path / "a")
    rows = ActivationsWriter(tmp_path / "a").rows
    assert np.isnan(rows.pair_margin).tolist() == [True] * 5
    assert not (tmp_path / "a" / "rows" / "pair_margin").exists()
    assert "margins" not in plan.layout.to_json()


def test_digests_that_share_a_half_are_different(tmp_path: Path):
    """Only all 128 bits make two equal; the first of equal ones stands for them."""
    keys = np.array([[7, 1], [7, 2], [1 << 63, 1], [7, 1], [1 << 63, 1]], ">u8").view("S16")[:, 0]
    with ScratchFolder(tmp_path / "scratch") as scratch:
        table = scratch.table("S16").extend([keys])
        order, number = distinct(scratch, table, lambda block: (block, 0))
        assert [block["position"].tolist() for block in order.blocks()] == [[0, 1, 2]]
        assert [block.tolist() for block in number.blocks()] == [[0, 1, 2, 0, 2]]


def test_token_ids_are_gathered_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With blocks of 4 numbers instead of 1 Mi, the plan is the same."""
    whole = captures.plan(tmp_path / "whole").plan_hash
    monkeypatch.setattr("sparserm_cli.store.capture.spool._TOKENS", 4)
    assert captures.plan(tmp_path / "blocks").plan_hash == whole


def test_row_20_no_rows_is_bad_input(tmp_path: Path):
    """Nothing added: exit 3, and nothing is left on the disk."""
    with (
        PlanWriter(tmp_path / "a", captures.settings()) as writer,
        pytest.raises(BadInputError, match=r"^pairs\.jsonl: expected at least one response, found no rows"),
    ):
        writer.freeze({})
    assert list(tmp_path.iterdir()) == []


def test_the_plan_tells_bytes_and_files_before_it_is_frozen(tmp_path: Path):
    """Worked out by hand, and what the capture then has."""
    root = tmp_path / "a"
    plan = captures.plan(root)
    # 2 layers x 3 units x (2 chunks of 4 responses x 3 x 4 bytes, 1 of 9 tokens x 3 x 2 bytes; crc 4 each)
    assert plan.bytes == 2 * 3 * (2 * (4 * 3 * 4 + 4) + 9 * 3 * 2 + 4)
    assert plan.files == 18
    captures.fill(root)
    chunks = list((root / "layers").rglob("c.*"))
    assert len(chunks) == plan.files
    assert sum(path.stat().st_size for path in chunks) == plan.bytes


def test_rows_longer_than_a_chunk_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With chunks of 4 numbers instead of 4 Mi, the rows are the same."""
    captures.plan(tmp_path / "big")
    monkeypatch.setattr("sparserm_cli.store.capture.row_arrays.CHUNK", 4)
    captures.plan(tmp_path / "small")
    assert CHUNK > 4
    assert len(list((tmp_path / "small" / "rows" / "response_ids").glob("c.*"))) == 5
    trees = [
        [str(tree) for unit in range(3) for tree in ActivationsWriter(tmp_path / name).trees(unit)]
        for name in ("big", "small")
    ]
    assert trees[0] == trees[1]


@pytest.mark.parametrize("changes", [{"dtype": "float16"}, {"dtype": "int8"}])
def test_row_32_float16_is_refused_by_name(changes: dict):
    """SmolLM2's residual stream reaches a third of what float16 can hold; others overflow."""
    with pytest.raises(UsageError) as error:
        captures.settings(**changes)
    assert str(error.value) == (
        f"--dtype: expected bfloat16 or float32, found {changes['dtype']}; "
        "residual streams overflow float16: use bfloat16"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"model_revision": "sha256:1"},
        {"tokenizer": "t1"},
        {"template": "other"},
        {"layers": (1, 3)},
        {"dtype": "float32"},
        {"max_length": 7},
        {"batch_tokens": 8},
        {"limit": 3},
        {"columns": {"prompt": "question"}},
        {"inputs": (InputFact("pairs.jsonl", 10, "cd" * 32),)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_setting_is_part_of_the_identity(tmp_path: Path, changes: dict):
    """Changing any one of them changes the plan hash."""
    hashes = {captures.plan(tmp_path / "a").plan_hash, captures.plan(tmp_path / "b", **changes).plan_hash}
    assert len(hashes) == 2


def test_row_61_the_path_of_the_input_is_no_part_of_the_identity(tmp_path: Path):
    """A moved input file is the same input."""
    moved = (InputFact("/elsewhere/pairs.jsonl", 10, "ab" * 32),)
    assert captures.plan(tmp_path / "a").plan_hash == captures.plan(tmp_path / "b", inputs=moved).plan_hash


def test_one_changed_byte_of_an_input_file_is_found(tmp_path: Path):
    """Exit 4 names the file and both digests; a file that is gone cannot be compared."""
    data = tmp_path / "pairs.jsonl"
    data.write_bytes(b'{"prompt": 1}\n')
    digest = sha256_file(data)
    plan = captures.plan(tmp_path / "a", inputs=(InputFact(str(data), 14, digest),))
    check_inputs(plan, tmp_path)
    data.write_bytes(b'{"prompt": 2}\n')
    with pytest.raises(IncompatibleError) as error:
        check_inputs(plan, tmp_path)
    assert str(error.value) == (
        f"{data}: expected sha256 {digest}, found sha256 {sha256_file(data)}; "
        "the capture is stale: run `sparserm extract --force`, or put the file back"
    )
    data.unlink()
    check_inputs(plan, tmp_path)


def test_row_07_too_little_space_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Less than 1.1 times the bytes needed: exit 6 with both numbers."""
    monkeypatch.setattr("sparserm_cli.store.io.local_disk.free_bytes", lambda folder: 1099)
    check_space(tmp_path, 999)
    with pytest.raises(ResourceError, match="expected 1,100 bytes free, found 1,099; free space"):
        check_space(tmp_path, 1000)


def test_row_07_a_full_disk_while_planning_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In the spool or in the rows: exit 6, no plan, no leftovers."""
    for point in ("table", "write:20", "plan-rows-written"):
        monkeypatch.setenv("SPARSERM_FAULT_ERROR", point)
        with pytest.raises(ResourceError, match="no space left"):
            captures.plan(tmp_path / "a")
        assert list(tmp_path.iterdir()) == []


def test_row_01_a_killed_plan_leaves_nothing_that_is_taken_for_a_plan(tmp_path: Path):
    """Killed at any point of planning: no store, or the whole plan; the leftovers are swept."""
    whole = captures.plan(tmp_path / "whole").plan_hash
    script = Path(crash_driver.__file__)
    for point in ("table", "plan-rows-written", "plan-before-rename"):
        run = tmp_path / point
        env = {**os.environ, "SPARSERM_FAULT": point}
        result = subprocess.run([sys.executable, str(script), "plan", str(run)], env=env, check=False)
        assert result.returncode == -9
        assert not (run / "activations.zarr").exists()
        sweep(run, everything=False)
        assert [path.name for path in run.iterdir()] == ["run.lock"]
        assert captures.plan(run / "activations.zarr").plan_hash == whole


@pytest.mark.parametrize("name", ["layout", "told", "identity", "files"])
def test_row_14_a_plan_without_a_field_is_corrupt(tmp_path: Path, name: str):
    """Even if somebody writes it by hand, without a seal."""
    captures.plan(tmp_path / "a")
    path = tmp_path / "a" / "_sparserm" / "plan.json"
    value = json.loads(path.read_text())
    value.pop(name)
    path.write_text(json.dumps(value))
    with pytest.raises(CorruptStoreError, match=r"plan\.json: expected"):
        ActivationsWriter(tmp_path / "a")


def test_rows_of_another_length_are_corrupt(tmp_path: Path):
    """An array swapped for a whole one of another length or type is found when it is read."""
    captures.plan(tmp_path / "a")
    writer = ActivationsWriter(tmp_path / "a")
    rows = tmp_path / "a" / "rows"
    (rows / "pair_row").rename(rows / "kept")
    (rows / "response_prompt").rename(rows / "pair_row")
    with pytest.raises(CorruptStoreError, match=r"rows/pair_row: expected \(5,\) int64, found \(5,\) int32"):
        _ = Rows(writer.rows._store, writer.plan.layout).pairs
