"""Losses, the linear head and the hidden layer: by hand, against scikit-learn, and on planted directions."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sparserm_cli.models.head.fits import penalty as penalties
from sparserm_cli.models.head.fits.linear import fit_linear
from sparserm_cli.models.head.fits.mlp import MLPRecipe, fit_mlp
from sparserm_cli.models.head.heads import fit_head, scores_of
from sparserm_cli.models.head.pair_data import PairData, pair_loss, standardisation

pytestmark = pytest.mark.slow


def planted(
    pairs: int = 400,
    p: int = 6,
    *,
    noise: float = 1.0,
    bend: float = 0.0,
    seed: int = 0,
    validation: float = 0.25,
) -> PairData:
    """Make pairs whose chosen response has more of projection 0 (and of |projection 1|, times `bend`)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2 * pairs, p)).astype(np.float32)
    worth = x[:, 0] + bend * np.abs(x[:, 1]) + noise * rng.logistic(size=2 * pairs)
    first = worth[0::2] > worth[1::2]
    index = np.arange(2 * pairs).reshape(-1, 2)
    index = np.where(first[:, None], index, index[:, ::-1])
    return PairData(x, index, rng.random(pairs) < validation, np.ones(pairs, np.float32))


def accuracy(weights: dict[str, np.ndarray], data: PairData) -> float:
    """Return the share of all pairs that a head gets right."""
    scores = scores_of(weights, data.x)[data.pairs]
    return float((scores[:, 0] > scores[:, 1]).mean())


def test_pairs_that_all_weigh_nothing_have_no_loss():
    """A batch or a validation part may hold nothing but such pairs."""
    scores = torch.tensor([1.0, -2.0])
    assert pair_loss(scores, scores.flip(0), torch.zeros(2), "bt").item() == 0.0


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("bt", (np.log1p(np.exp(-2.0)) + 3 * np.log1p(np.exp(1.0))) / 4),
        ("margin", (0.0 + 3 * 2.0) / 4),
        (
            "bce",
            ((np.log1p(np.exp(-1.5)) + np.log1p(np.exp(-0.5))) / 2 + 3 * (np.log(2) + np.log1p(np.e)) / 2)
            / 4,
        ),
    ],
)
def test_pair_loss_by_hand(loss: str, expected: float):
    """Two pairs with margins 2 and -1 and weights 1 and 3."""
    chosen, rejected = torch.tensor([1.5, 0.0]), torch.tensor([-0.5, 1.0])
    value = float(pair_loss(chosen, rejected, torch.tensor([1.0, 3.0]), loss))
    assert value == pytest.approx(expected, abs=1e-4)


def test_margin_loss_is_the_hinge_with_a_rounded_corner():
    """At most 0.07 above the hinge, and only near the corner."""
    margins = torch.linspace(-3, 4, 141)
    losses = torch.stack([pair_loss(m[None], torch.zeros(1), torch.ones(1), "margin") for m in margins])
    above = losses - (1 - margins).clamp_min(0)
    assert float(above.min()) >= 0.0
    assert float(above.max()) == pytest.approx(np.log(2) / 10, abs=1e-6)
    assert float(above[margins < 0.4].max()) < 1e-3


def test_standardisation_by_hand():
    """Mean and standard deviation of the given rows; a constant projection is left as it is."""
    values = np.array([[1.0, 5.0], [3.0, 5.0], [99.0, 7.0]], np.float32)
    mean, std = standardisation(values, np.array([0, 1]))
    assert mean.tolist() == [2.0, 5.0]
    assert std.tolist() == [1.0, 1.0]


