"""How well an SAE fits activations, and the check of a sample that refuses right labels with wrong weights.

Axes: rows (tokens), d_in (width of the residual stream), d_sae (latents).
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.sae.autoencoder import SparseAutoencoder

SINK_FACTOR = 10.0
"""A token is a sink if its norm is more than this many times the median norm. Sinks exceed it 100-fold."""
MEASURE_ROWS = 2048
"""Rows reconstructed at a time while measuring."""
LEAST_EXPLAINED = 0.3
"""A right SAE explains 0.6 to 0.95 of the variance of related text; one of another scale about none."""
L0_FACTOR = 5.0
"""How far L0 may be from what the SAE's makers say, either way."""
FLOAT16_LIMIT = 0.5 * 65504
"""Activations above this are too near to float16's end for an SAE that was made for float16."""


class SinkRule(NamedTuple):
    """Which tokens are left out of training and of statistics because the model parks attention on them.

    Fields:
        median_norm: median Euclidean norm of the tokens that the rule was fitted on.
        factor: tokens with a norm of more than `factor * median_norm` are sinks.
    """

    median_norm: float
    factor: float = SINK_FACTOR

    @classmethod
    def fit(cls, activations: Float[Tensor, "rows d_in"]) -> Self:
        """Take the median norm of a sample, sinks included: a few of them do not move it."""
        return cls(float(activations.float().norm(dim=1).median()))

    def keeps(self, activations: Float[Tensor, "rows d_in"]) -> Bool[Tensor, " rows"]:
        """Return which rows are ordinary tokens."""
        return activations.float().norm(dim=1) <= self.factor * self.median_norm


def check_sample(
    sae: SparseAutoencoder, sample: Float[Tensor, "rows d_in"], *, judge: bool = True
) -> "SAEQuality":
    """Encode and decode a sample of the user's own activations, to catch right labels with wrong weights.

    Args:
        sae: as it will be used.
        sample: raw activations.
        judge: whether to refuse an SAE that does not fit; no option of the command line turns this off.

    Returns:
        the fit to the sample.

    Raises:
        IncompatibleError: too little variance explained, L0 out of range, or activations that an SAE made for
            float16 cannot have seen.

    """
    finite = sample[sample.isfinite().all(dim=1)]
    quality = measure(sae, [finite], SinkRule.fit(finite)) if len(finite) else SAEQuality(0.0, 0.0, 0, 0, 0)
    if not judge or quality.tokens == 0:
        return quality
    name, hint = sae.metadata.name, "check model, layer and scale of the SAE"
    largest = float(finite.float().abs().max())
    if sae.metadata.dtype == "float16" and largest > FLOAT16_LIMIT:
        found = f"activations up to {largest:.0f}"
        raise IncompatibleError(
            f"{name}: dtype float16", f"activations below {FLOAT16_LIMIT:.0f}", found, hint
        )
    if quality.explained_variance < LEAST_EXPLAINED:
        where, expected = f"{name}: explained variance on your activations", f"at least {LEAST_EXPLAINED}"
        raise IncompatibleError(where, expected, f"{quality.explained_variance:.3f}", hint)
    low, high = _l0_range(sae)
    if not low <= quality.l0 <= high:
        where, expected = f"{name}: latents active on a token", f"{low:.1f} to {high:.1f}"
        raise IncompatibleError(where, expected, f"{quality.l0:.1f}", hint)
    return quality


def _l0_range(sae: SparseAutoencoder) -> tuple[float, float]:
    """Return the range of L0 that passes: around what is known of the SAE, else up to half of the latents."""
    metadata = sae.metadata
    match = re.search(r"average_l0_(\d+)|[-_]L0_(\d+)", metadata.name)
    measured = metadata.own_record.get("held_out")
    own = measured.get("l0") if isinstance(measured, Mapping) else None
    named = float(match[1] or match[2]) if match else None
    batch_k = metadata.settings.get("k") if metadata.architecture == "jumprelu" else None
    known = (sae.k, own, metadata.settings.get("l0"), batch_k, named)
    expected = next((l0 for l0 in known if isinstance(l0, int | float) and l0 > 0), None)
    if expected is None:
        return min(1.0, sae.d_sae / 2), sae.d_sae / 2
    return expected / L0_FACTOR, min(float(expected) * L0_FACTOR, float(sae.d_sae))


class SAEQuality(NamedTuple):
    """Fit of an SAE to some tokens, sinks left out.

    Fields:
        explained_variance: 1 - sum |x - reconstruction|^2 / sum |x - mean|^2 over all tokens.
        l0: mean number of active latents of a token.
        dead: latents that are active on none of the tokens.
        tokens: tokens measured.
        sinks: tokens left out.
    """

    explained_variance: float
    l0: float
    dead: int
    tokens: int
    sinks: int


@torch.no_grad()
def measure(
    sae: SparseAutoencoder, blocks: Iterable[Float[Tensor, "_ d_in"]], rule: SinkRule, device: str = "cpu"
) -> SAEQuality:
    """Measure an SAE in one pass over blocks of raw activations; sums are taken in float64."""
    sae = sae.to(device)
    total = torch.zeros(sae.d_in, dtype=torch.float64, device=device)
    fired = torch.zeros(sae.d_sae, dtype=torch.bool, device=device)
    squares = errors = active = 0.0
    tokens = sinks = 0
    for block in blocks:
        kept = block[rule.keeps(block)]
        sinks += len(block) - len(kept)
        tokens += len(kept)
        for raw in kept.split(MEASURE_ROWS):
            x = raw.to(device).float()
            out, latents = sae.reconstruct(x)
            total += x.sum(dim=0, dtype=torch.float64)
            squares += float(x.double().square().sum())
            errors += float((x - out).double().square().sum())
            active += float((latents > 0).sum())
            fired |= (latents > 0).any(dim=0)
    if tokens == 0:
        return SAEQuality(0.0, 0.0, sae.d_sae, 0, sinks)
    variance = squares - float(total.square().sum()) / tokens
    explained = 1 - errors / variance if variance > 0 else 0.0
    return SAEQuality(explained, active / tokens, int((~fired).sum()), tokens, sinks)
