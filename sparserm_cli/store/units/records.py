"""The records of a plan, of each finished unit and of the finished store, and their JSON.

Facts about the content (rows, files, sizes, digests) determine identity. Facts about the computation (run,
device, batches, seconds, dates) are recorded beside them and never enter a digest, so that serial, resumed
and shared runs have equal digests.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparserm_cli.errors import CorruptStoreError
from sparserm_cli.store.io.file_facts import FileFact, files_from_json, files_to_json
from sparserm_cli.store.provenance import Lineage, Parent, content_digest

METADATA_NAME = "zarr.json"


REJECTS = "_sparserm/rejects.jsonl"


_HINT = "run the stage again"


@dataclass(frozen=True)
class UnitFacts:
    """Facts about a unit that the code which computed it reports."""

    rows: int
    """Number of rows in the unit: response tokens, or responses where only pooled vectors are kept."""
    rejected: tuple[int, ...] = ()
    """Numbers of the responses kept as NaN rows because they could not be computed."""
    absmax: float = 0.0
    """Largest absolute value in the unit."""
    device: str = "cpu"
    """Device on which it was computed."""
    dtype: str = "float32"
    """Floating-point type in which it was computed."""
    batch_sizes: tuple[int, ...] = ()
    """Number of tokens in each batch, in order."""
    halvings: int = 0
    """Number of times a batch was halved because memory ran out."""
    seconds: float = 0.0
    """Seconds spent computing."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object for a receipt."""
        return {**vars(self), "nan_rows": len(self.rejected)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "UnitFacts":
        """Read the output of `to_json`; raises KeyError, TypeError or ValueError for anything else."""
        seconds, absmax = float(value["seconds"]), float(value["absmax"])
        if not (math.isfinite(seconds) and math.isfinite(absmax)):
            raise ValueError("seconds and absmax are finite")
        return cls(
            rows=int(value["rows"]),
            rejected=tuple(int(number) for number in value["rejected"]),
            absmax=absmax,
            device=str(value["device"]),
            dtype=str(value["dtype"]),
            batch_sizes=tuple(int(number) for number in value["batch_sizes"]),
            halvings=int(value["halvings"]),
            seconds=seconds,
        )


@dataclass(frozen=True)
class Receipt:
    """The proof that a unit is complete on the disk, which is written after its data."""

    unit: int
    """Number of the unit."""
    plan_hash: str
    """Hash of the plan that it belongs to."""
    facts: UnitFacts
    """Facts reported by the code that computed it."""
    files: tuple[FileFact, ...]
    """All files of the unit."""
    run_id: str
    """Id of the run that computed it."""
    attempts: int = 1
    """Number of times the unit was started before this receipt."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the receipt file."""
        facts = self.facts.to_json()
        own = {"unit": self.unit, "plan_hash": self.plan_hash, "run_id": self.run_id}
        return {**own, "attempts": self.attempts, "facts": facts, "files": files_to_json(self.files)}

    @classmethod
    def from_json(cls, where: str, value: Mapping[str, Any]) -> "Receipt":
        """Read the output of `to_json`.

        Raises:
            CorruptStoreError: a field is missing or of the wrong kind.

        """
        try:
            unit, attempts = int(value["unit"]), int(value["attempts"])
            facts, files = UnitFacts.from_json(value["facts"]), files_from_json(value["files"])
            return cls(unit, str(value["plan_hash"]), facts, files, str(value["run_id"]), attempts)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptStoreError(where, "a receipt", repr(error), _HINT) from None


@dataclass(frozen=True)
class UnitRecord:
    """One unit as the manifest records it."""

    rows: int
    """Number of rows, as in its receipt."""
    rejected: tuple[int, ...]
    """Numbers of the rejected responses, as in its receipt."""
    files: tuple[FileFact, ...]
    """All files of the unit, as in its receipt."""


@dataclass(frozen=True)
class Plan:
    """A frozen plan: everything that determines the content of a store, and its division into units."""

    type: str
    """Type of the artifact."""
    version: int
    """Version of its format."""
    identity: Mapping[str, Any]
    """Mapping from field to JSON value: the settings and the digests of the inputs."""
    layout: Mapping[str, Any]
    """Sizes that determine the shapes of the arrays; `units` is the number of units."""
    files: tuple[FileFact, ...]
    """Files written with the plan: the metadata of all arrays, and the rows arrays."""
    parents: Mapping[str, Parent] = field(default_factory=dict)
    """Mapping from name to artifact that it is made from."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Facts for people: paths, counts, dates, versions. They are not part of the identity."""

    @property
    def units(self) -> int:
        """The number of units."""
        return int(self.layout["units"])

    @property
    def plan_hash(self) -> str:
        """The sha256 over everything that determines the content, in hexadecimal."""
        parents = {name: parent.digest for name, parent in self.parents.items()}
        own = {"type": self.type, "version": self.version, "identity": self.identity, "parents": parents}
        return content_digest({**own, "layout": self.layout, "files": _content(self.files)})

    def lineage(self, digest: str = "") -> Lineage:
        """Return the lineage of the artifact, given its content digest."""
        created = str(self.metadata.get("created", ""))
        return Lineage(self.type, self.version, self.identity, self.parents, digest, created)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of plan.json."""
        own = self.lineage().to_json()
        del own["digest"], own["created"]  # the digest is not known yet, and the date is part of `told`
        rest = {"layout": dict(self.layout), "told": dict(self.metadata), "files": files_to_json(self.files)}
        return {**own, "plan_hash": self.plan_hash, **rest}

    @classmethod
    def from_json(cls, where: str, value: Mapping[str, Any]) -> "Plan":
        """Read the output of `to_json`.

        Raises:
            CorruptStoreError: a field is missing or of the wrong kind, or the hash does not match.

        """
        lineage = Lineage.from_json(where, {**value, "digest": ""})
        try:
            layout, metadata = dict(value["layout"]), dict(value["told"])
            files, recorded = files_from_json(value["files"]), str(value["plan_hash"])
            int(layout["units"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptStoreError(where, "a plan", repr(error), _HINT) from None
        plan = cls(lineage.type, lineage.version, lineage.identity, layout, files, lineage.parents, metadata)
        if plan.plan_hash != recorded:
            raise CorruptStoreError(where, f"plan hash {recorded}", plan.plan_hash, _HINT)
        return plan


@dataclass(frozen=True)
class Manifest:
    """The last file written, whose presence proves that the store is complete."""

    plan_hash: str
    """Hash of the plan that it completes."""
    units: tuple[UnitRecord, ...]
    """Records of all units, in order."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Facts for people: date, versions, devices. They are not part of the digest."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """Content digests of parents that were made in the same pass and are therefore not in the plan."""

    @property
    def digest(self) -> str:
        """The content digest of the whole store."""
        units = [[unit.rows, list(unit.rejected), _content(unit.files)] for unit in self.units]
        parents = {"parents": dict(self.parents)} if self.parents else {}
        return content_digest({"plan_hash": self.plan_hash, "units": units, **parents})

    @property
    def bytes(self) -> int:
        """Total size of the files of all units, in bytes."""
        return sum(file.size for unit in self.units for file in unit.files)

    @property
    def rejected(self) -> tuple[int, ...]:
        """Numbers of the responses kept as NaN rows."""
        return tuple(response for unit in self.units for response in unit.rejected)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of MANIFEST.json."""
        units = [[unit.rows, list(unit.rejected), files_to_json(unit.files)] for unit in self.units]
        totals = {"units": len(units), "bytes": self.bytes, "nan_rows": len(self.rejected)}
        own = {"state": "complete", "plan_hash": self.plan_hash, "digest": self.digest}
        return {
            **own,
            "parents": dict(self.parents),
            "totals": totals,
            "told": dict(self.metadata),
            "units": units,
        }

    @classmethod
    def from_json(cls, where: str, value: Mapping[str, Any]) -> "Manifest":
        """Read the output of `to_json`; the seal of the file has already proved it intact.

        Raises:
            CorruptStoreError: a field is missing or of the wrong kind.

        """
        try:
            units = tuple(
                UnitRecord(int(rows), tuple(rejected), files_from_json(files))
                for rows, rejected, files in value["units"]
            )
            parents = {str(name): str(digest) for name, digest in value.get("parents", {}).items()}
            return cls(str(value["plan_hash"]), units, dict(value["told"]), parents)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptStoreError(where, "a manifest", repr(error), _HINT) from None


def _content(files: Sequence[FileFact]) -> list[list[Any]]:
    """Return the files that belong to the content.

    The metadata of arrays are left out, since zarr versions write them differently, and so are the texts of
    the rejected rows.
    """
    return files_to_json(
        [file for file in files if not file.path.endswith(METADATA_NAME) and file.path != REJECTS]
    )
