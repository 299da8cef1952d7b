"""The unit engine: a plan's units are computed once each, in any order, by any workers, across crashes.

A store is a folder made whole by a planner (`Plan`), then filled unit by unit. A unit's data are on the
disk before its receipt, every receipt before the manifest; so what a receipt or the manifest says is true,
and what has none is done again. A unit writes the same bytes whoever computes it, so twice does no harm.

    _sparserm/plan.json               the frozen plan
    _sparserm/started/00042.1         one file for each attempt, counted from 1
    _sparserm/receipts/00042.json     written after the unit's data
    _sparserm/failures/00042.json     why it could not be computed
    _sparserm/MANIFEST.json           written last
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.io.fault_points import fault_point, operation
from sparserm_cli.store.io.file_facts import FileFact
from sparserm_cli.store.io.local_disk import disk_errors
from sparserm_cli.store.io.process_id import this_process, token
from sparserm_cli.store.io.sealed_json import read_json, read_sealed, write_sealed
from sparserm_cli.store.io.storage import (
    create,
    digest_file,
    discard,
    for_each,
    is_there,
    make_folder,
    names,
    remove,
    size_of,
    sync_folder,
)
from sparserm_cli.store.provenance import Lineage, check_version, now, package_versions
from sparserm_cli.store.units.records import Manifest, Plan, Receipt, UnitFacts, UnitRecord

INNER = "_sparserm"
PLAN = f"{INNER}/plan.json"
MANIFEST = f"{INNER}/MANIFEST.json"
TRIES = 3
_REPAIR = "run `sparserm verify --deep`, then the stage again"


def write_plan(folder: Path, plan: Plan) -> None:
    """Freeze a plan, as the last file of a folder that is still being built (`atomic_folder`)."""
    make_folder(folder / INNER)
    fault_point("plan-before")
    write_sealed(folder / PLAN, plan.to_json())
    fault_point("plan-written")


def is_planned(root: PurePath) -> bool:
    """Tell whether there is a store at `root`, be it damaged."""
    return is_there(root, PLAN)


class UnitStore:
    """A planned store whose units are filled in.

    Args:
        root: the artifact's folder, or its prefix on an object store.
        kind: the type it must have.
        newest: the newest version this program knows.
        command: what makes it, for hints, such as `sparserm extract`.
        run_id: this run's name, written into receipts; a new one if not given.

    Raises:
        IncompatibleError: there is no such store, it is of another type or newer than this program.
        CorruptStoreError: its plan cannot be read.

    """

    def __init__(self, root: PurePath, kind: str, newest: int, command: str, run_id: str = "") -> None:
        self.root, self.command, self.run_id = root, command, run_id or uuid.uuid4().hex
        if not is_planned(root):
            raise IncompatibleError(str(root), f"a store of {kind}", "nothing", f"run `{command}` first")
        hint = f"run `{command} --force` to make it anew"
        value = read_json(root / PLAN, hint)
        check_version(str(root), kind, value, newest)
        self.plan = Plan.from_json(str(root / PLAN), read_sealed(root / PLAN, hint))
        self.plan_hash = self.plan.plan_hash
        self._attempts: dict[int, int] = {}

    # --- doing the work ---

    def pending(self, rank: int = 0, world: int = 1) -> list[int]:
        """Return the units of this rank (`unit % world == rank`) that have no valid receipt, in order.

        A receipt is valid if it can be read, belongs to this plan and its files have the sizes it says.
        """
        if self.manifest() is not None:
            return []
        units = range(rank, self.plan.units, world)
        receipts = for_each(self.root, self.receipt, units)
        return [unit for unit, receipt in zip(units, receipts, strict=True) if receipt is None]

    def start(self, unit: int) -> None:
        """Note that an attempt at `unit` begins; units begun twice are hashed again by `finalize`."""
        make_folder(self.root / INNER / "started")
        mine = f"{token(this_process())} {uuid.uuid4().hex}".encode()
        number = self._attempts.get(unit, 0) + 1
        with disk_errors(self.root, len(mine)):
            operation("mark")
            while not create(self._marker(unit, number), mine):
                number += 1
        self._attempts[unit] = number
        fault_point("unit-started")

    def commit(
        self,
        unit: int,
        files: Sequence[str],
        facts: UnitFacts,
        written: Mapping[str, FileFact] | None = None,
    ) -> Receipt:
        """Read back a unit's files, which are written and synced, and write its receipt.

        Args:
            unit: its number.
            files: every file it wrote, relative to the store.
            facts: what its maker tells.
            written: what was given to the disk, if known; what is read back must be that.

        Raises:
            CorruptStoreError: a file is not there, or what is read back is not what was written.
            ResourceError: the disk is full.

        """
        fault_point("unit-written")
        facts_read_back = tuple(self._read_back(unit, path, written or {}) for path in sorted(files))
        fault_point("unit-read-back")
        receipt = Receipt(
            unit, self.plan_hash, facts, facts_read_back, self.run_id, self._attempts.get(unit, 1)
        )
        make_folder(self.root / INNER / "receipts")
        write_sealed(self._receipt_path(unit), receipt.to_json())
        fault_point("receipt-written")
        remove(self._failure_path(unit))
        return receipt

    def _read_back(self, unit: int, path: str, written: Mapping[str, FileFact]) -> FileFact:
        """Return what is on the disk at `path`, which must be what was written."""
        size = size_of(self.root / path)
        fact = FileFact(path, size, digest_file(self.root / path) if size >= 0 else "")
        expected = written.get(path, fact)
        if size < 0 or fact != expected:
            where = f"{self.root / path} (unit {unit})"
            shown = f"{expected.size} bytes {expected.xxh3_128}", f"{size} bytes {fact.xxh3_128}"
            raise CorruptStoreError(where, shown[0], shown[1], f"the disk is not to be trusted; {_REPAIR}")
        return fact

    def record_failure(self, unit: int, error: str) -> bool:
        """Write down why `unit` could not be computed; tell whether this run gives it up (third time)."""
        path = self._failure_path(unit)
        before = self.failures(unit)
        make_folder(path.parent)
        tries = [*before, {"run_id": self.run_id, "error": error}]
        write_sealed(path, {"unit": unit, "tries": tries})
        return sum(failure["run_id"] == self.run_id for failure in tries) >= TRIES

    def failures(self, unit: int) -> list[dict[str, str]]:
        """Return the failed tries of `unit`, each with `run_id` and `error`; none if they cannot be read."""
        try:
            return [dict(failure) for failure in read_sealed(self._failure_path(unit))["tries"]]
        except CorruptStoreError:
            return []

    # --- finishing ---

    def finalize(self, parents: Mapping[str, str] | None = None) -> Manifest | None:
        """Check every receipt against its files and write the manifest; None if there is still work to do.

        Units started more than once are hashed again; where receipt and data do not agree the receipt is
        dropped, so that `pending` returns the unit.

        Args:
            parents: digests of parents that the plan could not know, since they were made in the same pass.

        Raises:
            ResourceError: the disk is full.

        """
        receipts = for_each(self.root, self._checked_receipt, range(self.plan.units))
        done = [receipt for receipt in receipts if receipt is not None]
        return self._write_manifest(done, parents or {}) if len(done) == self.plan.units else None

    def _checked_receipt(self, unit: int) -> Receipt | None:
        """Return the valid receipt of a unit; drop it if the unit was started twice and has other bytes."""
        receipt = self.receipt(unit)
        if receipt is None or size_of(self._marker(unit, 2)) < 0:
            return receipt
        if all(digest_file(self.root / file.path) == file.xxh3_128 for file in receipt.files):
            return receipt
        remove(self._receipt_path(unit))
        return None

    def _write_manifest(self, receipts: Sequence[Receipt], parents: Mapping[str, str]) -> Manifest:
        """Write the manifest over all receipts."""
        units = tuple(
            UnitRecord(receipt.facts.rows, receipt.facts.rejected, receipt.files) for receipt in receipts
        )
        metadata = {
            "completed": now(),
            "packages": package_versions(),
            "devices": sorted({receipt.facts.device for receipt in receipts}),
            "seconds": round(sum(receipt.facts.seconds for receipt in receipts), 3),
            "absmax": max((receipt.facts.absmax for receipt in receipts), default=0.0),
            "halvings": sum(receipt.facts.halvings for receipt in receipts),
        }
        manifest = Manifest(self.plan_hash, units, metadata, parents)
        fault_point("manifest-before")
        write_sealed(self.root / MANIFEST, manifest.to_json())
        fault_point("manifest-written")
        self.tidy()
        return manifest

    def tidy(self) -> None:
        """Remove what only unfinished stores need."""
        for name in ("started", "failures"):
            discard(self.root / INNER / name)

    # --- looking ---

    def lineage(self, manifest: Manifest | None) -> Lineage:
        """Return what the store says about itself, with what its manifest, if there is one, knows more."""
        if manifest is None:
            return self.plan.lineage()
        parents = {
            name: replace(parent, digest=manifest.parents.get(name, parent.digest))
            for name, parent in self.plan.parents.items()
        }
        return replace(self.plan.lineage(manifest.digest), parents=parents)

    def manifest(self) -> Manifest | None:
        """Return the manifest; None if the store is not complete.

        Raises:
            CorruptStoreError: it cannot be read or belongs to another plan.

        """
        path = self.root / MANIFEST
        if size_of(path) < 0:
            return None
        manifest = Manifest.from_json(str(path), read_sealed(path, _REPAIR))
        if manifest.plan_hash != self.plan_hash:
            raise CorruptStoreError(str(path), f"plan {self.plan_hash}", manifest.plan_hash, _REPAIR)
        return manifest

    def receipt(self, unit: int) -> Receipt | None:
        """Return the valid receipt of `unit`; None if it is absent, unreadable or its files differ."""
        path = self._receipt_path(unit)
        try:
            receipt = Receipt.from_json(str(path), read_sealed(path))
        except CorruptStoreError:
            return None
        if receipt.plan_hash != self.plan_hash or receipt.unit != unit:
            return None
        sizes_agree = all(size_of(self.root / file.path) == file.size for file in receipt.files)
        return receipt if sizes_agree else None

    def done(self) -> int:
        """Return how many units have a receipt, by one look at the folder; for people, not for decisions."""
        return sum(name.endswith(".json") for name in names(self.root / INNER / "receipts"))

    def drop(self, units: Sequence[int]) -> None:
        """Drop the receipts of damaged units, the manifest first, so that the stage does them again."""
        remove(self.root / MANIFEST)
        fault_point("repair-manifest-removed")
        for unit in units:
            remove(self._receipt_path(unit))
        sync_folder(self.root / INNER)

    def _receipt_path(self, unit: int) -> PurePath:
        """Return where the receipt of `unit` lies."""
        return self.root / INNER / "receipts" / f"{unit:05d}.json"

    def _failure_path(self, unit: int) -> PurePath:
        """Return where the failures of `unit` are noted."""
        return self.root / INNER / "failures" / f"{unit:05d}.json"

    def _marker(self, unit: int, number: int) -> PurePath:
        """Return where an attempt at `unit` is noted."""
        return self.root / INNER / "started" / f"{unit:05d}.{number}"
