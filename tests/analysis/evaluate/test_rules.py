"""Rules on rows: pairs as rows tell them, and ties whose partner is missing."""

import numpy as np
import pytest
from helpers.data_cases import case_file

from sparserm_cli.analysis.evaluate.rules import LENGTH, REWARD, RULES, ScoredExample
from sparserm_cli.data.reader import Reader
from sparserm_cli.errors import BadInputError


def scored(name, folder):
    """Read a file of the cases and score each response by its place, the first the highest."""
    rows = []
    for number, example in enumerate(Reader(case_file(name, folder), purpose="pairs")):
        scores = -np.arange(len(example.responses), dtype=np.float64)
        tokens = np.ones(len(scores), np.int64)
        rows.append(ScoredExample(example, number, {REWARD: scores, LENGTH: -scores}, tokens))
    return rows


def test_ranked_answers_make_all_ordered_pairs(tmp_path):
    """Three answers of a rank each make three pairs, all won by the first scorer and lost by the other."""
    rows = scored("shapes/nectar.parquet", tmp_path)
    result = RULES["pairs"](rows, [REWARD, LENGTH])
    assert result["pairs"] == 3 * len(rows)
    assert [result["scorers"][name]["accuracy"] for name in (REWARD, LENGTH)] == [1.0, 0.0]
    assert rows[0].margins(REWARD).tolist() == [1.0, 2.0, 1.0]


def test_a_tied_prompt_without_its_reference_is_named(tmp_path):
    """The benchmark's rule needs both."""
    with pytest.raises(BadInputError) as caught:
        RULES["reward-bench-2"](scored("data/rb2_ties_only_tied.jsonl", tmp_path), [REWARD])
    assert str(caught.value) == (
        "row 1, subset Ties: expected a partner of tied:0, found no row ref:0; "
        "evaluate the whole benchmark, or use --benchmark pairs"
    )
