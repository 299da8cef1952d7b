"""Pooled residual vectors of tokenised rows, computed in memory as scoring needs them.

Axes: n (responses, in the rows' order), d_in (width of the residual stream).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64

from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.residuals import iter_residuals, pool
from sparserm_cli.models.lm.trie import Tree
from sparserm_cli.store.capture.plan import POOLED

Pooled = Mapping[int, Mapping[str, Float32[np.ndarray, "n d_in"]]]
"""Mapping from layer to pooling to one vector per response."""


class Forest(NamedTuple):
    """Unique prompts with their unique responses, and the place of each response of the rows among them.

    Fields:
        trees: the prompts, each of them once.
        place: tree of each response of the rows, and its number within the tree.
    """

    trees: list[Tree]
    place: Int64[np.ndarray, "n 2"]


def forest_of(rows: Sequence[TokenizedExample]) -> Forest:
    """Gather the responses to one prompt, wherever they stand; equal responses are computed once."""
    numbers: dict[bytes, int] = {}
    prompts: list[np.ndarray] = []
    branches: list[dict[bytes, np.ndarray]] = []
    place = []
    for response in (response for row in rows for response in row.responses):
        tree = numbers.setdefault(response.prompt_ids.tobytes(), len(prompts))
        if tree == len(prompts):
            prompts.append(response.prompt_ids)
            branches.append({})
        key = response.response_ids.tobytes()
        branches[tree].setdefault(key, response.response_ids)
        place.append((tree, list(branches[tree]).index(key)))
    trees = [Tree(prompt, tuple(branch.values())) for prompt, branch in zip(prompts, branches, strict=True)]
    return Forest(trees, np.array(place, dtype=np.int64).reshape(-1, 2))


def pooled_vectors(
    lm: LanguageModel,
    rows: Sequence[TokenizedExample],
    *,
    batch_tokens: int | None = None,
    deterministic: bool = False,
) -> Pooled:
    """Run the rows through the model and pool each response.

    Args:
        lm: the loaded model.
        rows: tokenised rows; none may have a response without tokens.
        batch_tokens: most tokens in one forward pass; None chooses by the machine.
        deterministic: compute each prompt alone, so that no bit of a vector depends on the other rows.

    """
    forest = forest_of(rows)
    vectors: dict[int, dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]]] = {
        layer: {} for layer in lm.layers
    }
    for tree, response, taken in iter_residuals(
        lm, forest.trees, batch_tokens=batch_tokens, deterministic=deterministic
    ):
        for layer, residuals in taken.items():
            vectors[layer][tree, response] = pool(residuals)
    return {
        layer: {
            name: np.stack(
                [layer_vectors[int(tree), int(response)][which].numpy() for tree, response in forest.place]
            )
            for which, name in enumerate(POOLED)
        }
        for layer, layer_vectors in vectors.items()
    }
