"""The unit store: every unit of a plan is computed once, in any order, by any worker, despite crashes.

A store is a folder that appears with its complete plan (`Plan`) and is then filled unit by unit. Data of a
unit are on the disk before its receipt, and all receipts before the manifest. A receipt or manifest is
therefore always true, and a unit without a receipt is computed again. A unit has the same bytes whichever
worker computes it, so computing it twice does no harm.

    _sparserm/plan.json               the frozen plan
    _sparserm/started/00042.1         one file for each attempt, counted from 1
    _sparserm/receipts/00042.json     written after the unit's data
    _sparserm/failures/00042.json     the reasons why it could not be computed
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
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.provenance import Lineage, check_version, now, package_versions
from sparserm_cli.store.units.records import Manifest, Plan, Receipt, UnitFacts, UnitRecord

INNER = "_sparserm"
PLAN = f"{INNER}/plan.json"
MANIFEST = f"{INNER}/MANIFEST.json"
TRIES = 3
_REPAIR = "run `sparserm verify --deep`, then the stage again"


def write_plan(folder: Path, plan: Plan) -> None:
    """Write plan.json, as the last file of a folder that has not yet its final name (`atomic_folder`)."""
    storage_of(folder / INNER).make_folder()
    fault_point("plan-before")
    write_sealed(folder / PLAN, plan.to_json())
    fault_point("plan-written")


def is_planned(root: PurePath) -> bool:
    """Return whether a store exists at `root`, even if it is damaged."""
    return storage_of(root).is_there(PLAN)


class UnitStore:
    """A planned store, for computing its units and for reading them.

    Args:
        root: the artifact's folder, or its prefix on an object store.
        kind: type that the store must have.
        newest: newest format version that this program can read.
        command: command that makes it, for hints, such as `sparserm extract`.
        run_id: id of this run, which receipts record; a new one if it is empty.

    Raises:
        IncompatibleError: there is no such store, or it is of another type or newer than this program.
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
        """Return the units of this rank (`unit % world == rank`) without a valid receipt, in order.

        A receipt is valid if it can be read and belongs to this plan, and the files have the recorded sizes.
        """
        if self.manifest() is not None:
            return []
        units = range(rank, self.plan.units, world)
        receipts = storage_of(self.root).for_each(self.receipt, units)
        return [unit for unit, receipt in zip(units, receipts, strict=True) if receipt is None]

    def start(self, unit: int) -> None:
        """Record the start of an attempt at `unit`; `finalize` hashes units that were started twice."""
        storage_of(self.root / INNER / "started").make_folder()
        mine = f"{token(this_process())} {uuid.uuid4().hex}".encode()
        number = self._attempts.get(unit, 0) + 1
        with disk_errors(self.root, len(mine)):
            operation("mark")
            while not storage_of(self._marker(unit, number)).create(mine):
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
        """Read back the files of a unit, which are written and synced, and write its receipt.

        Args:
            unit: number of the unit.
            files: paths of all its files, relative to the store.
            facts: facts reported by the code that computed it.
            written: facts of the bytes that were written, if known; the bytes read back must agree.

        Raises:
            CorruptStoreError: a file is absent, or its bytes differ from those that were written.
            ResourceError: the disk is full.

        """
        fault_point("unit-written")
        facts_read_back = tuple(self._read_back(unit, path, written or {}) for path in sorted(files))
        fault_point("unit-read-back")
        receipt = Receipt(
            unit, self.plan_hash, facts, facts_read_back, self.run_id, self._attempts.get(unit, 1)
        )
        storage_of(self.root / INNER / "receipts").make_folder()
        write_sealed(self._receipt_path(unit), receipt.to_json())
        fault_point("receipt-written")
        storage_of(self._failure_path(unit)).remove()
        return receipt

    def _read_back(self, unit: int, path: str, written: Mapping[str, FileFact]) -> FileFact:
        """Return the facts of the file at `path`, which must agree with those that were written."""
        file = storage_of(self.root / path)
        size = file.size()
        fact = FileFact(path, size, file.digest() if size >= 0 else "")
        expected = written.get(path, fact)
        if size < 0 or fact != expected:
            where = f"{self.root / path} (unit {unit})"
            shown = f"{expected.size} bytes {expected.xxh3_128}", f"{size} bytes {fact.xxh3_128}"
            raise CorruptStoreError(where, shown[0], shown[1], f"the disk is not to be trusted; {_REPAIR}")
        return fact

    def record_failure(self, unit: int, error: str) -> bool:
        """Record why `unit` failed; return whether this run gives it up, which it does after three tries."""
        path = self._failure_path(unit)
        before = self.failures(unit)
        storage_of(path.parent).make_folder()
        tries = [*before, {"run_id": self.run_id, "error": error}]
        write_sealed(path, {"unit": unit, "tries": tries})
        return sum(failure["run_id"] == self.run_id for failure in tries) >= TRIES

    def failures(self, unit: int) -> list[dict[str, str]]:
        """Return the failed tries of `unit`, each with `run_id` and `error`, or none if unreadable."""
        try:
            return [dict(failure) for failure in read_sealed(self._failure_path(unit))["tries"]]
        except CorruptStoreError:
            return []

    # --- finishing ---

    def finalize(self, parents: Mapping[str, str] | None = None) -> Manifest | None:
        """Check every receipt against its files and write the manifest; return None if units are pending.

        Units that were started more than once are hashed. If receipt and data disagree, the receipt is
        removed, so that `pending` returns the unit.

        Args:
            parents: digests of parents that are not in the plan, since they were made in the same pass.

        Raises:
            ResourceError: the disk is full.

        """
        receipts = storage_of(self.root).for_each(self._checked_receipt, range(self.plan.units))
        done = [receipt for receipt in receipts if receipt is not None]
        return self._write_manifest(done, parents or {}) if len(done) == self.plan.units else None

    def _checked_receipt(self, unit: int) -> Receipt | None:
        """Return the valid receipt of a unit; remove it if its bytes differ after a second start."""
        receipt = self.receipt(unit)
        if receipt is None or storage_of(self._marker(unit, 2)).size() < 0:
            return receipt
        if all(storage_of(self.root / file.path).digest() == file.xxh3_128 for file in receipt.files):
            return receipt
        storage_of(self._receipt_path(unit)).remove()
        return None

    def _write_manifest(self, receipts: Sequence[Receipt], parents: Mapping[str, str]) -> Manifest:
        """Write the manifest from all receipts."""
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
        """Remove the folders that only unfinished stores need."""
        for name in ("started", "failures"):
            storage_of(self.root / INNER / name).discard()

    # --- reading ---

    def lineage(self, manifest: Manifest | None) -> Lineage:
        """Return the lineage of the store, completed by its manifest if there is one."""
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
            CorruptStoreError: the manifest cannot be read or belongs to another plan.

        """
        path = self.root / MANIFEST
        if storage_of(path).size() < 0:
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
        storage = storage_of(self.root)
        sizes_agree = all(storage.size(file.path) == file.size for file in receipt.files)
        return receipt if sizes_agree else None

    def done(self) -> int:
        """Return how many units have a receipt, from a listing, which serves people but not decisions."""
        return sum(name.endswith(".json") for name in storage_of(self.root / INNER / "receipts").names())

    def drop(self, units: Sequence[int]) -> None:
        """Remove the manifest and the receipts of damaged units, so that the stage recomputes them."""
        storage_of(self.root / MANIFEST).remove()
        fault_point("repair-manifest-removed")
        for unit in units:
            storage_of(self._receipt_path(unit)).remove()
        storage_of(self.root / INNER).sync_folder()

    def _receipt_path(self, unit: int) -> PurePath:
        """Return the path of the receipt of `unit`."""
        return self.root / INNER / "receipts" / f"{unit:05d}.json"

    def _failure_path(self, unit: int) -> PurePath:
        """Return the path of the recorded failures of `unit`."""
        return self.root / INNER / "failures" / f"{unit:05d}.json"

    def _marker(self, unit: int, number: int) -> PurePath:
        """Return the path of the marker of an attempt at `unit`."""
        return self.root / INNER / "started" / f"{unit:05d}.{number}"
