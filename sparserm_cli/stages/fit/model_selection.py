"""Choose the setting of the head for `fit --choose` by cross-validation over the training prompts.

Each training pair is tested once, by a head that has not seen its prompt. Validation pairs have the same role
as in the fit itself: they choose the penalty and stop the training. They are never tested, so they judge a
chosen setting as fairly as a given one. The directions are given and were selected on all training pairs;
the accuracies therefore rank settings, and do not measure how good the reward model is.

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
"""Name to setting. The first is best where labels are few and noisy, the second where they are many.

Of several with equal accuracy the first is taken.
"""
INNER_FOLDS = 3
"""Number of folds of the training prompts."""
INNER_PAIRS = 3000
"""Largest number of pairs, drawn at random, that the choice is made on."""
_STEPS = 100  # progress steps per fit


class Tried(NamedTuple):
    """A setting that was tried."""

    name: str
    """Name of the setting, one of SETTINGS."""
    setting: HeadSetting
    """The setting."""
    accuracy: float
    """Share of pairs whose chosen response scores strictly higher, by heads fitted without their prompts."""
    pairs: int
    """Number of pairs that were tested."""


def setting_identity(config: FitConfig) -> dict[str, Any]:
    """Return the setting as part of a reward model's identity: the given one, or how it is chosen."""
    if not config.choose:
        return config.setting.recorded()
    among = {name: setting.recorded() for name, setting in SETTINGS.items()}
    return {"choose": among, "inner_folds": INNER_FOLDS, "inner_pairs": INNER_PAIRS}


def try_settings(
    capture: ActivationsReader, split: Split, directions: Rows, seed: int, progress: Progress
) -> list[Tried]:
    """Try every setting, on at most INNER_PAIRS pairs.

    Args:
        capture: the activations.
        split: the pairs.
        directions: layer to directions.
        seed: seed of the drawn pairs, of the folds and of every fit.
        progress: called with steps done and steps in all, including those of the fit that follows.

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
    """Return the accuracy of a setting on folds of the training pairs; `fits` yields each fit's progress."""
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
    """Return the setting with the highest accuracy; of several equal ones the first."""
    return max(tried, key=lambda setting: setting.accuracy)


def selection_record(tried: Sequence[Tried]) -> dict[str, Any]:
    """Return what a reward model records about the choice; empty if nothing was chosen."""
    if not tried:
        return {}
    results = [
        {"name": trial.name, **trial.setting.recorded(), "accuracy": trial.accuracy, "pairs": trial.pairs}
        for trial in tried
    ]
    return {"choice": {"chosen": best_setting(tried).name, "folds": INNER_FOLDS, "tried": results}}


def final_share(progress: Progress, tried: Sequence[Tried]) -> Progress:
    """Return the progress of the final fit: the last share, or all of it if no setting was tried."""
    return _share(progress, len(tried) * INNER_FOLDS) if tried else progress


def _share(progress: Progress, before: int) -> Progress:
    """Return the progress of one fit of `fit --choose`, which `before` other fits precede."""
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
    """Return the cross-validated accuracy of a scorer; each pair is tested by a fit without its prompt.

    Args:
        fit: takes the indices of the training pairs and returns the score of every response.
        pairs: chosen and rejected response of each pair.
        groups: prompt of each pair.
        seed: seed of the folds.

    Raises:
        BadInputError: there are fewer prompts than folds.

    """
    fold = grouped_folds(groups, INNER_FOLDS, seed)
    right = 0
    for tested in range(INNER_FOLDS):
        scores = fit(np.flatnonzero(fold != tested))[pairs[fold == tested]]
        right += int((scores[:, 0] > scores[:, 1]).sum())
    return right / len(pairs)
