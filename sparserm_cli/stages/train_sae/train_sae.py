"""`train-sae`: train an SAE for a model that has none, with SAELens' own trainer.

Reads: a run's `activations.zarr`, or text that it runs through the model. Writes: a folder in SAELens' disk
format (`cfg.json`, `sae_weights.safetensors`), which appears by rename.
Memory: `recipe.buffer_rows` activations in bfloat16, the SAE, and Adam's two moments.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sparserm_cli.config.train_sae import SAERecipe, TrainSAEConfig
from sparserm_cli.errors import BadInputError, IncompatibleError, UsageError
from sparserm_cli.models.checkpoints.config_shape import check_layers
from sparserm_cli.models.checkpoints.resolve import load_tokenizer, resolve_model
from sparserm_cli.models.lm.devices import choose_device
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.sae.autoencoder import SparseAutoencoder
from sparserm_cli.models.sae.load import load_sae
from sparserm_cli.models.sae.quality import SAEQuality, SinkRule, measure
from sparserm_cli.models.sae.training.shuffle_buffer import ShuffleBuffer
from sparserm_cli.models.sae.training.start import settle
from sparserm_cli.models.sae.training.trainer import add_metadata, save, train
from sparserm_cli.stages.train_sae.capture_source import RunSource
from sparserm_cli.stages.train_sae.text_source import TextReading, TokenSource, text_source
from sparserm_cli.store.io.atomic import atomic_folder

SINK_SAMPLE_ROWS = 16384
"""Number of tokens whose norms the sink rule is fitted on."""

Progress = Callable[[str, int, int], None]
"""Called with the current activity, the work done and all work; the latter is 0 where it is not known."""


class TrainSAEResult(NamedTuple):
    """The result of a training.

    Fields:
        folder: folder of the SAE.
        rows: number of training tokens held in memory, without sink tokens.
        epochs: how often each of them was seen on average, if they are all training tokens.
        seconds: duration of the training steps in seconds.
        held_out: fit to the held-out documents of the training data.
        tests: fit to each further source, by name.
    """

    folder: Path
    rows: int
    epochs: float
    seconds: float
    held_out: SAEQuality
    tests: Mapping[str, SAEQuality]


def train_sae(config: TrainSAEConfig, *, progress: Progress | None = None) -> TrainSAEResult:
    """Train an SAE for one layer of a model, on text or on a run's captured response tokens.

    Args:
        config: the options. Without `data`, the captured tokens of the run are taken, with its model.
        progress: called with the current activity, work done and work in all.

    Raises:
        UsageError: tests without data, no layer, or a recipe that the SAE to start from cannot follow.
        BadInputError: a source cannot be read, or there are no tokens to train on.
        IncompatibleError, ResourceError, TemporaryError: of model, capture and device, as `extract`.

    """
    recipe, folder = config.recipe, config.output
    # 1. An SAE to start from is checked before anything is captured.
    start = _start_of(config)
    settle(recipe, start)
    layer = start.metadata.layer if config.layer is None and start is not None else config.layer
    # 2. A run holds activations already, so no model is loaded.
    if not config.data:
        captured = _run_source(config, layer)
        _check_start(start, captured.layer, captured.d_in)
        device = choose_device(config.device)
        return fit_sae(captured, folder, recipe, start=start, device=device, progress=progress)
    # 3. Text runs through the model up to the layer.
    lm = _load_model(config, layer, start)
    source, tests = _text_sources(config, lm)
    # 4. The SAE is trained and saved, and the saved one is measured.
    return fit_sae(source, folder, recipe, start=start, tests=tests, device=lm.device, progress=progress)


def _start_of(config: TrainSAEConfig) -> SparseAutoencoder | None:
    """Load the SAE whose training is continued; None for a new SAE."""
    if config.start is None:
        return None
    return load_sae(config.start, allow_pickle=config.allow_pickle, offline=config.offline)


def _run_source(config: TrainSAEConfig, layer: int | None) -> RunSource:
    """Return the captured tokens of the run; raises UsageError if there are tests, which need a model."""
    if config.tests:
        expected, hint = "DATA, or a run directory alone", "give text to train on"
        raise UsageError("train-sae", expected, "--test without DATA", hint)
    return RunSource(config.run, layer=layer, held_out_fraction=config.held_out_fraction, seed=config.seed)


def _load_model(config: TrainSAEConfig, layer: int | None, start: SparseAutoencoder | None) -> LanguageModel:
    """Load the model up to a layer, after the SAE to start from was checked against it.

    Raises:
        UsageError: no layer is named, or the model does not have it.
        IncompatibleError: the SAE to start from is for another layer or width.

    """
    if layer is None:
        raise UsageError("--layer", "a layer", "none", "give --layer, such as the middle one")
    identity = resolve_model(config.model, offline=config.offline)
    _check_start(start, layer, check_layers(identity, (layer,)).d_in)
    return LanguageModel.load(identity, layers=[layer], device=config.device)


def _text_sources(config: TrainSAEConfig, lm: LanguageModel) -> tuple[TokenSource, dict[str, TokenSource]]:
    """Return the training text, of which a share is held out, and the tests, of which everything is."""
    tokenizer = load_tokenizer(lm.identity)
    reading = TextReading(lm, tokenizer, config.context_size, config.template, config.split, config.offline)
    share = config.held_out_fraction
    source = text_source(reading, config.data, held_out_fraction=share, seed=config.seed, limit=config.limit)
    tests: dict[str, TokenSource] = {
        name: text_source(reading, [name], held_out_fraction=1.0, limit=config.test_limit)
        for name in config.tests
    }
    return source, tests


def _check_start(start: SparseAutoencoder | None, layer: int, d_in: int) -> None:
    """Check that an SAE to start from is for this layer and width; raises IncompatibleError."""
    if start is None:
        return
    name, own = start.metadata.name, start.metadata.layer
    if start.d_in != d_in:
        hint = "start from an SAE of a model of this width"
        raise IncompatibleError(f"--from {name}: d_in", str(d_in), str(start.d_in), hint)
    if start.metadata.hook_name is not None and own != layer:
        found, hint = start.metadata.hook_name, "leave --layer out, or start from another SAE"
        raise IncompatibleError(f"--from {name}: hook_name", f"the output of block {layer}", found, hint)


def fit_sae(
    source: TokenSource,
    output: Path,
    recipe: SAERecipe,
    *,
    start: SparseAutoencoder | None = None,
    tests: Mapping[str, TokenSource] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TrainSAEResult:
    """Train, save and measure one SAE on activations.

    Args:
        source: activations, split into training and held-out documents.
        output: folder of the SAE.
        recipe: size, sparsity and schedule of the training.
        start: the SAE whose training is continued; None starts from random weights.
        tests: sources that are only measured; all of their documents must be held out.
        device: torch device of the SAE.
        progress: called with the current activity, work done and work in all.

    Raises:
        BadInputError: there are no tokens to train on.

    """
    say = progress or (lambda _what, _done, _total: None)
    # 1. Sink tokens are recognised by their norm; the ordinary tokens of the same layer set the scale.
    sample = _sample(source)
    rule = SinkRule.fit(sample)
    # Options that are not given are taken from the SAE that the training starts from.
    recipe = settle(recipe, start, l0=0.0 if start is None else measure(start, [sample], rule).l0)
    # 2. Training tokens come in shuffled batches out of a buffer of fixed size.
    batches = ShuffleBuffer(
        lambda: _counted(_without_sinks(source.blocks(held_out=False), rule), "reading activations", say),
        capacity=recipe.buffer_rows,
        batch_rows=recipe.batch_rows,
        seed=recipe.seed,
    )
    rows = len(batches.rows)
    epochs = recipe.steps * recipe.batch_rows / rows
    # 3. SAELens trains the SAE.
    trained = train(batches, recipe, start=start, device=device, progress=_training_progress(say, recipe))
    del batches
    # 4. The SAE as saved is measured on tokens that the training has not seen; the folder appears when whole.
    facts = {**source.facts, "sink_rule": rule._asdict(), "training_tokens": rows, "scale": trained.scale}
    if start is not None:
        facts["from"] = {"name": start.metadata.name, "digest": start.digest}
    with atomic_folder(output) as folder:
        save(trained, folder, weights_dtype=recipe.weights_dtype, metadata=_metadata(recipe, facts))
        sae = load_sae(folder, device=device)
        held_out = measure(sae, _counted(source.blocks(held_out=True), "measuring", say), rule, device)
        add_metadata(folder, {"sparserm": {**_own(recipe, facts), "held_out": held_out._asdict()}})
    measured = {
        name: measure(sae, _counted(test.blocks(held_out=True), f"measuring on {name}", say), rule, device)
        for name, test in (tests or {}).items()
    }
    return TrainSAEResult(output, rows, epochs, trained.seconds, held_out, measured)


def _training_progress(say: Progress, recipe: SAERecipe) -> Callable[[int, int, float], None]:
    """Report steps as tokens, the unit of progress of the rest of the training."""

    def report(done: int, total: int, explained: float) -> None:
        what = f"training, explained variance {explained:.3f}"
        say(what, done * recipe.batch_rows, total * recipe.batch_rows)

    return report


def _metadata(recipe: SAERecipe, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata fields that SAELens defines; `_own` returns the others."""
    return {
        "model_name": facts["model_name"],
        "hook_name": facts["hook_name"],
        "hook_head_index": None,
        "context_size": recipe.context_size,
        "prepend_bos": facts["prepend_bos"],
        "dataset_path": ", ".join(item["name"] for item in facts["inputs"]),
        "model_from_pretrained_kwargs": {},
    }


