"""What the shortest, the longest and a random answer score under a benchmark's own rule, for each subset.

A benchmark whose longest answers win is won by length, so an accuracy says little without these.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64

from sparserm_cli.analysis.evaluate.benchmarks import TIES_SUBSET, TiedPrompt, ties_score
from sparserm_cli.analysis.evaluate.rules import REWARD, RULES, ScoredExample

SHORTEST, LONGEST, RANDOM = "shortest", "longest", "random"
ALL = "all"
"""The name of the whole benchmark among its subsets."""
_DRAWS = 500  # random scores of the ties subset, whose expected result has no simple form


def simple_answers(rows: list[ScoredExample], benchmark: str) -> dict[str, dict[str, float]]:
    """Return, for the whole benchmark and each subset, what the reward and three simple answers score.

    The answers are compared by their characters; a random answer has its expected result.

    Args:
        rows: scored rows.
        benchmark: a key of `RULES`.

    """
    names = [REWARD, SHORTEST, LONGEST]
    result = RULES[benchmark]([_with_lengths(row) for row in rows], names)
    values = {name: _of_subsets(result, name) for name in names}
    chance = _chance(rows, benchmark, list(values[REWARD]))
    return {
        subset: {**{name: values[name][subset] for name in names}, RANDOM: chance[subset]}
        for subset in values[REWARD]
    }


def _with_lengths(row: ScoredExample) -> ScoredExample:
    """Return a row with the scores of the reward and of both preferences for length."""
    lengths = np.array([len(text) for text in row.example.responses], np.float64)
    return row._replace(scores={REWARD: row.scores[REWARD], SHORTEST: -lengths, LONGEST: lengths})


def _of_subsets(result: Mapping[str, Any], name: str) -> dict[str, float]:
    """Return the result of one scorer on the whole and on each subset, whatever the rule calls them."""
    scorer = result["scorers"][name]
    if "domains" in scorer:
        return {ALL: scorer["total"], **{key: part["mean"] for key, part in scorer["domains"].items()}}
    if "subsets" in scorer:
        return {ALL: scorer["score"], **scorer["subsets"]}
    parts = {key: part[name]["accuracy"] for key, part in result["subsets"].items()}
    return {ALL: scorer["accuracy"], **parts}


def _chance(rows: list[ScoredExample], benchmark: str, subsets: list[str]) -> dict[str, float]:
    """Return the expected result of random scores.

    Of two answers either wins. Of the four or more answers of RewardBench 2 each is the best equally often.
    """
    if benchmark != "reward-bench-2":
        return dict.fromkeys(subsets, 0.5)
    parts: dict[str, list[ScoredExample]] = {}
    for row in rows:
        parts.setdefault((row.example.subset or ALL).lower(), []).append(row)
    chance = {
        subset: _random_ties(members)
        if subset == TIES_SUBSET
        else float(np.mean([1 / len(row.example.responses) for row in members]))
        for subset, members in parts.items()
    }
    return {ALL: float(np.mean([*chance.values()])), **chance} if ALL not in chance else chance


def _random_ties(rows: list[ScoredExample]) -> float:
    """Return the mean result of the ties subset over random scores of a fixed seed."""
    generator = np.random.default_rng(0)

    def drawn(count: int) -> Float64[np.ndarray, " count"]:
        return generator.random(count)

    results = []
    for _ in range(_DRAWS):
        scored = [row._replace(scores={RANDOM: drawn(len(row.example.responses))}) for row in rows]
        sides = {str(row.example.id): [side.tolist() for side in row.sides(RANDOM)] for row in scored}
        results.append(ties_score({name: TiedPrompt(*both) for name, both in sides.items()}))
    return float(np.mean(results))
