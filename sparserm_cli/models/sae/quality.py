"""Fit of an SAE to activations, and a check that refuses weights which do not belong to their metadata.

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
"""A token is a sink if its norm exceeds the median norm by this factor; sinks exceed it about 100-fold."""
MEASURE_ROWS = 2048
"""Number of rows that are reconstructed at a time."""
LEAST_EXPLAINED = 0.3
"""Smallest explained variance that passes: a matching SAE has 0.6 to 0.95, one of another scale about 0."""
L0_FACTOR = 5.0
"""Factor by which L0 may differ from the published one, in either direction."""
FLOAT16_LIMIT = 0.5 * 65504
"""Largest activation that passes for an SAE made for float16, whose numbers end at 65,504."""


class SinkRule(NamedTuple):
    """Rule for sink tokens, on which the model parks attention; training and statistics leave them out.

    Fields:
        median_norm: median Euclidean norm of the tokens that the rule was fitted on.
        factor: tokens with a norm of more than `factor * median_norm` are sinks.
    """

    median_norm: float
    factor: float = SINK_FACTOR

    @classmethod
    def fit(cls, activations: Float[Tensor, "rows d_in"]) -> Self:
        """Fit the rule to the median norm of a sample; the few sinks in it do not move the median."""
        return cls(float(activations.float().norm(dim=1).median()))

    def keeps(self, activations: Float[Tensor, "rows d_in"]) -> Bool[Tensor, " rows"]:
        """Return which rows are ordinary tokens, not sinks."""
        return activations.float().norm(dim=1) <= self.factor * self.median_norm


def check_sample(
    sae: SparseAutoencoder, sample: Float[Tensor, "rows d_in"], *, judge: bool = True
) -> "SAEQuality":
    """Encode and decode a sample of the user's activations, to detect weights with wrong metadata.

    Args:
        sae: the SAE as it will be used.
        sample: raw activations.
        judge: whether to refuse an SAE that does not fit; no option of the command line turns this off.

    Returns:
        the fit to the sample.

    Raises:
        IncompatibleError: too little variance is explained, L0 is out of range, or activations are larger
            than an SAE made for float16 can have seen.

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
    """Return the range of L0 that passes: around the published L0, else up to half of the latents."""
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
    """Fit of an SAE to some tokens, without sinks.

    Fields:
        explained_variance: 1 - sum |x - reconstruction|^2 / sum |x - mean|^2 over all tokens.
        l0: mean number of active latents per token.
        dead: number of latents that are active on no token.
        tokens: number of measured tokens.
        sinks: number of tokens that were left out as sinks.
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