def _own(recipe: SAERecipe, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that SAELens has no field for; they stand under `sparserm`."""
    theirs = {"model_name", "hook_name", "prepend_bos"}
    return {**{key: value for key, value in facts.items() if key not in theirs}, "recipe": asdict(recipe)}


def _sample(source: TokenSource) -> Float[Tensor, "rows d_in"]:
    """Return the first training tokens, about SINK_SAMPLE_ROWS of them.

    Raises:
        BadInputError: there are no training tokens.

    """
    parts: list[Tensor] = []
    for block in source.blocks(held_out=False):
        parts.append(block)
        if sum(map(len, parts)) >= SINK_SAMPLE_ROWS:
            break
    if not parts:
        raise BadInputError("training data", "tokens to train on", "none", "give more data")
    return torch.cat(parts)


def _without_sinks(blocks: Iterable[Tensor], rule: SinkRule) -> Iterator[Float[Tensor, "_ d_in"]]:
    """Yield the blocks without the tokens that the rule takes for sinks."""
    for block in blocks:
        yield block[rule.keeps(block)]


def _counted(blocks: Iterable[Tensor], what: str, say: Progress) -> Iterator[Float[Tensor, "_ d_in"]]:
    """Yield the blocks unchanged, and report how many rows have passed."""
    rows = 0
    for block in blocks:
        rows += len(block)
        say(what, rows, 0)
        yield block
