"""Read the table of frequencies in a notebook.

open_frequency("sparserm-run").table.to_pandas().nlargest(20, "difference")
"""

from functools import cached_property
from pathlib import PurePath

from sparserm_cli.errors import UsageError
from sparserm_cli.locations import parse_location
from sparserm_cli.store.artifacts.frequency import (
    Frequency,
    LatentStatistics,
    Totals,
    frequency_columns,
    read_frequency,
)
from sparserm_cli.store.public.table import Table


def open_frequency(run: str | PurePath) -> "Frequencies":
    """Read how often each latent fires on chosen and on rejected responses.

    Args:
        run: the run directory, or its URL on an object store.

    Raises:
        IncompatibleError: there is no such table, or it is newer than this program.
        CorruptStoreError: a byte of the table has changed.

    """
    return Frequencies(read_frequency(parse_location(run)))


class Frequencies:
    """How often each latent fires on chosen and on rejected responses, and statistics of the difference.

    Args:
        frequency: the table as `read_frequency` returns it.

    """

    def __init__(self, frequency: Frequency) -> None:
        self._frequency = frequency
        self.layers: tuple[int, ...] = tuple(frequency.layers)
        """Blocks, counted from 0."""
        self.unit: str = frequency.unit
        """Whether rates are shares of tokens or of responses: `token` or `response`."""
        self.totals: Totals = frequency.totals
        """Numbers of the tokens, responses, pairs and prompts that were counted."""

    def __repr__(self) -> str:
        layers = ", ".join(map(str, self.layers))
        return f"Frequencies of {len(self.table):,} latents by {self.unit}, layer {layers}"

    @cached_property
    def table(self) -> Table:
        """One row per latent, layer by layer; the columns are those of `frequency.parquet`.

        A positive measure favours chosen responses. Columns of one side end in `_chosen` or `_rejected`.
        """
        return Table(frequency_columns(self._frequency))

    def measures(self, layer: int) -> LatentStatistics:
        """Return the measures of a layer as arrays with one element per latent.

        Raises:
            UsageError: the layer was not counted.

        """
        if layer not in self._frequency.layers:
            shown = ", ".join(map(str, self.layers))
            raise UsageError("layer", f"one of {shown}", str(layer), "choose one")
        return self._frequency.layers[layer]
