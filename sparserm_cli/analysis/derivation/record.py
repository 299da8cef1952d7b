"""What a changed reward model records: where it comes from, what was done, and the spread of its scores.

Axes: `n` responses, `p` projections.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import numpy as np

from sparserm_cli.config import Note
from sparserm_cli.errors import SparseRMError, UsageError
from sparserm_cli.models.head.heads import scores_of
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.row_scorer import RowScorer
from sparserm_cli.stages.fit.measures import REWARD
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.artifacts.reward import CONFIG, RewardConfig, RewardFiles, read_reward
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.provenance import Lineage

_DRAWN = 20_000  # responses drawn to compare the spread of two heads


def check_target(target: PurePath, source: PurePath, *, force: bool) -> None:
    """Refuse to replace the old reward model, and anything that is no reward model.

    Raises:
        UsageError: the folder is the old reward model's, holds something else, or holds a reward model that
            is not to be replaced.

    """
    if target == source:
        raise UsageError("--output", "another folder", f"{target}, that of --reward", "name a new folder")
    if storage_of(target / CONFIG).size() < 0 and not storage_of(target).names():
        return
    try:
        read_reward(target)
    except SparseRMError:
        raise UsageError(str(target), "a new or empty folder", "something else", "name a new one") from None
    if not force:
        raise UsageError(str(target), "a new or empty folder", "a reward model", "use --force")


def one_head(files: RewardFiles, group: str | None, note: Note) -> RewardFiles:
    """Return the reward model with one head: that of a group, or that of all pairs without the groups' heads.

    Args:
        files: the reward model.
        group: name of the group; None for the head of all pairs.
        note: called if heads are left out.

    Raises:
        UsageError: there is no such group.

    """
    if group is None and files.groups:
        note("the heads of the groups are left out; name one with --group to change that one")
    training = {name: value for name, value in files.config.training.items() if name != "groups"}
    alone = replace(files.of_group(group), groups={})
    return replace(alone, config=replace(alone.config, training=training))


def derived(files: RewardFiles, by: str, settings: Mapping[str, Any]) -> RewardConfig:
    """Return the record of a reward model that a command makes of another one.

    The old reward model becomes a parent beside the artifacts that it was made from.

    Args:
        files: the old reward model.
        by: the command.
        settings: what it did.

    """
    old = files.config
    steps = (*old.derivation, {"by": by, "parent": old.lineage.digest, **settings})
    lineage = Lineage(
        old.lineage.type,
        old.lineage.version,
        {**old.lineage.identity, "derivation": list(steps)},
        {**old.lineage.parents, "reward": old.lineage.as_parent()},
    )
    training = {name: value for name, value in old.training.items() if name != "validation"}
    return replace(old, lineage=lineage, derivation=steps, training=training)


def estimated(config: RewardConfig, files: RewardFiles, after: HeadArrays) -> RewardConfig:
    """Return the record with the mean and the spread that a changed head gives to the training responses.

    The training responses are not there, but their covariance is, in the whitening that the distance needs:
    as many responses are drawn from the normal distribution with that covariance, and the change between the
    two heads is added to what the fit measured. The old head's accuracies are left out.

    Args:
        config: the record.
        files: the old reward model.
        after: the changed head.

    """
    count = len(files.head.mean)
    drawn = np.random.default_rng(0).standard_normal((_DRAWN, count))
    if files.whitening is not None:
        drawn = drawn @ np.linalg.inv(files.whitening.astype(np.float64))
    old, new = (
        scores_of(head.weights, drawn.astype(np.float32)).astype(np.float64) for head in (files.head, after)
    )
    spread = float(new.std()) / (float(old.std()) or 1.0)
    return replace(
        config,
        score_mean=config.score_mean + float(new.mean() - old.mean()),
        score_std=config.score_std * spread or 1.0,
        metrics=tuple(metric for metric in config.metrics if metric.scorer != REWARD),
    )


def with_probe(config: RewardConfig, model: RowScorer, after: HeadArrays) -> RewardConfig:
    """Return the record with the score that a changed head gives to the reward model's probe.

    Args:
        config: the record.
        model: the old reward model with its language model.
        after: the changed head.

    """
    row = model.probe()
    if row is None:
        return config
    head = RewardHead(after, config.layers, config.pool, model.head.device)
    return replace(config, probe={**config.probe, "score": float(head(model.pooled([row]))[0])})
