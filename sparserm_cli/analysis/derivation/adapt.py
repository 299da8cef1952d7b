"""`adapt`: make a new reward model whose head has moved towards a few labelled pairs.

Reads: preference pairs, `reward/`, the language model. Writes: a reward model of its own.
Memory: the model's lower blocks, a window of rows, and the projections of all responses.
"""

import time
from dataclasses import replace
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, UInt64

from sparserm_cli.analysis.derivation.record import check_target, derived, estimated, one_head, with_probe
from sparserm_cli.config import AdaptConfig, Note, Progress
from sparserm_cli.data.splits import group_key
from sparserm_cli.errors import BadInputError
from sparserm_cli.locations import parse_location
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.stages.fit.adaptation import Adaptation, adaptation, shifted
from sparserm_cli.stages.fit.measures import REWARD
from sparserm_cli.stages.score.responses import load_reward, responses_reader, windows
from sparserm_cli.statistics.pair_accuracy import Difference, PairAccuracy, difference, pair_accuracy
from sparserm_cli.store.artifacts.reward import (
    Metric,
    RewardConfig,
    RewardFiles,
    reward_folder,
    reward_path,
    write_reward,
)

LEAST_PAIRS, LEAST_PROMPTS = 5, 2
"""Fewest pairs, and prompts of them, that a head can be adapted to."""
SPLIT = "inner folds"
"""Name of the accuracy by heads that had not seen the prompt of a pair."""


class AdaptSummary(NamedTuple):
    """The result of `adapt`.

    Fields:
        path: folder of the new reward model.
        config: everything that is recorded about it.
        found: the shift, and the strengths that were tried.
        old: accuracy of the old head on the pairs.
        new: accuracy of the new head on the inner folds.
        gain: the second less the first, with a paired interval over prompts.
        far: share of the responses that are further from the training responses than 99 % of these are.
        seconds: duration of the command in seconds.
    """

    path: PurePath
    config: RewardConfig
    found: Adaptation
    old: PairAccuracy
    new: PairAccuracy
    gain: Difference
    far: float
    seconds: float


class LabelledPairs(NamedTuple):
    """The pairs to adapt to, as the head sees them.

    Fields:
        differences: chosen less rejected standardised projections of each pair.
        margins: margin of each pair by the old head.
        groups: key of the prompt of each pair.
        ood: distance of each response from the training responses.
    """

    differences: Float64[np.ndarray, "m p"]
    margins: Float64[np.ndarray, " m"]
    groups: UInt64[np.ndarray, " m"]
    ood: Float64[np.ndarray, " n"]


def adapt(config: AdaptConfig, *, progress: Progress, note: Note) -> AdaptSummary:
    """Move the head of a reward model towards labelled pairs, unless inner folds say that this helps nothing.

    Args:
        config: the options.
        progress: called with rows computed and rows read so far.
        note: called with each message for the user.

    Raises:
        UsageError: the folder is not to be replaced.
        BadInputError: the file cannot be read, or has too few pairs or prompts.
        IncompatibleError: the language model is not that of the fit.
        CorruptStoreError: the reward model is damaged.
        ResourceError: the disk is full or the device is missing.

    """
    begun = time.monotonic()
    # 1. Read the pairs as the head sees them.
    source, target = reward_folder(config.reward or reward_path(config.run)), parse_location(config.output)
    check_target(target, source, force=config.force)
    reader = responses_reader(config, purpose="pairs", note=note)
    model = load_reward(config)
    files = one_head(model.files, None, note)
    pairs = _labelled(config, model, windows(model, reader, config, progress))
    # 2. Choose how far the head moves, by folds of the prompts.
    found = adaptation(
        pairs.differences, pairs.margins, pairs.groups, repeats=config.repeats, seed=config.seed
    )
    old, new = (pair_accuracy(margins, pairs.groups) for margins in (pairs.margins, found.margins))
    if found.strength is None:
        note("no strength is better than the old head on the inner folds: the old head is kept")
    # 3. Record what was done, and write the new reward model.
    after = files.head
    if found.strength is not None:
        after = replace(after, weights=shifted(after.weights, found.shift))
    settings = {
        "strength": found.strength,
        "pairs": len(pairs.margins),
        "prompts": len(np.unique(pairs.groups)),
        "repeats": config.repeats,
        "seed": config.seed,
        "inputs": [file.sha256 for file in reader.inputs],
    }
    record = estimated(derived(files, "adapt", settings), files, after)
    record = with_probe(_with_prompts(record, pairs.groups), model, after)
    measured = Metric(REWARD, SPLIT, new.accuracy, new.low, new.high, new.pairs, new.ties)
    record = replace(record, metrics=(measured, *record.metrics))
    written = write_reward(target, RewardFiles(record, after, files.controls, files.whitening))
    gain = difference(found.margins, pairs.margins, pairs.groups)
    far = float(np.mean(pairs.ood > 1))
    return AdaptSummary(target, written.config, found, old, new, gain, far, time.monotonic() - begun)


def _labelled(config: AdaptConfig, model: RewardModel, rows: Any) -> LabelledPairs:
    """Compute the projections of the responses, and the differences of all pairs.

    Raises:
        BadInputError: there are too few pairs or prompts.

    """
    differences, margins, groups, distances = [], [], [], []
    how: dict[str, Any] = {"batch_tokens": config.batch_tokens, "deterministic": config.deterministic}
    for window in rows:
        pooled = model.pooled(window, **how)
        x = model.head.standardised(pooled).cpu().double().numpy()
        scores = model.head(pooled).astype(np.float64)
        distances.append(model.ood(x.astype(np.float32)))
        start = 0
        for row in window:
            places = np.array(row.example.pairs, np.int64).reshape(-1, 2) + start
            start += len(row.responses)
            differences.append(x[places[:, 0]] - x[places[:, 1]])
            margins.append(scores[places[:, 0]] - scores[places[:, 1]])
            groups += [group_key(row.prompt_text)] * len(places)
    prompts = len(set(groups))
    if len(groups) < LEAST_PAIRS or prompts < LEAST_PROMPTS:
        expected = f"at least {LEAST_PAIRS} pairs of {LEAST_PROMPTS} prompts"
        raise BadInputError(config.file, expected, f"{len(groups)} of {prompts}", "label more pairs")
    return LabelledPairs(
        np.concatenate(differences),
        np.concatenate(margins),
        np.array(groups, np.uint64),
        np.concatenate(distances).astype(np.float64),
    )


def _with_prompts(record: RewardConfig, groups: UInt64[np.ndarray, " m"]) -> RewardConfig:
    """Return the record with the prompts of the pairs among those that were trained on."""
    known = record.training.get("prompt_groups")
    if known is None:
        return record
    added = {f"{key:016x}" for key in np.unique(groups)}
    return replace(record, training={**record.training, "prompt_groups": sorted({*known, *added})})
