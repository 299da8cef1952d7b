"""`compare`: SparseRM beside what it must beat, on the same folds, swept over directions, labels and data.

Reads: runs that have been captured and encoded; only `lora` reads the model. Writes: `comparison.json`.
Memory: that of `sample`, for the run and one other at a time.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from sparserm_cli.analysis.compare import method_sets as lineup
from sparserm_cli.analysis.compare.cross_validation import Protocol, compared, crossvalidate
from sparserm_cli.analysis.compare.lora import missing_packages
from sparserm_cli.analysis.compare.methods import Method
from sparserm_cli.analysis.compare.run_sample import Sample, load_sample
from sparserm_cli.config import CompareConfig, EncodeConfig, Note, Phases
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.locations import parse_location
from sparserm_cli.models.sae.quality import SAEQuality
from sparserm_cli.stages.encode.worker import load_saes, sample_saes, unit_activations
from sparserm_cli.store.artifacts.results import COMPARISON
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.features.artifact import features_path
from sparserm_cli.store.features.reader import FeaturesReader
from sparserm_cli.store.io.storage import absolute

TRAIN_PAIRS = (100, 300, 1000, None)
"""Points of the learning curve, in training pairs; None for all."""
FLIPPED = (0.0, 0.1, 0.2, 0.3, 0.4)
"""Shares of training labels that are swapped."""
QUICK_TOP_K = (8, 64)
"""Directions a side of a quick comparison."""
QUICK_SWEEPS = ("directions", "methods", "transfer")
OF_ALL_LAYERS = ("layers", "choice")
"""Sweeps that are about the layers that there are, whichever the others use."""


class CompareSummary(NamedTuple):
    """What `compare` has found.

    Fields:
        path: where it is written.
        found: everything, as JSON: the protocol, and for the run its sweeps.
        seconds: spent.
    """

    path: PurePath
    found: Mapping[str, Any]
    seconds: float


class Trial(NamedTuple):
    """One point of a sweep.

    Fields:
        sweep: one of `config.SWEEPS`.
        point: where on it.
        sample: what is fitted on.
        methods: what is tried; the others are compared with the first.
        protocol: how.
        target: what is tested on, if not `sample`.
    """

    sweep: str
    point: str
    sample: Sample
    methods: Sequence[Method]
    protocol: Protocol
    target: Sample | None = None


def compare(config: CompareConfig, *, progress: Phases, note: Note) -> CompareSummary:
    """Try everything on one run, and test what was fitted on it on others.

    Args:
        config: the options.
        progress: called with what is done, steps of it done and steps in all.
        note: told what is left out, and why.

    Raises:
        BadInputError: fewer prompts than folds.
        IncompatibleError: a run is incomplete, or has other layers than the one that is fitted on.
        UsageError: a run lacks a layer that is to be used.
        CorruptStoreError: a run is damaged.
        ResourceError: the disk is full.

    """
    begun = time.monotonic()
    # 1. The runs.
    name = config.name or absolute(config.run).name
    folders = {name: config.run} | {
        other: parse_location(folder) for other, folder in config.named_runs().items()
    }
    samples = [
        load_sample(one, folder, progress=partial(progress, "reading latents"))
        for one, folder in folders.items()
    ]
    # 2. How well the SAEs fit, before the folds, so that an SAE that has gone away stops the command at once.
    digest = samples[0].capture.digest
    measured = {
        one.name: _sae_qualities(one.name, folders[one.name], note)
        for one in samples
        if one.capture.digest == digest
    }
    # 3. All points of all sweeps, one after the other.
    found = compare_samples(samples, config, progress=progress, note=note)
    for one, facts in found["runs"][name]["saes"].items():
        for layer, quality in measured[one].items():
            facts[str(layer)]["explained_variance"] = quality.explained_variance
    # 4. The whole appears or nothing does.
    path = COMPARISON.path(config.run)
    COMPARISON.write(path, found)
    return CompareSummary(path, found, time.monotonic() - begun)


def compare_samples(
    samples: Sequence[Sample], config: CompareConfig, *, progress: Phases, note: Note
) -> dict[str, Any]:
    """Try everything on the first run, testing also on the others.

    Returns:
        `protocol`, and `runs`: the run's name to its facts and `sweeps`: sweep to point to a row a method. A
        row has the method, its accuracy with an interval over prompts, the spread between folds, parameters,
        seconds, and how far the point's first method is ahead of it, with interval.

    """
    sample = samples[0]
    used = samples if config.layer is None else [one.only(config.layer) for one in samples]
    asked = [one for one in (QUICK_SWEEPS if config.quick else config.sweep) if _able(one, note)]
    trials = []
    for sweep in asked:
        first, *others = samples if sweep in OF_ALL_LAYERS else used
        trials += list(_POINTS[sweep](first, others, config))
    total = sum(len(one.methods) for one in trials) * config.folds
    done, sweeps = 0, dict[str, dict[str, Any]]()
    for one in trials:
        try:
            rows = _tried(one, lambda fits, before=done: progress("comparing", before + fits, total))
            sweeps.setdefault(one.sweep, {})[one.point] = rows
        except UsageError as error:
            note(f"{one.sweep}, {one.point}: left out: {error.found}")
        done += len(one.methods) * config.folds
    run = {
        "pairs": len(sample.pairs),
        "prompts": len(np.unique(sample.groups)),
        "saes": {
            one.name: {str(layer): _sae_facts(one, layer) for layer in one.layers}
            for one in samples
            if one.capture.digest == sample.capture.digest
        },
        "sweeps": sweeps,
    }
    protocol = {name: value for name, value in vars(config).items() if name not in {"run", "other", "name"}}
    return {"protocol": protocol, "runs": {sample.name: run}}


def _able(sweep: str, note: Note) -> bool:
    """Tell whether the packages of a sweep are there."""
    reason = missing_packages() if sweep == "lora" else None
    if reason:
        note(f"lora: left out: {reason}")
    return reason is None


def _by_directions(sample: Sample, _others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Sweep the number of directions a side."""
    for top_k in QUICK_TOP_K if config.quick else config.top_k:
        methods = lineup.with_controls(lineup.sparserm(config, top_k))
        yield Trial("directions", str(top_k), sample, methods, _protocol(config))


