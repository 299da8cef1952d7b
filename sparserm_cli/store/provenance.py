"""What every artifact carries about itself and its parents, and the comparisons that find a stale one.

An artifact knows its type, its version, its identity (a flat mapping of field to value: every setting its
content depends on) and its parents (name to digest and identity). Two things that should agree are compared
field by field, so that an error names the field. Paths, dates and hosts are never part of an identity.
"""

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.io.sealed_json import canonical_json

DIGEST_FIELD = "content digest"
_ABSENT = "nothing"
_PACKAGES = ("sparserm", "torch", "transformers", "sae-lens", "zarr", "numpy")


@dataclass(frozen=True)
class Parent:
    """An artifact that another one was made from."""

    digest: str
    """The content digest it had."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """Its settings, so that a difference can be named by its field."""


@dataclass(frozen=True)
class Lineage:
    """What an artifact says about itself."""

    type: str
    """The artifact's kind, such as `activations`."""
    version: int
    """The version of its format on disk."""
    identity: Mapping[str, Any]
    """Field to JSON value: every setting the content depends on."""
    parents: Mapping[str, Parent] = field(default_factory=dict)
    """Name to parent, such as `activations`."""
    digest: str = ""
    """The content digest; "" while it is not yet known."""
    created: str = field(default="", compare=False)
    """When it was made, for people; no decision and no digest depends on it."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that stands in the artifact."""
        parents = {
            name: {"digest": parent.digest, "identity": dict(parent.identity)}
            for name, parent in self.parents.items()
        }
        own = {"type": self.type, "version": self.version, "digest": self.digest, "created": self.created}
        return {**own, "identity": dict(self.identity), "parents": parents}

    @classmethod
    def from_json(cls, where: str, value: Mapping[str, Any]) -> "Lineage":
        """Read what `to_json` wrote.

        Raises:
            CorruptStoreError: a field is missing or of the wrong kind.

        """
        try:
            parents = {
                name: Parent(str(parent["digest"]), dict(parent["identity"]))
                for name, parent in value["parents"].items()
            }
            identity, created = dict(value["identity"]), str(value.get("created", ""))
            kind, version, digest = str(value["type"]), int(value["version"]), str(value["digest"])
            return cls(kind, version, identity, parents, digest, created)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            expected = "type, version, digest, identity and parents"
            raise CorruptStoreError(where, expected, repr(error), "run the stage again") from None

    def parent(self, name: str) -> Parent:
        """Return one of the artifacts that this one was made from.

        Raises:
            CorruptStoreError: it does not tell of such a one.

        """
        if name not in self.parents:
            found = ", ".join(self.parents) or "none"
            raise CorruptStoreError(self.type, f"a parent {name}", found, "run the stage again")
        return self.parents[name]

    def as_parent(self) -> Parent:
        """Return what a child artifact records of this one.

        The settings of this one's own parents are told too, as `activations.model`, and first: where an
        artifact is stale because of something far upstream, that is what an error shall name.
        """
        upstream = {
            f"{name}.{field_name}": value
            for name, parent in self.parents.items()
            for field_name, value in parent.identity.items()
        }
        return Parent(self.digest, {**upstream, **self.identity})


def now() -> str:
    """Return the date and time that artifacts record, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def content_digest(value: Any) -> str:
    """Return the sha256 in hex of the canonical JSON spelling of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def check_version(where: str, kind: str, found: Lineage | Mapping[str, Any], newest: int) -> int:
    """Check type and version of an artifact before anything else of it is read.

    Args:
        where: the artifact's path.
        kind: the type it must have.
        found: its lineage or the JSON object that holds `type` and `version`.
        newest: the version this program writes; it reads that and the one before.

    Returns:
        the version found.

    Raises:
        CorruptStoreError: it has no type or version.
        IncompatibleError: it is of another type, newer than this program or too old.

    """
    value = found.to_json() if isinstance(found, Lineage) else found
    version = value.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or "type" not in value:
        raise CorruptStoreError(where, "a type and a version", f"{version!r}", "run the stage again")
    if value["type"] != kind:
        raise IncompatibleError(where, f"an artifact of type {kind}", str(value["type"]), "name another path")
    if version > newest:
        expected = f"format version {newest} or older"
        raise IncompatibleError(where, expected, f"version {version}", "upgrade sparserm")
    if version < max(1, newest - 1):
        expected = f"format version {max(1, newest - 1)} or newer"
        raise IncompatibleError(where, expected, f"version {version}", "run the stage again")
    return version


def first_difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Return the first field in which two identities differ and both values as text; None if equal."""
    for name in [*expected, *(name for name in found if name not in expected)]:
        values = _shown(expected, name), _shown(found, name)
        if values[0] != values[1]:
            return name, *values
    return None


def _shown(identity: Mapping[str, Any], name: str) -> str:
    """Return a field's value as an error shows it."""
    value = identity.get(name, _ABSENT)
    return value if isinstance(value, str) else canonical_json(value).decode()


def parent_difference(recorded: Parent, present: Parent) -> tuple[str, str, str] | None:
    """Return field, recorded value and present value of the first difference; None if they are the same."""
    if recorded.digest == present.digest:
        return None
    named = first_difference(recorded.identity, present.identity)
    return named or (DIGEST_FIELD, recorded.digest, present.digest)


def check_parent(where: str, recorded: Parent, present: Parent, run: str = "run the stage again") -> None:
    """Check that an artifact was made from the parent that is there now.

    Args:
        where: the artifact and its parent, such as `features.zarr (from activations.zarr)`.
        recorded: what the artifact says it was made from.
        present: the parent as it is now.
        run: what to run, such as `sparserm encode --force`.

    Raises:
        IncompatibleError: they differ; it names the first differing field (`content digest` if all settings
            agree) with the recorded value as expected and the present one as found.

    """
    difference = parent_difference(recorded, present)
    if difference is not None:
        name, expected, found = difference
        raise IncompatibleError(f"{where}: {name}", expected, found, f"it is stale: {run}")


def check_same_plan(
    where: str, recorded: Mapping[str, Any], wanted: Mapping[str, Any], run: str = "--force"
) -> None:
    """Check that a rerun asks for what the artifact in the run directory was planned for.

    Args:
        where: the artifact's path.
        recorded: the identity in its plan.
        wanted: the identity that this run's options give.
        run: what to run to start anew.

    Raises:
        IncompatibleError: they differ; names the first field and both values.

    """
    difference = first_difference(recorded, wanted)
    if difference is not None:
        name, expected, found = difference
        hint = f"give the same option, another --run directory, or {run} to start anew"
        raise IncompatibleError(f"{where}: {name}", expected, found, hint)


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that made an artifact, for information only."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
