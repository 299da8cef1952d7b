"""Finding damage in a unit store: the quick check at every opening, and the deep check of `verify --deep`.

The quick check reads the manifest and compares file sizes, with one stat per file. The deep check hashes
every byte and reads every receipt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.io.file_facts import FileFact
from sparserm_cli.store.io.sealed_json import read_sealed
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.units.records import Manifest, Receipt, UnitRecord
from sparserm_cli.store.units.unit_store import INNER, MANIFEST, UnitStore

REPAIR = "run `sparserm repair` and the stage again: only the damaged units are redone"
ANEW = "the plan itself is damaged: run the stage with --force"
_SHOWN = 10


@dataclass(frozen=True)
class Damage:
    """One file of an artifact that differs from its record."""

    path: str
    """Path relative to the artifact."""
    unit: int | None
    """Number of the unit that it belongs to; None for the plan's files and the manifest."""
    expected: str
    """The recorded size, digest or content."""
    found: str
    """The present size, digest or content."""

    @property
    def repairable(self) -> bool:
        """Whether recomputing units repairs it; damage to the plan's own files needs a new plan."""
        return self.unit is not None or self.path == MANIFEST


def damage_error(store: UnitStore, damage: Sequence[Damage]) -> CorruptStoreError:
    """Return the error that states the first damage and names the damaged units."""
    first, units = damage[0], damaged_units(damage)
    named = "" if first.unit is None else f" (unit {first.unit})"
    others = [str(unit) for unit in units if unit != first.unit]
    shown = ", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
    found = first.found + (f" (and {len(others)} more damaged: units {shown})" if others else "")
    hint = REPAIR if first.repairable else ANEW
    return CorruptStoreError(f"{store.root / first.path}{named}", first.expected, found, hint)


def check(store: UnitStore, *, deep: bool) -> list[Damage]:
    """Return all damage to a store, complete or not.

    Args:
        store: the store, with its plan read.
        deep: hash every file and read every receipt, instead of comparing file sizes alone.

    """
    damage = list(check_files(store.root, store.plan.files, None, deep=deep))
    manifest = None
    try:
        manifest = store.manifest()
    except CorruptStoreError as error:
        damage.append(Damage(MANIFEST, None, error.expected, error.found))
    records = dict(enumerate(manifest.units if manifest is not None else ()))

    def check_unit(unit: int) -> list[Damage]:
        return list(_check_unit(store, unit, records.get(unit), deep=deep))

    for unit_damage in storage_of(store.root).for_each(check_unit, range(store.plan.units)):
        damage += unit_damage
    if manifest is not None and len(manifest.units) != store.plan.units:
        units = f"{store.plan.units} units", f"{len(manifest.units)}"
        damage.append(Damage(MANIFEST, None, *units))
    return damage


def _check_unit(store: UnitStore, unit: int, record: UnitRecord | None, *, deep: bool) -> Iterator[Damage]:
    """Yield the damage to one unit and to its receipt; a unit without either is pending, not damaged."""
    path = f"{INNER}/receipts/{unit:05d}.json"
    receipt = None
    if storage_of(store.root / path).size() >= 0:
        if deep or record is None:
            receipt, broken = _read_receipt(store, unit, path)
            yield from broken
    elif record is not None:
        yield Damage(path, unit, "a receipt", "no file")
    if record is not None and receipt is not None and receipt.files != record.files:
        yield Damage(path, unit, "the files of the manifest", "others")
    files = record.files if record is not None else receipt.files if receipt is not None else ()
    yield from check_files(store.root, files, unit, deep=deep)


def _read_receipt(store: UnitStore, unit: int, path: str) -> tuple[Receipt | None, list[Damage]]:
    """Return the receipt at `path`, or None, and its damage."""
    try:
        receipt = Receipt.from_json(path, read_sealed(store.root / path))
    except CorruptStoreError as error:
        return None, [Damage(path, unit, error.expected, error.found)]
    if receipt.plan_hash != store.plan_hash:
        return None, [Damage(path, unit, f"plan {store.plan_hash}", f"plan {receipt.plan_hash}")]
    if receipt.unit != unit:
        return None, [Damage(path, unit, f"unit {unit}", f"unit {receipt.unit}")]
    return receipt, []


def check_files(
    root: PurePath, files: Sequence[FileFact], unit: int | None, *, deep: bool
) -> Iterator[Damage]:
    """Yield the files below `root` whose size, or with `deep` whose digest, differs from its record."""
    storage = storage_of(root)
    for file in files:
        size = storage.size(file.path)
        if size != file.size:
            found = "no file" if size < 0 else f"{size:,} bytes"
            yield Damage(file.path, unit, f"{file.size:,} bytes", found)
        elif deep:
            digest = storage_of(root / file.path).digest()
            if digest != file.xxh3_128:
                yield Damage(file.path, unit, f"xxh3-128 {file.xxh3_128}", digest)


def open_complete(store: UnitStore) -> Manifest:
    """Return the manifest of a complete store, after comparing the sizes of all files.

    Raises:
        IncompatibleError: it is not complete; the error states how many units are missing and the
            command that continues.
        CorruptStoreError: a file is missing, empty, truncated or of another size, or the manifest belongs to
            another plan; the error names the first such file and its unit.

    """
    manifest = store.manifest()
    if manifest is None:
        missing = store.plan.units - store.done()
        where, units = str(store.root), store.plan.units
        found = f"{missing} of {units} units missing" if missing else "units that were not yet checked"
        hint = f"run `{store.command}` again to continue"
        raise IncompatibleError(where, "a complete store", found, hint)
    if len(manifest.units) != store.plan.units:
        found = f"{len(manifest.units)}"
        raise CorruptStoreError(str(store.root / MANIFEST), f"{store.plan.units} units", found, REPAIR)
    damage = list(check_files(store.root, store.plan.files, None, deep=False))

    def check_unit(unit: int) -> list[Damage]:
        return list(check_files(store.root, manifest.units[unit].files, unit, deep=False))

    for damaged in storage_of(store.root).for_each(check_unit, range(store.plan.units)):
        damage += damaged
    if damage:
        raise damage_error(store, damage)
    return manifest


def damaged_units(damage: Sequence[Damage]) -> list[int]:
    """Return the units to recompute; damage outside the units is left out."""
    return sorted({item.unit for item in damage if item.unit is not None})
