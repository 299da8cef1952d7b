"""The state of all artifacts of a run directory, and the command to run next. No activations are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.capture.layout import ACTIVATIONS
from sparserm_cli.store.capture.plan import ExtractPlan, check_inputs, input_path, plan_of
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.provenance import parent_difference
from sparserm_cli.store.run.artifacts import (
    ABSENT,
    COMPLETE,
    CORRUPT,
    NAMES,
    OPTIONAL,
    STALE,
    Artifact,
    read_artifact,
    unit_store,
)

READ_BYTES = 1 << 26
"""Inputs of at most this total size, in bytes, are always hashed; larger ones only with `deep`."""


@dataclass(frozen=True)
class Status:
    """The artifacts of a run directory."""

    artifacts: tuple[Artifact, ...]
    """All artifacts, in the order of the stages."""
    next_command: str
    """Command that continues the work; "" if everything is up to date."""

    def __getitem__(self, name: str) -> Artifact:
        """Return the artifact of that name."""
        return next(artifact for artifact in self.artifacts if artifact.name == name)


def status(run: PurePath, *, deep: bool = False) -> Status:
    """Return the state of every artifact of a run directory; faults become states, not errors.

    Args:
        run: the run directory.
        deep: hash the input files of the capture, however large they are.

    """
    seen: dict[str, Artifact] = {}
    for name in NAMES:
        artifact = read_artifact(run, name)
        if artifact.state == ABSENT and name in OPTIONAL:
            continue
        if artifact.state == COMPLETE and name == ACTIVATIONS:
            artifact = _beside_inputs(run, artifact, deep=deep)
        elif artifact.state == COMPLETE:
            artifact = _beside_parents(artifact, seen)
        seen[name] = artifact
    return Status(tuple(seen.values()), _next(tuple(seen.values())))


def _beside_parents(artifact: Artifact, seen: Mapping[str, Artifact]) -> Artifact:
    """Return a complete artifact, marked stale if its parents have changed since it was made."""
    if artifact.lineage is None:
        return artifact
    for name, recorded in artifact.lineage.parents.items():
        parent = seen.get(name)
        if parent is None or parent.lineage is None:
            continue  # a parent may be removed once it has been used
        difference = parent_difference(recorded, parent.lineage.as_parent())
        if difference is not None:
            field, before, now = difference
            detail = f"made from other {name}: {field} was {before}, is {now}"
            return replace(artifact, state=STALE, detail=detail)
        if parent.state == STALE:
            return replace(artifact, state=STALE, detail=f"made from {name}, which is stale")
    return artifact


def _beside_inputs(run: PurePath, artifact: Artifact, *, deep: bool) -> Artifact:
    """Return a complete capture, marked stale if an input file has changed."""
    store = unit_store(run, artifact.name)
    if store is None:
        return artifact
    try:
        plan = plan_of(str(store.root), store.plan)
        if changed := _changed_size(plan, run):
            return replace(artifact, state=STALE, detail=changed)
        total = sum(recorded.bytes for recorded in plan.settings.inputs)
        if total > READ_BYTES and not deep:
            detail = f"{total:,} bytes of input were not read: `sparserm status --deep` and every stage do so"
            return replace(artifact, detail=detail)
        check_inputs(plan, run)
    except IncompatibleError as error:
        detail = f"{error.where}: {error.expected} was read, is {error.found}"
        return replace(artifact, state=STALE, detail=detail)
    except CorruptStoreError as error:
        return replace(artifact, state=CORRUPT, detail=str(error))
    return artifact


def _changed_size(plan: ExtractPlan, run: PurePath) -> str:
    """Return a text that names an input file whose size has changed; "" if there is none."""
    for recorded in plan.settings.inputs:
        path = input_path(run, recorded)
        size = storage_of(path).size()
        if size not in (-1, recorded.bytes):
            return f"{path}: {recorded.bytes:,} bytes were read, is {size:,} bytes"
    return ""


def _next(artifacts: Sequence[Artifact]) -> str:
    """Return the command of the first artifact that is not complete."""
    for artifact in artifacts:
        if artifact.state != COMPLETE:
            return artifact.rebuild_command if artifact.state == STALE else artifact.command
    return ""
