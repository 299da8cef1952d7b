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
from jaxtyping import Float32, UInt64

from sparserm_cli.config import FitConfig, HeadSetting, Note, Progress
from sparserm_cli.models.head.baselines import length_preference
from sparserm_cli.models.head.out_of_distribution import training_distances
from sparserm_cli.models.head.projections import projections
from sparserm_cli.stages.fit.controls import FITTED, fit_controls, fit_projections
from sparserm_cli.stages.fit.group_heads import GroupHeads, fit_groups, groups_of_pairs
from sparserm_cli.stages.fit.measures import REWARD, measured, probe_of
from sparserm_cli.stages.fit.model_selection import (
    best_setting,
    final_share,
    selection_record,
    setting_identity,
    try_settings,
)
from sparserm_cli.stages.fit.split import Split, split_pairs, weighted_by_margin
from sparserm_cli.stages.fit.style import Style, find_style, style_sentence, twins_digest, without_style
from sparserm_cli.store.artifacts.directions import Directions, directions_path, read_directions
from sparserm_cli.store.artifacts.penalties import penalties_of
from sparserm_cli.store.artifacts.reward import (
    TYPE,
    VERSION,
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
        UsageError: pairs are to count by their margins, and the capture has none, or twins are not captured.
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
    parents = {"activations": capture.lineage.as_parent(), "directions": directions.lineage.as_parent()}
    lineage, path = Lineage(TYPE, VERSION, _identity(config), parents), reward_path(config.run)
    if is_made(config.run, lineage):
        note(f"{path.name} is up to date")
        return FitSummary(path, read_reward(path).config, time.monotonic() - begun, fresh=True)
    # 2. Split the pairs by prompt into training and validation pairs.
    split, weighing = split_pairs(capture, config.val_fraction, config.seed), dict[str, Any]()
    if config.weights == "margin":
        split, weights = weighted_by_margin(split, capture)
        weighing = {"weights": weights}
        note(_of_weights(weights))
    names = groups_of_pairs(capture, config.run, config.by) if config.by is not None else np.empty(0, str)
    # 3. Choose the setting of the head: the given one, or the best on folds of the training prompts.
    rows = {layer: selected.rows for layer, selected in directions.layers.items()}
    if (style := _style_of(config, capture, split, tuple(rows), note)) is not None:
        rows, weighing = without_style(rows, style), {**weighing, "style": style.facts}
    tried = try_settings(capture, split, rows, config.seed, progress) if config.choose else []
    setting = best_setting(tried).setting if tried else config.setting
    # 4. Fit the head on the projections, and the controls on the same pairs.
    taken = projections(capture, tuple(rows), setting.pool, rows, split.rows)
    head = fit_projections(split, taken, setting, config.seed, rows, final_share(progress, tried))
    by_group = GroupHeads({}, {})
    if config.by is not None:
        by_group = fit_groups(split, taken, head, names, config.by, config.seed)
    note(f"fitting the controls: {', '.join(FITTED)}")
    controls = fit_controls(capture, split, rows, setting, config.seed, style)
    # 5. Measure them as they will be stored; the reward model then appears whole or not at all.
    penalties = {name: penalties_of(control.facts) for name, control in controls.items()}
    facts = {**head.facts, **selection_record(tried), **weighing, "control_penalties": penalties}
    if by_group.heads:
        facts["groups"] = by_group.recorded(capture, split, taken)
    record = _recorded(lineage, capture, directions, split, setting, facts)
    record = measured(record, capture, {REWARD: head, **controls}, split)
    x, groups = _training_responses(split, (taken - head.final.mean) / head.final.std)
    whitening, quantiles = training_distances(x, groups, config.seed)
    record = replace(record, distance=quantiles, probe=probe_of(capture, split, taken, head.final))
    stored = {name: control.final for name, control in controls.items()}
    with run_lock(config.run):
        sweep(config.run, everything=True)
        weights = {name: arrays.weights for name, arrays in by_group.heads.items()}
        written = write_reward(path, RewardFiles(record, head.final, stored, whitening, weights))
    return FitSummary(path, written.config, time.monotonic() - begun, fresh=False)


def _identity(config: FitConfig) -> dict[str, Any]:
    """Return the options on which the reward model depends.

    Later options are left out where they are not used, so that earlier reward models stay up to date.
    """
    identity = {**setting_identity(config), "val_fraction": config.val_fraction, "seed": config.seed}
    for name in ("weights", "by"):
        if getattr(config, name) is not None:
            identity[name] = getattr(config, name)
    if config.invariant_to is not None:
        identity["invariant_to"] = twins_digest(config.invariant_to)
    return identity


def _style_of(
    config: FitConfig, capture: ActivationsReader, split: Split, layers: tuple[int, ...], note: Note
) -> Style | None:
    """Find what the twins of `--invariant-to` say that style moves; None without the option."""
    if config.invariant_to is None:
        return None
    pool = "both" if config.choose else config.setting.pool
    style = find_style(config.invariant_to, capture, split, layers, pool, config.seed)
    note(style_sentence(style))
    return style


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


def _training_responses(
    split: Split, x: Float32[np.ndarray, "n p"]
) -> tuple[Float32[np.ndarray, "train p"], UInt64[np.ndarray, " train"]]:
    """Return the standardised projections of the responses of training pairs, and the prompt of each."""
    training = ~split.validation
    responses, first = np.unique(split.pairs[training], return_index=True)
    return x[responses], np.repeat(split.groups[training], 2)[first]
