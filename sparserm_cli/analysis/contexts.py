"""Contexts in which latents fire, and what is known of the firing of one latent.

A context is the stretch of a response around one token. Axes: bins (of a histogram of activations).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

BINS = 48
"""Bins of a histogram; each is a quarter of a doubling wide."""
LOWEST = 2.0**-6
"""Lower end of the first bin; weaker activations are counted in it."""


class Context(NamedTuple):
    """A stretch of one response.

    Fields:
        response: number of the response.
        peak: token of the response at the centre, where the latent fires most strongly if it fires.
        value: activation of the latent there; 0 in a context without firing.
        start: first token of the stretch.
        values: activation of the latent on each token of the stretch.
        ids: token ids of the stretch.
        last: whether the response ends with the stretch.
    """

    response: int
    peak: int
    value: float
    start: int
    values: tuple[float, ...]
    ids: tuple[int, ...]
    last: bool


class Halves(NamedTuple):
    """Contexts of two disjoint sets of prompts, at most one per prompt.

    Fields:
        naming: contexts from which a name may be made.
        scoring: contexts on which it is tested.
    """

    naming: tuple[Context, ...] = ()
    scoring: tuple[Context, ...] = ()


class Firing(NamedTuple):
    """Where one latent fires.

    Fields:
        responses: number of responses on which it fires.
        histogram: number of tokens on which it fires, by activation, see `bin_edges`.
        strongest: where it fires most strongly, at most one context per response.
        firing: a random sample of contexts in which it fires.
        others: a random sample of contexts in which it does not fire; empty unless they were wanted.
    """

    responses: int
    histogram: Int64[np.ndarray, " bins"]
    strongest: tuple[Context, ...]
    firing: Halves
    others: Halves


def bin_edges() -> np.ndarray:
    """Return the edges of the histogram's bins, one more than there are bins."""
    return LOWEST * 2.0 ** (np.arange(BINS + 1) / 4)


def halves(sample: Halves) -> tuple[Context, ...]:
    """Return the contexts of both halves."""
    return (*sample.naming, *sample.scoring)


def over_quantiles(sample: Sequence[Context], count: int) -> list[Context]:
    """Return contexts at evenly spaced quantiles of a sample's activations, the strongest first."""
    ordered = sorted(sample, key=lambda context: (-context.value, context.response))
    places = np.unique(np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int))
    return [ordered[place] for place in places]
