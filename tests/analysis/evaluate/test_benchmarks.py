"""RM-Bench's and RewardBench 2's rules, on numbers worked out by hand."""

import math

import numpy as np
import pytest

from sparserm_cli.analysis.evaluate.benchmarks import (
    TiedPrompt,
    best_is_right,
    best_of_n,
    judge_bench_domain,
    rm_bench,
    rm_bench_domain,
    rm_bench_points,
    ties_points,
    ties_score,
)


def test_rm_bench_matrix_by_hand():
    """Two prompts; a tie is wrong; hard is above the diagonal, easy below."""
    chosen = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    rejected = np.array([[0.0, 2.0, 2.5], [4.0, 6.0, 5.0]])
    result = rm_bench(chosen, rejected)
    # first prompt: [[1,0,0],[1,0,0],[1,1,1]]; second: [[1,0,0]] * 3
    np.testing.assert_array_equal(result.matrix, [[1, 0, 0], [1, 0, 0], [1, 0.5, 0.5]])
    assert (result.hard, result.normal, result.n) == (0.0, 0.5, 2)
    assert result.easy == pytest.approx(2.5 / 3)
    assert result.mean == pytest.approx((0 + 0.5 + 2.5 / 3) / 3)
    assert rm_bench_points(chosen, rejected) == pytest.approx([(0 + 2 / 3 + 1) / 3, (0 + 1 / 3 + 2 / 3) / 3])


def test_rm_bench_domains_merge_safety():
    """Both safety subsets are one domain."""
    assert [rm_bench_domain(name) for name in ("safety-refuse", "safety-response", "chat", "x", None)] == [
        "safety",
        "safety",
        "chat",
        None,
        None,
    ]


def test_files_of_rm_bench_name_their_domain():
    """The names of RM-Bench's own files begin with the domain; a longer word names none."""
    files = (
        "chat_filtered.json",
        "safety-refuse_filtered.json",
        "Math.jsonl",
        "codellama.jsonl",
        "my-chat.json",
    )
    assert [rm_bench_domain(name) for name in files] == ["chat", "safety", "math", None, None]


@pytest.mark.parametrize(
    ("scores", "result"),
    [([2, 1, 0, 0], 1.0), ([2, 2, 0, 0], 0.5), ([1, 2, 0, 0], 0.0), ([1, 1, 1, 1], 0.25)],
)
def test_best_of_four(scores, result):
    """Sharing the highest score shares the point."""
    assert best_of_n(scores) == result


def test_ties_by_hand():
    """Two tied prompts with their references; the second tied prompt ranks a wrong answer too high."""
    prompts = {
        "tied:1": TiedPrompt([3.0, 2.5], [1.0]),  # spread 0.5, gap 1.5
        "ref:1": TiedPrompt([3.0], [2.0]),  # gap 1
        "tied:2": TiedPrompt([3.0, 1.0], [2.0]),  # spread 2, gap -1
        "ref:2": TiedPrompt([3.0], [0.0]),  # gap 3
    }
    margin = (math.tanh(1 / 0.5 - 1) + math.tanh(-1 / 2 - 1)) / 2
    expected = 0.3 * 0.5 + 0.3 * 1 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * margin
    assert ties_score(prompts) == pytest.approx(expected)
    points = [1.0 + 0.01 * math.tanh(1 / 0.5 - 1), 0.3 + 0.01 * math.tanh(-1 / 2 - 1)]
    assert ties_points(prompts) == pytest.approx(points)


def test_equal_right_answers_do_not_divide_by_zero():
    """A spread of nothing with a gap of nothing adds nothing; with a gap, the full tanh."""
    assert ties_score({"tied:1": TiedPrompt([1.0, 1.0], [1.0]), "ref:1": TiedPrompt([1.0], [1.0])}) == 0.0
    full = ties_score({"tied:1": TiedPrompt([2.0, 2.0], [1.0]), "ref:1": TiedPrompt([2.0], [1.0])})
    assert full == pytest.approx(1.01)


def test_domains_of_judge_bench():
    """A source counts for the domain by which it begins; others name none."""
    sources = (
        "mmlu-pro-computer science",
        "livebench-reasoning",
        "livebench-math",
        "livecodebench",
        "x",
        None,
    )
    assert [judge_bench_domain(source) for source in sources] == [
        "knowledge",
        "reasoning",
        "math",
        "coding",
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("right", "wrong", "result"),
    [([3.0, 1.0], [2.0], 1.0), ([1.0], [2.0, 0.0], 0.0), ([2.0, 2.0], [2.0], 2 / 3)],
)
def test_the_best_of_k_is_right(right, wrong, result):
    """The best answer alone counts; several best ones share the point."""
    assert best_is_right(np.array(right), np.array(wrong)) == pytest.approx(result)
