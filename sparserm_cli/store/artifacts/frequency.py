"""frequency.parquet: how often each latent fires on chosen and on rejected responses, and what follows.

There is one row per latent, layer by layer, features in order from 0.
Every column MUST be there; side columns end in
`_chosen` and `_rejected`; a positive measure speaks for chosen. The file's metadata hold, under `sparserm`,
the lineage and what the rates are shares of; since format 2 the file has the seal of `parquet`.

| column | type | |
|---|---|---|
| layer, feature | int32 | block from 0, latent of its SAE |
| rate, low, high (per side) | double | share of tokens or responses that fire, ends of its Wilson interval |
| responses (per side) | int64 | responses that fire at least once |
| fold_rate (per side) | fixed list of float | the rate in each random group of prompts |
| difference, standardised, length_controlled | double | differences of the rates |
| z, q, mcnemar, mcnemar_q, mutual_information | double | tests by response and pair, q-values, bits |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import xxhash
from jaxtyping import Float32, Float64, Int64

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.store.arrays.sealed_parquet import read_sealed_table, write_sealed_table
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.provenance import Lineage, check_version, now

FREQUENCY = "frequency.parquet"
TYPE, VERSION = "frequency", 2
COMMAND = "sparserm frequency"
_SIDES = ("chosen", "rejected")

Unit = Literal["token", "response", "last", "mean"]
Latents = Float64[np.ndarray, " d_sae"]
SideLatents = Float64[np.ndarray, "2 d_sae"]


class LatentStatistics(NamedTuple):
    """One number per latent in each field; side 0 is chosen, 1 is rejected."""

    rate: SideLatents
    """Share of tokens (or responses) on which the latent fires."""
    low: SideLatents
    """Lower end of the 95 % Wilson interval of the rate; a response counts as one observation."""
    high: SideLatents
    """Upper end of the same interval."""
    responses: Int64[np.ndarray, "2 d_sae"]
    """Responses on which the latent fires at least once."""
    fold_rate: Float32[np.ndarray, "2 d_sae folds"]
    """The rate in each random group of prompts."""
    difference: Latents
    """Rate on chosen minus rate on rejected: the paper's statistic."""
    standardised: Latents
    """The difference divided by the standard deviation of a single firing."""
    length_controlled: Latents
    """The difference within classes of response length, averaged with Mantel-Haenszel weights."""
    z: Latents
    """Two-proportion z statistic of the responses that fire."""
    q: Latents
    """Benjamini-Hochberg q-value of z, two-sided."""
    mcnemar: Latents
    """McNemar's z over the pairs; every prompt has weight 1, whatever its number of pairs."""
    mcnemar_q: Latents
    """Benjamini-Hochberg q-value of McNemar's z, two-sided."""
    mutual_information: Latents
    """Mutual information, in bits, of firing on a response and the side of the response."""


_SIDED = ("rate", "low", "high", "responses", "fold_rate")
_PLAIN = tuple(name for name in LatentStatistics._fields if name not in _SIDED)


class Totals(NamedTuple):
    """Total counts, which are the denominators of the rates."""

    tokens: tuple[int, int]
    """Number of tokens of the counted chosen and rejected responses."""
    responses: tuple[int, int]
    """Number of counted chosen and rejected responses."""
    pairs: int
    """Number of counted pairs."""
    prompts: int
    """Number of prompts of the counted pairs."""
    fold_total: tuple[tuple[int, int], ...]
    """Tokens (or responses) in each random group of prompts, by side."""


@dataclass(frozen=True)
class Frequency:
    """The whole table."""

    lineage: Lineage
    """The lineage; its digest covers the bytes of all columns, and `write_frequency` fills it in."""
    unit: Unit
    """What rates are shares of: tokens, responses, or one vector per response (last token or mean)."""
    totals: Totals
    """Total counts of tokens, responses, pairs and prompts."""
    layers: Mapping[int, LatentStatistics]
    """Mapping from layer to the statistics of its latents."""


def frequency_path(run: PurePath) -> PurePath:
    """Return where the frequencies of a run directory lie."""
    return run / FREQUENCY


def write_frequency(run: PurePath, frequency: Frequency) -> Frequency:
    """Write frequency.parquet whole or not at all, and return what was written with its digest.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.

    """
    digest = _digest(frequency.layers)
    frequency = replace(frequency, lineage=replace(frequency.lineage, digest=digest, created=now()))
    head = {
        **frequency.lineage.to_json(),
        "unit": frequency.unit,
        "totals": frequency.totals._asdict(),
        "layers": {str(layer): m.difference.size for layer, m in frequency.layers.items()},
    }
    write_sealed_table(frequency_path(run), frequency_columns(frequency), head)
    return frequency


def frequency_columns(frequency: Frequency) -> Any:
    """Return the columns of all layers as the file has them, as a `pyarrow.Table`."""
    return pa.concat_tables([_table(layer, measures) for layer, measures in frequency.layers.items()])


