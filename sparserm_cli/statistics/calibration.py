"""Calibration of score differences, and their dependence on the length of responses.

Axes: `pairs` of a chosen and a rejected response, each with a margin (chosen score less rejected score) and
the group of its prompt; intervals are over prompts, as in `statistics`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Integer
from scipy.special import expit
from scipy.stats import spearmanr

from sparserm_cli.statistics.pair_accuracy import PairAccuracy, pair_accuracy

BINS = 10
"""Largest number of groups of pairs."""
PAIRS_PER_BIN = 20
"""Smallest number of pairs per group; with fewer, an accuracy says nothing."""

_NAN = float("nan")

Margins = Float64[np.ndarray, " pairs"]
Groups = Integer[np.ndarray, " pairs"]


class ReliabilityBin(NamedTuple):
    """Pairs of about the same confidence.

    Fields:
        confidence: mean probability that the reward model gives to the response it prefers.
        right: how often that response is the chosen one.
    """

    confidence: float
    right: PairAccuracy


class Reliability(NamedTuple):
    """The agreement of stated probabilities with accuracies.

    Fields:
        bins: from the least to the most confident pairs, as even in number as they can be.
        error: expected calibration error: mean distance of confidence and accuracy, weighted by pairs.
    """

    bins: tuple[ReliabilityBin, ...]
    error: float


class LengthBin(NamedTuple):
    """Pairs of about the same difference in length.

    Fields:
        length: mean of the chosen response's tokens less the rejected one's.
        margin: mean margin.
        right: how often the chosen response scores higher.
    """

    length: float
    margin: float
    right: PairAccuracy


class LengthBias(NamedTuple):
    """The dependence of the score on the length of the response.

    Fields:
        correlation: Spearman's, of length difference and margin; NaN if one of them is constant.
        longer: pairs whose chosen response is the longer one.
        shorter: pairs whose chosen response is the shorter one.
        equal: pairs of one length.
        bins: from the pairs whose rejected response is much longer to those whose chosen one is.
    """

    correlation: float
    longer: PairAccuracy
    shorter: PairAccuracy
    equal: PairAccuracy
    bins: tuple[LengthBin, ...]


def reliability(margins: Margins, groups: Groups, bins: int = BINS) -> Reliability:
    """Compare confidence with accuracy.

    The confidence of a margin m is Bradley and Terry's probability of the response that scores higher,
    1 / (1 + exp(-|m|)). Only the loss `bt` fits scores to be read so; for other losses the comparison tells
    how far they are from it.

    Args:
        margins: chosen score less rejected score of each pair.
        groups: prompt of each pair.
        bins: largest number of groups of pairs.

    """
    confidence = expit(np.abs(margins))
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, max(1, min(bins, len(order) // PAIRS_PER_BIN)))
    groups_of_pairs = tuple(
        ReliabilityBin(float(confidence[part].mean()), pair_accuracy(margins[part], groups[part]))
        for part in parts
        if len(part)
    )
    gaps = [part.right.pairs * abs(part.confidence - part.right.accuracy) for part in groups_of_pairs]
    return Reliability(groups_of_pairs, sum(gaps) / len(order) if groups_of_pairs else float("nan"))


def length_bias(
    margins: Margins, lengths: Integer[np.ndarray, " pairs"], groups: Groups, bins: int = BINS
) -> LengthBias:
    """Compare margins with differences in length.

    Args:
        margins: chosen score less rejected score of each pair.
        lengths: chosen length less rejected length of each pair, in tokens.
        groups: prompt of each pair.
        bins: at most so many groups of pairs of similar length difference.

    """
    inner = np.quantile(lengths, np.linspace(0, 1, bins + 1)[1:-1]) if len(lengths) else np.empty(0)
    number = np.searchsorted(np.unique(inner), lengths, side="left")
    parts = [np.flatnonzero(number == part) for part in np.unique(number)]

    def right(part: Any) -> PairAccuracy:
        return pair_accuracy(margins[part], groups[part])

    return LengthBias(
        _spearman(lengths, margins),
        right(lengths > 0),
        right(lengths < 0),
        right(lengths == 0),
        tuple(
            LengthBin(float(lengths[part].mean()), float(margins[part].mean()), right(part)) for part in parts
        ),
    )


def to_json(result: Reliability | LengthBias) -> dict[str, Any]:
    """Return a result as a JSON object, with NaN as null."""
    value: dict[str, Any] = _plain(result)
    return value


def reliability_from(value: Mapping[str, Any]) -> Reliability:
    """Read the output of `to_json` for a reliability.

    Raises:
        KeyError: it is something else.
        TypeError: it is something else.

    """
    bins = tuple(
        ReliabilityBin(float(item["confidence"]), _accuracy_from(item["right"])) for item in value["bins"]
    )
    return Reliability(bins, float(value["error"]))


def length_bias_from(value: Mapping[str, Any]) -> LengthBias:
    """Read the output of `to_json` for a length bias.

    Raises:
        KeyError: it is something else.
        TypeError: it is something else.

    """
    parts = {name: _accuracy_from(value[name]) for name in ("longer", "shorter", "equal")}
    bins = tuple(
        LengthBin(float(item["length"]), float(item["margin"]), _accuracy_from(item["right"]))
        for item in value["bins"]
    )
    correlation = value["correlation"]
    return LengthBias(correlation=_NAN if correlation is None else float(correlation), bins=bins, **parts)


def _accuracy_from(value: Mapping[str, Any]) -> PairAccuracy:
    """Read an accuracy; null is that of no pairs."""
    accuracy = PairAccuracy(**value)
    return accuracy._replace(accuracy=_NAN) if accuracy.accuracy is None else accuracy


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        fields = getattr(value, "_fields", None)
        parts = [_plain(item) for item in value]
        return parts if fields is None else dict(zip(fields, parts, strict=True))
    return None if isinstance(value, float) and np.isnan(value) else value


def _spearman(a: Integer[np.ndarray, " pairs"], b: Margins) -> float:
    """Return Spearman's rank correlation; NaN where one side is constant."""
    if len(a) < 2 or (a == a[0]).all() or (b == b[0]).all():
        return float("nan")
    return float(spearmanr(a, b).statistic)
