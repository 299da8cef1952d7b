"""features.zarr: the SAE latents that fire on each response token, as CSR, unit by unit.

Axes: rows are the response tokens of one unit, columns the latents (`d_sae`). Memory: one unit.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from sparserm_cli.store.building import remove_folder
from sparserm_cli.store.checks import open_complete
from sparserm_cli.store.csr import Csr, check_csr, part_path, read_csr, write_csr
from sparserm_cli.store.features_plan import (
    COMMAND,
    FEATURES,
    VERSION,
    FeaturesPlan,
    SAEFacts,
    features_identity,
    features_plan_of,
    plan_features,
)
from sparserm_cli.store.layout import ACTIVATIONS
from sparserm_cli.store.lineage import Lineage, Parent, check_parent
from sparserm_cli.store.receipts import Manifest, Receipt, UnitFacts
from sparserm_cli.store.remote_zarr import zarr_store
from sparserm_cli.store.rows import Pairs, Rows
from sparserm_cli.store.units import MANIFEST, PLAN, UnitStore

__all__ = [
    "FOLDER",
    "Csr",
    "FeatureBlock",
    "FeaturesPlan",
    "FeaturesReader",
    "FeaturesWriter",
    "SAEFacts",
    "features_identity",
    "features_path",
    "plan_features",
    "remove_features",
]

FOLDER = "features.zarr"


def features_path(run: PurePath) -> PurePath:
    """Return where the encoding of a run directory lies."""
    return run / FOLDER


def remove_features(root: PurePath) -> None:
    """Remove an encoding; a crash leaves the whole encoding or none."""
    remove_folder(root, MANIFEST, PLAN)


class FeatureBlock(NamedTuple):
    """The latents of one unit."""

    unit: int
    """Its number."""
    responses: range
    """Its responses."""
    lengths: Int32[np.ndarray, " unit_responses"]
    """Tokens of each of its responses."""
    csr: Csr
    """One row a response token, in store order; `data` is ones if only counts were asked for."""


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
            layers: for each layer of the plan the latents, one row a response token of the unit.
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


class FeaturesReader:
    """A complete encoding, checked as far as one stat for each file goes.

    Args:
        root: its folder.

    Raises:
        IncompatibleError: there is none, it is not complete, or it is newer than this program.
        CorruptStoreError: a file is missing, empty, cut, or of another plan; names the unit.

    """

    def __init__(self, root: PurePath) -> None:
        self.root = root
        self.store = UnitStore(root, FEATURES, VERSION, COMMAND)
        self.plan: FeaturesPlan = features_plan_of(str(root), self.store.plan)
        self.manifest: Manifest = open_complete(self.store)
        self._zarr = zarr_store(root, self.store.plan, read_only=True)
        self.rows = Rows(self._zarr, self.plan.layout)
        self.units = list(range(self.plan.layout.units))

    @property
    def digest(self) -> str:
        """The content digest."""
        return self.manifest.digest

    @property
    def lineage(self) -> Lineage:
        """What a child artifact records of this encoding."""
        return self.store.lineage(self.manifest)

    @property
    def parent(self) -> Parent:
        """The capture it was made from."""
        return self.lineage.parent(ACTIVATIONS)

    def check_parent(self, present: Parent) -> None:
        """Check that the encoding was made from the capture that is there.

        Raises:
            IncompatibleError: it was not; names the first field that differs.

        """
        check_parent(f"{self.root} (from {ACTIVATIONS})", self.parent, present, f"run `{COMMAND} --force`")

    def pairs(self) -> Pairs:
        """Return all pairs as numbers of responses."""
        return self.rows.pairs

    def iter_blocks(self, layer: int, *, only_counts: bool = False) -> Iterator[FeatureBlock]:
        """Yield the latents unit by unit.

        Args:
            layer: one of the plan's.
            only_counts: leave the values unread, where only what fires matters; a third to two thirds of the
                bytes.

        Raises:
            UsageError: the layer was not encoded.
            CorruptStoreError: a part is damaged; names the unit.

        """
        self.plan.sae(layer)
        for unit in self.units:
            lengths = self.rows.lengths(unit)
            path = part_path(layer, unit)
            csr = read_csr(self._zarr, path, unit, int(lengths.sum()), with_data=not only_counts)
            yield FeatureBlock(unit, self.rows.span(unit), lengths, csr)