def read_frequency(run: PurePath) -> Frequency:
    """Read and check frequency.parquet.

    Raises:
        IncompatibleError: there is none, it is of another type, or newer than this program.
        CorruptStoreError: a byte of it has changed, it is cut, or its columns are not the recorded ones.

    """
    path = frequency_path(run)
    if storage_of(path).size() < 0:
        raise IncompatibleError(str(path), "the table of frequencies", "no file", f"run `{COMMAND}` first")
    again = f"run `{COMMAND}` again"
    table, head = read_sealed_table(path, 2, again)
    check_version(str(path), TYPE, head, VERSION)
    lineage = Lineage.from_json(str(path), head)
    try:
        totals, unit = _totals(head["totals"]), head["unit"]
        layers = _layers(table, head["layers"], totals)
        _require(unit in get_args(Unit), f"rates per {unit}")
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, BufferError) as error:
        found = f"something else ({error})"
        raise CorruptStoreError(str(path), f"the columns of format {VERSION}", found, again) from None
    digest = _digest(layers)
    if digest != lineage.digest:
        raise CorruptStoreError(str(path), f"xxh3-128 {lineage.digest}", f"xxh3-128 {digest}", again)
    return Frequency(lineage, unit, totals, layers)


def _layers(table: Any, sizes: Mapping[str, int], totals: Totals) -> dict[int, LatentStatistics]:
    """Read the rows of all layers, given the number of latents of each; raises ValueError as `_check`."""
    layers, start = {}, 0
    for layer, d_sae in sizes.items():
        layers[int(layer)] = _measures(table.slice(start, d_sae))
        _check(layers[int(layer)], totals, int(layer), d_sae)
        start += d_sae
    _require(start == len(table), f"{start} latents in {len(table)} rows")
    return layers


def _require(good: object, what: str) -> None:
    """Raise ValueError unless a condition holds."""
    if not good:
        raise ValueError(what)


def _check(measures: LatentStatistics, totals: Totals, layer: int, d_sae: int) -> None:
    """Raise ValueError for values that no counting gives; a seal proves only that nothing was damaged."""
    _require(layer >= 0, f"layer {layer}")
    for name, values in measures._asdict().items():
        kind = {"responses": np.int64, "fold_rate": np.float32}.get(name, np.float64)
        shape: tuple[int, ...] = (2, d_sae) if name in _SIDED else (d_sae,)
        shape += values.shape[-1:] if name == "fold_rate" else ()
        good = values.dtype == kind and values.shape == shape
        _require(good, f"{name} of layer {layer} as {values.dtype} {values.shape}")
    for name in ("rate", "low", "high"):
        values = getattr(measures, name)
        _require(((values >= 0) & (values <= 1)).all(), f"{name} of layer {layer} outside of 0 to 1")
    _require(np.isfinite(measures.difference).all(), f"difference of layer {layer} that is no number")
    responses, most = measures.responses, np.array(totals.responses)[:, None]
    good = ((responses >= 0) & (responses <= most)).all()
    _require(good, f"responses of layer {layer} outside of 0 to {totals.responses}")


def _table(layer: int, measures: LatentStatistics) -> Any:
    """Return one layer's rows."""
    d_sae = len(measures.difference)
    columns: dict[str, Any] = {
        "layer": pa.array(np.full(d_sae, layer, np.int32)),
        "feature": pa.array(np.arange(d_sae, dtype=np.int32)),
    }
    for name in _SIDED:
        for side, suffix in enumerate(_SIDES):
            values = getattr(measures, name)[side]
            if values.ndim == 2:
                flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
                columns[f"{name}_{suffix}"] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
            else:
                columns[f"{name}_{suffix}"] = pa.array(values)
    return pa.table(columns | {name: pa.array(getattr(measures, name)) for name in _PLAIN})


def _measures(table: Any) -> LatentStatistics:
    """Read one layer's rows."""
    fields: dict[str, np.ndarray] = {name: _column(table, name) for name in _PLAIN}
    for name in _SIDED:
        fields[name] = np.stack([_column(table, f"{name}_{suffix}") for suffix in _SIDES])
    return LatentStatistics(**fields)


def _column(table: Any, name: str) -> np.ndarray:
    """Return one column as an array, a list column as a table of its items.

    By dlpack, since pyarrow's own `to_numpy` imports pandas, which takes longer than all the rest.
    """
    column = table.column(name).combine_chunks()
    if pa.types.is_fixed_size_list(column.type):
        items = np.from_dlpack(column.flatten())
        return items.reshape(len(column), column.type.list_size)
    return np.from_dlpack(column)


def _totals(value: Mapping[str, Any]) -> Totals:
    """Read the totals from JSON."""
    counts = (value["pairs"], value["prompts"], *value["tokens"], *value["responses"])
    _require(all(type(count) is int and count >= 0 for count in counts), f"totals {dict(value)}")
    return Totals(
        tokens=_two(value["tokens"]),
        responses=_two(value["responses"]),
        pairs=int(value["pairs"]),
        prompts=int(value["prompts"]),
        fold_total=tuple(_two(item) for item in value["fold_total"]),
    )


def _two(value: Sequence[Any]) -> tuple[int, int]:
    """Read one number per side."""
    chosen, rejected = value
    return int(chosen), int(rejected)


def _digest(layers: Mapping[int, LatentStatistics]) -> str:
    """Return the xxh3-128 of all columns' bytes."""
    hasher = xxhash.xxh3_128()
    for layer, measures in layers.items():
        hasher.update(str(layer).encode())
        for values in measures:
            hasher.update(np.ascontiguousarray(values).data)
    return hasher.hexdigest()
