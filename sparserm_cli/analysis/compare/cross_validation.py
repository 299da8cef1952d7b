"""Measure methods on unseen prompts with grouped folds; all choices are made inside the training folds.

Axes: `m` is the number of pairs of a run.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from sparserm_cli.analysis.compare.fit_method import fit_method
from sparserm_cli.analysis.compare.methods import Method, Training
from sparserm_cli.analysis.compare.run_sample import Sample
from sparserm_cli.config import Progress
from sparserm_cli.data.splits import grouped_folds
from sparserm_cli.statistics.pair_accuracy import (
    Difference,
    PairAccuracy,
    difference,
    fold_spread,
    pair_accuracy,
)

FOLDS = 5


class Protocol(NamedTuple):
    """The protocol of a measurement."""

    folds: int = FOLDS
    """Number of parts of the prompts; each part is the test set once."""
    seed: int = 0
    """Seed of the folds, the validation prompts and all randomness in a fit."""
    train_pairs: int | None = None
    """Most pairs in training and validation together, drawn at random; None means all."""
    flipped: float = 0.0
    """Share of those pairs whose labels are swapped."""
    draws: int = 1
    """Number of times that the training pairs are drawn; accuracies are means over the draws."""


class Round(NamedTuple):
    """The pairs of one fit and of its test."""

    kept: Int64[np.ndarray, " kept"]
    """Indices of the sample's pairs that are used for training."""
    test: Int64[np.ndarray, " test"]
    """Indices of the target's pairs that are tested."""


class FitFacts(NamedTuple):
    """What is kept of one fit besides its scores."""

    parameters: int
    """Number of parameters that the head fits."""
    chosen: str
    """Name of the method that was chosen; "" without a choice."""
    penalties: tuple[Mapping[str, Any], ...]
    """Penalty of each view."""


class Result(NamedTuple):
    """The result of one method."""

    method: Method
    """The measured method."""
    accuracy: PairAccuracy
    """Accuracy over all test pairs."""
    fold_sd: float
    """Standard deviation of the accuracy between folds; NaN for a single test."""
    parameters: int
    """Number of parameters that the head fits."""
    seconds: float
    """Seconds spent on fitting in all folds."""
    margins: Float64[np.ndarray, " tests"]
    """Chosen minus rejected score of every test pair, from the fold that tested it, draw after draw."""
    chosen: tuple[str, ...] = ()
    """Name of the method that was chosen in each fold, where there was a choice."""
    penalties: tuple[Mapping[str, Any], ...] = ()
    """Whitening and strength (`l2`) of the penalty that each fit has chosen, for each view."""
    against: Difference | None = None
    """The accuracy of the reference method minus this method's, on the same pairs."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON, without the margins."""
        fields = {name: value for name, value in self._asdict().items() if name != "margins"}
        fields["method"] = asdict(self.method)
        fields["accuracy"] = self.accuracy._asdict()
        fields["against"] = None if self.against is None else self.against._asdict()
        return {**fields, "fold_sd": None if np.isnan(self.fold_sd) else self.fold_sd}


