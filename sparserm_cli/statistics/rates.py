"""Shares, their intervals, tests of their differences, and corrections for many tests."""

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import ndtr, ndtri, xlogy
from scipy.stats import false_discovery_control

Latents = Float64[np.ndarray, " d_sae"]
"""One number per latent."""


def shares(part: Float64[np.ndarray, "..."], whole: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Return part / whole, and 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole > 0)


def wilson_interval(
    rate: Float64[np.ndarray, "..."], n: Float64[np.ndarray, "..."], confidence: float = 0.95
) -> tuple[Float64[np.ndarray, "..."], Float64[np.ndarray, "..."]]:
    """Return Wilson's score interval of a rate seen in `n` independent observations (Wilson 1927).

    For a rate of tokens let `n` be the number of responses: tokens of a response are not independent, and the
    share of a response's tokens varies at most as much as a single yes or no, so the interval is not too
    narrow. Without observations it is 0 to 1.
    """
    z = float(ndtri(0.5 + confidence / 2))
    middle = (n * rate + z * z / 2) / (n + z * z)
    half = z * np.sqrt(n * rate * (1 - rate) + z * z / 4) / (n + z * z)
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def standardised_difference(rate: Float64[np.ndarray, "2 d_sae"]) -> Latents:
    """Return (p0 - p1) / sqrt((p0 (1 - p0) + p1 (1 - p1)) / 2), and 0 where both sides never vary."""
    spread = np.sqrt((rate * (1 - rate)).mean(axis=0))
    return shares(rate[0] - rate[1], spread)


def stratified_difference(
    part: Float64[np.ndarray, "strata 2 d_sae"], whole: Float64[np.ndarray, "strata 2"]
) -> Latents:
    """Return the difference of rates within strata, averaged with weights n0 n1 / (n0 + n1).

    The Mantel-Haenszel risk difference: what is left of a difference once both sides are as long.
    """
    rate = shares(part, whole[:, :, None])
    weight = shares(whole.prod(axis=1), whole.sum(axis=1))
    return shares(weight @ (rate[:, 0] - rate[:, 1]), np.array(weight.sum()))


def two_proportion_z(fired: Int64[np.ndarray, "2 d_sae"], n: Int64[np.ndarray, "2"]) -> Latents:
    """Return the z of two proportions with pooled variance.

    It takes responses as independent, which several responses to one prompt are not: where prompts have many
    responses `mcnemar_z`, which compares within prompts, is the test to trust.
    """
    n_float = n.astype(np.float64)
    rate = shares(fired.astype(np.float64), n_float[:, None])
    pooled = fired.sum(axis=0) / max(float(n_float.sum()), 1.0)
    inverse = float(shares(np.ones(2), n_float).sum())
    return shares(rate[0] - rate[1], np.sqrt(pooled * (1 - pooled) * inverse))


def mcnemar_z(discordant: Float64[np.ndarray, "2 d_sae"]) -> Latents:
    """Return (b - c) / sqrt(b + c) of the discordant pairs (McNemar 1947).

    Where a prompt has several pairs, each weighs its share of 1; b + c is then at least the variance of
    b - c, so the test errs on the careful side.
    """
    return shares(discordant[0] - discordant[1], np.sqrt(discordant.sum(axis=0)))


def two_sided_p(z: Latents) -> Latents:
    """Return the two-sided p-value of a standard normal z."""
    return 2.0 * ndtr(-np.abs(z))


def q_values(p: Float64[np.ndarray, " tests"]) -> Float64[np.ndarray, " tests"]:
    """Return Benjamini-Hochberg q-values: the smallest false discovery rate at which each test passes."""
    q: Float64[np.ndarray, " tests"] = false_discovery_control(p, method="bh")
    return q


def mutual_information(fired: Int64[np.ndarray, "2 d_sae"], n: Int64[np.ndarray, "2"]) -> Latents:
    """Return the mutual information, in bits, of firing on a response and the response's side."""
    total = max(float(n.sum()), 1.0)
    joint = np.stack([fired, n[:, None] - fired]) / total  # firing or not, side, latent
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    ratio = np.divide(joint, product, out=np.ones_like(joint), where=joint > 0)
    return np.maximum(xlogy(joint, ratio).sum(axis=(0, 1)), 0.0) / np.log(2.0)
