"""Estimate what a planned capture will cost, from counted tokens and a measured or given rate.

Reads: the plan, the model's configuration and, where no rate is given, its weights. Writes nothing.
Memory: the model's lower blocks, where the rate is measured.
"""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sparserm_cli.config import ExtractConfig
from sparserm_cli.errors import UsageError
from sparserm_cli.stages.extract.request import Request
from sparserm_cli.stages.extract.worker import load_model
from sparserm_cli.store.capture.writer import ActivationsWriter

if TYPE_CHECKING:
    from sparserm_cli.models.lm.language_model import LanguageModel
    from sparserm_cli.models.lm.trie import Tree

SAMPLE_SECONDS, CALIBRATION_SECONDS = 1.0, 20.0
"""Time in seconds after which a dry run measures no further part, without and with --calibrate."""
SAMPLED_UNITS = 4
"""Largest number of units, spread evenly over the plan, whose prompts are drawn for the measurement."""


class Rate(NamedTuple):
    """Speed of one device.

    Fields:
        tokens_per_second: tokens per second; a prompt counts once for all its responses.
        device: name of the device.
        source: origin of the rate, in words.
    """

    tokens_per_second: float
    device: str
    source: str


class Estimate(NamedTuple):
    """Expected time and cost of computing a plan.

    Fields:
        rate: rate of one device.
        devices: number of devices that share the work evenly.
        seconds: time until all devices are done, in seconds, with `preparing`.
        preparing: time in seconds that this dry run took to read the data, write the plan and load the model,
            all of which the job does as well; 0 where the rate is given.
        flops: floating-point operations: two per weight of the blocks and per token, without attention.
        price: price of all devices for that time, in the currency of `price_per_hour`; None if unknown.
    """

    rate: Rate
    devices: int
    seconds: float
    preparing: float
    flops: float
    price: float | None


def estimate(request: Request, writer: ActivationsWriter, planning: float) -> Estimate:
    """Estimate what computing a plan takes, from a rate that is measured here or given.

    Args:
        request: request of the plan.
        writer: writer of the plan.
        planning: time in seconds that reading the data and writing the plan took here.

    Raises:
        UsageError: the named device is not on this machine, and its rate is not given.
        IncompatibleError: the model does not load.
        ResourceError: the device is missing.

    """
    from sparserm_cli.models.lm.backbone import block_parameters

    config, layout = request.config, writer.plan.layout
    rate, preparing = _given(config), 0.0
    if rate is None:
        begun = time.monotonic()
        lm = _model(request, writer)
        preparing = planning + time.monotonic() - begun
        rate = _measured(lm, request, writer)
    tokens = layout.response_tokens + layout.prompt_tokens
    seconds = preparing + tokens / rate.tokens_per_second / config.gpus
    hours = seconds / 3600 * config.gpus
    price = None if config.price_per_hour is None else config.price_per_hour * hours
    flops = 2.0 * block_parameters(request.identity, request.layers) * tokens
    return Estimate(rate, config.gpus, seconds, preparing, flops, price)


def _given(config: ExtractConfig) -> Rate | None:
    """Return the rate that the options give; None if they give none."""
    if config.tokens_per_second is None:
        return None
    return Rate(config.tokens_per_second, config.gpu or "device", "as given")


def _model(request: Request, writer: ActivationsWriter) -> "LanguageModel":
    """Load the model on the device that the estimate is for.

    Raises:
        UsageError: the named device is not on this machine.

    """
    from sparserm_cli.models.lm.devices import device_name

    lm = load_model(request, writer, lambda _text: None)
    device, wanted = device_name(lm.device), request.config.gpu
    if wanted is not None and wanted.casefold() not in device.casefold():
        hint = "run `extract --dry-run --calibrate` on one, and give --tokens-per-second here"
        raise UsageError("--gpu", f"the device of this machine, {device}", wanted, hint)
    return lm


def _measured(lm: "LanguageModel", request: Request, writer: ActivationsWriter) -> Rate:
    """Measure the rate of this machine's device on prompts drawn from the whole plan.

    The parts grow, so that a slow device is measured on little and a fast one on whole batches.
    """
    from sparserm_cli.models.lm.devices import device_name
    from sparserm_cli.models.lm.residuals import iter_residuals

    calibrate, batch_tokens = request.config.calibrate, writer.plan.settings.batch_tokens
    limit = CALIBRATION_SECONDS if calibrate else SAMPLE_SECONDS
    measured: list[tuple[int, float]] = []
    spent = 0.0
    for part in _parts(_drawn(writer), batch_tokens, repeat=calibrate):
        begun = time.monotonic()
        for _ in iter_residuals(lm, part, batch_tokens=batch_tokens):
            pass
        measured.append((_tokens(part), time.monotonic() - begun))
        spent += measured[-1][1]
        if spent >= limit:
            break
    rest = ", the SAE left out" if request.positions == "latents" else ""
    return Rate(
        _tokens_per_second(measured), device_name(lm.device), f"measured here for {spent:.0f} s{rest}"
    )


def _tokens_per_second(measured: Sequence[tuple[int, float]]) -> float:
    """Return the rate of the largest parts: small ones are slower per token, and the first warms up.

    Args:
        measured: tokens and seconds of each part.

    """
    most = max(tokens for tokens, _ in measured)
    counted = [part for part in measured if 2 * part[0] > most]
    return sum(tokens for tokens, _ in counted) / sum(seconds for _, seconds in counted)


def _drawn(writer: ActivationsWriter) -> list["Tree"]:
    """Return the prompts with responses of some units, in a random order that is always the same."""
    from sparserm_cli.models.lm.trie import Tree

    units = writer.plan.layout.units
    chosen = np.unique(np.linspace(0, units - 1, min(units, SAMPLED_UNITS)).astype(int)).tolist()
    trees = [Tree(tree.prompt_ids, tree.responses) for unit in chosen for tree in writer.trees(unit)]
    return [trees[place] for place in np.random.default_rng(0).permutation(len(trees))]


def _parts(trees: Sequence["Tree"], batch_tokens: int, *, repeat: bool) -> Iterator[Sequence["Tree"]]:
    """Yield parts of the trees that double in number until one fills a batch; with `repeat` without end."""
    at, size = 0, 1
    while at < len(trees) or repeat:
        start = at % len(trees)
        part = trees[start : start + size]
        yield part
        at += len(part)
        if len(part) == size and _tokens(part) < batch_tokens:
            size = min(2 * size, len(trees))


def _tokens(trees: Sequence["Tree"]) -> int:
    """Return the number of tokens of some trees, as the plan counts them: a prompt once."""
    return sum(len(tree.prompt_ids) + sum(map(len, tree.responses)) for tree in trees)
