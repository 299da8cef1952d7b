"""JudgeBench, PPE and the answers chosen by length, on rows worked out by hand."""

import json

import numpy as np
import pytest
from helpers import fitted_run as fitted

from sparserm_cli.analysis.evaluate.evaluate import evaluate
from sparserm_cli.analysis.evaluate.rules import REWARD, RULES, ScoredExample
from sparserm_cli.analysis.evaluate.simple_answers import simple_answers
from sparserm_cli.config import EvaluateConfig
from sparserm_cli.data.reader import Reader
from sparserm_cli.errors import BadInputError

JUDGE = [
    {
        "source": "mmlu-pro-law",
        "question": "a?",
        "response_A": "short",
        "response_B": "much longer",
        "label": "A>B",
    },
    {"source": "mmlu-pro-math", "question": "b?", "response_A": "xx", "response_B": "x", "label": "A>B"},
    {
        "source": "livecodebench",
        "question": "c?",
        "response_A": "long one",
        "response_B": "no",
        "label": "B>A",
    },
]
PPE = [
    {
        "prompt": f"{name}?",
        "response_1": "a",
        "response_2": "bb",
        "response_3": "ccc",
        "scores": scores,
        "sampled_conflict_pairs": pairs,
    }
    for name, scores, pairs in (
        ("first", [True, False, False], [[0, 1], [2, 0]]),
        ("second", [False, True, True], [[1, 0], [0, 2]]),
    )
]


def scored(rows, folder):
    """Read rows and let the reward be the place of each response, the first the highest."""
    examples = list(Reader(fitted.write_rows(folder / "rows.jsonl", rows), purpose="pairs"))
    return [
        ScoredExample(
            example,
            number,
            {REWARD: -np.arange(len(example.responses), dtype=np.float64)},
            np.ones(len(example.responses), np.int64),
        )
        for number, example in enumerate(examples)
    ]


def test_judge_bench_by_hand(tmp_path):
    """The first answer has the higher reward, so the first two pairs are won; one per domain by length."""
    rows = scored(JUDGE, tmp_path)
    result = RULES["judge-bench"](rows, [REWARD])
    assert result["scorers"][REWARD]["accuracy"] == pytest.approx(2 / 3)
    parts = {name: part[REWARD]["accuracy"] for name, part in result["subsets"].items()}
    assert parts == {"knowledge": 1.0, "coding": 0.0}
    assert simple_answers(rows, "judge-bench") == {
        "all": {
            "reward": pytest.approx(2 / 3),
            "shortest": pytest.approx(2 / 3),
            "longest": pytest.approx(1 / 3),
            "random": 0.5,
        },
        "coding": {"reward": 0.0, "shortest": 1.0, "longest": 0.0, "random": 0.5},
        "knowledge": {"reward": 1.0, "shortest": 0.5, "longest": 0.5, "random": 0.5},
    }


def test_ppe_by_hand(tmp_path):
    """The sampled pairs count, and the best of three is right where the first answer is."""
    rows = scored(PPE, tmp_path)
    assert [row.example.pairs for row in rows] == [((0, 1), (0, 2)), ((1, 0), (2, 0))]
    result = RULES["ppe"](rows, [REWARD])
    assert (result["pairs"], result["scorers"][REWARD]["accuracy"]) == (4, 0.5)
    best = result["best_of_k"]
    assert (best["prompts"], best["scorers"][REWARD]["value"], best["scorers"]["chance"]["value"]) == (
        2,
        0.5,
        0.5,
    )
    assert simple_answers(rows, "ppe")["all"] == {
        "reward": 0.5,
        "shortest": 0.5,
        "longest": 0.5,
        "random": 0.5,
    }


