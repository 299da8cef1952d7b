"""`edit`: make a new reward model in which some directions count less, more or not at all.

Reads: `reward/`; the activations of its run, where they are there; with `--on` preference pairs and the
language model. Writes: a reward model of its own. Memory: the projections of the run's pairs, or the model's
lower blocks, a window of rows, and about 100 bytes per pair of `--on`.
"""

import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import PurePath
from typing import Any, NamedTuple

from sparserm_cli.analysis.derivation.change import AFTER, BEFORE, Change, change_of, pairs_of_rows
from sparserm_cli.analysis.derivation.factors import columns_of, counts, factors_of, with_factors
from sparserm_cli.analysis.derivation.own_run import OwnRun
from sparserm_cli.analysis.derivation.record import check_target, derived, estimated, one_head, with_probe
from sparserm_cli.analysis.evaluate.evaluate import scored_rows
from sparserm_cli.analysis.evaluate.rules import ScoredExample
from sparserm_cli.config import EditConfig, Note, Progress
from sparserm_cli.errors import BadInputError, IncompatibleError, UsageError
from sparserm_cli.locations import parse_location
from sparserm_cli.models.head.attribution import direction_names
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.stages.fit.controls import FittedHead
from sparserm_cli.stages.score.responses import load_reward, responses_reader, windows
from sparserm_cli.store.artifacts.descriptions import names_of
from sparserm_cli.store.artifacts.directions import TYPE as DIRECTIONS
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.artifacts.reward import (
    RewardConfig,
    RewardFiles,
    read_reward,
    reward_folder,
    reward_path,
    write_reward,
)


class EditSummary(NamedTuple):
    """The result of `edit`.

    Fields:
        path: folder of the new reward model.
        config: everything that is recorded about it.
        factors: direction to its factor, of the directions that were changed.
        spread: mean and standard deviation of the training scores of the old reward model.
        changes: set of pairs (`validation`, or the file's name) to what the edit does on it.
        seconds: duration of the command in seconds.
    """

    path: PurePath
    config: RewardConfig
    factors: Mapping[str, float]
    spread: tuple[float, float]
    changes: Mapping[str, Change]
    seconds: float


def edit(config: EditConfig, *, progress: Progress, note: Note) -> EditSummary:
    """Drop or scale directions of a reward model, and compare the new one with the old one.

    Args:
        config: the options.
        progress: called with rows scored and rows read so far.
        note: called with each message for the user.

    Raises:
        UsageError: a direction is not known, none is left, or the folder is not to be replaced.
        BadInputError: the file of pairs cannot be read, or prefers no response.
        IncompatibleError: a new fit is wanted and the run of the reward model is not there, or the language
            model is not that of the fit.
        CorruptStoreError: the reward model or the activations are damaged.
        ResourceError: the disk is full or the device is missing.

    """
    begun = time.monotonic()
    # 1. Read the reward model, and what is to be changed.
    source, target = reward_folder(config.reward or reward_path(config.run)), parse_location(config.output)
    check_target(target, source, force=config.force)
    reader = responses_reader(config, purpose="pairs", note=note) if config.file else None
    edited = _Edit(config, one_head(read_reward(source), config.group, note))
    # 2. Change the head, and compare both heads on the validation pairs of the run, where it is there.
    after, changes = edited.head, dict[str, Change]()
    record = derived(edited.files, "edit", {"factors": dict(edited.factors), "refit": config.refit})
    if edited.own is None:
        note(f"{config.run} is not the run of this reward model: nothing is measured on validation pairs")
        record = with_probe(estimated(record, edited.files, after), edited.model, after)
    else:
        before, judged = edited.judged
        record = edited.own.recorded(record, after, judged if before is not None else None)
        old = edited.files.head if before is None else before
        found = edited.own.change(old, judged, held_out=before is not None)
        changes |= {} if found is None else {"validation": found}
    # 3. Compare them on the pairs of the file, and write the new reward model.
    if reader is not None:
        heads = {
            BEFORE: edited.model.head,
            AFTER: RewardHead(after, record.layers, record.pool, edited.model.head.device),
        }
        rows: list[ScoredExample] = []
        how: dict[str, Any] = {"batch_tokens": config.batch_tokens, "deterministic": config.deterministic}
        for window in windows(edited.model, reader, config, progress):
            vectors = edited.model.pooled(window, **how)
            scores = {name: head(vectors) for name, head in heads.items()}
            rows += scored_rows(window, scores, record.length_preference)
        if not any(row.pairs for row in rows):
            hint = "see what the file becomes with `sparserm data`"
            raise BadInputError(config.file, "rows that prefer a response", "none that does", hint)
        changes[PurePath(config.file).name] = change_of(pairs_of_rows(rows), held_out=True)
    files = RewardFiles(record, after, edited.files.controls, edited.files.whitening)
    written = write_reward(target, files)
    spread = (edited.files.config.score_mean, edited.files.config.score_std)
    return EditSummary(target, written.config, edited.factors, spread, changes, time.monotonic() - begun)


class _Edit:
    """The heads of an edit, each made when it is first needed.

    Args:
        config: the options.
        files: the old reward model.

    Raises:
        UsageError: a direction is not known, none is left, or a new fit would lose another change.

    """

    def __init__(self, config: EditConfig, files: RewardFiles) -> None:
        self._config, self.files = config, files
        others = [step["by"] for step in files.config.derivation if step["by"] != "edit"]
        if config.refit and others:
            expected, found = "a reward model that was fitted or edited", f"one changed by {others[0]}"
            raise UsageError(
                "--refit", expected, found, "leave --refit out: a new fit would lose that change"
            )
        self._names = direction_names(RewardHead.from_files(files), files.config.selection)
        described = names_of(config.run, files.config.lineage.parents.get(DIRECTIONS))
        named = {f"{layer}:{latent}": name for (layer, latent), name in described.items()}
        self.factors = factors_of(config, self._names, named)
        self._columns = columns_of(self.factors, self._names)

    @cached_property
    def own(self) -> OwnRun | None:
        """The pairs of the run in which the reward model was fitted; None if it is not there.

        Raises:
            IncompatibleError: it is not there and a new fit is wanted.

        """
        found = OwnRun.find(self._config.run, self.files)
        if found is None and self._config.refit:
            where, hint = f"{self._config.run}: activations", "give --run with that run, or leave --refit out"
            expected = "those that the reward model was fitted on"
            raise IncompatibleError(where, expected, "none or others", hint)
        return found

    @cached_property
    def _refitted(self) -> FittedHead:
        """The head fitted again without the directions that count no more, now or since an earlier edit."""
        assert self.own is not None  # noqa: S101 - a new fit has its run
        return self.own.fitted((self._columns != 0) & counts(self.files.head))

    @cached_property
    def head(self) -> HeadArrays:
        """The changed head."""
        if self._config.refit and self.own is not None:
            return self._refitted.final
        return with_factors(self.files.head, self._columns)

    @cached_property
    def judged(self) -> tuple[HeadArrays | None, HeadArrays]:
        """The old and the new head before they were fitted on validation pairs.

        The old one is None, and the new one the stored one, where the old one cannot be fitted again.
        """
        assert self.own is not None  # noqa: S101 - only a run has validation pairs
        before = self.own.before_validation(self._names)
        if self._config.refit:
            return before, self._refitted.validated if before is not None else self.head
        return before, self.head if before is None else with_factors(before, self._columns)

    @cached_property
    def model(self) -> RewardModel:
        """The old reward model with its language model."""
        return load_reward(self._config)