def test_linear_head_is_that_of_logistic_regression(monkeypatch: pytest.MonkeyPatch):
    """Without whitening Bradley-Terry is scikit-learn's logistic regression on differences, same penalty."""
    monkeypatch.setattr(penalties, "WHITENINGS", (0.0,))
    data = planted()
    fit = fit_linear(data, "bt")
    difference = data.x[data.pairs[:, 0]] - data.x[data.pairs[:, 1]]
    both = np.concatenate([difference, -difference])
    label = np.repeat([1, 0], len(difference))
    strength = 1 / (fit.facts["l2"] * len(both))
    expected = LogisticRegression(C=strength, fit_intercept=False, tol=1e-8).fit(both, label).coef_[0]
    # The floor of the components' variance makes the penalty here 0.1 % weaker.
    assert fit.weights["weight"] == pytest.approx(expected, abs=3e-3)


def test_the_strength_follows_the_noise():
    """The noisier the labels and the fewer the pairs, the stronger the penalty that validates best."""
    clear, noisy = planted(800, noise=0.1), planted(60, 40, noise=8.0)
    assert fit_linear(clear, "bt").facts["l2"] < fit_linear(noisy, "bt").facts["l2"]


@pytest.mark.parametrize("loss", ["bt", "margin", "bce"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_flipped_labels_flip_the_signs(head: str, loss: str):
    """Swapping chosen and rejected turns the score of every response around."""
    data = planted(200)
    flipped = PairData(data.x, data.pairs[:, ::-1].copy(), data.validation, data.weight)
    forth, back = (scores_of(fit_head(labelled, head, loss).weights, data.x) for labelled in (data, flipped))
    if head == "linear":
        assert forth == pytest.approx(-back, abs=2e-2)
    else:  # a hidden layer starts from random units, which do not turn around
        assert np.corrcoef(forth, back)[0, 1] < -0.9


def test_validation_pairs_do_not_train_the_validated_head(monkeypatch: pytest.MonkeyPatch):
    """With one penalty to choose from, other validation pairs change the final head alone."""
    monkeypatch.setattr(penalties, "WHITENINGS", (0.0,))
    monkeypatch.setattr(penalties, "STRENGTHS", (0.01,))
    data = planted(200, noise=0.3)
    turned = np.where(data.validation[:, None], data.pairs[:, ::-1], data.pairs)
    first, second = (fit_linear(replace(data, pairs=pairs), "bt") for pairs in (data.pairs, turned))
    assert np.array_equal(first.validated["weight"], second.validated["weight"])
    assert first.weights["weight"][0] != pytest.approx(second.weights["weight"][0])


def test_pair_weights_count():
    """A pair of weight 3 is as good as the pair three times."""
    data = planted(60, validation=0.0)
    weight = np.where(np.arange(60) < 20, 3.0, 1.0).astype(np.float32)
    heavy = PairData(data.x, data.pairs, data.validation, weight)
    index = np.repeat(np.arange(60), weight.astype(int))
    repeated = PairData(
        data.x, data.pairs[index], np.zeros(len(index), bool), np.ones(len(index), np.float32)
    )
    fits = [fit_linear(pairs, "bt").weights["weight"] for pairs in (heavy, repeated)]
    assert fits[0] == pytest.approx(fits[1], abs=1e-3)


def test_hidden_layer_learns_what_a_line_cannot():
    """Where |projection 1| decides, the hidden layer beats the linear head it starts from."""
    data = planted(2000, bend=3.0, noise=0.2)
    linear, mlp = fit_head(data, "linear", "bt"), fit_head(data, "mlp", "bt")
    test = planted(1000, bend=3.0, noise=0.2, seed=9)
    assert accuracy(mlp.weights, test) > accuracy(linear.weights, test) + 0.1
    assert mlp.facts["validation_loss"] < mlp.facts["linear_validation_loss"]


def test_hidden_layer_that_does_not_help_is_the_linear_head():
    """With one pass too coarse to help nothing is kept, and scores are those of the linear head."""
    data = planted(150, noise=2.0)
    mlp = fit_mlp(data, "bt", recipe=MLPRecipe(learning_rate=5.0, epochs=1))
    assert mlp.facts["epochs"] == 0
    linear = fit_linear(data, "bt")
    assert scores_of(mlp.weights, data.x) == pytest.approx(scores_of(linear.weights, data.x), abs=1e-4)


def test_members_are_folded_into_one_hidden_layer():
    """Four networks of 16 units are stored as one layer of 64 and the two units of the linear part."""
    weights = fit_mlp(planted(100, bend=2.0), "bt", recipe=MLPRecipe(hidden=66, members=4, epochs=3)).weights
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        "weight_1": (6, 66),
        "bias_1": (66,),
        "weight_2": (66,),
        "bias": (1,),
    }


def test_views_are_fitted_apart_and_averaged():
    """Two views of three projections: the score is the mean of what each gives alone, in one hidden layer."""
    data = replace(planted(120, bend=2.0), views=2)
    recipe = MLPRecipe(hidden=40, epochs=5)
    whole = fit_mlp(data, "margin", recipe=recipe)
    alone = []
    for number, x in enumerate((data.x[:, :3], data.x[:, 3:])):
        view = replace(data, x=x, views=1)
        fitted = fit_mlp(view, "margin", seed=number, recipe=replace(recipe, hidden=20))
        alone.append([scores_of(weights, x) for weights in (fitted.weights, fitted.validated)])
    for number, weights in enumerate((whole.weights, whole.validated)):
        expected = (alone[0][number] + alone[1][number]) / 2
        assert scores_of(weights, data.x) == pytest.approx(expected, abs=1e-5)
    assert whole.weights["weight_1"].shape == (6, 40)
    assert len(whole.facts["views"]) == 2


def test_plain_head_has_the_papers_shape_and_learns():
    """All views share 512 units from random weights, no penalty is chosen, and a bend is learned."""
    data = replace(planted(1500, bend=3.0, noise=0.2), views=2)
    plain = fit_head(data, "mlp", "margin", plain=True)
    assert {name: values.shape for name, values in plain.weights.items()} == {
        "weight_1": (6, 512),
        "bias_1": (512,),
        "weight_2": (512,),
        "bias": (1,),
    }
    assert plain.facts["plain"] is True
    assert not {"whitening", "l2", "views", "linear_validation_loss"} & plain.facts.keys()
    test = planted(1000, bend=3.0, noise=0.2, seed=9)
    linear = fit_head(data, "linear", "bt")
    assert accuracy(plain.weights, test) > accuracy(linear.weights, test) + 0.1


def test_plain_head_without_validation_pairs_trains_ten_passes():
    """Nothing says when to stop, and a head that did not train would be noise."""
    plain = fit_head(planted(400, noise=0.2, validation=0.0), "mlp", "margin", plain=True)
    assert plain.facts["epochs"] == 10
    assert accuracy(plain.weights, planted(400, noise=0.2, seed=5)) > 0.7


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_scores_are_centred_and_repeatable(head: str):
    """Responses of the pairs score 0 on average, and the seed fixes every bit."""
    data = planted(100)
    first, again = (fit_head(data, head, "margin", seed=3).weights for _ in range(2))
    assert abs(float(scores_of(first, data.x).mean())) < 1e-5
    for name in first:
        assert np.array_equal(first[name], again[name])


def test_progress_ends():
    """Steps are counted up, never beyond all."""
    for head, views in (("linear", 1), ("mlp", 1), ("mlp", 2)):
        calls: list[tuple[int, int]] = []
        data = replace(planted(60), views=views)
        fit_head(data, head, "bt", progress=lambda *call, calls=calls: calls.append(call))
        assert calls == sorted(calls)
        assert all(0 < done <= total for done, total in calls)


def test_100_000_pairs_take_less_than_a_minute():
    """200,000 responses x 256 projections, the linear head with its whole choice of penalties."""
    data = planted(100_000, 256, validation=0.1)
    begun = time.monotonic()
    fit_linear(data, "bt")
    assert time.monotonic() - begun < 60