def _methods(sample: Sample, _others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Try everything with the default number of directions."""
    yield Trial("methods", "all", sample, lineup.everything(config), _protocol(config))


def _variants(sample: Sample, _others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Try SparseRM with other options."""
    yield Trial("variants", "all", sample, lineup.variants(config), _protocol(config))


def _by_labels(sample: Sample, _others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Sweep the number of training pairs."""
    for most in TRAIN_PAIRS:
        if most is None or most < len(sample.pairs):
            protocol = _protocol(config)._replace(train_pairs=most)
            yield Trial("labels", str(most or "all"), sample, lineup.few(config), protocol)


def _by_noise(sample: Sample, _others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Sweep the share of swapped training labels."""
    for share in FLIPPED:
        protocol = _protocol(config)._replace(flipped=share)
        yield Trial("noise", f"{share:g}", sample, lineup.few(config), protocol)


def _by_layers(sample: Sample, _others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Try each layer alone, then all together; nothing where there is one."""
    choices = lineup.layer_choices(sample.layers)
    for layers in choices if len(choices) > 1 else []:
        point = ", ".join(map(str, layers))
        yield Trial("layers", point, sample.only(layers), lineup.layered(config), _protocol(config))


def _by_saes(sample: Sample, others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Try the SAE of each other run of the same capture; nothing where there is none."""
    same = [one for one in others if one.capture.digest == sample.capture.digest]
    for one in [sample, *same] if same else []:
        yield Trial("saes", one.name, one, lineup.layered(config), _protocol(config))


def _transfer(sample: Sample, others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Test on each other run that is of another capture."""
    methods = lineup.transferred(config)
    for target in others:
        if target.capture.digest != sample.capture.digest:
            yield Trial("transfer", target.name, sample, methods, _protocol(config), target)


def _choice(sample: Sample, _others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Choose the setting inside the training folds."""
    yield Trial("choice", "all", sample, lineup.chosen(config, sample.layers), _protocol(config))


def _lora(sample: Sample, _others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Try a LoRA reward model."""
    yield Trial("lora", "all", sample, [*lineup.layered(config), lineup.LORA], _protocol(config))


_POINTS = {
    "directions": _by_directions,
    "methods": _methods,
    "variants": _variants,
    "labels": _by_labels,
    "noise": _by_noise,
    "layers": _by_layers,
    "saes": _by_saes,
    "transfer": _transfer,
    "choice": _choice,
    "lora": _lora,
}
"""Sweep to its points."""


def _protocol(config: CompareConfig) -> Protocol:
    return Protocol(config.folds, config.seed, config.train_pairs)


def _tried(trial: Trial, progress: Any) -> list[dict[str, Any]]:
    """Fit and test the methods of one point.

    Raises:
        UsageError: too few latents speak for a side.
        IncompatibleError: the target has other layers.

    """
    target = trial.target or trial.sample
    if target.layers != trial.sample.layers:
        expected, found = (f"layers {', '.join(map(str, one.layers))}" for one in (trial.sample, target))
        hint = "capture and encode the same layers of both runs"
        raise IncompatibleError(target.name, expected, found, hint)
    results = crossvalidate(
        trial.sample, trial.methods, trial.protocol, target=target, progress=lambda done, _: progress(done)
    )
    return [one.to_json() for one in compared(results, results[0], target)]


def _sae_qualities(name: str, run: PurePath, note: Note) -> dict[int, SAEQuality]:
    """Measure the SAEs of a run on a sample of its tokens; nothing where the capture keeps no tokens.

    Raises:
        UsageError: an SAE is not where it was.

    """
    capture, features = ActivationsReader(capture_path(run)), FeaturesReader(features_path(run))
    positions = capture.plan.settings.positions
    if positions != "response":
        # The latents, which the folds need, are there; only the vectors that they were made from are not.
        reason = f"the capture keeps {positions} and no token vectors"
        note(f"{name}: explained variance is left out, since {reason}")
        return {}
    options = EncodeConfig(run=run, allow_mismatch=True, allow_pickle=True)
    return sample_saes(
        load_saes({sae.layer: sae.name for sae in features.plan.saes}, options),
        lambda layer: unit_activations(capture, layer, capture.units[0]).usable_rows,
        judge=False,
    )


def _sae_facts(sample: Sample, layer: int) -> dict[str, float]:
    """Return the width of a layer's SAE, and how many of its latents fire on a token of these responses."""
    latents = sample.latents[layer].tokens
    return {"d_sae": latents.shape[1], "l0": float(latents.sum() / sample.lengths.sum())}
