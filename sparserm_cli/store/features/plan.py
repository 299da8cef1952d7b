"""The plan of an encoding: its SAEs, and the capture that it is made from and whose units it shares.

zarr.json                 group, with type and version
layers/14/parts/00042/    the latents of one unit, see `csr`
rows/                     as in the capture, without token ids
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import PurePath
from typing import Any

from sparserm_cli.errors import CorruptStoreError, IncompatibleError, UsageError
from sparserm_cli.store.arrays.checked_zarr import SafeStore, create_group
from sparserm_cli.store.capture.layout import ACTIVATIONS
from sparserm_cli.store.capture.plan import Layout
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.capture.row_arrays import TOKEN_IDS, row_types, write_array
from sparserm_cli.store.capture.writer import ActivationsWriter
from sparserm_cli.store.io.atomic import atomic_folder
from sparserm_cli.store.io.fault_points import fault_point
from sparserm_cli.store.io.file_facts import inventory
from sparserm_cli.store.provenance import now, package_versions
from sparserm_cli.store.units.records import Plan
from sparserm_cli.store.units.unit_store import PLAN, write_plan

FEATURES = "features"
COMMAND = "sparserm encode"
VERSION = 1
"""Version of the format of features.zarr."""

_ROWS_ARE = (
    "part u has one row per response token of unit u, which holds the responses from "
    "rows/unit_response_start[u] to before [u + 1], each of them rows/response_length tokens"
)
_READ_WITH = "sparserm_cli.open_features(run).tokens({layer}, i) or .pooled({layer})"


@dataclass(frozen=True)
class SAEFacts:
    """The sparse autoencoder of one layer."""

    name: str
    """Release or path, as it was given."""
    digest: str
    """Digest of its weights and configuration."""
    architecture: str
    """Architecture, as sae-lens names it."""
    hook_name: str
    """Name of the point in the model at which it was trained, as in sae-lens."""
    layer: int
    """The layer of the capture it encodes."""
    d_in: int
    """Width of its input."""
    d_sae: int
    """Number of its latents."""
    dtype: str = "float32"
    """Floating-point type in which it computes."""
    model_name: str = ""
    """The model it was trained on, if it says so."""


@dataclass(frozen=True)
class FeaturesPlan:
    """An encoding that is frozen on the disk."""

    saes: tuple[SAEFacts, ...]
    """The SAEs, one per layer."""
    layout: Layout
    """The sizes of the capture."""
    plan_hash: str
    """Hash of the plan."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers encoded."""
        return tuple(sae.layer for sae in self.saes)

    def sae(self, layer: int) -> SAEFacts:
        """Return the SAE of a layer.

        Raises:
            UsageError: the layer was not encoded.

        """
        for sae in self.saes:
            if sae.layer == layer:
                return sae
        shown = ", ".join(map(str, self.layers))
        raise UsageError("--layer", f"one of {shown}", str(layer), "or encode with an SAE of that layer")


def features_identity(saes: Sequence[SAEFacts]) -> dict[str, Any]:
    """Return field to JSON value of an encoding: `sae`, `sae_digest`, `d_sae`, ..., one value per layer."""
    lists = {item.name: [getattr(sae, item.name) for sae in saes] for item in fields(SAEFacts)}
    return {"sae": lists.pop("name"), "sae_digest": lists.pop("digest"), **lists}


def plan_features(
    root: PurePath, capture: ActivationsReader | ActivationsWriter, saes: Sequence[SAEFacts]
) -> FeaturesPlan:
    """Freeze the plan of an encoding; after this it is there, without any unit done.

    Args:
        root: where it shall lie, `RUN/features.zarr`.
        capture: complete, with response tokens; or one of `latents` that is filled in the same pass, whose
            plan then stands for it until the manifest of the encoding tells its content digest.
        saes: one for each layer to be encoded.

    Raises:
        UsageError: the capture has no response tokens, or not a layer.
        IncompatibleError: an SAE has another width than the capture.
        ResourceError: the disk is full.

    """
    for sae in saes:
        if isinstance(capture, ActivationsReader):
            capture.require(sae.layer, "response")
        if sae.d_in != capture.plan.settings.d_in:
            where, found = f"{sae.name}: d_in", str(sae.d_in)
            hint = "take an SAE of the captured model"
            raise IncompatibleError(where, str(capture.plan.settings.d_in), found, hint)
    with atomic_folder(root, sealed_by=PLAN) as part:
        store = SafeStore(part, sync=False)
        create_group(store, "", {"sparserm": {"type": FEATURES, "version": VERSION}})
        for sae in saes:
            about = {"rows_are": _ROWS_ARE, "read_with": _READ_WITH.format(layer=sae.layer)}
            create_group(store, f"layers/{sae.layer}/parts", {"sae": asdict(sae), **about})
        for name in row_types(capture.plan.layout):
            if name not in TOKEN_IDS:
                write_array(store, name, capture.rows.length(name), capture.rows.blocks(name))
        fault_point("plan-rows-written")
        metadata = {
            "created": now(),
            "packages": package_versions(),
        }
        identity, layout = features_identity(saes), capture.plan.layout.to_json()
        parents = {ACTIVATIONS: capture.lineage.as_parent()}
        plan = Plan(FEATURES, VERSION, identity, layout, inventory(part), parents, metadata)
        write_plan(part, plan)
        fault_point("plan-before-rename")
    fault_point("plan-renamed")
    return features_plan_of(str(root), plan)


def features_plan_of(where: str, plan: Plan) -> FeaturesPlan:
    """Return the plan of an encoding from the plan of its unit store.

    Raises:
        CorruptStoreError: a field is missing or of the wrong kind.

    """
    try:
        columns = dict(plan.identity)
        columns["name"], columns["digest"] = columns.pop("sae"), columns.pop("sae_digest")
        count = len(columns["layer"])
        saes = tuple(SAEFacts(**{name: column[i] for name, column in columns.items()}) for i in range(count))
        layout = Layout(**{name: int(value) for name, value in plan.layout.items()})
        return FeaturesPlan(saes, layout, plan.plan_hash)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CorruptStoreError(where, "an encoding's plan", repr(error), "run encode --force") from None
