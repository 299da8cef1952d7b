"""Write the latents of a capture, one unit at a time."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath

from sparserm_cli.store.arrays.csr import Csr, check_csr, part_path, write_csr
from sparserm_cli.store.arrays.object_zarr import zarr_store
from sparserm_cli.store.capture.layout import ACTIVATIONS
from sparserm_cli.store.capture.rows import Rows
from sparserm_cli.store.features.plan import COMMAND, FEATURES, VERSION, features_plan_of
from sparserm_cli.store.provenance import Parent
from sparserm_cli.store.units.records import Receipt, UnitFacts
from sparserm_cli.store.units.unit_store import UnitStore


class FeaturesWriter:
    """Fills a planned encoding.

    Args:
        root: its folder, made by `plan_features`.
        run_id: this run's name, for receipts.

    Raises:
        IncompatibleError: there is no such encoding, or it is newer than this program.
        CorruptStoreError: its plan cannot be read.

    """

    def __init__(self, root: PurePath, run_id: str = "") -> None:
        self.root = root
        self.store = UnitStore(root, FEATURES, VERSION, COMMAND, run_id)
        self.plan = features_plan_of(str(root), self.store.plan)
        self.rows = Rows(zarr_store(root, self.store.plan, read_only=True), self.plan.layout)

    @property
    def parent(self) -> Parent:
        """The capture it is planned for, or was made from."""
        return self.store.lineage(self.store.manifest()).parent(ACTIVATIONS)

    def write_unit(self, unit: int, layers: Mapping[int, Csr], facts: UnitFacts) -> Receipt:
        """Write the latents of a unit at every layer, sync, read back, and write its receipt.

        Args:
            unit: its number.
            layers: for each layer of the plan the latents, one row per response token of the unit.
            facts: device, batches, ...; `rows` and `absmax` are filled in here.

        Raises:
            ValueError: a layer is missing, or a matrix does not fit or has values not above 0.
            ResourceError: the disk is full.

        """
        tokens = int(self.rows.lengths(unit).sum())
        if tuple(layers) != self.plan.layers:
            raise ValueError(f"layers {tuple(layers)} instead of {self.plan.layers}")
        for layer, csr in layers.items():
            check_csr(csr, tokens, self.plan.sae(layer).d_sae)
        store = zarr_store(self.root, self.store.plan)
        files: list[str] = []
        for layer, csr in layers.items():
            files += write_csr(store, part_path(layer, unit), csr, self.plan.sae(layer).d_sae)
        largest = max(float(csr.data.max(initial=0.0)) for csr in layers.values())
        return self.store.commit(unit, files, replace(facts, rows=tokens, absmax=largest), store.written)
