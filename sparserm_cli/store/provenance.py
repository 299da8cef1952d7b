"""The lineage that every artifact records, and the comparisons that find a stale artifact.

An artifact records its type, its version, its identity (a mapping from field to value, with every setting
that its content depends on) and its parents (their digests and identities). Identities are compared field by
field, so that an error can name the field. Paths, dates and hosts are never part of an identity.
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
    """Content digest of the parent when the child was made."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """Its settings, so that an error can name the field that differs."""


@dataclass(frozen=True)
class Lineage:
    """The origin of an artifact, as recorded in it."""

    type: str
    """Type of the artifact, such as `activations`."""
    version: int
    """Version of its format on disk."""
    identity: Mapping[str, Any]
    """Mapping from field to JSON value: every setting that the content depends on."""
    parents: Mapping[str, Parent] = field(default_factory=dict)
    """Mapping from name, such as `activations`, to parent."""
    digest: str = ""
    """Content digest; "" while it is not yet known."""
    created: str = field(default="", compare=False)
    """Date of its making, for people; no decision and no digest depends on it."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that the artifact stores."""
        parents = {
            name: {"digest": parent.digest, "identity": dict(parent.identity)}
            for name, parent in self.parents.items()
        }
        own = {"type": self.type, "version": self.version, "digest": self.digest, "created": self.created}
        return {**own, "identity": dict(self.identity), "parents": parents}

    @classmethod
    def from_json(cls, where: str, value: Mapping[str, Any]) -> "Lineage":
        """Read the output of `to_json`.

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
        """Return the record of an artifact that this one was made from.

        Raises:
            CorruptStoreError: it records no parent of this name.

        """
        if name not in self.parents:
            found = ", ".join(self.parents) or "none"
            raise CorruptStoreError(self.type, f"a parent {name}", found, "run the stage again")
        return self.parents[name]

    def as_parent(self) -> Parent:
        """Return the record of this artifact that a child stores.

        The settings of this artifact's own parents come first, under names such as `activations.model`, so
        that an error about a stale artifact names the original cause.
        """
        upstream = {
            f"{name}.{field_name}": value
            for name, parent in self.parents.items()
            for field_name, value in parent.identity.items()
        }
        return Parent(self.digest, {**upstream, **self.identity})


def now() -> str:
    """Return the present date and time in UTC, as artifacts record it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def content_digest(value: Any) -> str:
    """Return the sha256 of the canonical JSON text of `value`, in hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def check_version(where: str, kind: str, stored: Lineage | Mapping[str, Any], newest: int) -> int:
    """Check the type and the version of an artifact before anything else in it is read.

    Args:
        where: path of the artifact.
        kind: the type it must have.
        stored: its lineage or the JSON object that holds `type` and `version`.
        newest: version that this program writes; it can read that one and the one before.

    Returns:
        the version of the artifact.

    Raises:
        CorruptStoreError: it has no type or version.
        IncompatibleError: it is of another type, newer than this program or too old.

    """
    value = stored.to_json() if isinstance(stored, Lineage) else stored
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
    """Return the first field in which two identities differ, and both values as text; None if equal."""
    for name in [*expected, *(name for name in found if name not in expected)]:
        values = _shown(expected, name), _shown(found, name)
        if values[0] != values[1]:
            return name, *values
    return None


def _shown(identity: Mapping[str, Any], name: str) -> str:
    """Return the value of a field as text for an error."""
    value = identity.get(name, _ABSENT)
    return value if isinstance(value, str) else canonical_json(value).decode()


def parent_difference(recorded: Parent, present: Parent) -> tuple[str, str, str] | None:
    """Return field, recorded value and present value of the first difference; None if there is none."""
    if recorded.digest == present.digest:
        return None
    named = first_difference(recorded.identity, present.identity)
    return named or (DIGEST_FIELD, recorded.digest, present.digest)


def check_parent(where: str, recorded: Parent, present: Parent, run: str = "run the stage again") -> None:
    """Check that an artifact was made from the present parent.

    Args:
        where: the artifact and its parent, such as `features.zarr (from activations.zarr)`.
        recorded: the parent as the artifact records it.
        present: the parent as it exists now.
        run: command that rebuilds the artifact, such as `sparserm encode --force`.

    Raises:
        IncompatibleError: they differ; the error names the first field that differs (`content digest` if
            all settings agree), with the recorded value as expected and the present value as found.

    """
    difference = parent_difference(recorded, present)
    if difference is not None:
        name, expected, found = difference
        raise IncompatibleError(f"{where}: {name}", expected, found, f"it is stale: {run}")


def check_same_plan(
    where: str, recorded: Mapping[str, Any], wanted: Mapping[str, Any], run: str = "--force"
) -> None:
    """Check that the options of a repeated run agree with the plan of the existing artifact.

    Args:
        where: path of the artifact.
        recorded: the identity in its plan.
        wanted: the identity that this run's options give.
        run: option or command that starts anew.

    Raises:
        IncompatibleError: they differ; the error names the first field and both values.

    """
    difference = first_difference(recorded, wanted)
    if difference is not None:
        name, expected, found = difference
        hint = f"give the same option, another --run directory, or {run} to start anew"
        raise IncompatibleError(f"{where}: {name}", expected, found, hint)


def package_versions() -> dict[str, str]:
    """Return the versions of the relevant packages, which artifacts record for information only."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
