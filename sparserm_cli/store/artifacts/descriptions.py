"""directions/descriptions.json: what each selected direction stands for, with a name that was tested.

The file is sealed. It holds the lineage, whose parents are the directions that it describes and what they
were made from, `describer` (the server and model that made names, or null), and `layers`: for each layer one
object per direction, in the order of `directions.json`, MUST:

| field | |
|---|---|
| feature, side | as in `directions.json` |
| name | name that beats chance on held-out contexts; null for an unnamed direction |
| rule | name made by rule: `text`, `marks`, `score`; or null |
| model | name made by a language model: `text`, `prompt`, `answer`, `score`; or null |
| promotes, suppresses | tokens with the highest and the lowest logits: `text`, `id`, `logit` |
| words | over-represented words: `mark`, `z`, `firing`, `others` |
| peaks | tokens on which it fires most strongly: `text`, `share` |
| examples | contexts over the quantiles of its activations: `value`, `tokens` (text and activation each) |
| responses | number of responses on which it fires |
| neuronpedia | address of its page, or null |

A `score` holds `value`, `low`, `high`, `firing`, `firing_right`, `others` and `others_right`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.artifacts.directions import directions_path
from sparserm_cli.store.io.sealed_json import read_sealed, write_sealed
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.provenance import Lineage, Parent, check_version, content_digest, now

TYPE, VERSION = "descriptions", 1
COMMAND = "sparserm describe"
_FILE = "descriptions.json"
Names = Mapping[tuple[int, int], str]
"""Mapping from layer and latent to the name of a direction."""


@dataclass(frozen=True)
class Descriptions:
    """Descriptions of all selected directions."""

    lineage: Lineage
    """The lineage; its digest covers the descriptions, and `write_descriptions` fills it in."""
    layers: Mapping[int, Sequence[Mapping[str, Any]]]
    """Mapping from layer to one object per direction, in the order of the directions."""
    describer: Mapping[str, Any] | None = None
    """Server and language model that made names; None for names by rule alone."""

    @property
    def names(self) -> Names:
        """Names that beat chance, by layer and latent."""
        return {
            (layer, int(row["feature"])): str(row["name"])
            for layer, rows in self.layers.items()
            for row in rows
            if row["name"] is not None and row["feature"] is not None
        }


def descriptions_path(run: PurePath) -> PurePath:
    """Return where the descriptions of a run directory lie."""
    return directions_path(run) / _FILE


def write_descriptions(run: PurePath, descriptions: Descriptions) -> Descriptions:
    """Write the descriptions whole or not at all, and return them with their digest.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.

    """
    layers = {str(layer): list(rows) for layer, rows in descriptions.layers.items()}
    lineage = replace(descriptions.lineage, digest=content_digest(layers), created=now())
    record = {**lineage.to_json(), "describer": descriptions.describer, "layers": layers}
    write_sealed(descriptions_path(run), record)
    return replace(descriptions, lineage=lineage)


def read_descriptions(run: PurePath) -> Descriptions:
    """Read and check the descriptions of a run directory.

    Raises:
        IncompatibleError: there are none, or they are newer than this program.
        CorruptStoreError: the file is cut or changed.

    """
    path = descriptions_path(run)
    if storage_of(path).size() < 0:
        raise IncompatibleError(str(path), "descriptions", "no file", f"run `{COMMAND}` first")
    again = f"run `{COMMAND}` again"
    head = read_sealed(path, again)
    check_version(str(path), TYPE, head, VERSION)
    lineage = Lineage.from_json(str(path), head)
    try:
        layers = {int(layer): [dict(row) for row in rows] for layer, rows in head["layers"].items()}
        descriptions = Descriptions(lineage, layers, head["describer"])
        _ = descriptions.names
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptStoreError(str(path), "descriptions of format 1", repr(error), again) from None
    return descriptions


def names_of(run: PurePath, directions: Parent | None) -> Names:
    """Return the names of a reward model's directions, by layer and latent; none if nothing describes them.

    Args:
        run: folder in which `directions/` lies.
        directions: the directions that the reward model was made of, as it records them.

    Raises:
        IncompatibleError: the descriptions are newer than this program.
        CorruptStoreError: the descriptions are cut or changed.

    """
    descriptions = _beside(run)
    return {} if descriptions is None or _are_stale(descriptions, directions) else descriptions.names


def why_no_names(run: PurePath, directions: Parent | None) -> str:
    """Return why the names that are there are not shown; "" if they are, or if there are none.

    Arguments and errors as of `names_of`.
    """
    descriptions = _beside(run)
    if descriptions is None or not _are_stale(descriptions, directions):
        return ""
    return f"no names are shown: {descriptions_path(run)} describes other directions; run `{COMMAND}`"


def _beside(run: PurePath) -> Descriptions | None:
    """Read the descriptions of a run directory, if there are any."""
    return read_descriptions(run) if storage_of(descriptions_path(run)).size() >= 0 else None


def _are_stale(descriptions: Descriptions, directions: Parent | None) -> bool:
    """Return whether descriptions are of other directions than these."""
    recorded = descriptions.lineage.parents.get("directions")
    return directions is None or recorded is None or recorded.digest != directions.digest
