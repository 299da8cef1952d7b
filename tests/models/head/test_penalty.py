"""The geometry and the strength of the penalty: by hand, on planted signals, and what judges them."""

from dataclasses import replace

import numpy as np
import pytest
from models.head.test_fit import planted

from sparserm_cli.models.head import penalty as penalties
from sparserm_cli.models.head.heads import fit_head
from sparserm_cli.models.head.pair_data import PairData
from sparserm_cli.models.head.penalty import WHITENINGS, Penalty, bases, choose_penalty, solved


def test_whitening_takes_the_components_apart():
    """In the coordinates of the basis training responses are uncorrelated, strong components less strong."""
    data = planted(p=4)
    mixed = data.x @ np.array([[3, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.9], [0, 0, 0, 0.2]], np.float32)
    (half,) = bases(replace(data, x=mixed), (0.5,))
    rows = np.unique(data.train_pairs)
    moments = (half.z[rows].T @ half.z[rows] / len(rows)).numpy()
    assert moments - np.diag(np.diag(moments)) == pytest.approx(np.zeros((4, 4)), abs=1e-3)
    before = np.linalg.eigvalsh(mixed[rows].T @ mixed[rows])
    assert np.diag(moments).max() / np.diag(moments).min() < np.sqrt(before[-1] / before[0]) * 1.1


def test_without_whitening_the_coordinates_are_turned_only():
    """Lengths stay, so that the penalty is that of ridge regression."""
    data = planted(p=4)
    (plain,) = bases(data, (0.0,))
    assert plain.to.T @ plain.to == pytest.approx(np.eye(4), abs=1e-5)
    assert plain.z.numpy() == pytest.approx(data.x @ plain.to, abs=1e-5)


def spread(scales: np.ndarray) -> PairData:
    """Plant the signal in projection 0, and stretch each projection."""
    data = planted(150, len(scales), noise=0.5, validation=0.0)
    return replace(data, x=data.x * scales.astype(np.float32))


def test_the_geometry_follows_where_the_signal_lies():
    """A signal in the strongest component is found by ridge regression, one in the weakest by whitening."""
    strong, weak = np.ones(40), np.full(40, 6.0)
    strong[0], weak[0] = 6.0, 1.0
    first, second = (choose_penalty(spread(scales), "bt") for scales in (strong, weak))
    assert first.whitening < second.whitening


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_every_head_records_its_penalty(head: str):
    """Whitening, strength and what chose them stand among the facts of a fit."""
    facts = fit_head(planted(60), head, "bt").facts
    assert facts["whitening"] in WHITENINGS
    assert facts["l2"] in penalties.STRENGTHS
    assert facts["penalty_by"] == "5 folds of training prompts"


def judged_by_hand(data: PairData, penalty: Penalty, judges: np.ndarray) -> float:
    """Return the Bradley-Terry loss of some pairs after fitting on the training pairs."""
    solution = solved(data, penalty, "bt", training_only=True)
    scores = penalty.coordinates.z.numpy() @ solution[:-1]
    margins = (scores[data.pairs[:, 0]] - scores[data.pairs[:, 1]])[judges]
    return float(np.log1p(np.exp(-margins)).mean())


def test_many_prompts_let_the_validation_pairs_choose(monkeypatch: pytest.MonkeyPatch):
    """With as many training prompts as FEW_PROMPTS the validation pairs judge every penalty."""
    data = planted(200, noise=0.3)
    monkeypatch.setattr(penalties, "FEW_PROMPTS", int((~data.validation).sum()))
    penalty = choose_penalty(data, "bt")
    assert penalty.by == "validation pairs"
    assert penalty.loss == pytest.approx(judged_by_hand(data, penalty, data.validation), abs=1e-5)
    unvalidated = replace(data, validation=np.zeros(200, bool))
    assert choose_penalty(unvalidated, "bt").by == "a fifth of training prompts"


def test_pairs_of_one_prompt_never_judge_their_own_prompt():
    """Copies of a pair under one prompt lie in one fold: copying all pairs leaves the penalty as it was."""
    data = replace(planted(60, 40, noise=2.0, validation=0.0), groups=np.arange(60, dtype=np.uint64))
    index = np.repeat(np.arange(60), 3)
    fields = ("pairs", "validation", "weight", "groups")
    copied = replace(data, **{name: getattr(data, name)[index] for name in fields})
    first, second = (choose_penalty(pairs, "bt") for pairs in (data, copied))
    assert (first.whitening, first.strength) == (second.whitening, second.strength)
    assert first.loss == pytest.approx(second.loss, abs=1e-3)
    apart = choose_penalty(replace(copied, groups=None), "bt")
    assert apart.loss < first.loss - 0.01  # a pair that judges its own copy looks better than it is


@pytest.mark.parametrize("pairs", [1, 2, 20])
def test_a_few_pairs_are_enough_to_choose_a_penalty(pairs: int):
    """With one prompt nothing can choose; with two or more a penalty on the list is taken."""
    penalty = choose_penalty(planted(pairs, validation=0.0), "bt")
    assert penalty.whitening in WHITENINGS
    assert penalty.strength in penalties.STRENGTHS
    assert np.isnan(penalty.loss) == (pairs == 1)


def test_the_choice_is_stable_with_twenty_pairs():
    """Among other draws of twenty noisy pairs no head is far worse than the best fixed penalty."""
    losses = {"chosen": 0.0, "middle": 0.0}
    for seed in range(8):
        data, test = planted(20, 30, validation=0.0, seed=seed), planted(400, 30, seed=100 + seed)
        chosen = choose_penalty(data, "bt")
        middle = chosen._replace(coordinates=bases(data, (0.0,))[0], strength=penalties.STRENGTHS[3])
        for name, penalty in (("chosen", chosen), ("middle", middle)):
            solution = solved(data, penalty, "bt")
            scores = test.x @ penalty.coordinates.to @ solution[:-1]
            losses[name] += float(np.mean(scores[test.pairs[:, 0]] <= scores[test.pairs[:, 1]])) / 8
    assert losses["chosen"] < losses["middle"] + 0.05


def test_pairs_that_weigh_nothing_do_not_judge():
    """A fold whose pairs all weigh 0 leaves the choice to the others."""
    data = replace(planted(40, validation=0.0), groups=np.arange(40, dtype=np.uint64))
    weight = np.zeros(40, np.float32)
    weight[:8] = 1.0
    penalty = choose_penalty(replace(data, weight=weight), "bt")
    assert np.isfinite(penalty.loss)
