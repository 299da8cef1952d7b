"""`evaluate`: how often the reward model is right on labelled data, beside what it is compared with.

Reads: labelled rows, `reward/`, the language model. Writes: `evaluation.json`.
Memory: the model's lower blocks, a window of rows, and some 100 bytes a pair.
"""

import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from sparserm_cli.config import EvaluateConfig, Note, Progress
from sparserm_cli.data.example import CHOSEN, REJECTED, Example
from sparserm_cli.data.splits import group_key
from sparserm_cli.data.template import EncodedExample
from sparserm_cli.errors import BadInputError
from sparserm_cli.models.reward import RewardModel
from sparserm_cli.stages.score import load_reward, pooled_windows, responses_reader
from sparserm_cli.store.evaluation import evaluation_path, write_evaluation
from sparserm_cli.study.benchmarks import (
    TIES_SUBSET,
    TiedPrompt,
    best_of_n,
    rm_bench,
    rm_bench_domain,
    ties_score,
)
from sparserm_cli.study.statistics import PairAccuracy, difference, pair_accuracy

REWARD = "reward"
"""The reward model's own name among the scorers."""
CHANCE = "chance"
LENGTH = "length only"


class EvaluateSummary(NamedTuple):
    """What `evaluate` has found.

    Fields:
        path: where the metrics are written.
        benchmark: whose rules counted.
        metrics: what was measured, as JSON: scorers, subsets, counts.
        seconds: spent.
    """

    path: Path
    benchmark: str
    metrics: Mapping[str, Any]
    seconds: float


def evaluate(config: EvaluateConfig, *, progress: Progress, note: Note) -> EvaluateSummary:
    """Score a labelled file with the reward model and its controls and compare.

    Args:
        config: the options.
        progress: called with rows scored and rows read so far.
        note: told what is worth knowing on the way.

    Raises:
        BadInputError: the file cannot be read, has no labels, or shares prompts with the training data.
        IncompatibleError: the reward model was fitted on another model, tokenizer or template.
        CorruptStoreError: the reward model is damaged.

    """
    begun = time.monotonic()
    # 1. The file and the reward model.
    reader = responses_reader(config, purpose="pairs")
    model = load_reward(config)
    note(f"evaluating {model.path} in {model.lm.dtype} on {model.lm.device}")
    # 2. Every response is scored by the head and by every control, from the same vectors.
    heads = {REWARD: model.head} | {name: model.control(name) for name in model.files.controls}
    rows: list[ScoredExample] = []
    for window, vectors in pooled_windows(model, reader, config, progress):
        scores = {name: head(vectors) for name, head in heads.items()}
        rows += _scored(window, scores, model.config.length_preference)
    # 3. The benchmark's rules.
    rules = {"pairs": _pairs, "rm-bench": _rm_bench, "reward-bench-2": _reward_bench_2}
    names = [*heads, LENGTH]
    metrics = {
        "benchmark": config.benchmark,
        "file": Path(config.file).name,
        "inputs": [one.sha256 for one in reader.inputs],
        "reward": model.config.lineage.digest,
        "rows_read": reader.read,
        "rows_accepted": reader.accepted,
        "rows_rejected": reader.rejected,
        "prompts_shared_with_training": _check_overlap(model, rows, config, note),
        **rules[config.benchmark](rows, names),
    }
    path = Path(config.output) if config.output else evaluation_path(config.run)
    write_evaluation(path, metrics)
    return EvaluateSummary(path, config.benchmark, metrics, time.monotonic() - begun)


class ScoredExample(NamedTuple):
    """One row with the scores of its responses by every scorer.

    Fields:
        example: the row without its texts' vectors.
        group: key of its prompt.
        scores: scorer to scores, in the row's order.
    """

    example: Example
    group: int
    scores: Mapping[str, Float64[np.ndarray, " responses"]]

    def sides(self, name: str) -> tuple[Float64[np.ndarray, " chosen"], Float64[np.ndarray, " rejected"]]:
        """Return one scorer's scores of the chosen and of the rejected responses."""
        sides = np.array(self.example.sides)
        return self.scores[name][sides == CHOSEN], self.scores[name][sides == REJECTED]


def _scored(
    window: list[EncodedExample], scores: Mapping[str, np.ndarray], preference: int
) -> list[ScoredExample]:
    """Cut the window's scores into rows; the length rule prefers as the training data did."""
    rows, start = [], 0
    for row in window:
        stop = start + len(row.responses)
        found = {name: values[start:stop].astype(np.float64) for name, values in scores.items()}
        lengths = np.array([one.characters for one in row.responses], np.float64)
        found[LENGTH] = lengths * (preference or 1)
        rows.append(ScoredExample(row.example, group_key(row.prompt_text), found))
        start = stop
    return rows


