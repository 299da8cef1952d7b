"""What the label of a pair would tell a head about its weights, and which pairs to label together.

A head whose score is linear in some features of a response prefers the first response of a pair with the
probability p = sigmoid(w . d), where d is the difference of the features of both responses (Bradley and Terry
1952). One label then adds the Fisher information p (1 - p) d d^T to what is known of w, whichever response
wins. A set of pairs is chosen for the largest determinant of the sum (D-optimal design, Kiefer 1959), pair
after pair: with the precision A of the weights so far, one more pair adds

    1/2 log(1 + p (1 - p) d^T A^-1 d)

nats to what is known (MacKay 1992, "Information-based objective functions for active data selection"). Shen
et al. 2025 (arXiv 2502.04354) choose pairs for reward models by the same rule, on the features before the
last layer. After each choice A grows by the pair's information, so two pairs that would say the same are not
chosen together.

Axes: `n` pairs, `p` features.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64, Integer
from scipy.special import expit

_CHUNK = 4096  # pairs whose products are held in double precision at a time


class Design(NamedTuple):
    """Pairs in the order in which they were chosen.

    Fields:
        pairs: their indices.
        nats: what the label of each adds to what is known after the pairs before it.
    """

    pairs: Int64[np.ndarray, " chosen"]
    nats: Float64[np.ndarray, " chosen"]


def label_variance(margins: Float[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return p (1 - p), where p is the sigmoid of the difference of both scores of a pair."""
    p = expit(margins.astype(np.float64))
    return np.asarray(p * (1 - p))


def information(
    differences: Float[np.ndarray, "n p"], variance: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, "p p"]:
    """Return the Fisher information of the labels of some pairs: the sum of p (1 - p) d d^T.

    Args:
        differences: features of the first response less those of the second, for each pair.
        variance: p (1 - p) of each pair.

    """
    total = np.zeros((differences.shape[1],) * 2)
    for start in range(0, len(differences), _CHUNK):
        d = differences[start : start + _CHUNK].astype(np.float64)
        total += (d * variance[start : start + _CHUNK, None]).T @ d
    return total


def choose_pairs(
    differences: Float[np.ndarray, "n p"],
    variance: Float64[np.ndarray, " n"],
    prompts: Integer[np.ndarray, " n"],
    precision: Float64[np.ndarray, "p p"],
    count: int,
) -> Design:
    """Choose the pairs whose labels together tell the most, the most telling one first.

    A prompt gives a second pair only when every prompt has given one. Of equally telling pairs the first one
    is taken.

    Args:
        differences: features of the first response less those of the second, for each pair.
        variance: p (1 - p) of each pair; all 1/4 leaves out how sure the head is.
        prompts: prompt of each pair.
        precision: what is known of the weights already; it must be positive definite.
        count: number of pairs to choose; all pairs are chosen if there are not so many.

    """
    covariance = np.linalg.inv(precision)
    spread = np.concatenate(
        [
            np.einsum("np,pq,nq->n", block, covariance, block, optimize=True)
            for block in np.array_split(differences, max(1, len(differences) // _CHUNK))
        ]
    )
    _, prompt = np.unique(prompts, return_inverse=True)
    prompt = prompt.reshape(-1)
    given = np.zeros(int(prompt.max(initial=-1)) + 1, np.int64)
    free = np.ones(len(differences), np.bool_)
    chosen: list[int] = []
    nats: list[float] = []
    while len(chosen) < min(count, len(differences)):
        turn = given[prompt]
        allowed = free & (turn == turn[free].min())
        gain = np.where(allowed, 0.5 * np.log1p(variance * np.maximum(spread, 0.0)), -np.inf)
        best = int(gain.argmax())
        chosen.append(best)
        nats.append(float(gain[best]))
        free[best] = False
        given[prompt[best]] += 1
        # The rank-one update of the inverse by Sherman and Morrison (1950).
        direction = covariance @ differences[best].astype(np.float64)
        share = variance[best] / (1 + variance[best] * max(spread[best], 0.0))
        covariance -= share * np.outer(direction, direction)
        spread -= share * np.square(differences @ direction)
    return Design(np.array(chosen, np.int64), np.array(nats))
