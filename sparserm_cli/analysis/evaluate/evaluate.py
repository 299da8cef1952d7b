"""`evaluate`: how often the reward model is right on labelled data, beside what it is compared with.

Reads: labelled rows, `reward/`, the language model. Writes: `evaluation.json`.
Memory: the model's lower blocks, a window of rows, and some 100 bytes a pair.
"""

import time
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from sparserm_cli.analysis.evaluate.benchmark_rows import check_rows, no_preference, rm_bench_row
from sparserm_cli.analysis.evaluate.rules import LENGTH, REWARD, RULES, ScoredExample, calibrated
from sparserm_cli.config import EvaluateConfig, Note, Progress
from sparserm_cli.data.chat_template import EncodedExample
from sparserm_cli.data.reader import without_pair
from sparserm_cli.data.splits import group_key
from sparserm_cli.errors import BadInputError
from sparserm_cli.locations import parse_location
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.stages.score.responses import load_reward, responses_reader, windows
from sparserm_cli.store.artifacts.results import EVALUATION


class EvaluateSummary(NamedTuple):
    """What `evaluate` has found.

    Fields:
        path: where the metrics are written.
        benchmark: whose rules counted.
        metrics: what was measured, as JSON: scorers, subsets, counts.
        seconds: spent.
    """

    path: PurePath
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
    # 1. The file, whose rows are checked against the benchmark before any work, and the reward model.
    check_rows(config, note)
    reader = responses_reader(config, purpose="pairs", note=note)
    model = load_reward(config)
    note(f"evaluating {model.path} in {model.lm.dtype} on {model.lm.device}")
    # 2. Every response is scored by the head and by every control, from the same vectors.
    heads = {REWARD: model.head} | {name: model.control(name) for name in model.files.controls}
    rows: list[ScoredExample] = []
    how: dict[str, Any] = {"batch_tokens": config.batch_tokens, "deterministic": config.deterministic}
    for window in windows(model, reader, config, progress):
        vectors = model.pooled(window, **how)
        scores = {name: head(vectors) for name, head in heads.items()}
        rows += _scored(window, scores, model.config.length_preference)
    if config.benchmark == "rm-bench":
        rows = [row._replace(example=rm_bench_row(row.example, reader)) for row in rows]
    for sentence in without_pair(reader):
        note(sentence)
    if not any(row.pairs for row in rows):
        raise no_preference(config.file)
    # 3. The benchmark's rules.
    names = [*heads, LENGTH]
    metrics = {
        "benchmark": config.benchmark,
        "file": Path(config.file).name,
        "inputs": [one.sha256 for one in reader.inputs],
        "reward": model.config.lineage.digest,
        "rows_read": reader.read,
        "rows_accepted": reader.accepted,
        "rows_rejected": reader.rejected,
        "rows_without_pair": reader.undecided.total(),
        "shape": reader.shape,
        "prompts_shared_with_training": _check_overlap(model, rows, config, note),
        **RULES[config.benchmark](rows, names),
        **calibrated(rows),
    }
    path = parse_location(config.output) if config.output else EVALUATION.path(config.run)
    EVALUATION.write(path, metrics)
    return EvaluateSummary(path, config.benchmark, metrics, time.monotonic() - begun)


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
        tokens = np.array([len(one.response_ids) for one in row.responses], np.int64)
        rows.append(ScoredExample(row.example, group_key(row.prompt_text), found, tokens))
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
