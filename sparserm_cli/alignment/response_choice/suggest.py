"""`suggest` names the unlabelled pairs whose labels would tell the reward model the most.

Reads: responses, `reward/`, the language model, and `activations.zarr` beside the reward model if it is
there. Writes: `suggestions.jsonl`, by rename when whole, or stdout; a log of scores and projections, so that
a killed run goes on where it was.
Memory: the features of the last layer for each pair (4 bytes x features x pairs: the projections of a linear
head, the hidden units of an MLP), and the projections of the training responses; residual activations are
never kept.
"""

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt64

from sparserm_cli.alignment.response_choice.scored_rows import Refused, Scored, ScoredFile, score_file
from sparserm_cli.config import Note, Progress, SuggestConfig
from sparserm_cli.data.example import Example, plain_prompt
from sparserm_cli.errors import BadInputError
from sparserm_cli.models.head.heads import features_of, kind_of
from sparserm_cli.models.head.information import Design, choose_pairs, information, label_variance
from sparserm_cli.models.head.projections import projections
from sparserm_cli.stages.fit.split import split_pairs
from sparserm_cli.store.artifacts.reward import RewardFiles, read_reward, reward_folder, reward_path
from sparserm_cli.store.capture.artifact import open_capture
from sparserm_cli.store.outputs.json_lines import writing_lines
from sparserm_cli.store.outputs.suggestions import suggestion_line, suggestions_path
from sparserm_cli.store.run.artifacts import read_artifact

BAD_ROW, SINGLE, KNOWN, TOOLS = (
    "they cannot be read, or are too long",
    "fewer than two different responses",
    "their prompt is one of those that the reward model was fitted on",
    "tools, calls or reasoning, which the text of a pair cannot hold",
)
_CHUNK = 4096  # training pairs whose features are computed together


class SuggestSummary(NamedTuple):
    """The results of `suggest`.

    Fields:
        output: path of the suggestions; - means stdout.
        shape: name of the shape of the file's rows.
        read: number of rows read.
        left_out: number of rows left out per reason.
        pairs: number of pairs to choose from.
        prompts: number of their prompts.
        suggested: number of pairs suggested.
        nats: what the labels of all suggested pairs together would add to what is known of the weights.
        trained: number of training pairs whose information counts as known; 0 if the run has no activations.
        seconds: time in seconds for reading, computing and writing.
    """

    output: str
    shape: str
    read: int
    left_out: Mapping[str, int]
    pairs: int
    prompts: int
    suggested: int
    nats: float
    trained: int
    seconds: float


class Pool(NamedTuple):
    """The pairs to choose from.

    Fields:
        rows: number of the row of each pair in the file, from 1.
        places: both responses of each pair, as indices into those of its row.
        groups: key of the prompt of each pair.
        differences: features of the first response less those of the second.
        read: number of rows read.
        left_out: number of rows left out per reason.
    """

    rows: Int64[np.ndarray, " n"]
    places: Int64[np.ndarray, "n 2"]
    groups: UInt64[np.ndarray, " n"]
    differences: Float32[np.ndarray, "n features"]
    read: int
    left_out: Mapping[str, int]


class Known(NamedTuple):
    """What the fit knew.

    Fields:
        precision: precision of the weights of the last layer.
        groups: keys of the prompts of the fit.
        pairs: number of training pairs in the precision.
    """

    precision: Float64[np.ndarray, "features features"]
    groups: UInt64[np.ndarray, " prompts"]
    pairs: int


def suggest(config: SuggestConfig, *, progress: Progress, note: Note) -> SuggestSummary:
    """Choose the pairs of a file that are worth a label.

    The worth of a label is the Fisher information that it adds about the weights of the head's last layer,
    where the head is read as a logistic model of preference (see `models.head.information`). For an MLP head
    the hidden units are taken as they are, and only the weights on them count.

    Args:
        config: the options.
        progress: called with rows scored and rows read so far.
        note: called with messages for the user.

    Raises:
        BadInputError: the file cannot be read as rows, or holds no two responses to a new prompt.
        IncompatibleError: the reward model was fitted on another model, tokenizer or template.
        CorruptStoreError: the reward model, its activations or the log of scores is damaged.
        TemporaryError: another process is scoring this file.
        ResourceError: the disk or the device is not available.

    """
    begun = time.monotonic()
    # 1. Score the rows; the log keeps the projections.
    scored = score_file(config, progress=progress, note=note, projections=True)
    folder = reward_folder(config.reward or reward_path(config.run))
    reward = read_reward(folder)
    # 2. Take what the training pairs have told as known, and the pairs of all other prompts as the pool.
    known = _known(folder, reward, note)
    pool = _pool(scored, reward, known.groups)
    if not len(pool.rows):
        reasons = "; ".join(f"{count:,} rows: {reason}" for reason, count in pool.left_out.items())
        hint = "give prompts that have no label yet, with two responses each"
        raise BadInputError(config.file, "two responses to a new prompt", reasons or "no row", hint)
    # 3. Choose the pairs that together tell the most, and write them with their texts.
    margins = pool.differences @ reward.head.weights[kind_of(reward.head.weights).output]
    variance = label_variance(margins)
    design = choose_pairs(pool.differences, variance, pool.groups, known.precision, config.count)
    output = config.output or str(suggestions_path(config.run))
    with writing_lines(output) as write:
        for line in _lines(scored, pool, design):
            write(line)
    return SuggestSummary(
        output,
        scored.shape,
        pool.read,
        pool.left_out,
        len(pool.rows),
        len(np.unique(pool.groups)),
        len(design.pairs),
        float(design.nats.sum()),
        known.pairs,
        time.monotonic() - begun,
    )


