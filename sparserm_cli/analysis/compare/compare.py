"""`compare` measures SparseRM and its baselines on the same folds, swept over directions, labels and data.

Reads: captured and encoded runs; only `lora` reads the model. Writes: `comparison.json`.
Memory: that of `sample`, for the run and one other at a time.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from sparserm_cli.analysis.compare import method_sets
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
from sparserm_cli.store.io.storage import storage_of

TRAIN_PAIRS = (25, 50, 100, 200, 300, 1000, None)
"""Points of the learning curve in training pairs; None means all pairs."""
DRAWS = 5
"""Number of times that the pairs of a point of the learning curve are drawn."""
FLIPPED = (0.0, 0.1, 0.2, 0.3, 0.4)
"""Shares of the training labels that are swapped."""
QUICK_TOP_K = (8, 64)
"""Directions per side in a quick comparison."""
QUICK_SWEEPS = ("directions", "methods", "transfer")
OF_ALL_LAYERS = ("layers", "choice")
"""Sweeps over all available layers, whichever layers the other sweeps use."""


class CompareSummary(NamedTuple):
    """The results of `compare`.

    Fields:
        path: path of the written comparison.
        found: the whole comparison as JSON: the protocol, and the sweeps of the run.
        seconds: time spent, in seconds.
    """

    path: PurePath
    found: Mapping[str, Any]
    seconds: float


class Trial(NamedTuple):
    """One point of a sweep.

    Fields:
        sweep: one of `config.SWEEPS`.
        point: the point of the sweep.
        sample: the run on which methods are fitted.
        methods: the methods to measure; the others are compared with the first.
        protocol: the protocol of the measurement.
        target: the run on which methods are tested; None means `sample`.
    """

    sweep: str
    point: str
    sample: Sample
    methods: Sequence[Method]
    protocol: Protocol
    target: Sample | None = None


def compare(config: CompareConfig, *, progress: Phases, note: Note) -> CompareSummary:
    """Run all sweeps on one run, and test the methods fitted on it on other runs.

    Args:
        config: the options.
        progress: called with the name of the phase, its finished steps and all its steps.
        note: called with a message on what is left out, and why.

    Raises:
        BadInputError: there are fewer prompts than folds.
        IncompatibleError: a run is incomplete, or its layers differ from those of the fitted run.
        UsageError: a run lacks a requested layer.
        CorruptStoreError: a run is damaged.
        ResourceError: the disk is full.

    """
    begun = time.monotonic()
    # 1. Load the runs.
    name = config.name or storage_of(config.run).absolute().name
    folders = {name: config.run} | {
        other: parse_location(folder) for other, folder in config.named_runs().items()
    }
    samples = [
        load_sample(sample_name, folder, progress=partial(progress, "reading latents"))
        for sample_name, folder in folders.items()
    ]
    # 2. Measure how well the SAEs fit, before the folds, so that a missing SAE stops the command at once.
    digest = samples[0].capture.digest
    measured = {
        sample.name: _sae_qualities(sample.name, folders[sample.name], note)
        for sample in samples
        if sample.capture.digest == digest
    }
    # 3. Measure all points of all sweeps in sequence.
    comparison = compare_samples(samples, config, progress=progress, note=note)
    for sample_name, facts in comparison["runs"][name]["saes"].items():
        for layer, quality in measured[sample_name].items():
            facts[str(layer)]["explained_variance"] = quality.explained_variance
    # 4. Write the comparison as a whole or not at all.
    path = COMPARISON.path(config.run)
    COMPARISON.write(path, comparison)
    return CompareSummary(path, comparison, time.monotonic() - begun)


def compare_samples(
    samples: Sequence[Sample], config: CompareConfig, *, progress: Phases, note: Note
) -> dict[str, Any]:
    """Run all sweeps on the first run, and test its methods also on the others.

    Returns:
        `protocol`, and `runs`, which holds the facts and `sweeps` of each run: one row per method, by sweep
        and point. A row has the method, its accuracy with an interval over prompts, the spread between folds,
        parameters, seconds, and how far the point's first method is ahead of it, with interval.

    """
    sample = samples[0]
    used = samples if config.layer is None else [other.only(config.layer) for other in samples]
    sweeps_to_run = [
        sweep for sweep in (QUICK_SWEEPS if config.quick else config.sweep) if _able(sweep, note)
    ]
    trials = []
    for sweep in sweeps_to_run:
        first, *others = samples if sweep in OF_ALL_LAYERS else used
        trials += list(_POINTS[sweep](first, others, config))
    total = sum(len(trial.methods) * trial.protocol.draws for trial in trials) * config.folds
    done, sweeps = 0, dict[str, dict[str, Any]]()
    for trial in trials:
        try:
            rows = _tried(trial, lambda fits, before=done: progress("comparing", before + fits, total))
            sweeps.setdefault(trial.sweep, {})[trial.point] = rows
        except UsageError as error:
            note(f"{trial.sweep}, {trial.point}: left out: {error.found}")
        done += len(trial.methods) * trial.protocol.draws * config.folds
    run = {
        "pairs": len(sample.pairs),
        "prompts": len(np.unique(sample.groups)),
        "saes": {
            run_sample.name: {str(layer): _sae_facts(run_sample, layer) for layer in run_sample.layers}
            for run_sample in samples
            if run_sample.capture.digest == sample.capture.digest
        },
        "sweeps": sweeps,
    }
    protocol = {name: value for name, value in vars(config).items() if name not in {"run", "other", "name"}}
    return {"protocol": protocol, "runs": {sample.name: run}}


def _able(sweep: str, note: Note) -> bool:
    """Return whether the packages of a sweep are installed."""
    reason = missing_packages() if sweep == "lora" else None
    if reason:
        note(f"lora: left out: {reason}")
    return reason is None


def _by_directions(sample: Sample, _others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Sweep the number of directions per side."""
    for top_k in QUICK_TOP_K if config.quick else config.top_k:
        methods = method_sets.with_controls(method_sets.sparserm(config, top_k))
        yield Trial("directions", str(top_k), sample, methods, _protocol(config))


