"""The division of a capture into units, and the layout of its arrays.

    zarr.json                group, with type and version
    layers/14/{last,mean}    float32 [units * responses_per_unit, d_in], one chunk per unit, NaN if unused
    layers/14/tokens         bfloat16 bits as uint16, or float32, [units * tokens_per_unit, d_in], the same

Response i of unit u is row `u * responses_per_unit + i - start[u]` of the pooled arrays; its tokens begin at
row `u * tokens_per_unit` plus the lengths of the unit's responses before it. Attributes of
every array state this layout, except in captures of older releases; `public.capture` reads both.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer

from sparserm_cli.store.arrays.bfloat16 import NAN_BITS
from sparserm_cli.store.arrays.checked_zarr import SafeStore, create_array, create_group
from sparserm_cli.store.capture.plan import POOLED, ExtractPlan
from sparserm_cli.store.io.file_facts import inventory
from sparserm_cli.store.provenance import now, package_versions
from sparserm_cli.store.units.records import Plan
from sparserm_cli.store.units.unit_store import write_plan

ACTIVATIONS = "activations"
COMMAND = "sparserm extract"
VERSION = 1
"""Version of the format of activations.zarr."""


def cut_units(
    lengths: Integer[np.ndarray, " responses"],
    prompts: Integer[np.ndarray, " responses"],
    token_cap: int,
    response_cap: int,
) -> Int64[np.ndarray, " starts"]:
    """Cut responses in store order into units within both caps; a prompt and its responses stay together.

    A prompt whose responses exceed a cap is cut between its responses. A response that exceeds the token cap
    is a unit by itself.

    Args:
        lengths: number of tokens of each response.
        prompts: number of the prompt of each response, in rising order.
        token_cap: largest number of response tokens per unit.
        response_cap: largest number of responses per unit.

    Returns:
        the first response of each unit, and the number of responses at the end.

    """
    starts, count = [0], len(lengths)
    ends = np.zeros(count + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    while (start := starts[-1]) < count:
        fits = int(np.searchsorted(ends, ends[start] + token_cap, side="right")) - 1
        stop = max(start + 1, min(fits, start + response_cap, count))
        if stop < count and (tree := int(np.searchsorted(prompts, prompts[stop]))) > start:
            stop = tree
        starts.append(stop)
    return np.array(starts, np.int64)


def create_arrays(store: SafeStore, plan: ExtractPlan) -> None:
    """Write the metadata of all arrays with their final shapes."""
    layout, settings = plan.layout, plan.settings
    create_group(store, "", {"sparserm": {"type": ACTIVATIONS, "version": VERSION}})
    for layer in settings.layers:
        pooled = (layout.units * layout.responses_per_unit, settings.d_in)
        for name in POOLED:
            chunk = (layout.responses_per_unit, settings.d_in)
            path, attributes = f"layers/{layer}/{name}", _layout_of("responses", layer, name, chunk[0])
            create_array(store, path, pooled, chunk, np.float32(np.nan), attributes)
        if settings.positions == "response":
            shape = (layout.units * layout.tokens_per_unit, settings.d_in)
            chunk = (layout.tokens_per_unit, settings.d_in)
            fill = np.uint16(NAN_BITS) if settings.dtype == "bfloat16" else np.float32(np.nan)
            attributes = {"logical_dtype": settings.dtype, **_layout_of("tokens", layer, "tokens", chunk[0])}
            create_array(store, f"layers/{layer}/tokens", shape, chunk, fill, attributes)


def _layout_of(what: str, layer: int, name: str, height: int) -> dict[str, Any]:
    """Return attributes that explain the rows of an array to readers without this program."""
    row = f"u * {height} + i - rows/unit_response_start[u]"
    if what == "tokens":
        row = f"u * {height} + the sum of rows/response_length from rows/unit_response_start[u] to before i"
    call = f"tokens({layer}, i)" if what == "tokens" else f'pooled({layer}, "{name}")'
    return {
        "rows_are": f"{what}, unit by unit, with unused rows of NaN at the end of each unit",
        "rows_per_unit": height,
        "row_of_response": f"response i of unit u {'is' if what == 'responses' else 'begins at'} row {row}",
        "read_with": f"sparserm_cli.open_capture(run).{call}",
    }


def freeze(part: Path, plan: ExtractPlan, identity: Mapping[str, Any]) -> Plan:
    """Write plan.json, which records every file in the folder.

    Args:
        part: the folder under its temporary name.
        plan: the plan to record.
        identity: identity of the plan's settings; an imported plan keeps its own, which may lack newer
            settings.

    """
    metadata = {
        "created": now(),
        "packages": package_versions(),
        "inputs": [list(fact) for fact in plan.settings.inputs],
        "counts": dict(plan.counts),
    }
    frozen = Plan(ACTIVATIONS, VERSION, identity, plan.layout.to_json(), inventory(part), {}, metadata)
    write_plan(part, frozen)
    return frozen
