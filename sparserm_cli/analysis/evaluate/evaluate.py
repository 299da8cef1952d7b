"""`evaluate` measures the accuracy of the reward model and its controls on labelled data.

Reads: labelled rows, `reward/`, the language model. Writes: `evaluation.json`.
Memory: the model's lower blocks, a window of rows, and about 100 bytes per pair.
"""

import time
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from sparserm_cli.analysis.evaluate.benchmark_rows import check_rows, no_preference, rm_bench_row
from sparserm_cli.analysis.evaluate.rules import LENGTH, REWARD, RULES, ScoredExample, calibrated
from sparserm_cli.analysis.evaluate.simple_answers import simple_answers
from sparserm_cli.config import EvaluateConfig, Note, Progress
from sparserm_cli.data.reader import without_pair
from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample
from sparserm_cli.data.splits import group_key
from sparserm_cli.errors import BadInputError
from sparserm_cli.locations import parse_location
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.stages.score.responses import load_reward, responses_reader, windows
from sparserm_cli.store.artifacts.results import EVALUATION


class EvaluateSummary(NamedTuple):
    """The results of `evaluate`.

    Fields:
        path: path of the written metrics.
        benchmark: the benchmark whose scoring rules were applied.
        metrics: the measurements as JSON: scorers, subsets, counts.
        seconds: time spent, in seconds.
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
        note: called with messages for the user.

    Raises:
        BadInputError: the file cannot be read, has no labels, or shares prompts with the training data.
        IncompatibleError: the reward model was fitted on another model, tokenizer or template.
        CorruptStoreError: the reward model is damaged.

    """
    begun = time.monotonic()
    # 1. Check the rows against the benchmark before any work; open the file and the reward model.
    check_rows(config, note)
    reader = responses_reader(config, purpose="pairs", note=note)
    model = load_reward(config)
    note(f"evaluating {model.path} in {model.lm.dtype} on {model.lm.device}")
    # 2. Score every response with the head and with every control, from the same vectors.
    heads = {REWARD: model.head} | {name: model.control(name) for name in model.files.controls}
    rows: list[ScoredExample] = []
    how: dict[str, Any] = {"batch_tokens": config.batch_tokens, "deterministic": config.deterministic}
    for window in windows(model, reader, config, progress):
        vectors = model.pooled(window, **how)
        scores = {name: head(vectors) for name, head in heads.items()}
        rows += scored_rows(window, scores, model.config.length_preference)
    if config.benchmark == "rm-bench":
        rows = [row._replace(example=rm_bench_row(row.example, reader)) for row in rows]
    for sentence in without_pair(reader):
        note(sentence)
    if not any(row.pairs for row in rows):
        raise no_preference(config.file)
    # 3. Apply the benchmark's rules.
    names = [*heads, LENGTH]
    metrics = {
        "benchmark": config.benchmark,
        "file": Path(config.file).name,
        "inputs": [source.sha256 for source in reader.inputs],
        "reward": model.config.lineage.digest,
        "rows_read": reader.read,
        "rows_accepted": reader.accepted,
        "rows_rejected": reader.rejected,
        "rows_without_pair": reader.undecided.total(),
        "shape": reader.shape,
        "prompts_shared_with_training": _check_overlap(model, rows, config, note),
        **RULES[config.benchmark](rows, names),
        "answers": simple_answers(rows, config.benchmark),
        **calibrated(rows),
    }
    path = parse_location(config.output) if config.output else EVALUATION.path(config.run)
    EVALUATION.write(path, metrics)
    return EvaluateSummary(path, config.benchmark, metrics, time.monotonic() - begun)


def scored_rows(
    window: list[TokenizedExample], scores: Mapping[str, np.ndarray], preference: int
) -> list[ScoredExample]:
    """Split the window's scores into rows; the length rule has the preference of the training data."""
    rows, start = [], 0
    for row in window:
        stop = start + len(row.responses)
        row_scores = {name: values[start:stop].astype(np.float64) for name, values in scores.items()}
        lengths = np.array([response.characters for response in row.responses], np.float64)
        row_scores[LENGTH] = lengths * (preference or 1)
        tokens = np.array([len(response.response_ids) for response in row.responses], np.int64)
        rows.append(ScoredExample(row.example, group_key(row.prompt_text), row_scores, tokens))
        start = stop
    return rows


def _check_overlap(
    model: RewardModel, rows: list[ScoredExample], config: EvaluateConfig, note: Note
) -> int | None:
    """Return the number of prompts that were trained on; None if the reward model does not list them.

    Raises:
        BadInputError: some prompts were trained on, and the option that allows it is not set.

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
