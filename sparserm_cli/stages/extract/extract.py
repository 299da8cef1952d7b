"""`extract`: compute the residual stream of every response once, and store it with digests.

Reads: preference pairs, a language model; with `--sae` also SAEs, to encode in the same pass.
Writes: `activations.zarr`; with `--sae` also `features.zarr`.
Memory: the model's lower blocks, one unit of residual vectors, and some blocks of rows for the plan.
"""

import math
import tempfile
import time
from functools import partial
from pathlib import Path, PurePath
from typing import NamedTuple

from sparserm_cli.config import EncodeConfig, ExtractConfig, Note, Progress
from sparserm_cli.formatting import size
from sparserm_cli.models.checkpoints.resolve import resolve_model
from sparserm_cli.stages.encode.sae_layers import SAETrial, name_by_layer
from sparserm_cli.stages.engine.engine import Engine
from sparserm_cli.stages.engine.open import open_engine
from sparserm_cli.stages.extract.estimate import Estimate, estimate
from sparserm_cli.stages.extract.fused import FusedWorker, finish_latents, plan_latents
from sparserm_cli.stages.extract.planning import write_plan
from sparserm_cli.stages.extract.request import Request, check_request, request_of, tried_saes
from sparserm_cli.stages.extract.worker import CaptureWorker
from sparserm_cli.store.capture.artifact import capture_path, remove_capture
from sparserm_cli.store.capture.plan import ExtractPlan, check_space
from sparserm_cli.store.capture.writer import ActivationsWriter
from sparserm_cli.store.io.atomic import sweep
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.run.locks import plan_lock, run_lock, worker_lock
from sparserm_cli.store.units.records import Manifest
from sparserm_cli.store.units.unit_store import is_planned

FETCHING_SECONDS = 10.0
"""Shortest time in seconds between two notes about the download of a model."""


class ExtractSummary(NamedTuple):
    """The result of `extract`.

    Fields:
        path: folder of the capture.
        plan: plan of the capture.
        state: `complete`; `planned` after a dry run; `partial` while other workers are not done.
        computed: number of units that this call computed.
        seconds: time that this call spent on units, in seconds.
        free: free bytes on the disk; None on an object store.
        digest: digest of the content; "" unless complete.
        estimate: expected time and cost of the plan, after a dry run.
    """

    path: PurePath
    plan: ExtractPlan
    state: str
    computed: int
    seconds: float
    free: int | None
    digest: str
    estimate: Estimate | None = None

    @property
    def fresh(self) -> bool:
        """Whether the capture was complete already."""
        return self.state == "complete" and self.computed == 0


def extract(
    config: ExtractConfig, *, progress: Progress, note: Note, later: EncodeConfig | None = None
) -> ExtractSummary:
    """Capture what the options name, or continue where an earlier call was cut off.

    Args:
        config: the options.
        progress: called with response tokens computed and response tokens in all.
        note: called with each message for the user.
        later: options of the `encode` that follows; its SAEs are checked now, since a capture that they do
            not fit would be useless.

    Raises:
        UsageError: options contradict each other.
        BadInputError: the data cannot be read.
        IncompatibleError: the run directory holds another capture, or an SAE does not fit the model.
        CorruptStoreError: a finished capture is damaged.
        ResourceError: disk, memory or device do not suffice.
        TemporaryError: another run holds the directory.
        PartialError: some units failed three times.
        StoppedError: Ctrl-C or SIGTERM arrived; the units done are safe.

    """
    # 1. Identify what is requested by its content: data by digest, model by revision.
    identity = resolve_model(
        config.model,
        offline=config.offline,
        remote_code=config.remote_code,
        pickles=config.allow_pickle,
        progress=fetching(config.model, note),
        note=note,
    )
    request = request_of(config, identity)
    trials = tried_saes(request, later, note)
    root = capture_path(config.run)
    if config.dry_run:
        return _priced(root, request, note)
    rank, world = config.worker
    with run_lock(config.run) if world == 1 else worker_lock(config.run, rank):
        # 2. Continue an existing plan if it is the same; a new plan is frozen before any work.
        with plan_lock(config.run):
            _ensure_plan(root, request, note)
        writer = ActivationsWriter(root)
        check_space(config.run, writer.plan.bytes_left(writer.store.done()))
        # 3. Compute the units without a record; the worker that completes the last one writes the manifest.
        manifest, engine = _fill(request, writer, trials, progress, note)
    state, digest = ("partial", "") if manifest is None else ("complete", manifest.digest)
    free = storage_of(config.run).free_bytes()
    return ExtractSummary(root, writer.plan, state, engine.computed, engine.seconds, free, digest)


