"""Apply the rules of each benchmark to scored rows; the results are JSON, with intervals over prompts.

Axes: `responses` of a row, `pairs` of a better and a worse response of a row.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt64

from sparserm_cli.analysis.evaluate.benchmark_rows import check_partners, judge_bench_row, rm_bench_row
from sparserm_cli.analysis.evaluate.benchmarks import (
    TIES_SUBSET,
    TiedPrompt,
    best_is_right,
    best_of_n,
    rm_bench,
    rm_bench_points,
    ties_points,
    ties_score,
)
from sparserm_cli.data.example import CHOSEN, REJECTED, Example
from sparserm_cli.statistics.calibration import length_bias, reliability, to_json
from sparserm_cli.statistics.pair_accuracy import difference, interval_of_means, pair_accuracy

REWARD = "reward"
"""The name of the reward model among the scorers."""
CHANCE = "chance"
LENGTH = "length only"


class ScoredExample(NamedTuple):
    """One row with the scores of its responses from every scorer.

    Fields:
        example: the row without its texts' vectors.
        group: the key of its prompt.
        scores: the scores of each scorer, in the row's order of responses.
        tokens: the number of tokens of each response.
    """

    example: Example
    group: int
    scores: Mapping[str, Float64[np.ndarray, " responses"]]
    tokens: Int64[np.ndarray, " responses"]

    def sides(self, name: str) -> tuple[Float64[np.ndarray, " chosen"], Float64[np.ndarray, " rejected"]]:
        """Return one scorer's scores of the chosen and of the rejected responses."""
        return self._sides(self.scores[name])

    def margins(self, name: str) -> Float64[np.ndarray, " pairs"]:
        """Return one scorer's chosen minus rejected score of every pair."""
        return self._gaps(self.scores[name])

    @property
    def lengths(self) -> Int64[np.ndarray, " pairs"]:
        """The number of chosen minus rejected tokens of every pair."""
        return self._gaps(self.tokens)

    @property
    def pairs(self) -> int:
        """The pairs of a better and a worse response, by index."""
        return len(self.example.pairs)

    def _gaps(self, values: np.ndarray) -> np.ndarray:
        places = np.array(self.example.pairs, np.int64).reshape(-1, 2)
        return values[places[:, 0]] - values[places[:, 1]]

    def _sides(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sides = np.array(self.example.sides)
        return values[sides == CHOSEN], values[sides == REJECTED]


def _pairs(rows: list[ScoredExample], names: list[str]) -> dict[str, Any]:
    """Compare every better with every worse response of a row, and report subsets where rows name them."""
    groups = _groups(rows)
    subsets = np.array([row.example.subset or "" for row in rows for _ in range(row.pairs)])
    margins = {name: np.concatenate([row.margins(name) for row in rows]) for name in names}
    scorers = {name: pair_accuracy(pair_margins, groups)._asdict() for name, pair_margins in margins.items()}
    for name in names[1:]:
        scorers[name]["reward_less_this"] = difference(margins[REWARD], margins[name], groups)._asdict()
    parts = {
        str(subset): {
            name: pair_accuracy(pair_margins[subsets == subset], groups[subsets == subset])._asdict()
            for name, pair_margins in margins.items()
        }
        for subset in np.unique(subsets)
        if subset
    }
    count = len(groups)
    chance = {
        "accuracy": 0.5,
        "low": 0.5,
        "high": 0.5,
        "pairs": count,
        "prompts": len(np.unique(groups)),
        "ties": 0,
    }
    return {"pairs": count, "scorers": {**scorers, CHANCE: chance}, "subsets": parts}


def _groups(rows: list[ScoredExample]) -> UInt64[np.ndarray, " pairs"]:
    """Return the key of the prompt of every pair."""
    return np.repeat(np.array([row.group for row in rows], np.uint64), [row.pairs for row in rows])


def calibrated(rows: list[ScoredExample]) -> dict[str, Any]:
    """Return the calibration of the reward and its relation to the length of responses."""
    groups, lengths = _groups(rows), np.concatenate([row.lengths for row in rows])
    margins = np.concatenate([row.margins(REWARD) for row in rows])
    return {
        "reliability": to_json(reliability(margins, groups)),
        "length_bias": to_json(length_bias(margins, lengths, groups)),
    }


def _rm_bench(rows: list[ScoredExample], names: list[str]) -> dict[str, Any]:
    """Return RM-Bench's matrix per domain and the mean of the domains.

    Raises:
        BadInputError: a row does not have three answers per side, or has no domain of RM-Bench.

    """
    domains: dict[str, list[ScoredExample]] = defaultdict(list)
    for row in rows:
        domains[str(rm_bench_row(row.example).subset)].append(row)
    scorers: dict[str, Any] = {}
    all_points: dict[str, list[np.ndarray]] = {}
    for name in names:
        accuracies, points = {}, []
        for domain, members in domains.items():
            chosen, rejected = map(np.stack, zip(*(row.sides(name) for row in members), strict=True))
            result = rm_bench(chosen, rejected)
            accuracies[domain] = {**result._asdict(), "matrix": result.matrix.tolist(), "mean": result.mean}
            points.append(rm_bench_points(chosen, rejected))
        low, high = interval_of_means(points)
        total = float(np.mean([accuracy["mean"] for accuracy in accuracies.values()]))
        scorers[name] = {"domains": accuracies, "total": total, "low": low, "high": high}
        all_points[name] = points
    _add_gaps(scorers, all_points)
    return {"rows": len(rows), "scorers": scorers}


def _reward_bench_2(rows: list[ScoredExample], names: list[str]) -> dict[str, Any]:
    """Return RewardBench 2's score per subset and their unweighted mean."""
    subsets: dict[str, list[ScoredExample]] = defaultdict(list)
    for row in rows:
        subsets[(row.example.subset or "all").lower()].append(row)
    scorers: dict[str, Any] = {}
    all_points: dict[str, list[np.ndarray]] = {}
    for name in names:
        accuracies, points = {}, []
        for subset, members in subsets.items():
            if subset == TIES_SUBSET:
                check_partners([row.example for row in members])
                sides = {str(row.example.id): [side.tolist() for side in row.sides(name)] for row in members}
                tied = {number: TiedPrompt(*both) for number, both in sides.items()}
                accuracies[subset] = ties_score(tied)
                points.append(ties_points(tied))
            else:
                points.append(np.array([best_of_n(np.concatenate(row.sides(name))) for row in members]))
                accuracies[subset] = float(points[-1].mean())
        low, high = interval_of_means(points)
        scorers[name] = {
            "subsets": accuracies,
            "score": float(np.mean([*accuracies.values()])),
            "low": low,
            "high": high,
        }
        all_points[name] = points
    _add_gaps(scorers, all_points)
    return {
        "rows": len(rows),
        "prompts": {name: len(members) for name, members in subsets.items()},
        "scorers": scorers,
    }


def _add_gaps(scorers: dict[str, Any], points: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Add to every control the reward's lead over it, with a paired 95 % interval over prompts."""
    for name, facts in scorers.items():
        if name == REWARD:
            continue
        parts = [ours - theirs for ours, theirs in zip(points[REWARD], points[name], strict=True)]
        value = float(np.mean([part.mean() for part in parts]))
        varies = any(part.min() != part.max() for part in parts)
        low, high = interval_of_means(parts) if varies else (value, value)
        facts["reward_less_this"] = {"value": value, "low": low, "high": high}


def _judge_bench(rows: list[ScoredExample], names: list[str]) -> dict[str, Any]:
    """Return JudgeBench's accuracy over all pairs, and that of each of its four domains; a tie is wrong."""
    named = [row._replace(example=judge_bench_row(row.example)) for row in rows]
    return _pairs(named, names)


def _ppe(rows: list[ScoredExample], names: list[str]) -> dict[str, Any]:
    """Return PPE's accuracy on its pairs, and how often the best of K by each scorer is a right one.

    Rows that have two responses, the human preferences, take no part in the best of K.
    """
    several = [row for row in rows if len(row.example.responses) > 2 and row.pairs]
    best: dict[str, Any] = {}
    for name in names if several else ():
        points = np.array([best_is_right(*row.sides(name)) for row in several])
        low, high = interval_of_means([points])
        best[name] = {"value": float(points.mean()), "low": low, "high": high}
    if several:
        right = [np.mean(np.array(row.example.sides) == CHOSEN) for row in several]
        best[CHANCE] = {"value": float(np.mean(right))}
    return {**_pairs(rows, names), "best_of_k": {"prompts": len(several), "scorers": best}}


RULES: dict[str, Callable[[list[ScoredExample], list[str]], dict[str, Any]]] = {
    "pairs": _pairs,
    "rm-bench": _rm_bench,
    "reward-bench-2": _reward_bench_2,
    "judge-bench": _judge_bench,
    "ppe": _ppe,
}
"""The function of each benchmark that turns scored rows and names of scorers into results."""
