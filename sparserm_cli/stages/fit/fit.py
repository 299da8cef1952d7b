"""`fit`: fit the reward head on the projections, and the controls that it has to be compared with.

Reads: `activations.zarr` (pooled vectors), `directions/`. Writes: `reward/`.
Memory: two copies of the projections (4 bytes x projections x responses), and the pooled vectors of the pairs
that fit the dense control.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt64

from sparserm_cli.config import FitConfig, HeadSetting, Note, Progress
from sparserm_cli.models.head.baselines import length_preference
from sparserm_cli.models.head.out_of_distribution import training_distances
from sparserm_cli.models.head.projections import projections
from sparserm_cli.stages.fit.controls import (
    LENGTH,
    FittedHead,
    fit_controls,
    fit_projections,
)
from sparserm_cli.stages.fit.model_selection import (
    best_setting,
    final_share,
    selection_record,
    setting_identity,
    try_settings,
)
from sparserm_cli.stages.fit.split import Split, split_pairs, weighted_by_margin
from sparserm_cli.stages.fit.style import find_style, style_sentence, twins_digest, without_style
from sparserm_cli.statistics.pair_accuracy import difference, pair_accuracy
from sparserm_cli.store.artifacts.directions import Directions, directions_path, read_directions
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.artifacts.reward import (
    TYPE,
    VERSION,
    Metric,
    RewardConfig,
    RewardFiles,
    read_reward,
    reward_path,
    write_reward,
)
from sparserm_cli.store.capture.artifact import open_capture
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.io.atomic import sweep
from sparserm_cli.store.provenance import Lineage, check_parent
from sparserm_cli.store.run.artifacts import is_made, read_artifact
from sparserm_cli.store.run.locks import run_lock

REWARD = "reward"
"""Name of the reward head among the scorers."""
PROMPTS_LISTED = 100_000
"""Largest number of training prompts that the config lists, so that `evaluate` can report an overlap."""


class FitSummary(NamedTuple):
    """The result of `fit`.

    Fields:
        path: folder of the reward model.
        config: everything that is recorded about it, including the accuracies of the head and the controls.
        seconds: duration of the command in seconds.
        fresh: whether the reward model was up to date already.
    """

    path: PurePath
    config: RewardConfig
    seconds: float
    fresh: bool


def fit(config: FitConfig, *, progress: Progress, note: Note) -> FitSummary:
    """Fit the reward head and its controls, and measure them on the validation prompts, unless that is done.

    Args:
        config: the options.
        progress: called with steps done and steps in all.
        note: called with each message for the user.

    Raises:
        BadInputError: there are no training or no validation pairs, or too few prompts for model selection.
        UsageError: pairs are to count by their margins, and the capture has none.
        IncompatibleError: activations or directions are missing, or do not belong together.
        CorruptStoreError: activations or directions are damaged.
        ResourceError: the disk is full.
        TemporaryError: another run holds the directory.

    """
    begun = time.monotonic()
    # 1. Read the directions, and check that they were made from the present activations.
    capture = open_capture(config.run)
    directions = read_directions(config.run)
    _check_ancestors(config.run, directions)
    _warn_of_other_split(config, directions, note)
    identity = {**setting_identity(config), "val_fraction": config.val_fraction, "seed": config.seed}
    if config.weights is not None:  # left out otherwise, so that earlier reward models stay up to date
        identity["weights"] = config.weights
    if config.invariant_to is not None:
        identity["invariant_to"] = twins_digest(config.invariant_to)
    parents = {"activations": capture.lineage.as_parent(), "directions": directions.lineage.as_parent()}
    lineage, path = Lineage(TYPE, VERSION, identity, parents), reward_path(config.run)
    if is_made(config.run, lineage):
        note(f"{path.name} is up to date")
        return FitSummary(path, read_reward(path).config, time.monotonic() - begun, fresh=True)
    # 2. Split the pairs by prompt into training and validation pairs.
    split, weighing = split_pairs(capture, config.val_fraction, config.seed), dict[str, Any]()
    if config.weights == "margin":
        split, weights = weighted_by_margin(split, capture)
        weighing = {"weights": weights}
        note(_of_weights(weights))
    # 3. Choose the setting of the head: the given one, or the best on folds of the training prompts.
    rows = {layer: selected.rows for layer, selected in directions.layers.items()}
    style = None
    if config.invariant_to is not None:
        pool = "both" if config.choose else config.setting.pool
        style = find_style(config.invariant_to, capture, split, tuple(rows), pool, config.seed)
        rows, weighing = without_style(rows, style), {**weighing, "style": style.facts}
        note(style_sentence(style))
    tried = try_settings(capture, split, rows, config.seed, progress) if config.choose else []
    setting = best_setting(tried).setting if tried else config.setting
    # 4. Fit the head on the projections, and the controls on the same pairs.
    taken = projections(capture, tuple(rows), setting.pool, rows, split.rows)
    head = fit_projections(split, taken, setting, config.seed, rows, final_share(progress, tried))
    note("fitting the controls: random directions, dense, difference of means")
    controls = fit_controls(capture, split, rows, setting, config.seed, style)
    # 5. Measure them as they will be stored; the reward model then appears whole or not at all.
    facts = {**head.facts, **selection_record(tried), **weighing}
    record = _recorded(lineage, capture, directions, split, setting, facts)
    record = _measured(record, capture, {REWARD: head, **controls}, split)
    x, groups = _training_responses(split, (taken - head.final.mean) / head.final.std)
    whitening, quantiles = training_distances(x, groups, config.seed)
    record = replace(record, distance=quantiles, probe=_probe(capture, split, taken, head.final))
    stored = {name: control.final for name, control in controls.items()}
    with run_lock(config.run):
        sweep(config.run, everything=True)
        written = write_reward(path, RewardFiles(record, head.final, stored, whitening))
    return FitSummary(path, written.config, time.monotonic() - begun, fresh=False)


def _check_ancestors(run: PurePath, directions: Directions) -> None:
    """Check that the directions were made from the present artifacts; deleted ones are not required.

    Raises:
        IncompatibleError: an artifact differs; the error names it and the first field that differs.

    """
    for name, recorded in directions.lineage.parents.items():
        present = read_artifact(run, name).lineage
        if present is not None:
            where = f"{directions_path(run)} (from {name})"
            check_parent(
                where, recorded, present.as_parent(), "run `sparserm frequency` and `sparserm select`"
            )


def _warn_of_other_split(config: FitConfig, directions: Directions, note: Note) -> None:
    """Warn if validation prompts took part in the selection."""
    counted = directions.lineage.parent("frequency").identity
    if (counted.get("val_fraction"), counted.get("seed")) != (config.val_fraction, config.seed):
        note(
            "the frequencies were counted with another --val-fraction or --seed: "
            "validation prompts had a part in the selection"
        )


def _of_weights(weights: Mapping[str, Any]) -> str:
    """Say how the pairs are weighed."""
    parts = [f"each pair counts by its margin, {weights['mean_margin']:.3g} on average"]
    if weights["unknown"]:
        parts.append(f"{weights['unknown']:,} pairs without a margin count as the average pair")
    if weights["not_above_0"]:
        parts.append(f"{weights['not_above_0']:,} pairs with a margin of 0 or below do not count")
    return "; ".join(parts)


def _recorded(
    lineage: Lineage,
    capture: ActivationsReader,
    directions: Directions,
    split: Split,
    setting: HeadSetting,
    facts: Mapping[str, Any],
) -> RewardConfig:
    """Return everything that is recorded about the reward model, except its accuracies and scores."""
    settings, selected_by = capture.plan.settings, directions.lineage.identity
    features = directions.lineage.parent("features").identity
    training = split.pairs[~split.validation]
    prompts = np.unique(split.groups[~split.validation])
    lengths = capture.response_lengths.astype(np.int64)[split.rows]
    template = {"model": None, "raw": "raw"}.get(settings.template_source, settings.template_source)
    hooks = dict(zip(settings.layers, settings.hook_names, strict=True))
    return RewardConfig(
        lineage=lineage,
        model=settings.model,
        model_revision=settings.model_revision,
        tokenizer=settings.tokenizer,
        template=template,
        template_text=settings.template_text,
        template_digest=settings.template,
        layers=tuple(directions.layers),
        hook_names=tuple(hooks[layer] for layer in directions.layers),
        d_in=settings.d_in,
        dtype=settings.dtype,
        max_length=settings.max_length,
        **vars(setting),
        val_fraction=lineage.identity["val_fraction"],
        seed=lineage.identity["seed"],
        selection={
            **selected_by,
            "sae": features.get("sae"),
            "sae_digest": features.get("sae_digest"),
            "latents": {str(layer): chosen.feature.tolist() for layer, chosen in directions.layers.items()},
            "sides": {str(layer): chosen.side.tolist() for layer, chosen in directions.layers.items()},
        },
        training={
            "inputs": settings.identity()["inputs"],
            "train_pairs": len(training),
            "validation_pairs": int(split.validation.sum()),
            "train_prompts": len(prompts),
            "prompt_groups": [f"{key:016x}" for key in prompts] if len(prompts) <= PROMPTS_LISTED else None,
            **facts,
        },
        length_preference=length_preference(lengths, training, split.weight[~split.validation]),
    )


def _measured(
    config: RewardConfig, capture: ActivationsReader, heads: Mapping[str, FittedHead], split: Split
) -> RewardConfig:
    """Add the accuracies, and the mean and standard deviation of the scores.

    On validation pairs every scorer is judged as it was before the final fit, which includes these pairs.
    """
    final = _scores(config, capture, {name: fitted.final for name, fitted in heads.items()}, split)
    before = _scores(config, capture, {name: fitted.validated for name, fitted in heads.items()}, split)
    held_out = _metrics("validation", before, split, split.validation)
    everything = np.ones(len(split.pairs), bool)
    return replace(
        config,
        training={**config.training, "validation": _comparison(before, split)},
        metrics=(*held_out, *_metrics("train", final, split, everything)),
        score_mean=float(final[REWARD].mean()),
        score_std=float(final[REWARD].std()) or 1.0,
    )


def _scores(
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


def _metrics(
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


def _training_responses(
    split: Split, x: Float32[np.ndarray, "n p"]
) -> tuple[Float32[np.ndarray, "train p"], UInt64[np.ndarray, " train"]]:
    """Return the standardised projections of the responses of training pairs, and the prompt of each."""
    training = ~split.validation
    responses, first = np.unique(split.pairs[training], return_index=True)
    return x[responses], np.repeat(split.groups[training], 2)[first]


def _probe(
    capture: ActivationsReader, split: Split, taken: Float32[np.ndarray, "n p"], head: HeadArrays
) -> dict[str, Any]:
    """Return the shortest response of the pairs with its score, with which a loaded model can test itself."""
    place = int(capture.response_lengths[split.rows].argmin())
    response = int(split.rows[place])
    from sparserm_cli.models.head.reward_head import RewardHead

    ready = RewardHead(replace(head, directions={}), (0,), "mean")
    return {
        "prompt": capture.rows.prompt_ids(int(capture.rows.response_prompt[response])).tolist(),
        "response": capture.token_ids(response).tolist(),
        "score": float(ready({0: {"mean": taken[place : place + 1]}})[0]),
    }
