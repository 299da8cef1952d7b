"""Estimate what a planned capture will cost, from counted tokens and a measured or given rate.

Reads: the plan, the model's configuration and, where no rate is given, its weights. Writes nothing.
Memory: the model's lower blocks, where the rate is measured.
"""

import time
from typing import NamedTuple

from sparserm_cli.config import ExtractConfig
from sparserm_cli.errors import UsageError
from sparserm_cli.stages.extract.request import Request
from sparserm_cli.stages.extract.worker import load_model
from sparserm_cli.store.capture.writer import ActivationsWriter

SAMPLE_SECONDS, CALIBRATION_SECONDS = 3.0, 20.0
"""Duration of the measurement of a dry run in seconds, without and with --calibrate."""


class Rate(NamedTuple):
    """How fast one device computes.

    Fields:
        tokens_per_second: tokens per second; a prompt counts once for all its responses.
        device: name of the device.
        source: origin of the rate, in words.
    """

    tokens_per_second: float
    device: str
    source: str


class Estimate(NamedTuple):
    """What computing a plan is expected to take.

    Fields:
        rate: rate of one device.
        devices: number of devices that share the work evenly.
        seconds: time until all devices are done, in seconds.
        flops: floating-point operations: two per weight of the blocks and per token, without attention.
        price: price of all devices for that time, in the currency of `price_per_hour`; None if unknown.
    """

    rate: Rate
    devices: int
    seconds: float
    flops: float
    price: float | None


def estimate(request: Request, writer: ActivationsWriter) -> Estimate:
    """Estimate what computing a plan takes, from a rate that is measured here or given.

    Raises:
        UsageError: the named device is not on this machine, and its rate is not given.
        IncompatibleError: the model does not load.
        ResourceError: the device is missing.

    """
    from sparserm_cli.models.lm.backbone import block_parameters

    config, layout = request.config, writer.plan.layout
    rate = _given(config) or _measured(request, writer)
    tokens = layout.response_tokens + layout.prompt_tokens
    seconds = tokens / rate.tokens_per_second / config.gpus
    hours = seconds / 3600 * config.gpus
    price = None if config.price_per_hour is None else config.price_per_hour * hours
    flops = 2.0 * block_parameters(request.identity, request.layers) * tokens
    return Estimate(rate, config.gpus, seconds, flops, price)


def _given(config: ExtractConfig) -> Rate | None:
    """Return the rate that the options give; None if they give none."""
    if config.tokens_per_second is None:
        return None
    return Rate(config.tokens_per_second, config.gpu or "device", "as given")


def _measured(request: Request, writer: ActivationsWriter) -> Rate:
    """Measure the rate of this machine's device on batches of the plan."""
    from sparserm_cli.models.lm.devices import device_name
    from sparserm_cli.models.lm.residuals import iter_residuals
    from sparserm_cli.models.lm.trie import Tree

    config, lm = request.config, load_model(request, writer, lambda _text: None)
    device = device_name(lm.device)
    if config.gpu is not None and config.gpu.casefold() not in device.casefold():
        hint = "run `extract --dry-run --calibrate` on one, and give --tokens-per-second here"
        raise UsageError("--gpu", f"the device of this machine, {device}", config.gpu, hint)
    limit = CALIBRATION_SECONDS if config.calibrate else SAMPLE_SECONDS
    trees = [Tree(tree.prompt_ids, tree.responses) for tree in writer.trees(0)]
    tokens, seconds, at = 0, 0.0, 0
    while seconds < limit and (at < len(trees) or config.calibrate):
        part = trees[at % len(trees) : at % len(trees) + 32]
        at += len(part)
        begun = time.monotonic()
        for _ in iter_residuals(lm, part, batch_tokens=writer.plan.settings.batch_tokens):
            pass
        if at > len(part) or at == len(trees):
            # The first part warms the machine up and does not count, unless it is the only part.
            tokens += sum(len(tree.prompt_ids) + sum(map(len, tree.responses)) for tree in part)
            seconds += time.monotonic() - begun
    rest = ", the SAE left out" if request.positions == "latents" else ""
    return Rate(tokens / seconds, device, f"measured here for {seconds:.0f} s{rest}")
