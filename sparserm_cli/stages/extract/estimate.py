"""What a planned capture will cost: the tokens are counted, the rate is measured, the rest is estimated.

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
"""How long a dry run measures, and how long it does with --calibrate."""


class Rate(NamedTuple):
    """How fast one device computes.

    Fields:
        tokens_per_second: prompts counted once for all their responses.
        device: its name.
        source: how the rate is known, as words.
    """

    tokens_per_second: float
    device: str
    source: str


class Estimate(NamedTuple):
    """What computing a plan is expected to take.

    Fields:
        rate: of one device.
        devices: how many share the work, evenly.
        seconds: that all of them take.
        flops: floating-point operations: two a weight of the blocks and token, attention left out.
        price: of all devices for that time, in the currency of `price_per_hour`; None if that is not known.
    """

    rate: Rate
    devices: int
    seconds: float
    flops: float
    price: float | None


def estimate(request: Request, writer: ActivationsWriter) -> Estimate:
    """Estimate what computing a plan takes, from a rate that was measured here or is given.

    Raises:
        UsageError: a device is named that is not here, and no rate of it is given.
        IncompatibleError: the model does not load.
        ResourceError: the device is not there.

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
    """Return the rate that the options give."""
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
            # The first part warms the machine up and does not count, unless it is all there is.
            tokens += sum(len(tree.prompt_ids) + sum(map(len, tree.responses)) for tree in part)
            seconds += time.monotonic() - begun
    rest = ", the SAE left out" if request.positions == "latents" else ""
    return Rate(tokens / seconds, device, f"measured here for {seconds:.0f} s{rest}")