def _check_overlap(
    model: RewardModel, rows: list[ScoredExample], config: EvaluateConfig, note: Note
) -> int | None:
    """Return how many of the prompts were trained on; None if the reward model does not list them.

    Raises:
        BadInputError: some were, and nobody has said that this is meant.

    """
    trained = model.config.training.get("prompt_groups")
    if trained is None:
        note("the reward model does not list its training prompts, so an overlap cannot be seen")
        return None
    prompts = {row.group for row in rows}
    shared = len(prompts & {int(group, 16) for group in trained})
    if shared and not config.allow_overlap:
        found = f"{shared} of {len(prompts)}"
        hint = "leave them out, or use --allow-overlap and call it no held-out accuracy"
        raise BadInputError(config.file, "no prompt of the training data", found, hint)
    return shared


def _pairs(rows: list[ScoredExample], names: list[str]) -> dict[str, Any]:
    """Every chosen against every rejected response of a row; with subsets where rows name them."""
    groups = np.array([row.group for row in rows for _ in range(_pair_count(row))], np.uint64)
    subsets = np.array([row.example.subset or "" for row in rows for _ in range(_pair_count(row))])
    margins = {name: np.concatenate([_margins(row, name) for row in rows]) for name in names}
    scorers = {name: _told(pair_accuracy(found, groups)) for name, found in margins.items()}
    for name in names[1:]:
        scorers[name]["reward_less_this"] = difference(margins[REWARD], margins[name], groups)._asdict()
    parts = {
        str(subset): {
            name: _told(pair_accuracy(found[subsets == subset], groups[subsets == subset]))
            for name, found in margins.items()
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


def _pair_count(row: ScoredExample) -> int:
    sides = row.example.sides
    return sides.count(CHOSEN) * sides.count(REJECTED)


def _margins(row: ScoredExample, name: str) -> Float64[np.ndarray, " pairs"]:
    """Return chosen less rejected of every pair of a row."""
    chosen, rejected = row.sides(name)
    return np.asarray((chosen[:, None] - rejected[None, :]).reshape(-1))


def _told(accuracy: PairAccuracy) -> dict[str, Any]:
    return dict(accuracy._asdict())


def _rm_bench(rows: list[ScoredExample], names: list[str]) -> dict[str, Any]:
    """RM-Bench's matrix a domain, and the mean of the domains.

    Raises:
        BadInputError: a row has not three answers a side, or no domain of RM-Bench.

    """
    domains: dict[str, list[ScoredExample]] = defaultdict(list)
    for row in rows:
        domain = rm_bench_domain(row.example.subset)
        if domain is None or [row.example.sides.count(side) for side in (CHOSEN, REJECTED)] != [3, 3]:
            what = f"{len(row.example.sides)} answers, domain {row.example.subset!r}"
            expected = "three chosen and three rejected answers and a domain of RM-Bench"
            raise BadInputError(f"row {row.example.row}", expected, what, "use --benchmark pairs")
        domains[domain].append(row)
    scorers: dict[str, Any] = {}
    for name in names:
        found = {}
        for domain, members in domains.items():
            sides = [row.sides(name) for row in members]
            result = rm_bench(np.stack([one[0] for one in sides]), np.stack([one[1] for one in sides]))
            told = {**result._asdict(), "matrix": result.matrix.tolist(), "mean": result.mean}
            found[domain] = told
        total = float(np.mean([one["mean"] for one in found.values()]))
        scorers[name] = {"domains": found, "total": total}
    return {"rows": len(rows), "scorers": scorers}


def _tied(row: ScoredExample, name: str) -> TiedPrompt:
    chosen, rejected = row.sides(name)
    return TiedPrompt(chosen.tolist(), rejected.tolist())


def _reward_bench_2(rows: list[ScoredExample], names: list[str]) -> dict[str, Any]:
    """RewardBench 2's score a subset, and their plain mean."""
    subsets: dict[str, list[ScoredExample]] = defaultdict(list)
    for row in rows:
        subsets[(row.example.subset or "all").lower()].append(row)
    scorers: dict[str, Any] = {}
    for name in names:
        found = {
            subset: ties_score({row.example.id or "": _tied(row, name) for row in members})
            if subset == TIES_SUBSET
            else float(np.mean([best_of_n(np.concatenate(row.sides(name)).tolist()) for row in members]))
            for subset, members in subsets.items()
        }
        scorers[name] = {"subsets": found, "score": float(np.mean(list(found.values())))}
    return {
        "rows": len(rows),
        "prompts": {name: len(one) for name, one in subsets.items()},
        "scorers": scorers,
    }
