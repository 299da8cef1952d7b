"""Prompts and their responses, and how many tokens they share."""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt32


class Tree(NamedTuple):
    """One prompt with all its responses.

    Fields:
        prompt_ids: token ids of the prompt.
        responses: token ids of each response, at least one token each.
    """

    prompt_ids: UInt32[np.ndarray, " p"]
    responses: tuple[UInt32[np.ndarray, " r"], ...]
