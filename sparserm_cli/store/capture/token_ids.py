"""Token ids of captured responses."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt32

from sparserm_cli.store.capture.reader import ActivationsReader


class Ids(NamedTuple):
    """Token ids of a response and of the prompt before it."""

    prompt: UInt32[np.ndarray, " p"]
    response: UInt32[np.ndarray, " r"]


def ids_of(capture: ActivationsReader, responses: Iterable[int]) -> dict[int, Ids]:
    """Read the token ids of some responses, each unit that holds any of them once."""
    wanted = np.unique(np.fromiter(responses, np.int64))
    units = np.searchsorted(capture.rows.unit_response_start, wanted, side="right") - 1
    ids_by_response: dict[int, Ids] = {}
    for unit in np.unique(units):
        needed = set(wanted[units == unit].tolist())
        for tree in capture.rows.trees(int(unit)):
            for number, ids in enumerate(tree.responses, start=tree.first):
                if number in needed:
                    ids_by_response[number] = Ids(tree.prompt_ids.copy(), ids.copy())
    return ids_by_response
