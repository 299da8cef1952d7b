"""How strongly a latent fires: the counts of its activations, drawn as one small path."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from sparserm_cli.analysis.contexts import bin_edges

HEIGHT, STEP = 36.0, 7.0
"""Height of the drawing and width of a bin, in units of the drawing."""


class Histogram(NamedTuple):
    """A small histogram.

    Fields:
        path: outline of the bars, as SVG draws paths.
        width: width of the drawing.
        text: what it shows, for people who do not see it.
        low: lower end of the first bar.
        high: upper end of the last bar.
    """

    path: str
    width: float
    text: str
    low: float
    high: float


def histogram_of(counts: Int64[np.ndarray, " bins"]) -> Histogram | None:
    """Draw the counts from the first to the last bin that has any; None for a latent that never fires."""
    filled = np.flatnonzero(counts)
    if not len(filled):
        return None
    first, last = int(filled[0]), int(filled[-1])
    shown, edges = counts[first : last + 1], bin_edges()
    heights = HEIGHT * shown / shown.max()
    bars = "".join(
        f"M{number * STEP:g} {HEIGHT:g}v-{height:.1f}h{STEP - 1:g}v{height:.1f}z"
        for number, height in enumerate(heights.tolist())
        if height
    )
    peak = first + int(shown.argmax())
    text = (
        f"Fires on {int(counts.sum()):,} tokens with activations from {edges[first]:.2g} to "
        f"{edges[last + 1]:.2g}, most often between {edges[peak]:.2g} and {edges[peak + 1]:.2g}."
    )
    return Histogram(bars, len(shown) * STEP, text, float(edges[first]), float(edges[last + 1]))
