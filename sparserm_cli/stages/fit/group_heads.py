"""One head per group of pairs (annotator, domain, rubric) over the same directions: `fit --by COLUMN`.

Each head begins at the one of all pairs and moves towards its group's training pairs by ridge, with a
strength from inner folds of the group's prompts; where no move helps on them, the group keeps that head.

Reads: the data that were captured, for the column. Memory: a name per row that has pairs.

Axes: `n` responses of the pairs, `m` pairs, `p` projections.
"""

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Shaped

from sparserm_cli.data.example import Example
from sparserm_cli.data.reader import Reader
from sparserm_cli.errors import BadInputError, IncompatibleError, UsageError
from sparserm_cli.stages.fit.adaptation import adaptation, shifted
from sparserm_cli.stages.fit.controls import FittedHead
from sparserm_cli.stages.fit.measures import probe_of
from sparserm_cli.stages.fit.split import Split
from sparserm_cli.statistics.pair_accuracy import difference, pair_accuracy
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.capture.plan import input_path
from sparserm_cli.store.capture.reader import ActivationsReader

LEAST_PAIRS, LEAST_PROMPTS = 5, 2
"""Fewest training pairs, and prompts of them, that a head of its own can be fitted to."""
_REPEATS = 5  # times that a group's prompts are divided into folds
_MOST_GROUPS = 1000


class GroupHeads(NamedTuple):
    """The heads of all groups.

    Fields:
        heads: name of a group to its head.
        facts: what is recorded: the column, and for each group its pairs, the strength (null where the head
            of all pairs was kept) and, on the group's validation pairs, the accuracy of both heads and their
            difference.
    """

    heads: Mapping[str, HeadArrays]
    facts: Mapping[str, Any]

    def recorded(
        self, capture: ActivationsReader, split: Split, taken: Float32[np.ndarray, "n p"]
    ) -> dict[str, Any]:
        """Return the facts with the score that each head gives to the reward model's probe."""
        heads = {
            name: {**self.facts["heads"][name], "probe": probe_of(capture, split, taken, head)["score"]}
            for name, head in self.heads.items()
        }
        return {**self.facts, "heads": heads}


def groups_of_pairs(
    capture: ActivationsReader, run: PurePath, column: str, offline: bool = True
) -> Shaped[np.ndarray, " m"]:
    """Return the group of each stored pair whose responses have vectors, from the data that were captured.

    Args:
        capture: the activations.
        run: the run directory.
        column: name of the column of the data.
        offline: take a data set of the hub from the cache.

    Raises:
        UsageError: the data have no such column.
        BadInputError: the data are not there any more, or a row lacks the column.
        IncompatibleError: the data have changed since they were captured.

    """
    settings = capture.plan.settings
    paths = [str(input_path(run, file)) for file in settings.inputs]
    for path, file in zip(paths, settings.inputs, strict=True):
        if not Path(path).exists():
            hint = "put the file back; its column is not in the capture"
            raise BadInputError(path, f"the data of the capture ({file.sha256[:12]}...)", "no file", hint)
    reader = Reader(
        ",".join(paths),
        purpose="pairs",
        columns=settings.columns,
        split=settings.split,
        limit=settings.limit,
        on_bad_row="reject",
        offline=offline,
    )
    values = {example.row: _value(example, column) for example in reader}
    found, expected = ([file.sha256 for file in files] for files in (reader.inputs, settings.inputs))
    if found != expected:
        raise IncompatibleError(", ".join(paths), f"sha256 {expected}", str(found), "restore the data")
    if not any(value is not None for value in values.values()):
        names = sorted(reader.ignored)
        near = get_close_matches(column, names, n=3, cutoff=0.0)
        hint = f"its other columns are {', '.join(near)}" if near else "it has no other columns"
        raise UsageError("--by", f"a column of {', '.join(paths)}", repr(column), hint)
    pairs, present = capture.pairs(), capture.present()
    rows = pairs.row[present[pairs.chosen] & present[pairs.rejected]]
    for row in np.unique(rows):
        if values.get(int(row)) is None:
            where, hint = f"{', '.join(paths)}: row {row}", "complete the column, and extract again"
            raise BadInputError(where, f"a value of {column}", "none", hint)
    return np.array([values[int(row)] for row in rows])


def fit_groups(
    split: Split,
    taken: Float32[np.ndarray, "n p"],
    head: FittedHead,
    names: Shaped[np.ndarray, " m"],
    column: str,
    seed: int,
) -> GroupHeads:
    """Fit a head for each group.

    Args:
        split: the pairs.
        taken: projections of the responses of the pairs.
        head: the head of all pairs.
        names: group of each pair.
        column: name of the column that they come from.
        seed: seed of the inner folds.

    Raises:
        UsageError: there are too many groups.

    """
    if len(np.unique(names)) > _MOST_GROUPS:
        found = f"{len(np.unique(names)):,} groups"
        raise UsageError("--by", f"at most {_MOST_GROUPS:,} groups", found, "name another column")
    x = ((taken - head.final.mean) / head.final.std).astype(np.float32)
    heads, facts = {}, {}
    for name in np.unique(names).tolist():
        own = split.subset(np.flatnonzero(names == name))
        heads[name], facts[name] = _fit_group(own, x, head, seed)
    return GroupHeads(heads, {"column": column, "heads": facts})


def _fit_group(
    own: Split, x: Float32[np.ndarray, "n p"], head: FittedHead, seed: int
) -> tuple[HeadArrays, dict[str, Any]]:
    """Fit one group's head, and measure it beside the head of all pairs on the group's validation pairs."""
    from sparserm_cli.models.head.heads import scores_of

    learned, held = own.pairs[~own.validation], own.pairs[own.validation]
    facts: dict[str, Any] = {"train_pairs": len(learned), "strength": None}
    scores = scores_of(head.validated.weights, x).astype(np.float64)
    weights = {"final": dict(head.final.weights), "validated": dict(head.validated.weights)}
    groups = own.groups[~own.validation]
    if len(learned) >= LEAST_PAIRS and len(np.unique(groups)) >= LEAST_PROMPTS:
        differences = (x[learned[:, 0]] - x[learned[:, 1]]).astype(np.float64)
        margins = scores[learned[:, 0]] - scores[learned[:, 1]]
        found = adaptation(differences, margins, groups, repeats=_REPEATS, seed=seed)
        facts["strength"] = found.strength
        if found.strength is not None:
            weights = {key: shifted(tensors, found.shift) for key, tensors in weights.items()}
    moved = scores_of(weights["validated"], x).astype(np.float64)
    shared, ours = (values[held[:, 0]] - values[held[:, 1]] for values in (scores, moved))
    if len(held):
        at = own.groups[own.validation]
        facts["shared"] = pair_accuracy(shared, at)._asdict()
        facts["own"] = pair_accuracy(ours, at)._asdict()
        facts["own_less_shared"] = difference(ours, shared, at)._asdict()
    members = np.unique(own.pairs)
    final = scores_of(weights["final"], x[members])
    facts |= {"score_mean": float(final.mean()), "score_std": float(final.std()) or 1.0}
    return replace(head.final, weights=weights["final"]), facts


def _value(example: Example, column: str) -> str | None:
    """Return the value of a row's column as text; None if the row has none."""
    if column in {"subset", "category"} and example.subset is not None:
        return example.subset
    value = example.id if column == "id" else example.extra.get(column)
    return None if value is None else str(value)
