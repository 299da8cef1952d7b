"""Read the preference directions in a notebook.

directions = open_directions("sparserm-run")
directions.table.to_pandas()        # latent, side and rates of each
directions.vectors(14)              # one row per direction, in the same order
"""

from functools import cached_property
from pathlib import PurePath

import numpy as np
from jaxtyping import Float32

from sparserm_cli.errors import UsageError
from sparserm_cli.locations import parse_location
from sparserm_cli.store.artifacts.directions import Directions, LayerDirections, read_directions
from sparserm_cli.store.public.table import Table

NUMBERS = ("feature", "side", "statistic", "rate_chosen", "rate_rejected", "q")


def open_directions(run: str | PurePath) -> "PreferenceDirections":
    """Read the selected directions of a run directory.

    Args:
        run: the run directory, or its URL on an object store.

    Raises:
        IncompatibleError: there are no directions, or they are newer than this program.
        CorruptStoreError: a file is missing, truncated or changed.

    """
    return PreferenceDirections(read_directions(parse_location(run)))


class PreferenceDirections:
    """The decoder rows of the selected latents, preferred ones first.

    Args:
        directions: the directions as `read_directions` returns them.

    """

    def __init__(self, directions: Directions) -> None:
        self._layers = directions.layers
        self.layers: tuple[int, ...] = tuple(directions.layers)
        """Blocks, counted from 0, in the order in which a reward model uses them."""

    def __repr__(self) -> str:
        return f"PreferenceDirections: {len(self.table)}, layer {', '.join(map(str, self.layers))}"

    @cached_property
    def table(self) -> Table:
        """One row per direction, layer by layer.

        Columns: `layer`, `direction` (its row in `vectors`), `feature` (latent of the SAE, -1 for a random
        direction), `side` (1 preferred, -1 dispreferred), `statistic` (the value it was chosen by),
        `rate_chosen` and `rate_rejected` (share of tokens or responses on which it fires), and `q` (q-value
        of McNemar's test).
        """
        parts = [_columns(layer, rows) for layer, rows in self._layers.items()]
        return Table.of({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def vectors(self, layer: int) -> Float32[np.ndarray, "directions d_in"]:
        """Return the directions of a layer, with the norms that they have in the SAE.

        Raises:
            UsageError: nothing was selected at this layer.

        """
        if layer not in self._layers:
            shown = ", ".join(map(str, self.layers))
            raise UsageError("layer", f"one of {shown}", str(layer), "choose one")
        return self._layers[layer].rows


def _columns(layer: int, rows: LayerDirections) -> dict[str, np.ndarray]:
    """Return the columns of one layer."""
    count = len(rows.feature)
    own = {"layer": np.full(count, layer), "direction": np.arange(count)}
    return own | {name: getattr(rows, name) for name in NUMBERS}
