"""Choosing the setting of the head, for `fit --choose`: each is tried by folds of the training prompts.

Each pair that trains is tested once, by a head that has not seen its prompt. Validation pairs do what they do
in the fit itself, choose penalties and stop training, and are never tested, so that they judge a chosen
setting as fairly as one that was told. The directions are given and were selected on all pairs that train:
the accuracies rank settings, and do not tell how good the reward model is.

Axes: `n` responses, `m` pairs.
Memory: the projections of the responses of INNER_PAIRS pairs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt64

from sparserm_cli.config import FitConfig, HeadSetting, Progress
from sparserm_cli.data.splits import grouped_folds
from sparserm_cli.errors import BadInputError
from sparserm_cli.models.head.projections import Rows, projections
from sparserm_cli.stages.fit.controls import fit_projections
from sparserm_cli.stages.fit.split import Split
from sparserm_cli.store.capture.reader import ActivationsReader

SETTINGS = {
    "linear, mean and last": HeadSetting(pool="both", head="linear", loss="bt"),
    "MLP, mean": HeadSetting(pool="mean", head="mlp", loss="margin"),
}
"""What is chosen among, by name: the first does best where labels are few and noisy, the second where they
are many. Of equals the first is taken."""
INNER_FOLDS = 3
"""Parts of the training prompts by which is chosen."""
INNER_PAIRS = 3000
"""Most pairs, drawn at random, that choose."""
_STEPS = 100  # of each fit, as progress is told


class Tried(NamedTuple):
    """A setting that was tried."""

    name: str
    """One of SETTINGS."""
    setting: HeadSetting
    """The setting."""
    accuracy: float
    """Share of pairs whose chosen response scores strictly higher, by heads fitted without their prompts."""
    pairs: int
    """Number of pairs that were tested."""


def setting_identity(config: FitConfig) -> dict[str, Any]:
    """Return what the identity of a reward model says of its setting: what was told, or how it is chosen."""
    if not config.choose:
        return vars(config.setting)
    among = {name: vars(setting) for name, setting in SETTINGS.items()}
    return {"choose": among, "inner_folds": INNER_FOLDS, "inner_pairs": INNER_PAIRS}


def try_settings(
    capture: ActivationsReader, split: Split, directions: Rows, seed: int, progress: Progress
) -> list[Tried]:
    """Try every setting, on at most INNER_PAIRS pairs.

    Args:
        capture: the activations.
        split: the pairs.
        directions: layer to directions.
        seed: of the pairs that are drawn, the folds and every fit.
        progress: called with steps done and steps in all, those of the fit that follows among them.

    Raises:
        BadInputError: there are fewer training prompts than folds.

    """
    split = split.subsample(INNER_PAIRS, seed)
    prompts = len(np.unique(split.groups[~split.validation]))
    if prompts < INNER_FOLDS:
        expected = f"{INNER_FOLDS} training prompts to choose by"
        raise BadInputError(str(capture.root), expected, str(prompts), "use more data or no --choose")
    tried = []
    for number, (name, setting) in enumerate(SETTINGS.items()):
        taken = projections(capture, tuple(directions), setting.pool, directions, split.rows)
        fits = (_share(progress, number * INNER_FOLDS + fold) for fold in range(INNER_FOLDS))
        accuracy = _accuracy(setting, split, taken, directions, seed, fits)
        tried.append(Tried(name, setting, accuracy, int((~split.validation).sum())))
    return tried


def _accuracy(
    setting: HeadSetting,
    split: Split,
    taken: Float32[np.ndarray, "n p"],
    directions: Rows,
    seed: int,
    fits: Iterator[Progress],
) -> float:
    """Return the accuracy of a setting on folds of the pairs that train; `fits` gives each its progress."""
    from sparserm_cli.models.head.heads import scores_of

    training, validation = np.flatnonzero(~split.validation), np.flatnonzero(split.validation)

    def scores(learned: Int64[np.ndarray, " learned"]) -> Float32[np.ndarray, " n"]:
        head = fit_projections(
            split.subset(np.append(training[learned], validation)),
            taken,
            setting,
            seed,
            directions,
            next(fits),
        ).final
        return scores_of(head.weights, (taken - head.mean) / head.std)

    return accuracy_by_folds(scores, split.pairs[training], split.groups[training], seed)


def best_setting(tried: Sequence[Tried]) -> Tried:
    """Return what reached the highest accuracy; the first of several."""
    return max(tried, key=lambda one: one.accuracy)


def selection_record(tried: Sequence[Tried]) -> dict[str, Any]:
    """Return what a reward model records of the choice; nothing where there was none."""
    if not tried:
        return {}
    told = [
        {"name": one.name, **vars(one.setting), "accuracy": one.accuracy, "pairs": one.pairs} for one in tried
    ]
    return {"choice": {"chosen": best_setting(tried).name, "folds": INNER_FOLDS, "tried": told}}


def final_share(progress: Progress, tried: Sequence[Tried]) -> Progress:
    """Return the progress of the fit itself: the last part, or all of it if nothing was tried."""
    return _share(progress, len(tried) * INNER_FOLDS) if tried else progress


def _share(progress: Progress, before: int) -> Progress:
    """Return the progress of one of the fits of `fit --choose`, of which so many come before it."""
    fits = len(SETTINGS) * INNER_FOLDS + 1

    def advance(done: int, total: int) -> None:
        progress(_STEPS * before + _STEPS * done // total, _STEPS * fits)

    return advance


def accuracy_by_folds(
    fit: Callable[[Int64[np.ndarray, " learned"]], Float[np.ndarray, " n"]],
    pairs: Int64[np.ndarray, "m 2"],
    groups: UInt64[np.ndarray, " m"],
    seed: int,
) -> float:
    """Return the accuracy of any way of scoring, each pair tested by a fit that has not seen its prompt.

    Args:
        fit: given the places of the pairs to learn from, returns the score of every response.
        pairs: chosen and rejected response.
        groups: prompt of each pair.
        seed: of the folds.

    Raises:
        BadInputError: fewer prompts than folds.

    """
    fold = grouped_folds(groups, INNER_FOLDS, seed)
    right = 0
    for one in range(INNER_FOLDS):
        scores = fit(np.flatnonzero(fold != one))[pairs[fold == one]]
        right += int((scores[:, 0] > scores[:, 1]).sum())
    return right / len(pairs)
