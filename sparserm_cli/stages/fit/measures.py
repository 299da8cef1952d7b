"""Measure heads on the stored pairs of a capture: accuracies, the spread of the scores, and the probe.

Reads: the pooled vectors of a capture. Memory: one block of them, and one score per response and head.

Axes: `n` responses of the pairs, `m` pairs, `p` projections.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64

from sparserm_cli.stages.fit.controls import LENGTH, FittedHead
from sparserm_cli.stages.fit.split import Split
from sparserm_cli.statistics.pair_accuracy import difference, pair_accuracy
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.artifacts.reward import Metric, RewardConfig
from sparserm_cli.store.capture.reader import ActivationsReader

REWARD = "reward"
"""Name of the reward head among the scorers."""


def measured(
    config: RewardConfig, capture: ActivationsReader, heads: Mapping[str, FittedHead], split: Split
) -> RewardConfig:
    """Add the accuracies, and the mean and standard deviation of the scores.

    On validation pairs every scorer is judged as it was before the final fit, which includes these pairs.
    """
    stored = {name: fitted.final for name, fitted in heads.items()}
    validated = {name: fitted.validated for name, fitted in heads.items()}
    final = scores_of_heads(config, capture, stored, split)
    before = scores_of_heads(config, capture, validated, split)
    held_out = metrics_of("validation", before, split, split.validation)
    everything = np.ones(len(split.pairs), bool)
    return replace(
        config,
        training={**config.training, "validation": _comparison(before, split)},
        metrics=(*held_out, *metrics_of("train", final, split, everything)),
        score_mean=float(final[REWARD].mean()),
        score_std=float(final[REWARD].std()) or 1.0,
    )


def scores_of_heads(
    config: RewardConfig, capture: ActivationsReader, heads: Mapping[str, HeadArrays], split: Split
) -> dict[str, Float64[np.ndarray, " n"]]:
    """Score the responses of the pairs with every head and by length, in one pass over the capture."""
    from sparserm_cli.models.head.reward_head import RewardHead

    ready = {
        name: RewardHead(arrays, config.layers, config.pool if arrays.directions else "mean")
        for name, arrays in heads.items()
    }
    places = sorted(
        {(layer, name) for head in ready.values() for layer in head.layers for name in head.poolings}
    )
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ready}
    for blocks in zip(*(capture.iter_pooled(*place) for place in places), strict=True):
        start, count = blocks[0][0], len(blocks[0][1])
        first, last = np.searchsorted(split.rows, [start, start + count])
        local = split.rows[first:last] - start
        pooled: dict[int, dict[str, np.ndarray]] = {layer: {} for layer in config.layers}
        for (layer, name), (_, block) in zip(places, blocks, strict=True):
            pooled[layer][name] = block[local]
        for name, head in ready.items():
            parts[name].append(head(pooled))
    scores = {name: np.concatenate(blocks).astype(np.float64) for name, blocks in parts.items()}
    lengths = capture.response_lengths[split.rows].astype(np.float64)
    return {**scores, LENGTH: lengths * (config.length_preference or 1)}


def metrics_of(
    part: str,
    scores: Mapping[str, Float64[np.ndarray, " n"]],
    split: Split,
    mask: Bool[np.ndarray, " m"],
) -> list[Metric]:
    """Return the accuracy of every scorer on some pairs; the list is empty if there are no pairs."""
    if not mask.any():
        return []
    pairs, groups, metrics = split.pairs[mask], split.groups[mask], []
    for name, values in scores.items():
        result = pair_accuracy(values[pairs[:, 0]] - values[pairs[:, 1]], groups)
        numbers = (result.accuracy, result.low, result.high, result.pairs, result.ties)
        metrics.append(Metric(name, part, *numbers))
    return metrics


def _comparison(scores: Mapping[str, Float64[np.ndarray, " n"]], split: Split) -> dict[str, Any]:
    """Return the number of validation prompts, and the head's accuracy less that of each control on them."""
    pairs, groups = split.pairs[split.validation], split.groups[split.validation]
    margins = {name: values[pairs[:, 0]] - values[pairs[:, 1]] for name, values in scores.items()}
    head = margins.pop(REWARD)
    ahead = {name: difference(head, values, groups)._asdict() for name, values in margins.items()}
    return {"prompts": len(np.unique(groups)), "reward_less": ahead}


def probe_of(
    capture: ActivationsReader, split: Split, taken: Float32[np.ndarray, "n p"], head: HeadArrays
) -> dict[str, Any]:
    """Return the shortest response of the pairs with its score, with which a loaded model can test itself."""
    from sparserm_cli.models.head.reward_head import RewardHead

    place = int(capture.response_lengths[split.rows].argmin())
    response = int(split.rows[place])
    ready = RewardHead(replace(head, directions={}), (0,), "mean")
    return {
        "prompt": capture.rows.prompt_ids(int(capture.rows.response_prompt[response])).tolist(),
        "response": capture.token_ids(response).tolist(),
        "score": float(ready({0: {"mean": taken[place : place + 1]}})[0]),
    }
