"""What labels tell about a head: by hand, against exhaustive search, and the order of prompts."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserm_cli.models.head.heads import features_of, scores_of
from sparserm_cli.models.head.information import choose_pairs, information, label_variance

QUARTER = 0.25


def test_the_information_of_two_labels_by_hand():
    """At equal scores p (1 - p) is a quarter; at a difference of ln 3 it is 3/16."""
    variance = label_variance(np.array([0.0, np.log(3)]))
    np.testing.assert_allclose(variance, [QUARTER, 3 / 16])
    differences = np.array([[2.0, 0.0], [0.0, 4.0]], np.float32)
    np.testing.assert_allclose(information(differences, variance), [[1.0, 0.0], [0.0, 3.0]])


def test_choosing_by_hand():
    """The longest difference comes first; its near copy is then worth less than another direction."""
    differences = np.array([[4.0, 0.0], [3.9, 0.0], [0.0, 2.0]], np.float32)
    design = choose_pairs(differences, np.full(3, QUARTER), np.arange(3), np.eye(2), 3)
    assert design.pairs.tolist() == [0, 2, 1]
    # 16 / 4 = 4, then 4 / 4 = 1 in the free direction, then 3.9^2 / 4 where the precision has grown to 5.
    np.testing.assert_allclose(design.nats, 0.5 * np.log([5.0, 2.0, 1 + 3.9**2 / 4 / 5]), rtol=1e-6)


def test_what_the_head_is_sure_of_is_worth_less():
    """Of two equal differences the one whose label is open is chosen."""
    variance = label_variance(np.array([3.0, 0.5]))
    assert choose_pairs(np.ones((2, 1), np.float32), variance, np.arange(2), np.eye(1), 1).pairs.tolist() == [
        1
    ]


def test_what_is_known_is_worth_nothing():
    """A direction of which much is known comes after a weaker one of which nothing is known."""
    differences = np.array([[4.0, 0.0], [0.0, 1.0]], np.float32)
    known = np.diag([1000.0, 1.0])
    assert choose_pairs(differences, np.full(2, QUARTER), np.arange(2), known, 2).pairs.tolist() == [1, 0]


def test_every_prompt_comes_once_before_one_comes_twice():
    """Prompts 0, 0, 1, 1, 2: the third pair is that of prompt 2, although it tells the least."""
    differences = np.array([[9.0], [8.0], [7.0], [6.0], [0.1]], np.float32)
    design = choose_pairs(differences, np.full(5, QUARTER), np.array([0, 0, 1, 1, 2]), np.eye(1), 9)
    assert design.pairs.tolist() == [0, 2, 4, 1, 3]


def test_no_pair_gives_an_empty_design():
    """Nothing to choose from is no error here."""
    empty = np.empty((0, 2), np.float32)
    assert not len(choose_pairs(empty, np.empty(0), np.empty(0, np.int64), np.eye(2), 3).pairs)


@given(st.integers(0, 2**32 - 1))
def test_the_nats_are_the_growth_of_the_determinant(seed):
    """The sum over the chosen pairs is half the logarithm of the ratio of both determinants."""
    generator = np.random.default_rng(seed)
    differences = generator.standard_normal((12, 4)).astype(np.float32)
    variance = label_variance(generator.standard_normal(12))
    known = np.eye(4) + information(differences[:3], variance[:3])
    design = choose_pairs(differences[3:], variance[3:], np.arange(9), known, 5)
    taken = design.pairs + 3
    both = known + information(differences[taken], variance[taken])
    expected = 0.5 * (np.linalg.slogdet(both)[1] - np.linalg.slogdet(known)[1])
    assert design.nats.sum() == pytest.approx(expected, rel=1e-4)
    assert (np.diff(design.nats) <= 1e-6).all()


def test_the_first_choice_is_the_best_of_all():
    """One pair: exhaustive search over determinants finds the same; two: it is within the known bound."""
    generator = np.random.default_rng(1)
    differences = generator.standard_normal((10, 3)).astype(np.float32)
    variance = label_variance(generator.standard_normal(10))

    def gain(chosen):
        taken = list(chosen)
        return 0.5 * np.linalg.slogdet(np.eye(3) + information(differences[taken], variance[taken]))[1]

    for count in (1, 2):
        best = max(itertools.combinations(range(10), count), key=gain)
        greedy = choose_pairs(differences, variance, np.arange(10), np.eye(3), count).pairs
        # A greedy choice of a submodular gain reaches 1 - 1/e of the best (Nemhauser et al. 1978).
        assert gain(greedy) >= (1.0 if count == 1 else 1 - 1 / np.e) * gain(best) - 1e-6


def test_scores_are_linear_in_the_features():
    """For both kinds of head, the features times the last weights plus the bias are the score."""
    generator = np.random.default_rng(2)
    x = generator.standard_normal((5, 3)).astype(np.float32)
    bias = np.array([0.5], np.float32)
    linear = {"weight": generator.standard_normal(3).astype(np.float32), "bias": bias}
    mlp = {
        "weight_1": generator.standard_normal((3, 4)).astype(np.float32),
        "bias_1": generator.standard_normal(4).astype(np.float32),
        "weight_2": generator.standard_normal(4).astype(np.float32),
        "bias": bias,
    }
    for weights, output in ((linear, "weight"), (mlp, "weight_2")):
        np.testing.assert_allclose(
            features_of(weights, x) @ weights[output] + bias, scores_of(weights, x), rtol=1e-5
        )
    assert (features_of(mlp, x) >= 0).all()
