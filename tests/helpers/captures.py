"""Small captures whose numbers follow from their seed, made without a model."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from sparserm_cli.store.arrays.bfloat16 import from_float32
from sparserm_cli.store.arrays.csr import Csr, index_type
from sparserm_cli.store.capture.plan import ExtractPlan, ExtractSettings, InputFact
from sparserm_cli.store.capture.plan_writer import PlanWriter
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.capture.writer import ActivationsWriter
from sparserm_cli.store.features.plan import SAEFacts, plan_features
from sparserm_cli.store.features.writer import FeaturesWriter
from sparserm_cli.store.units.records import Manifest, Receipt, UnitFacts
from sparserm_cli.store.units.work_loop import work_units

__all__ = ["from_float32", "replace"]

D_IN = 3
FACTS = UnitFacts(0, dtype="float32", batch_sizes=(7,), seconds=0.5)


def settings(**changes: object) -> ExtractSettings:
    """Give settings of two layers, with units of at most nine response tokens."""
    values = {
        "model": "tiny",
        "model_revision": "sha256:0",
        "tokenizer": "t0",
        "template": "sha256 of raw",
        "template_source": "raw",
        "layers": (1, 2),
        "hook_names": ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post"),
        "d_in": D_IN,
        "dtype": "bfloat16",
        "inputs": (InputFact("pairs.jsonl", 10, "ab" * 32),),
        "unit_tokens": 9,
        "unit_responses": 4,
        **changes,
    }
    return ExtractSettings(**values)


def ids(*numbers: int) -> np.ndarray:
    """Return token ids."""
    return np.array(numbers, np.uint32)


def plan(root: Path, **changes: object) -> ExtractPlan:
    """Freeze a plan of 3 prompts, 8 responses and 5 pairs; the first prompt returns in the last row."""
    with PlanWriter(root, settings(**changes)) as writer:
        a = [writer.add(ids(1, 2), ids(*range(3, 3 + n)), group=11, characters=n) for n in (2, 3, 1)]
        b = [writer.add(ids(4), ids(*range(9, 9 + n)), group=12, straddled=n == 4) for n in (4, 5)]
        c = [writer.add(ids(5, 6, 7), ids(20), group=13), writer.add(ids(5, 6, 7), ids(21), group=13)]
        late = writer.add(ids(1, 2), ids(30, 31), group=11, truncated=True)
        for row, (chosen, rejected) in enumerate([(a[0], a[1]), (a[0], a[2]), b, c, (late, a[1])], 1):
            writer.add_pair(chosen, rejected, row)
        writer.reject({"row": 6, "offset": 60, "field": "chosen", "reason": "empty"})
        return writer.freeze({"read": 6, "accepted": 5, "rejected": 1})


def values(layer: int, token_ids: np.ndarray) -> np.ndarray:
    """Return what the residual stream of some tokens is said to be: exact in bfloat16."""
    return (token_ids[:, None] + layer * np.array([1.0, 2.0, -4.0])).astype(np.float32)


def compute(writer: ActivationsWriter, unit: int, rejected: tuple[int, ...] = ()) -> Receipt:
    """Compute and commit one unit, with NaN for the rejected responses of it."""
    settings = writer.plan.settings
    layers = {}
    for layer in settings.layers:
        rows = [values(layer, ids) for tree in writer.trees(unit) for ids in tree.responses]
        span = writer.rows.span(unit)
        gone = tuple(response for response in rejected if response in span)
        rows = [vectors * np.nan if i in gone else vectors for i, vectors in zip(span, rows, strict=True)]
        arrays = {
            "last": np.stack([vectors[-1] for vectors in rows]),
            "mean": np.stack([vectors.mean(axis=0) for vectors in rows]),
        }
        if settings.positions == "response":
            tokens = np.concatenate(rows)
            arrays["tokens"] = from_float32(tokens) if settings.dtype == "bfloat16" else tokens
        layers[layer] = arrays
    return writer.write_unit(unit, layers, replace(FACTS, rejected=gone))


def fill(root: Path, rank: int = 0, world: int = 1, rejected: tuple[int, ...] = ()) -> Manifest | None:
    """Do the pending units of a planned capture."""
    writer = ActivationsWriter(root)
    return work_units(writer.store, lambda unit: compute(writer, unit, rejected), rank=rank, world=world)


SAES = (
    SAEFacts("sae-a", "d1", "topk", "blocks.1.hook_resid_post", 1, D_IN, 6),
    SAEFacts("sae-b", "d2", "jumprelu", "blocks.2.hook_resid_post", 2, D_IN, 70_000),
)


def latents(sae: SAEFacts, token_ids: np.ndarray) -> Csr:
    """Return what fires on some tokens: token t has `t % 3` latents, the n-th in column 2 n, worth t + n."""
    counts = token_ids % 3
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    columns = np.concatenate([np.arange(n) * 2 for n in counts]).astype(index_type(sae.d_sae))
    data = np.concatenate([token + np.arange(n) for token, n in zip(token_ids, counts, strict=True)])
    return Csr(data.astype(np.float32), columns, indptr)


def encode_unit(writer: FeaturesWriter, capture: ActivationsReader, unit: int) -> Receipt:
    """Encode and commit one unit."""
    ids = np.concatenate([capture.token_ids(i) for i in writer.rows.span(unit)])
    return writer.write_unit(unit, {sae.layer: latents(sae, ids) for sae in writer.plan.saes}, FACTS)


def encode(root: Path, capture: Path, rank: int = 0, world: int = 1) -> Manifest | None:
    """Plan an encoding unless it is planned, and do its pending units."""
    reader = ActivationsReader(capture)
    if not root.exists():
        plan_features(root, reader, SAES)
    writer = FeaturesWriter(root)
    return work_units(writer.store, lambda unit: encode_unit(writer, reader, unit), rank=rank, world=world)


def encoding(run: Path) -> tuple[Path, Path]:
    """Make a whole run directory of a capture and an encoding and return both folders."""
    capture(run / "activations.zarr")
    encode(run / "features.zarr", run / "activations.zarr")
    return run / "activations.zarr", run / "features.zarr"


def capture(root: Path, **changes: object) -> Path:
    """Make a whole capture and return its folder."""
    plan(root, **changes)
    fill(root)
    return root
