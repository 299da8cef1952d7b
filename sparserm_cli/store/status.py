"""The state of the whole chain: what is there, what is stale and why, what to run next. Reads no data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.chain import COMPLETE, NAMES, STALE, Artifact, look, unit_store
from sparserm_cli.store.disk import size_of
from sparserm_cli.store.layout import ACTIVATIONS
from sparserm_cli.store.lineage import parent_difference
from sparserm_cli.store.plan import ExtractPlan, check_inputs, plan_of

HASHED_BYTES = 1 << 26
"""Inputs up to this size together are hashed by `status`; of larger ones only the sizes are compared."""


@dataclass(frozen=True)
class Status:
    """The chain of artifacts in a run directory."""

    artifacts: tuple[Artifact, ...]
    """In the order of the stages."""
    next_command: str
    """What to run to go on; "" when everything is up to date."""

    def __getitem__(self, name: str) -> Artifact:
        """Return the artifact of that name."""
        return next(one for one in self.artifacts if one.name == name)


def status(run: Path) -> Status:
    """Look at every artifact of a run directory; nothing is raised for what is wrong with them."""
    seen: dict[str, Artifact] = {}
    for name in NAMES:
        artifact = look(run, name)
        if artifact.state == COMPLETE:
            artifact = _with_staleness(run, artifact, seen)
        seen[name] = artifact
    return Status(tuple(seen.values()), _next(tuple(seen.values())))


def _with_staleness(run: Path, artifact: Artifact, seen: Mapping[str, Artifact]) -> Artifact:
    """Return a complete artifact, stale if its inputs or parents are not what it was made from."""
    if artifact.name == ACTIVATIONS:
        detail = _changed_input(run)
        if detail:
            return replace(artifact, state=STALE, detail=detail)
    if artifact.lineage is None:
        return artifact
    for name, recorded in artifact.lineage.parents.items():
        parent = seen.get(name)
        if parent is None or parent.lineage is None:
            continue  # a parent may be thrown away once it has been used
        difference = parent_difference(recorded, parent.lineage.as_parent())
        if difference is not None:
            field, before, now = difference
            detail = f"made from other {name}: {field} was {before}, is {now}"
            return replace(artifact, state=STALE, detail=detail)
        if parent.state == STALE:
            return replace(artifact, state=STALE, detail=f"made from {name}, which is stale")
    return artifact


def _changed_input(run: Path) -> str:
    """Return how an input file differs from the one read; "" if none does or it is too large to hash here."""
    store = unit_store(run, ACTIVATIONS)
    if store is None:
        return ""
    try:
        plan = plan_of(str(store.root), store.plan)
        changed = _changed_size(plan)
        if not changed and sum(one.bytes for one in plan.settings.inputs) <= HASHED_BYTES:
            check_inputs(plan)
    except IncompatibleError as error:
        return f"{error.where}: {error.expected} was read, is {error.found}"
    except CorruptStoreError as error:
        return str(error)
    return changed


def _changed_size(plan: ExtractPlan) -> str:
    """Return which input file has another size; "" if none has or it is gone."""
    for one in plan.settings.inputs:
        size = size_of(Path(one.path))
        if size not in (-1, one.bytes):
            return f"{one.path}: {one.bytes:,} bytes were read, is {size:,} bytes"
    return ""


def _next(artifacts: Sequence[Artifact]) -> str:
    """Return the command of the first artifact that is not complete."""
    for artifact in artifacts:
        if artifact.state != COMPLETE:
            force = " --force" if artifact.state == STALE else ""
            return artifact.command + force
    return ""
