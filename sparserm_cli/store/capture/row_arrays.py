"""The arrays that hold the rows of a capture: its tokens, prompts and pairs. The planner writes them once.

Axes: responses are numbered in store order (unit by unit, tree by tree); `tokens` counts all response tokens
in that order; prompts are numbered by first appearance.

| array | type, shape | |
|---|---|---|
| rows/response_prompt | int32 [responses] | number of the prompt |
| rows/response_length | int32 [responses] | number of tokens |
| rows/response_characters | int32 [responses] | number of characters of the text |
| rows/response_flags | uint8 [responses] | 1: its first token straddles the prompt's end; 2: truncated |
| rows/response_ids | uint32 [tokens] | token ids, concatenated |
| rows/prompt_length | int32 [prompts] | number of tokens |
| rows/prompt_group | uint64 [prompts] | key of the prompt's text; a split keeps a group together |
| rows/prompt_ids | uint32 [prompt tokens] | token ids, concatenated |
| rows/pair_chosen, rows/pair_rejected | int64 [pairs] | numbers of the two responses |
| rows/pair_row | int64 [pairs] | row of the input that the pair comes from, from 1 |
| rows/pair_margin | float64 [pairs] | by how much chosen is better, NaN if unknown; only if the data say it |
| rows/unit_response_start | int64 [units + 1] | first response of each unit, then the number of responses |
"""

from collections.abc import Iterable, Mapping

import numpy as np

from sparserm_cli.store.arrays.checked_zarr import CheckedStore, create_array, open_array, write_rows
from sparserm_cli.store.capture.plan import Layout

ROW_TYPES: Mapping[str, str] = {
    "response_prompt": "int32",
    "response_length": "int32",
    "response_characters": "int32",
    "response_flags": "uint8",
    "response_ids": "uint32",
    "prompt_length": "int32",
    "prompt_group": "uint64",
    "prompt_ids": "uint32",
    "pair_chosen": "int64",
    "pair_rejected": "int64",
    "pair_row": "int64",
    "unit_response_start": "int64",
}
"""Mapping from the arrays that every capture has to their types."""
OPTIONAL_ROW_TYPES: Mapping[str, str] = {"pair_margin": "float64"}
"""Mapping from the arrays that only some captures have to their types."""
TYPES = {**ROW_TYPES, **OPTIONAL_ROW_TYPES}
TOKEN_IDS = ("response_ids", "prompt_ids")
STRADDLED, TRUNCATED = 1, 2
CHUNK = 1 << 22


def row_types(layout: Layout) -> dict[str, str]:
    """Return the type of every rows array of a capture; `pair_margin` exists only if a pair has a margin."""
    return {**ROW_TYPES, **(OPTIONAL_ROW_TYPES if layout.margins else {})}


def sizes(layout: Layout) -> dict[str, int]:
    """Return the number of elements of every rows array."""
    kinds = {"response": layout.responses, "prompt": layout.prompts, "pair": layout.pairs}
    lengths = {name: kinds.get(name.partition("_")[0], 0) for name in row_types(layout)}
    return {
        **lengths,
        "response_ids": layout.response_tokens,
        "prompt_ids": layout.prompt_tokens,
        "unit_response_start": layout.units + 1,
    }


def write_array(store: CheckedStore, name: str, length: int, blocks: Iterable[np.ndarray]) -> None:
    """Write one rows array from blocks of any size, in whole chunks of 4 Mi elements.

    Args:
        store: the store that is being planned.
        name: as in `row_types`.
        length: number of elements of the array.
        blocks: blocks that hold exactly `length` numbers together.

    Raises:
        ValueError: the blocks hold more or fewer numbers.

    """
    path, kind = f"rows/{name}", np.dtype(TYPES[name])
    create_array(store, path, (length,), (min(length, CHUNK),), kind.type(0))
    array = open_array(store, path)
    chunk = np.empty(CHUNK, kind)
    start = count = 0
    for block in blocks:
        while len(block):
            piece = block[: CHUNK - count]
            block = block[len(piece) :]
            chunk[count : count + len(piece)] = piece
            count += len(piece)
            if count == CHUNK:
                write_rows(array, start, chunk)
                start, count = start + CHUNK, 0
    if count:
        write_rows(array, start, chunk[:count])
    if start + count != length:
        raise ValueError(f"{name} has {start + count} numbers, not {length}")
