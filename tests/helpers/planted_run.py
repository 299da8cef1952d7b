"""Whole runs without a model: residual streams of known latents, two of which tell chosen from rejected."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sparserm_cli.data.splits import group_key
from sparserm_cli.stages.frequency.counted_responses import CountedResponses
from sparserm_cli.store.arrays.csr import Csr, index_type
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.plan import ExtractSettings, InputFact
from sparserm_cli.store.capture.plan_writer import PlanWriter
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.capture.writer import ActivationsWriter
from sparserm_cli.store.features.artifact import features_path
from sparserm_cli.store.features.plan import SAEFacts, plan_features
from sparserm_cli.store.features.reader import FeaturesReader
from sparserm_cli.store.features.writer import FeaturesWriter
from sparserm_cli.store.units.records import UnitFacts
from sparserm_cli.store.units.work_loop import work_units

D_IN, D_SAE = 32, 48
GOOD, BAD = 5, 9
"""Latents that fire on chosen and on rejected tokens; all others fire alike on both."""
FACTS = UnitFacts(0)


class Planted(NamedTuple):
    """A run and what it was made of."""

    run: Path
    decoders: dict[int, np.ndarray]
    capture: ActivationsReader
    features: FeaturesReader

    def decoder(self, layer: int, latents: np.ndarray) -> np.ndarray:
        """Give decoder rows, as `select` asks for them."""
        return self.decoders[layer][latents]


def settings(layers: tuple[int, ...], unit_tokens: int) -> ExtractSettings:
    """Give the settings of a made-up capture."""
    return ExtractSettings(
        model="tiny",
        model_revision="sha256:0",
        tokenizer="t0",
        template="sha256 of raw",
        template_source="raw",
        layers=layers,
        hook_names=tuple(f"blocks.{layer}.hook_resid_post" for layer in layers),
        d_in=D_IN,
        dtype="float32",
        max_length=512,
        inputs=(InputFact("pairs.jsonl", 10, "ab" * 32),),
        unit_tokens=unit_tokens,
        unit_responses=64,
    )


def plant(
    run: Path,
    *,
    prompts: int = 120,
    layers: tuple[int, ...] = (3,),
    seed: int = 0,
    unit_tokens: int = 400,
    strength: float = 0.6,
    flip: bool | Collection[int] = False,
    margins: Sequence[float | None] = (),
    responses: int = 2,
    noise: float = 0.3,
    residual: Callable[[np.random.Generator, bool, int], np.ndarray] | None = None,
) -> Planted:
    """Make a run with a capture and its features.

    Args:
        run: the run directory.
        prompts: each has one chosen and `responses - 1` rejected responses.
        layers: with a decoder each.
        seed: of everything.
        unit_tokens: tokens in a unit.
        strength: how much more often the planted latents fire on their own side.
        flip: swap chosen and rejected, of all prompts or of those with these numbers.
        margins: margin of the pairs of each prompt; none if it is empty.
        responses: to each prompt.
        noise: standard deviation of what no latent explains.
        residual: gives the residual stream of a response from its side and its length in tokens, where the
            latents shall have nothing to do with it.

    """
    rng = np.random.default_rng(seed)
    decoders = {layer: _decoder(seed + layer) for layer in layers}
    texts = [f"prompt {number}" for number in range(prompts)]
    with PlanWriter(capture_path(run), settings(layers, unit_tokens)) as writer:
        lengths, sides = [], []
        for number, text in enumerate(texts):
            ids = np.array([number % 7, number], np.uint32)
            made = []
            for response in range(responses):
                length = int(rng.integers(3, 9))
                tokens = np.arange(length, dtype=np.uint32) + 1000 * response
                made.append(writer.add(ids, tokens, group=group_key(text), characters=3 * length))
                lengths.append(length)
                sides.append(response == 0)
            for other in made[1:]:
                swapped = flip if isinstance(flip, bool) else number in flip
                pair = (other, made[0]) if swapped else (made[0], other)
                writer.add_pair(*pair, number + 1, margins[number] if margins else None)
        writer.freeze({"read": prompts, "accepted": prompts, "rejected": 0})
    fires = {layer: _fires(rng, lengths, sides, strength) for layer in layers}
    residuals = {
        layer: [
            firing @ decoders[layer] + rng.normal(0, noise, (len(firing), D_IN)) for firing in fires[layer]
        ]
        if residual is None
        else [residual(rng, side, length) for side, length in zip(sides, lengths, strict=True)]
        for layer in layers
    }
    _write_capture(run, residuals)
    _write_features(run, fires)
    return Planted(run, decoders, ActivationsReader(capture_path(run)), FeaturesReader(features_path(run)))


def part_of(counted: CountedResponses, start: int, stop: int) -> CountedResponses:
    """Return some consecutive responses of all that are counted, with the pairs they stand in."""
    touched = ((counted.pairs >= start) & (counted.pairs < stop)).any(axis=1)
    columns = (column[start:stop] for column in counted[1:6])
    return CountedResponses(
        start, *columns, pairs=counted.pairs[touched], pair_weight=counted.pair_weight[touched]
    )


def _decoder(seed: int) -> np.ndarray:
    rows = np.random.default_rng(100 + seed).standard_normal((D_SAE, D_IN))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _fires(
    rng: np.random.Generator, lengths: list[int], sides: list[bool], strength: float
) -> list[np.ndarray]:
    """Return the latents' values on the tokens of every response."""
    made = []
    for length, good in zip(lengths, sides, strict=True):
        rates = np.full(D_SAE, 0.2)
        rates[GOOD] += strength if good else 0.0
        rates[BAD] += 0.0 if good else strength
        rates[0] = 0.0  # a dead latent
        made.append((rng.random((length, D_SAE)) < rates) * rng.uniform(0.5, 1.5, (length, D_SAE)))
    return made


def _write_capture(run: Path, residuals: dict[int, list[np.ndarray]]) -> None:
    writer = ActivationsWriter(capture_path(run))

    def compute(unit: int) -> object:
        span = writer.rows.span(unit)
        layers = {}
        for layer, rows in residuals.items():
            taken = [vectors.astype(np.float32) for vectors in rows[span.start : span.stop]]
            layers[layer] = {
                "last": np.stack([vectors[-1] for vectors in taken]),
                "mean": np.stack([vectors.mean(axis=0) for vectors in taken]),
                "tokens": np.concatenate(taken),
            }
        return writer.write_unit(unit, layers, FACTS)

    work_units(writer.store, compute)


def _write_features(run: Path, fires: dict[int, list[np.ndarray]]) -> None:
    capture = ActivationsReader(capture_path(run))
    facts = [
        SAEFacts(
            "planted",
            f"xxh3:{layer}",
            "standard",
            f"blocks.{layer}.hook_resid_post",
            layer,
            D_IN,
            D_SAE,
        )
        for layer in fires
    ]
    plan_features(features_path(run), capture, facts)
    writer = FeaturesWriter(features_path(run))

    def compute(unit: int) -> object:
        span = writer.rows.span(unit)
        layers = {}
        for layer, values in fires.items():
            tokens = np.concatenate(values[span.start : span.stop]).astype(np.float32)
            _, columns = np.nonzero(tokens)
            bounds = np.concatenate([[0], np.cumsum((tokens > 0).sum(axis=1))]).astype(np.int64)
            layers[layer] = Csr(tokens[tokens > 0], columns.astype(index_type(D_SAE)), bounds)
        return writer.write_unit(unit, layers, FACTS)

    work_units(writer.store, compute)