def test_the_best_of_four_by_length_and_at_random(tmp_path):
    """Of four answers a random one is right in a quarter; the right one is the shortest, then the longest."""
    rows = scored(
        [
            {"prompt": "a?", "chosen": ["x"], "rejected": ["xx", "xxx", "xxxx"], "subset": "Math"},
            {"prompt": "b?", "chosen": ["xxxx"], "rejected": ["xx", "xxx", "x"], "subset": "Focus"},
        ],
        tmp_path,
    )
    assert simple_answers(rows, "reward-bench-2") == {
        "all": {"reward": 1.0, "shortest": 0.5, "longest": 0.5, "random": 0.25},
        "math": {"reward": 1.0, "shortest": 1.0, "longest": 0.0, "random": 0.25},
        "focus": {"reward": 1.0, "shortest": 0.0, "longest": 1.0, "random": 0.25},
    }


def test_rm_bench_by_length(tmp_path):
    """The shortest chosen answer beats all but none is shorter: two of nine comparisons are ties."""
    rows = scored(
        [{"prompt": "a?", "chosen": ["x", "xx", "xxx"], "rejected": ["y", "yy", "yyy"], "domain": "chat"}],
        tmp_path,
    )
    # The longest wins below the diagonal (easy), the shortest above it (hard), and equal styles are ties.
    answers = simple_answers(rows, "rm-bench")
    third = pytest.approx(1 / 3)
    assert answers["chat"] == {"reward": 1.0, "shortest": third, "longest": third, "random": 0.5}
    assert answers["all"] == answers["chat"]


def test_random_answers_to_tied_prompts(tmp_path):
    """Two right and one wrong: a random order has both right ones first in a third of all cases."""
    rows = scored(
        [
            {"id": "tied:0", "prompt": "a?", "chosen": ["x", "y"], "rejected": ["z"], "subset": "Ties"},
            {"id": "ref:0", "prompt": "b?", "chosen": ["x"], "rejected": ["z"], "subset": "Ties"},
        ],
        tmp_path,
    )
    chance = simple_answers(rows, "reward-bench-2")["ties"]["random"]
    # Both accuracies give 0.3 / 3 + 0.3 / 2; the margins add at most 0.4 in the third of all orders in which
    # the gap is above 0, and take at most 0.01 away. The mean of 500 draws is within 0.03 of the expectation.
    assert 0.25 - 0.04 <= chance <= 0.25 + 0.4 / 3 + 0.03


def test_rows_of_another_kind_are_refused(fitted_run, tmp_path):
    """A benchmark by name needs its rows; the error says what they lack."""
    rows = [{"prompt": "New?", "chosen": "a", "rejected": "b", "subset": "x"}]
    file = fitted.write_rows(tmp_path / "rows.jsonl", rows)
    config = {"file": file, "run": fitted_run, "output": str(tmp_path / "out.json")}
    with pytest.raises(BadInputError) as caught:
        evaluate(EvaluateConfig(benchmark="ppe", **config), **fitted.QUIET)
    assert str(caught.value) == (
        f"{file}: expected rows of PPE (ppe-human-preference or ppe-best-of-k), found preference; "
        "use --benchmark pairs"
    )
    with pytest.raises(BadInputError) as caught:
        evaluate(EvaluateConfig(benchmark="judge-bench", **config), **fitted.QUIET)
    assert str(caught.value) == (
        "rows.jsonl row 1: expected a source of JudgeBench, which begins with mmlu-pro, livebench-reasoning, "
        "livebench-math, livecodebench, found 'x'; use --benchmark pairs"
    )


def test_an_evaluation_says_what_length_and_chance_score(fitted_run, tmp_path):
    """The written metrics have the simple answers of the whole and of each domain."""
    config = EvaluateConfig(
        file=fitted.write_rows(tmp_path / "rows.jsonl", JUDGE),
        run=fitted_run,
        benchmark="judge-bench",
        output=str(tmp_path / "out.json"),
    )
    summary = evaluate(config, **fitted.QUIET)
    assert set(summary.metrics["answers"]) == {"all", "knowledge", "coding"}
    assert summary.metrics["answers"]["coding"]["shortest"] == 1.0
    assert "answers" in json.loads((tmp_path / "out.json").read_text())
