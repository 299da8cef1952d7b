"""The artifacts of a run directory, in the order of the stages, with the command that makes each.

`read_artifact` reads only as much of an artifact as its state and the quick integrity check need.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.artifacts import descriptions, directions, frequency, reward
from sparserm_cli.store.capture import artifact as activations
from sparserm_cli.store.capture.layout import ACTIVATIONS
from sparserm_cli.store.capture.layout import VERSION as ACTIVATIONS_VERSION
from sparserm_cli.store.features import artifact
from sparserm_cli.store.features.plan import FEATURES
from sparserm_cli.store.features.plan import VERSION as FEATURES_VERSION
from sparserm_cli.store.io.file_facts import FileFact, files_from_json
from sparserm_cli.store.io.sealed_json import read_sealed
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.provenance import Lineage, first_difference
from sparserm_cli.store.units.integrity import open_complete
from sparserm_cli.store.units.unit_store import INNER, MANIFEST, PLAN, UnitStore

ABSENT, PLANNED, PARTIAL, COMPLETE = "absent", "planned", "partial", "complete"
STALE, INCOMPATIBLE, CORRUPT = "stale", "incompatible", "corrupt"


@dataclass(frozen=True)
class Artifact:
    """One artifact of a run directory in its present state."""

    name: str
    """Name of the artifact, such as `activations`."""
    path: PurePath
    """Path at which it lies or would lie."""
    command: str
    """Command that makes or continues it."""
    state: str = ABSENT
    """State: absent, planned, partial, complete, stale, incompatible or corrupt."""
    detail: str = ""
    """Text for people: its progress, what differs, or what is damaged."""
    done: int = 0
    """Number of finished units; 0 for artifacts without units."""
    units: int = 0
    """Number of planned units."""
    bytes: int = 0
    """Its size on the disk in bytes."""
    created: str = ""
    """Date at which it was planned or made, as recorded in it; "" if it records none."""
    lineage: Lineage | None = None
    """Its recorded lineage; None if it cannot be read or is not complete."""

    @property
    def parents(self) -> tuple[str, ...]:
        """Names of the artifacts that it was made from."""
        return () if self.lineage is None else tuple(self.lineage.parents)

    @property
    def rebuild_command(self) -> str:
        """Command that replaces it; a stage that works in units needs `--force` to do so."""
        return self.command + (" --force" if _KINDS[self.name].version else "")


@dataclass(frozen=True)
class _Kind:
    """Functions that find and read one kind of artifact."""

    path: Callable[[PurePath], PurePath]
    command: str
    lineage: Callable[[PurePath], Lineage] | None = None
    version: int = 0
    described_in: str = PLAN
    optional: bool = False


_KINDS: Mapping[str, _Kind] = {
    ACTIVATIONS: _Kind(activations.capture_path, "sparserm extract", version=ACTIVATIONS_VERSION),
    FEATURES: _Kind(artifact.features_path, "sparserm encode", version=FEATURES_VERSION),
    "frequency": _Kind(
        frequency.frequency_path,
        "sparserm frequency",
        lambda run: frequency.read_frequency(run).lineage,
        described_in="",
    ),
    "directions": _Kind(
        directions.directions_path,
        "sparserm select",
        lambda run: directions.read_directions(run).lineage,
        described_in=directions.JSON,
    ),
    "reward": _Kind(
        reward.reward_path,
        "sparserm fit",
        lambda run: reward.read_reward(reward.reward_path(run)).config.lineage,
        described_in=reward.CONFIG,
    ),
    descriptions.TYPE: _Kind(
        descriptions.descriptions_path,
        descriptions.COMMAND,
        lambda run: descriptions.read_descriptions(run).lineage,
        described_in="",
        optional=True,
    ),
}
NAMES = tuple(_KINDS)
OPTIONAL = tuple(name for name, kind in _KINDS.items() if kind.optional)
"""Names of the artifacts that no other stage needs; they are listed only where they are there."""


def unit_store(run: PurePath, name: str) -> UnitStore | None:
    """Open the unit store `name` of a run directory; None for artifacts without units.

    Raises:
        IncompatibleError: the store is absent, or newer than this program.
        CorruptStoreError: its plan cannot be read.

    """
    kind = _KINDS[name]
    return UnitStore(kind.path(run), name, kind.version, kind.command) if kind.version else None


def read_artifact(run: PurePath, name: str) -> Artifact:
    """Return an artifact of a run directory; its faults become its state, not errors."""
    kind = _KINDS[name]
    artifact = Artifact(name, kind.path(run), kind.command)
    storage = storage_of(artifact.path)
    if not storage.is_there(kind.described_in):
        return artifact
    try:
        if kind.lineage is None:
            return _read_units(run, artifact)
        lineage, size = kind.lineage(run), storage.bytes_below()
        return replace(artifact, state=COMPLETE, lineage=lineage, bytes=size, created=lineage.created)
    except CorruptStoreError as error:
        return replace(artifact, state=CORRUPT, detail=str(error), bytes=storage.bytes_below())
    except IncompatibleError as error:
        return replace(artifact, state=INCOMPATIBLE, detail=str(error), bytes=storage.bytes_below())


def _read_units(run: PurePath, artifact: Artifact) -> Artifact:
    """Return the state of a unit store: planned, partial or complete."""
    store = unit_store(run, artifact.name)
    if store is None:
        raise ValueError(f"{artifact.name} has no units")
    metadata: Mapping[str, Any] = store.plan.metadata
    artifact = replace(artifact, units=store.plan.units, created=str(metadata.get("created", "")))
    if storage_of(store.root / MANIFEST).size() < 0:
        done, failed = store.done(), len(storage_of(store.root / INNER / "failures").names())
        detail = f"{done} of {store.plan.units} units" + (f", {failed} failed" if failed else "")
        state = PARTIAL if done else PLANNED
        return replace(
            artifact, state=state, detail=detail, done=done, bytes=storage_of(artifact.path).bytes_below()
        )
    manifest = open_complete(store)
    size = manifest.bytes + sum(file.size for file in store.plan.files)
    lineage = store.lineage(manifest)
    return replace(artifact, state=COMPLETE, done=store.plan.units, bytes=size, lineage=lineage)


def is_made(run: PurePath, wanted: Lineage) -> bool:
    """Return whether the run directory holds the complete artifact `wanted`, with equal settings and parents.

    Digests of the artifact itself are not compared, since settings and parents determine its content.
    """
    present = read_artifact(run, wanted.type).lineage
    if present is None or set(present.parents) != set(wanted.parents):
        return False
    parents = all(present.parents[name].digest == parent.digest for name, parent in wanted.parents.items())
    return parents and first_difference(present.identity, wanted.identity) is None


def recorded_files(artifact: Artifact) -> tuple[FileFact, ...]:
    """Return the recorded files of an artifact without units; an artifact of one file records none.

    Raises:
        CorruptStoreError: its record of its files cannot be read.

    """
    described_in = _KINDS[artifact.name].described_in
    if not described_in:
        return ()
    # The seal proves that no list was lost: an artifact without a list is older than such lists.
    return files_from_json(read_sealed(artifact.path / described_in).get("files", ()))