def fetching(model: str, note: Note) -> Progress:
    """Return a progress that notes at most every ten seconds how many bytes of a model have been fetched.

    It uses notes and not the progress bar, since the bar of a capture counts tokens.
    """
    said = -math.inf

    def say(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= FETCHING_SECONDS:
            said = time.monotonic()
            note(f"fetching {model}: {size(done)} of {size(total)}")

    return say


def _fill(
    request: Request, writer: ActivationsWriter, trials: list[SAETrial], progress: Progress, note: Note
) -> tuple[Manifest | None, Engine[CaptureWorker]]:
    """Compute the missing units; positions `latents` are stored as features beside the capture."""
    config, tokens = request.config, writer.plan.layout.response_tokens
    place = request, writer.root, writer.store.run_id
    if request.positions != "latents":
        make = partial(CaptureWorker, *place, trials=trials)
        with open_engine(config, make, progress=progress, note=note) as engine:
            # An SAE whose weights do not match its metadata is refused before the capture, too.
            if trials and writer.store.manifest() is None:
                for line in engine.ask(CaptureWorker.try_saes):
                    note(line)
            return engine.fill(writer.store, tokens, config.worker), engine
    names = name_by_layer([trial for trial in trials if trial.name in config.sae])
    with open_engine(config, partial(FusedWorker, *place, names), progress=progress, note=note) as fused:
        features = plan_latents(fused, request, writer, names, note)
        manifest = fused.fill(writer.store, tokens, config.worker)
        if manifest is not None and features is not None:
            finish_latents(features, manifest.digest)
        return manifest, fused


def _ensure_plan(root: PurePath, request: Request, note: Note) -> None:
    """Ensure a plan of this request at `root`.

    Raises:
        IncompatibleError: there is a plan of another request, and no `--force`.

    """
    sweep(root.parent, everything=request.config.worker[1] == 1)
    if is_planned(root):
        if not request.config.force:
            check_request(root, request)
            return
        if request.is_planned(root):
            return
        note(f"{root.name}: thrown away, since --force asks for another capture")
        remove_capture(root)
    note(f"reading {request.config.data}")
    plan = write_plan(root, request, note)
    note(_price(plan))


def _priced(root: PurePath, request: Request, note: Note) -> ExtractSummary:
    """Write the plan into a temporary folder, and estimate what computing it takes."""
    with tempfile.TemporaryDirectory(prefix="sparserm-dry-run-") as folder:
        begun = time.monotonic()
        plan = write_plan(capture_path(Path(folder)), request, note)
        planning = time.monotonic() - begun
        expected = estimate(request, ActivationsWriter(capture_path(Path(folder))), planning)
    return ExtractSummary(root, plan, "planned", 0, 0.0, storage_of(root.parent).free_bytes(), "", expected)


def _price(plan: ExtractPlan) -> str:
    """Return a sentence about the size of the plan, for before the first forward pass."""
    layout = plan.layout
    tokens = layout.response_tokens + layout.prompt_tokens
    what = f"{layout.pairs:,} pairs, {layout.responses:,} responses to {layout.prompts:,} prompts"
    return f"planned {what}, {tokens:,} tokens: {size(plan.bytes)} in {plan.files} files"
