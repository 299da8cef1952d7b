"""The counted responses, classed unit by unit, agree with those classed all at once."""

from pathlib import Path

import numpy as np
import pytest
from helpers import planted_run as planted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparserm_cli.stages.frequency.counted_responses import FOLDS, CountedResponses, class_responses
from sparserm_cli.stages.frequency.unit_responses import Rule, UnitResponses
from sparserm_cli.store.arrays import external_sort as tables
from sparserm_cli.store.arrays.external_sort import ScratchFolder
from sparserm_cli.store.capture import rows as rows_module
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.plan_writer import PlanWriter
from sparserm_cli.store.capture.rows import Rows
from sparserm_cli.store.capture.writer import ActivationsWriter

row = st.tuples(st.integers(0, 5), st.lists(st.integers(1, 9), min_size=2, max_size=3), st.integers(0, 30))
"""Prompt, lengths of its responses, and how far back a response of another row makes one more pair."""


def planned(run: Path, data: list[tuple[int, list[int], int]], unit_tokens: int) -> Rows:
    """Plan a capture of some rows; every two prompts have one group."""
    with PlanWriter(capture_path(run), planted.settings((3,), unit_tokens)) as writer:
        handles: list[int] = []
        for number, (prompt, lengths, back) in enumerate(data):
            ids, group = np.array([prompt], np.uint32), (prompt // 2) * 0x9E3779B97F4A7C15 % 2**64
            handles += [
                writer.add(ids, np.arange(length, dtype=np.uint32), group=group) for length in lengths
            ]
            writer.add_pair(handles[-1], handles[-2], number)
            writer.add_pair(handles[-1], handles[max(0, len(handles) - 1 - back)], number)
        writer.freeze({})
    return ActivationsWriter(capture_path(run)).rows


def at_once(rows: Rows, rule: Rule) -> CountedResponses:
    """Class all responses at once, with arrays that hold all of them."""
    group = rows.prompt_group[rows.response_prompt]
    pairs = np.stack([rows.pairs.chosen, rows.pairs.rejected], axis=1)
    kept = rule.keeps(pairs[:, 0], pairs[:, 1], group[pairs[:, 0]])
    _, rank = np.unique(rows.prompt_group, return_inverse=True)
    return class_responses(rows.response_length, group, (rank % FOLDS)[rows.response_prompt], pairs[kept])


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.lists(row, min_size=1, max_size=10),
    unit_tokens=st.sampled_from([1, 12, 1000]),
    gone=st.sets(st.integers(0, 20), max_size=2),
    fraction=st.sampled_from([0.0, 0.5]),
    block=st.sampled_from([1, 2, 5, tables.BLOCK]),
)
def test_units_have_the_cohort_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    data: list[tuple[int, list[int], int]],
    unit_tokens: int,
    gone: set[int],
    fraction: float,
    block: int,
):
    """Whatever the units and the blocks, every class, pair and weight is what it is when all is at hand."""
    folder = tmp_path_factory.mktemp("counted_by_unit")
    rows, rule = planned(folder, data, unit_tokens), Rule(tuple(gone), fraction, seed=1)
    whole = at_once(rows, rule)
    before = tables.BLOCK, rows_module._WINDOW
    tables.BLOCK, rows_module._WINDOW = block, max(block, 5)
    try:
        with ScratchFolder(folder / "scratch") as scratch:
            counted_by_unit = UnitResponses(rows, rule, scratch)
            cohorts = [counted_by_unit.of(unit) for unit in range(rows.layout.units)]
    finally:
        tables.BLOCK, rows_module._WINDOW = before
    assert counted_by_unit.pairs == len(whole.pairs)
    assert counted_by_unit.longest == max(whole.lengths[whole.chosen | whole.rejected], default=-1)
    for cohort in cohorts:
        assert_same(cohort, planted.part_of(whole, cohort.start, cohort.start + len(cohort.lengths)))


def assert_same(cohort: CountedResponses, other: CountedResponses) -> None:
    """Compare two counted_by_unit; the order of pairs says nothing."""
    for name in ("lengths", "chosen", "rejected", "fold", "stratum"):
        assert getattr(cohort, name).tolist() == getattr(other, name).tolist(), name
    pairs = [sorted(zip(x.pairs.tolist(), x.pair_weight.tolist(), strict=True)) for x in (cohort, other)]
    assert pairs[0] == pairs[1]
