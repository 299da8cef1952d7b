"""Checking the whole chain, quickly or byte by byte, and giving up damaged units to be done again."""

from dataclasses import dataclass
from pathlib import PurePath

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.io.storage import names
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
    """As `status` has it."""
    damage: tuple[Damage, ...]
    """Every file that is not as recorded."""

    @property
    def units(self) -> list[int]:
        """The units that have to be done again."""
        return damaged_units(self.damage)

    @property
    def mendable(self) -> bool:
        """Whether doing units again mends all of it."""
        return all(one.mendable for one in self.damage)


@dataclass(frozen=True)
class Verification:
    """What `verify` found."""

    deep: bool
    """Whether every byte was hashed."""
    artifacts: tuple[Checked, ...]
    """Those that are there, in the order of the stages."""

    @property
    def damaged(self) -> tuple[Checked, ...]:
        """Those with damage."""
        return tuple(one for one in self.artifacts if one.damage)

    def raise_if_damaged(self) -> None:
        """Raise CorruptStoreError telling the first damage and how much more there is."""
        if not self.damaged:
            return
        checked = self.damaged[0]
        first = checked.damage[0]
        unit = "" if first.unit is None else f" (unit {first.unit})"
        more = sum(len(one.damage) for one in self.damaged) - 1
        found = first.found + (f" (and {more} more files)" if more else "")
        hint = "run `sparserm repair`" if checked.mendable else f"run `{checked.artifact.made_anew_by}`"
        raise CorruptStoreError(f"{checked.artifact.path / first.path}{unit}", first.expected, found, hint)


@dataclass(frozen=True)
class Repaired:
    """What `repair` did to one damaged artifact."""

    artifact: Artifact
    """As it was."""
    units: tuple[int, ...]
    """Units given up, to be done again by its command."""
    command: str
    """What to run to have it whole again."""


def verify(run: PurePath, *, deep: bool = False) -> Verification:
    """Check every artifact of a run directory.

    Args:
        run: the run directory.
        deep: hash every byte of captures and encodings, instead of one stat for each file; the small
            artifacts are always read whole.

    Raises:
        IncompatibleError: there is no artifact in the directory, or no such directory.

    """
    artifacts = status(run).artifacts
    if all(one.state == ABSENT for one in artifacts):
        there = names(run)
        found = f"{len(there)} other entries" if there else "nothing"
        hint = "correct --run, or run `sparserm extract` first"
        raise IncompatibleError(str(run), "a run directory with artifacts", found, hint)
    present = [one for one in artifacts if one.state not in (ABSENT, INCOMPATIBLE)]
    return Verification(deep, tuple(Checked(one, _damage(run, one, deep=deep)) for one in present))


def repair(run: PurePath) -> tuple[Repaired, ...]:
    """Give up the damaged units of captures and encodings, after a deep check.

    What cannot be mended by doing units again is left as it is; what makes it anew is told.

    Raises:
        IncompatibleError: there is no artifact in the directory, or no such directory.
        TemporaryError: a run or worker is at work in the directory.
        ResourceError: the directory cannot be written.

    """
    verify(run)  # before a lock makes the directory
    with run_lock(run):
        return tuple(_mend(run, one) for one in verify(run, deep=True).damaged)


def _damage(run: PurePath, artifact: Artifact, *, deep: bool) -> tuple[Damage, ...]:
    """Return the damage to one artifact."""
    try:
        store = unit_store(run, artifact.name)
        if store is not None:
            return tuple(check(store, deep=deep))
    except (CorruptStoreError, IncompatibleError) as error:
        return (Damage(PLAN, None, error.expected, error.found),)
    if artifact.state == CORRUPT:
        return (Damage("", None, "an artifact that can be read", artifact.detail),)
    return tuple(check_files(artifact.path, recorded_files(artifact), None, deep=True))


def _mend(run: PurePath, checked: Checked) -> Repaired:
    """Give up damaged units of one artifact if that is all that is wrong with it."""
    artifact, units = checked.artifact, tuple(checked.units)
    if not checked.mendable:
        return Repaired(artifact, (), artifact.made_anew_by)
    store = unit_store(run, artifact.name)
    if store is not None:
        store.drop(units)
    return Repaired(artifact, units, artifact.command)
