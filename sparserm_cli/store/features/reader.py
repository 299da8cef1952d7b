"""features.zarr: the SAE latents that fire on each response token, as CSR, unit by unit.

Axes: rows are the response tokens of one unit, columns the latents (`d_sae`). Memory: one unit.
"""

from collections.abc import Iterator
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from sparserm_cli.store.arrays.csr import Csr, part_path, read_csr
from sparserm_cli.store.arrays.object_zarr import zarr_store
from sparserm_cli.store.capture.layout import ACTIVATIONS
from sparserm_cli.store.capture.rows import Pairs, Rows
from sparserm_cli.store.features.plan import COMMAND, FEATURES, VERSION, FeaturesPlan, features_plan_of
from sparserm_cli.store.provenance import Lineage, Parent, check_parent
from sparserm_cli.store.units.integrity import open_complete
from sparserm_cli.store.units.records import Manifest
from sparserm_cli.store.units.unit_store import UnitStore


class FeatureBlock(NamedTuple):
    """The latents of one unit."""

    unit: int
    """Number of the unit."""
    responses: range
    """Numbers of its responses."""
    lengths: Int32[np.ndarray, " unit_responses"]
    """Number of tokens of each of its responses."""
    csr: Csr
    """One row per response token, in store order; `data` is all ones if only counts were requested."""


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
        """The record of this encoding in a child artifact."""
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
        for unit in self.units:
            yield self.block(layer, unit, only_counts=only_counts)

    def block(self, layer: int, unit: int, *, only_counts: bool = False) -> FeatureBlock:
        """Return the latents of one unit; arguments and errors as of `iter_blocks`."""
        self.plan.sae(layer)
        lengths = self.rows.lengths(unit)
        path = part_path(layer, unit)
        csr = read_csr(self._zarr, path, unit, int(lengths.sum()), with_data=not only_counts)
        return FeatureBlock(unit, self.rows.span(unit), lengths, csr)
