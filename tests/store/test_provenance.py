"""Lineage: versions, parents and identities compared field by field."""

import pytest

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.provenance import (
    Lineage,
    Parent,
    check_parent,
    check_same_plan,
    check_version,
    content_digest,
    first_difference,
)

IDENTITY = {"model": "m", "model_revision": "sha256:1", "layers": [14], "dtype": "bfloat16"}


def test_content_digest_does_not_depend_on_the_order_of_keys():
    """Canonical JSON: {"a":1,"b":[2]} has one digest, known from sha256sum."""
    assert content_digest({"b": [2], "a": 1}) == content_digest({"a": 1, "b": [2]})
    assert content_digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_lineage_round_trip():
    """What is written is read."""
    lineage = Lineage("features", 1, IDENTITY, {"activations": Parent("d", {"model": "m"})}, "abc")
    assert Lineage.from_json("x", lineage.to_json()) == lineage


def test_row_14_a_lineage_without_fields_is_corrupt():
    """A missing field names the artifact."""
    with pytest.raises(CorruptStoreError, match=r"^reward/: expected type, version, digest"):
        Lineage.from_json("reward/", {"type": "reward"})


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("model", "n", "model: expected m, found n"),
        ("model_revision", "sha256:2", "model_revision: expected sha256:1, found sha256:2"),
        ("layers", [15], "layers: expected [14], found [15]"),
        ("dtype", "float32", "dtype: expected bfloat16, found float32"),
    ],
)
def test_row_36_a_stale_parent_names_the_field_and_both_values(field: str, value: object, text: str):
    """The first differing field is named with what was recorded and what is there."""
    recorded, present = Parent("a", IDENTITY), Parent("b", {**IDENTITY, field: value})
    with pytest.raises(IncompatibleError) as error:
        check_parent("features.zarr (from activations.zarr)", recorded, present, "sparserm encode --force")
    expected = f"features.zarr (from activations.zarr): {text}; it is stale: sparserm encode --force"
    assert str(error.value) == expected
    assert error.value.exit_code == 4


def test_row_36_equal_settings_with_other_content_name_the_digest():
    """Same settings, other bytes: the content digest is the field."""
    with pytest.raises(IncompatibleError, match="content digest: expected a, found b"):
        check_parent("x", Parent("a", IDENTITY), Parent("b", IDENTITY))


def test_an_equal_parent_is_accepted_whatever_its_tuples_are():
    """A tuple in memory and a list from JSON are the same value; the digest decides."""
    check_parent("x", Parent("a", IDENTITY), Parent("a", IDENTITY))
    assert first_difference({"layers": (14,)}, {"layers": [14]}) is None


def test_an_added_or_missing_field_is_a_difference():
    """A field on one side only is shown as nothing on the other."""
    assert first_difference({"a": 1}, {"a": 1, "b": None}) == ("b", "nothing", "null")
    assert first_difference({"a": 1, "b": "x"}, {"a": 1}) == ("b", "x", "nothing")


def test_row_37_versions():
    """A newer version is refused by name, the one before is read, older ones are not."""
    with pytest.raises(IncompatibleError) as error:
        check_version("activations.zarr", "activations", {"type": "activations", "version": 3}, 2)
    text = "activations.zarr: expected format version 2 or older, found version 3; upgrade sparserm"
    assert str(error.value) == text
    assert check_version("x", "activations", {"type": "activations", "version": 1}, 2) == 1
    with pytest.raises(IncompatibleError, match="expected format version 2 or newer, found version 1"):
        check_version("x", "activations", {"type": "activations", "version": 1}, 3)


@pytest.mark.parametrize("value", [{}, {"type": "a"}, {"type": "a", "version": "1"}, {"version": 1}])
def test_row_37_no_version_is_corrupt(value: dict):
    """An artifact that does not say what it is is not guessed at."""
    with pytest.raises(CorruptStoreError, match="expected a type and a version"):
        check_version("x", "a", value, 1)


def test_another_type_is_refused():
    """A features store is no activations store."""
    with pytest.raises(IncompatibleError, match="expected an artifact of type activations, found features"):
        check_version("x", "activations", {"type": "features", "version": 1}, 1)


def test_a_rerun_with_other_settings_says_what_differs():
    """Layer 15 asked of a store planned for layer 14."""
    with pytest.raises(IncompatibleError) as error:
        check_same_plan("run/activations.zarr", IDENTITY, {**IDENTITY, "layers": [15]}, "extract --force")
    assert str(error.value) == (
        "run/activations.zarr: layers: expected [14], found [15]; give the same option, another --run "
        "directory, or extract --force to start anew"
    )


def test_row_36_a_change_far_upstream_is_named():
    """Directions from a frequency from features of another model revision: the revision is named."""

    def chain(revision: str) -> Parent:
        capture = Lineage("activations", 1, {"model_revision": revision}, {}, revision)
        features = Lineage("features", 1, {}, {"activations": capture.as_parent()}, f"f{revision}")
        frequency = Lineage("frequency", 1, {}, {"features": features.as_parent()}, f"q{revision}")
        return frequency.as_parent()

    with pytest.raises(
        IncompatibleError, match=r"directions: features\.activations\.model_revision: expected 1, found 2"
    ):
        check_parent("directions", chain("1"), chain("2"))
