"""The steering vector of a reward model: the direction in which its score rises fastest, in a stated unit.

The direction is the gradient of the score, which is the same everywhere for a linear head. The unit is the
mean norm of the residual stream at response tokens of a few fixed conversations, so that strengths can be
compared between models and layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from jaxtyping import Float32

from sparserm_cli.alignment.doctor.probes import CONVERSATIONS
from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.head.heads import kind_of
from sparserm_cli.models.head.score_gradient import score_gradient
from sparserm_cli.models.lm.pooling import forest_of
from sparserm_cli.models.lm.residuals import iter_residuals
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.store.artifacts.head_arrays import HeadArrays, head_kind


@dataclass(frozen=True)
class SteeringVector:
    """A direction per layer, and what one unit of strength is.

    Attributes:
        directions: layer to a vector of length 1.
        norms: layer to the mean norm of the residual stream there, over response tokens.
        gains: layer to what a vector of strength 1 adds to a score by way of that layer alone, in standard
            deviations of the training responses' scores.

    """

    directions: Mapping[int, Float32[np.ndarray, " d_in"]]
    norms: Mapping[int, float]
    gains: Mapping[int, float]

    def scaled(self, strength: float) -> dict[int, Float32[np.ndarray, " d_in"]]:
        """Return layer to the vector to add; its length is `strength` times the mean norm at that layer."""
        return {
            layer: direction * np.float32(strength * self.norms[layer])
            for layer, direction in self.directions.items()
        }


def check_steers(path: PurePath, head: HeadArrays) -> None:
    """Refuse a head that gives no direction to steer in; nothing but the head is needed for that.

    Raises:
        IncompatibleError: the head is not linear, so the direction would differ from response to response.

    """
    if not kind_of(head.weights).exact:
        expected = "a linear head, whose score rises in the same direction everywhere"
        hint = "run `sparserm fit --head linear` first"
        raise IncompatibleError(f"{path}: head", expected, head_kind(head.weights), hint)


def steering_vector(model: RewardModel) -> SteeringVector:
    """Return the steering vector of a reward model.

    Args:
        model: a reward model with a linear head.

    Raises:
        IncompatibleError: its head is not linear, or has no weight on one of its layers.

    """
    check_steers(model.path, model.head.arrays)
    gradient = score_gradient(model.head)
    slopes = {layer: float(np.linalg.norm(vector)) for layer, vector in gradient.items()}
    for layer, slope in slopes.items():
        if not slope:
            where, expected = f"{model.path}: layer {layer}", "a head with weight on its directions"
            raise IncompatibleError(where, expected, "weights that cancel out", "fit it again")
    norms = residual_norms(model)
    return SteeringVector(
        {layer: (vector / slopes[layer]).astype(np.float32) for layer, vector in gradient.items()},
        norms,
        {layer: slope * norms[layer] / model.config.score_std for layer, slope in slopes.items()},
    )


def residual_norms(model: RewardModel) -> dict[int, float]:
    """Return layer to the mean norm of the residual stream over the response tokens of `CONVERSATIONS`."""
    prompts = [
        [{"role": role, "content": text} for role, text in turns]
        for turns, responses in CONVERSATIONS
        for _ in responses
    ]
    rows = model.tokenize(prompts, [text for _, responses in CONVERSATIONS for text in responses])
    norms: dict[int, list[np.ndarray]] = {layer: [] for layer in model.lm.layers}
    for _, _, residuals in iter_residuals(model.lm, forest_of(rows).trees):
        for layer, tokens in residuals.items():
            norms[layer].append(tokens.float().norm(dim=1).numpy())
    return {layer: float(np.concatenate(parts).mean()) for layer, parts in norms.items()}
