"""What is written down of a plan, of each finished unit and of the finished store, and its JSON.

Content facts (rows, files, sizes, digests) decide identity. Facts of the making (run, device, batches,
seconds, dates) stand beside them and never enter a digest, so that serial, resumed and shared runs have equal
digests.
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
    """What the maker of a unit tells about it."""

    rows: int
    """Rows in the unit: response tokens, or responses where only pooled vectors are kept."""
    rejected: tuple[int, ...] = ()
    """Responses (numbers in the store) kept as NaN rows because they could not be computed."""
    absmax: float = 0.0
    """The largest absolute value."""
    device: str = "cpu"
    """Where it was computed."""
    dtype: str = "float32"
    """The type it was computed in."""
    batch_sizes: tuple[int, ...] = ()
    """Tokens in each batch, in order."""
    halvings: int = 0
    """How often a batch was halved because memory ran out."""
    seconds: float = 0.0
    """Time spent computing."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that stands in receipts."""
        return {**vars(self), "nan_rows": len(self.rejected)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "UnitFacts":
        """Read what `to_json` wrote; raises KeyError, TypeError or ValueError if it is something else."""
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
    """The proof that a unit is on the disk, written after its data."""

    unit: int
    """The unit's number."""
    plan_hash: str
    """Of the plan it belongs to."""
    facts: UnitFacts
    """As its maker told them."""
    files: tuple[FileFact, ...]
    """Everything the unit wrote."""
    run_id: str
    """The run that made it."""
    attempts: int = 1
    """How often the unit was started before this receipt."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that stands in the receipt."""
        facts = self.facts.to_json()
        own = {"unit": self.unit, "plan_hash": self.plan_hash, "run_id": self.run_id}
        return {**own, "attempts": self.attempts, "facts": facts, "files": files_to_json(self.files)}

    @classmethod
    def from_json(cls, where: str, value: Mapping[str, Any]) -> "Receipt":
        """Read what `to_json` wrote.

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
    """One unit as the manifest tells it."""

    rows: int
    """As in its receipt."""
    rejected: tuple[int, ...]
    """As in its receipt."""
    files: tuple[FileFact, ...]
    """As in its receipt."""


@dataclass(frozen=True)
class Plan:
    """A frozen plan: everything that decides the content of a store, and its units."""

    type: str
    """The artifact's kind."""
    version: int
    """Of its format."""
    identity: Mapping[str, Any]
    """Field to JSON value: the settings and the digests of what was read."""
    layout: Mapping[str, Any]
    """Sizes the arrays were laid out with; `units` is their number."""
    files: tuple[FileFact, ...]
    """Files written by the planner: arrays' metadata and the rows arrays."""
    parents: Mapping[str, Parent] = field(default_factory=dict)
    """Artifacts it is made from."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """For people: paths, counts, dates, versions; not part of the identity."""

    @property
    def units(self) -> int:
        """The number of units."""
        return int(self.layout["units"])

    @property
    def plan_hash(self) -> str:
        """The sha256 over all that decides the content."""
        parents = {name: parent.digest for name, parent in self.parents.items()}
        own = {"type": self.type, "version": self.version, "identity": self.identity, "parents": parents}
        return content_digest({**own, "layout": self.layout, "files": _content(self.files)})

    def lineage(self, digest: str = "") -> Lineage:
        """Return what the artifact says about itself once its content digest is known."""
        created = str(self.metadata.get("created", ""))
        return Lineage(self.type, self.version, self.identity, self.parents, digest, created)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that stands in plan.json."""
        own = self.lineage().to_json()
        del own["digest"], own["created"]  # the one is not known yet, the other stands in `told`
        rest = {"layout": dict(self.layout), "told": dict(self.metadata), "files": files_to_json(self.files)}
        return {**own, "plan_hash": self.plan_hash, **rest}

    @classmethod
    def from_json(cls, where: str, value: Mapping[str, Any]) -> "Plan":
        """Read what `to_json` wrote.

        Raises:
            CorruptStoreError: a field is missing or of the wrong kind, or the hash is not that of the rest.

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
    """The last file written; its presence says that the store is complete."""

    plan_hash: str
    """Of the plan it completes."""
    units: tuple[UnitRecord, ...]
    """Every unit in order."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """For people: date, versions, devices; not part of the digest."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """Content digests of parents that were made in the same pass, so that the plan could not know them."""

    @property
    def digest(self) -> str:
        """The content digest of the whole store."""
        units = [[unit.rows, list(unit.rejected), _content(unit.files)] for unit in self.units]
        parents = {"parents": dict(self.parents)} if self.parents else {}
        return content_digest({"plan_hash": self.plan_hash, "units": units, **parents})

    @property
    def bytes(self) -> int:
        """The bytes of all units' files."""
        return sum(file.size for unit in self.units for file in unit.files)

    @property
    def rejected(self) -> tuple[int, ...]:
        """The responses kept as NaN rows."""
        return tuple(response for unit in self.units for response in unit.rejected)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that stands in MANIFEST.json."""
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
        """Read what `to_json` wrote; the seal of the file has vouched for its digest.

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
    """Return the files that are content.

    Arrays' metadata are not, since zarr versions spell them differently; nor are the words of the rejects.
    """
    return files_to_json(
        [file for file in files if not file.path.endswith(METADATA_NAME) and file.path != REJECTS]
    )
