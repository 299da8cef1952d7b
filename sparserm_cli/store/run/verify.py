"""Checking all artifacts, by file size or by digest, and dropping damaged units for recomputation."""

from dataclasses import dataclass
from pathlib import PurePath

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.run.artifacts import (
    ABSENT,
    CORRUPT,
    INCOMPATIBLE,
    Artifact,
    recorded_files,
    unit_store,
)
from sparserm_cli.store.run.locks import run_lock
from sparserm_cli.store.run.status import status
from sparserm_cli.store.units.integrity import Damage, check, check_files, damaged_units
from sparserm_cli.store.units.unit_store import PLAN


@dataclass(frozen=True)
class Checked:
    """One artifact and the damage found in it."""

    artifact: Artifact
    """The artifact as `status` returns it."""
    damage: tuple[Damage, ...]
    """Every file that differs from its record."""

    @property
    def units(self) -> list[int]:
        """Numbers of the units that must be recomputed."""
        return damaged_units(self.damage)

    @property
    def repairable(self) -> bool:
        """Whether recomputing units repairs all of the damage."""
        return all(damage.repairable for damage in self.damage)


@dataclass(frozen=True)
class Verification:
    """The result of `verify`."""

    deep: bool
    """Whether every byte was hashed."""
    artifacts: tuple[Checked, ...]
    """The artifacts that exist, in the order of the stages."""

    @property
    def damaged(self) -> tuple[Checked, ...]:
        """The artifacts with damage."""
        return tuple(checked for checked in self.artifacts if checked.damage)

    def raise_if_damaged(self) -> None:
        """Raise CorruptStoreError with the first damage and the number of further damaged files."""
        if not self.damaged:
            return
        checked = self.damaged[0]
        first = checked.damage[0]
        unit = "" if first.unit is None else f" (unit {first.unit})"
        more = sum(len(artifact.damage) for artifact in self.damaged) - 1
        found = first.found + (f" (and {more} more files)" if more else "")
        hint = "run `sparserm repair`" if checked.repairable else f"run `{checked.artifact.rebuild_command}`"
        raise CorruptStoreError(f"{checked.artifact.path / first.path}{unit}", first.expected, found, hint)


@dataclass(frozen=True)
class Repaired:
    """The result of `repair` for one damaged artifact."""

    artifact: Artifact
    """The artifact before the repair."""
    units: tuple[int, ...]
    """Numbers of the dropped units, which its command recomputes."""
    command: str
    """Command that makes the artifact complete again."""


def verify(run: PurePath, *, deep: bool = False) -> Verification:
    """Check every artifact of a run directory.

    Args:
        run: the run directory.
        deep: hash every byte of captures and encodings instead of checking file sizes; the small
            artifacts are always read completely.

    Raises:
        IncompatibleError: there is no artifact in the directory, or no such directory.

    """
    artifacts = status(run).artifacts
    if all(artifact.state == ABSENT for artifact in artifacts):
        there = storage_of(run).names()
        found = f"{len(there)} other entries" if there else "nothing"
        hint = "correct --run, or run `sparserm extract` first"
        raise IncompatibleError(str(run), "a run directory with artifacts", found, hint)
    present = [artifact for artifact in artifacts if artifact.state not in (ABSENT, INCOMPATIBLE)]
    return Verification(
        deep, tuple(Checked(artifact, _damage(run, artifact, deep=deep)) for artifact in present)
    )


def repair(run: PurePath) -> tuple[Repaired, ...]:
    """Drop the damaged units of captures and encodings, after a deep check.

    Artifacts that recomputing units cannot repair are left unchanged; the result names the command that
    rebuilds them.

    Raises:
        IncompatibleError: there is no artifact in the directory, or no such directory.
        TemporaryError: a run or a worker is active in the directory.
        ResourceError: the directory cannot be written.

    """
    verify(run)  # raises before the lock would create the directory
    with run_lock(run):
        return tuple(_repair(run, checked) for checked in verify(run, deep=True).damaged)


def _damage(run: PurePath, artifact: Artifact, *, deep: bool) -> tuple[Damage, ...]:
    """Return all damage to one artifact."""
    try:
        store = unit_store(run, artifact.name)
        if store is not None:
            return tuple(check(store, deep=deep))
    except (CorruptStoreError, IncompatibleError) as error:
        return (Damage(PLAN, None, error.expected, error.found),)
    if artifact.state == CORRUPT:
        return (Damage("", None, "an artifact that can be read", artifact.detail),)
    return tuple(check_files(artifact.path, recorded_files(artifact), None, deep=True))


def _repair(run: PurePath, checked: Checked) -> Repaired:
    """Drop the damaged units of one artifact if its other files are intact."""
    artifact, units = checked.artifact, tuple(checked.units)
    if not checked.repairable:
        return Repaired(artifact, (), artifact.rebuild_command)
    store = unit_store(run, artifact.name)
    if store is not None:
        store.drop(units)
    return Repaired(artifact, units, artifact.command)
