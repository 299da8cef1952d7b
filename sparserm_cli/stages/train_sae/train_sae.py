"""`train-sae`: train an SAE for a model that has none, with SAELens' own trainer.

Reads: a run's `activations.zarr`, or text that it runs through the model. Writes: a folder in SAELens' disk
format (`cfg.json`, `sae_weights.safetensors`), which appears by rename.
Memory: `recipe.buffer_rows` activations in bfloat16, the SAE, and Adam's two moments.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sparserm_cli.config import DEFAULT_MODEL
from sparserm_cli.config.train_sae import SAERecipe
from sparserm_cli.errors import BadInputError, IncompatibleError, UsageError
from sparserm_cli.models.checkpoints.config_shape import check_layers
from sparserm_cli.models.checkpoints.resolve import load_tokenizer, resolve_model
from sparserm_cli.models.lm.devices import DType, choose_device
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


def train_sae(
    data: Sequence[str],
    output: Path,
    *,
    run: PurePath | None = None,
    model: str = DEFAULT_MODEL,
    layer: int | None = None,
    recipe: SAERecipe | None = None,
    start: str | None = None,
    tests: Sequence[str] = (),
    test_limit: int | None = None,
    limit: int | None = None,
    split: str = "train",
    template: str | None = None,
    dtype: DType = "auto",
    device: str = "auto",
    allow_pickle: bool = False,
    offline: bool = False,
    progress: Progress | None = None,
) -> TrainSAEResult:
    """Train an SAE for one layer of a model, on text or on a run's captured response tokens.

    Args:
        data: files or data sets: preferences or responses of any shape, rows with a `text`, `.txt` files.
        output: folder of the SAE; an existing one is replaced when the new one is complete.
        run: run directory whose captured tokens are taken if `data` is empty; its model and template apply.
        model: language model, as `extract` takes it.
        layer: block, from 0, after which the residual stream is taken; None for the only layer of a run.
        recipe: size, sparsity and schedule of the training; None is the default recipe.
        start: SAE whose training is continued; where `layer` is None, its layer is taken.
        tests: further files that are only measured; needs `data`, since a run has no model loaded.
        test_limit: most rows read of each of these.
        limit: most rows read of each of `data`.
        split: split of a Hugging Face data set.
        template: chat template, as `extract` takes it.
        dtype: floating-point type in which the model computes.
        device: torch device of the model and the SAE.
        allow_pickle: read pickled weights of `start`.
        offline: never call the hub.
        progress: called with the current activity, work done and work in all.

    Raises:
        UsageError: neither `data` nor `run`, no layer, or a recipe that `start` cannot follow.
        BadInputError: a source cannot be read, or there are no tokens to train on.
        IncompatibleError, ResourceError, TemporaryError: of model, capture and device, as `extract`.

    """
    recipe = recipe or SAERecipe()
    # 1. An SAE to start from is checked before anything is captured.
    first = None if start is None else load_sae(start, allow_pickle=allow_pickle, offline=offline)
    settle(recipe, first)
    if layer is None and first is not None:
        layer = first.metadata.layer
    # 2. A run holds activations already, so no model is loaded.
    if not data:
        captured = _run_source(run, layer, tests, recipe)
        _check_start(first, captured.layer, captured.d_in)
        return fit_sae(captured, output, recipe, start=first, device=choose_device(device), progress=progress)
    # 3. Text runs through the model up to the layer.
    lm = _load_model(model, layer, first, offline=offline, dtype=dtype, device=device)
    reading = TextReading(lm, load_tokenizer(lm.identity), recipe.context_size, template, split, offline)
    # A share of the training documents is held out; all documents of the tests are.
    source = text_source(
        reading, data, held_out_fraction=recipe.held_out_fraction, seed=recipe.seed, limit=limit
    )
    measured = {name: text_source(reading, [name], held_out_fraction=1.0, limit=test_limit) for name in tests}
    # 4. The SAE is trained and saved, and the saved one is measured.
    return fit_sae(source, output, recipe, start=first, tests=measured, device=lm.device, progress=progress)


def _run_source(
    run: PurePath | None, layer: int | None, tests: Sequence[str], recipe: SAERecipe
) -> RunSource:
    """Return the captured tokens of a run; raises UsageError without a run, or with tests."""
    if run is None or tests:
        found = "--test without DATA" if tests else "neither"
        raise UsageError("train-sae", "DATA, or a run directory alone", found, "give text to train on")
    return RunSource(run, layer=layer, held_out_fraction=recipe.held_out_fraction, seed=recipe.seed)


def _load_model(
    model: str,
    layer: int | None,
    start: SparseAutoencoder | None,
    *,
    offline: bool,
    dtype: DType,
    device: str,
) -> LanguageModel:
    """Load a model up to a layer, after the SAE to start from was checked against it.

    Raises:
        UsageError: no layer is named, or the model does not have it.
        IncompatibleError: the SAE to start from is for another layer or width.

    """
    if layer is None:
        raise UsageError("--layer", "a layer", "none", "give --layer, such as the middle one")
    identity = resolve_model(model, offline=offline)
    _check_start(start, layer, check_layers(identity, (layer,)).d_in)
    return LanguageModel.load(identity, layers=[layer], dtype=dtype, device=device)


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
