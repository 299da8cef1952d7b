"""The small histogram of a direction's activations, by hand."""

import numpy as np

from sparserm_cli.analysis.contexts import BINS, bin_edges
from sparserm_cli.analysis.report.content.histogram import HEIGHT, STEP, histogram_of


def test_bars_by_hand() -> None:
    """Bins 24 (from 1) and 26 have two and four tokens, the one between them none."""
    counts = np.zeros(BINS, np.int64)
    counts[[24, 26]] = 2, 4
    histogram = histogram_of(counts)
    assert histogram is not None
    assert bin_edges()[24] == 1.0
    assert (histogram.low, histogram.width) == (1.0, 3 * STEP)
    half, whole = HEIGHT / 2, HEIGHT
    assert histogram.path == f"M0 36v-{half:.1f}h6v{half:.1f}zM14 36v-{whole:.1f}h6v{whole:.1f}z"
    assert (
        histogram.text == "Fires on 6 tokens with activations from 1 to 1.7, most often between 1.4 and 1.7."
    )


def test_a_latent_that_never_fires_has_none() -> None:
    """There is nothing to draw."""
    assert histogram_of(np.zeros(BINS, np.int64)) is None