def _methods(sample: Sample, _others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Measure all methods with the default number of directions."""
    encodes_means = all(latents.of_mean is not None for latents in sample.latents.values())
    methods = method_sets.all_methods(config, encodes_means=encodes_means)
    yield Trial("methods", "all", sample, methods, _protocol(config))


def _variants(sample: Sample, _others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Measure SparseRM with other options."""
    yield Trial("variants", "all", sample, method_sets.variants(config), _protocol(config))


def _by_labels(sample: Sample, _others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Sweep the number of training pairs."""
    for most in TRAIN_PAIRS:
        if most is None or most < len(sample.pairs):
            draws = DRAWS if most is not None else 1
            protocol = _protocol(config)._replace(train_pairs=most, draws=draws)
            yield Trial("labels", str(most or "all"), sample, method_sets.few_directions(config), protocol)


def _by_noise(sample: Sample, _others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Sweep the share of swapped training labels."""
    for share in FLIPPED:
        protocol = _protocol(config)._replace(flipped=share)
        yield Trial("noise", f"{share:g}", sample, method_sets.few_directions(config), protocol)


def _by_layers(sample: Sample, _others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Measure each layer alone and all layers together, unless there is only one."""
    choices = method_sets.layer_choices(sample.layers)
    for layers in choices if len(choices) > 1 else []:
        point = ", ".join(map(str, layers))
        yield Trial("layers", point, sample.only(layers), method_sets.layered(config), _protocol(config))


def _by_saes(sample: Sample, others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Measure the SAE of each other run of the same capture, if there is any."""
    same = [other for other in others if other.capture.digest == sample.capture.digest]
    for other in [sample, *same] if same else []:
        yield Trial("saes", other.name, other, method_sets.layered(config), _protocol(config))


def _transfer(sample: Sample, others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Test on each other run that belongs to another capture."""
    methods = method_sets.transferred(config)
    for target in others:
        if target.capture.digest != sample.capture.digest:
            yield Trial("transfer", target.name, sample, methods, _protocol(config), target)


def _choice(sample: Sample, _others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Choose the setting inside the training folds."""
    yield Trial("choice", "all", sample, method_sets.chosen(config, sample.layers), _protocol(config))


def _lora(sample: Sample, _others: Sequence[Sample], config: CompareConfig) -> Iterator[Trial]:
    """Measure a LoRA reward model."""
    yield Trial("lora", "all", sample, [*method_sets.layered(config), method_sets.LORA], _protocol(config))


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
"""The function that yields the points of each sweep."""


def _protocol(config: CompareConfig) -> Protocol:
    return Protocol(config.folds, config.seed, config.train_pairs)


def _tried(trial: Trial, progress: Any) -> list[dict[str, Any]]:
    """Fit and test the methods of one point.

    Raises:
        UsageError: too few latents favour one of the sides.
        IncompatibleError: the target has other layers than the sample.

    """
    target = trial.target or trial.sample
    if target.layers != trial.sample.layers:
        expected, found = (
            f"layers {', '.join(map(str, sample.layers))}" for sample in (trial.sample, target)
        )
        hint = "capture and encode the same layers of both runs"
        raise IncompatibleError(target.name, expected, found, hint)
    results = crossvalidate(
        trial.sample, trial.methods, trial.protocol, target=target, progress=lambda done, _: progress(done)
    )
    return [result.to_json() for result in compared(results, results[0], target)]


def _sae_qualities(name: str, run: PurePath, note: Note) -> dict[int, SAEQuality]:
    """Measure the SAEs of a run on a sample of its tokens; nothing where the capture keeps no tokens.

    Raises:
        UsageError: an SAE is no longer at its recorded place.

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
    """Return the width of a layer's SAE and the mean number of its latents that fire per response token."""
    latents = sample.latents[layer].tokens
    return {"d_sae": latents.shape[1], "l0": float(latents.sum() / sample.lengths.sum())}