def _known(folder: PurePath, reward: RewardFiles, note: Note) -> Known:
    """Return the information of the penalty and, where the activations of the fit are there, of its pairs."""
    config, weights = reward.config, reward.head.weights
    training = config.training
    size = len(weights[kind_of(weights).output])
    pairs = int(training.get("train_pairs", 0)) + int(training.get("validation_pairs", 0))
    precision = np.eye(size) * _penalty(training, pairs)
    parent = config.lineage.parents.get("activations")
    present = read_artifact(folder.parent, "activations").lineage
    if parent is None or present is None or present.digest != parent.digest:
        note(
            f"{folder.parent} has not the activations of the fit, so what its pairs have told does not count"
        )
        listed = training.get("prompt_groups") or []
        return Known(precision, np.array([int(key, 16) for key in listed], np.uint64), 0)
    capture = open_capture(folder.parent)
    split = split_pairs(capture, config.val_fraction, config.seed)
    rows = reward.head.directions
    taken = projections(capture, config.layers, config.pool, rows, split.rows)
    x = (taken - reward.head.mean) / reward.head.std
    for start in range(0, len(split.pairs), _CHUNK):
        first, second = (features_of(weights, x[side]) for side in split.pairs[start : start + _CHUNK].T)
        differences = first - second
        margins = differences @ weights[kind_of(weights).output]
        precision += information(differences, label_variance(margins))
    return Known(precision, np.unique(split.groups), len(split.pairs))


def _penalty(training: Mapping[str, Any], pairs: int) -> float:
    """Return the precision that the penalty of the fit stands for: its strength times the number of pairs.

    The fit minimises the mean loss of the pairs plus half the strength times the squared weights, so the
    strength counts once per pair. The geometry of the penalty, its whitening, is left out. Views of a head
    have a strength each, of which the mean is taken; a head without a recorded strength has a precision of 1.
    """
    views = [view["l2"] for view in training.get("views", [training]) if "l2" in view]
    return float(np.mean(views)) * max(pairs, 1) if views else 1.0


def _pool(scored: ScoredFile, reward: RewardFiles, known: UInt64[np.ndarray, " prompts"]) -> Pool:
    """Return the pairs of two different responses to a prompt that the fit has not seen."""
    seen, weights = set(known.tolist()), reward.head.weights
    left_out: Counter[str] = Counter()
    rows: list[int] = []
    places: list[tuple[int, int]] = []
    groups: list[int] = []
    differences: list[np.ndarray] = []
    read = 0
    for row in scored:
        read += 1 if isinstance(row, Refused) else row.example.rows
        reason = _reason(row, seen)
        if isinstance(row, Refused) or reason:
            left_out[reason] += 1
            continue
        features = features_of(weights, _projections(row))
        for first, second in _pairs(row.example):
            rows.append(row.example.row)
            places.append((first, second))
            groups.append(row.group or 0)
            differences.append(features[first] - features[second])
    size = len(weights[kind_of(weights).output])
    return Pool(
        np.array(rows, np.int64),
        np.array(places, np.int64).reshape(-1, 2),
        np.array(groups, np.uint64),
        np.stack(differences) if differences else np.empty((0, size), np.float32),
        read,
        dict(left_out),
    )


def _reason(row: Scored | Refused, seen: set[int]) -> str:
    """Return why a row gives no pair; empty if it gives one."""
    if isinstance(row, Refused):
        return BAD_ROW
    if row.example.turns or row.example.tools:
        return TOOLS
    if not _pairs(row.example):
        return SINGLE
    return KNOWN if row.group in seen else ""


def _pairs(example: Example) -> list[tuple[int, int]]:
    """Return the pairs of different responses, by index."""
    texts = example.responses
    return [pair for pair in itertools.combinations(range(len(texts)), 2) if texts[pair[0]] != texts[pair[1]]]


def _projections(row: Scored) -> Float32[np.ndarray, "responses p"]:
    """Return the projections of a row that was scored with them."""
    assert row.projections is not None  # noqa: S101 - score_file was asked for them
    return row.projections


def _lines(scored: ScoredFile, pool: Pool, design: Design) -> Iterator[dict[str, Any]]:
    """Yield the line of each chosen pair, in the order of the design."""
    wanted = set(pool.rows[design.pairs].tolist())
    texts = {row.example.row: row for row in scored if isinstance(row, Scored) and row.example.row in wanted}
    for pair, nats in zip(design.pairs, design.nats, strict=True):
        row, (first, second) = texts[int(pool.rows[pair])], pool.places[pair]
        example = row.example
        responses = example.responses[first], example.responses[second]
        difference = float(row.scores[first] - row.scores[second])
        prompt = plain_prompt(example.prompt)
        yield suggestion_line(example.row, example.id, prompt, responses, difference, float(nats))