def crossvalidate(
    sample: Sample,
    methods: Sequence[Method],
    protocol: Protocol = Protocol(),  # noqa: B008 - a NamedTuple cannot change
    *,
    target: Sample | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Measure methods on the same folds, or on another run.

    Args:
        sample: the run on which methods are fitted.
        methods: the methods to measure.
        protocol: the protocol of the measurement.
        target: the run whose pairs are tested; None means the sample. A run that shares prompts with the
            sample is tested fold by fold, so that no method is trained on the tested prompts; a run without
            shared prompts is tested by one fit on all pairs.
        progress: called with the numbers of finished and of all fits.

    Raises:
        BadInputError: there are fewer prompts than folds.
        UsageError: too few latents favour one of the sides.

    """
    target = target or sample
    rounds = _rounds(sample, target, protocol)
    margins = np.zeros((len(methods), protocol.draws, len(target.pairs)))
    fits: list[list[FitFacts]] = [[] for _ in methods]
    seconds, done = np.zeros(len(methods)), 0
    for (kept, test), draw in itertools.product(rounds, range(protocol.draws)):
        training = training_of(sample, kept, protocol, draw)
        tested_on = target.of_pairs(test)
        for number, method in enumerate(methods):
            begun = time.monotonic()
            scorer = fit_method(method, training)
            seconds[number] += time.monotonic() - begun
            scores = scorer.score(tested_on)[tested_on.pairs]
            margins[number, draw, test] = scores[:, 0] - scores[:, 1]
            fits[number].append(FitFacts(scorer.parameters, scorer.chosen, scorer.penalties))
            done += 1
            if progress:
                progress(done, len(rounds) * protocol.draws * len(methods))
    fold = np.zeros(len(target.pairs), np.int64)
    for number, (_, test) in enumerate(rounds):
        fold[test] = number
    return [
        result(method, margins[number].reshape(-1), target, fits[number], float(seconds[number]), fold)
        for number, method in enumerate(methods)
    ]


def _rounds(sample: Sample, target: Sample, protocol: Protocol) -> list[Round]:
    """Return the training and the test pairs of each fit."""
    if not len(np.intersect1d(sample.groups, target.groups)):
        return [Round(np.arange(len(sample.pairs)), np.arange(len(target.pairs)))]
    fold = grouped_folds(sample.groups, protocol.folds, protocol.seed)
    of_prompt = dict(zip(sample.groups.tolist(), fold.tolist(), strict=True))
    # A prompt that is not in the sample is in no training set, so any fit may test it.
    tested = np.array([of_prompt.get(group, 0) for group in target.groups.tolist()])
    return [
        Round(np.flatnonzero(fold != number), np.flatnonzero(tested == number))
        for number in range(protocol.folds)
    ]


def training_of(
    sample: Sample, kept: Int64[np.ndarray, " kept"], protocol: Protocol, draw: int = 0
) -> Training:
    """Return training data of some pairs, subsampled and with swapped labels as the protocol says.

    Args:
        sample: the run.
        kept: indices of its pairs that may train.
        protocol: how many of them are drawn, and how many labels are swapped.
        draw: number of the draw, from 0 to `protocol.draws - 1`.

    """
    generator = np.random.default_rng(protocol.seed if draw == 0 else (protocol.seed, draw))
    if protocol.train_pairs is not None and protocol.train_pairs < len(kept):
        kept = np.sort(generator.choice(kept, protocol.train_pairs, replace=False))
    pairs = sample.pairs[kept]
    flipped: Bool[np.ndarray, " kept"] = generator.random(len(kept)) < protocol.flipped
    pairs = np.where(flipped[:, None], pairs[:, ::-1], pairs)
    return Training(sample, pairs, sample.groups[kept], protocol.seed)


def result(
    method: Method,
    margins: Float64[np.ndarray, " tests"],
    sample: Sample,
    fits: Sequence[FitFacts],
    seconds: float,
    fold: Int64[np.ndarray, " m"],
) -> Result:
    """Return the result of a method from its margins; chance has an accuracy of one half by definition.

    The tests of one prompt belong together whatever the draw of the training pairs, so the interval is one
    over prompts.
    """
    pairs = len(sample.pairs)
    if method.kind == "chance":
        half = PairAccuracy(0.5, 0.5, 0.5, pairs, len(np.unique(sample.groups)), 0)
        return Result(method, half, 0.0, 0, 0.0, margins)
    draws = len(margins) // pairs
    spread = fold_spread(margins > 0, np.tile(fold, draws))
    over_draws = pair_accuracy(margins, np.tile(sample.groups, draws))
    accuracy = over_draws._replace(pairs=pairs, ties=round(over_draws.ties / draws))
    chosen = tuple(fit.chosen for fit in fits if fit.chosen)
    penalties = tuple(penalty for fit in fits for penalty in fit.penalties)
    return Result(method, accuracy, spread, fits[-1].parameters, seconds, margins, chosen, penalties)


def compared(results: Sequence[Result], reference: Result, sample: Sample) -> list[Result]:
    """Add to each result the paired difference between the reference and it."""
    return [
        result
        if result is reference or result.method.kind == "chance"
        else result._replace(against=_difference(reference, result, sample))
        for result in results
    ]


def _difference(reference: Result, other: Result, sample: Sample) -> Difference:
    """Return the accuracy of the reference less that of another method, on the same tests."""
    draws = len(reference.margins) // len(sample.pairs)
    return difference(reference.margins, other.margins, np.tile(sample.groups, draws))
