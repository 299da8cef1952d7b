"""`encode`: compute the SAE latents of every captured token as sparse rows.

Reads: `activations.zarr`, an SAE for each layer to encode. Writes: `features.zarr`.
Memory: the SAEs, one unit of activations with its latents, and one tile of pre-activations.
"""

import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from sparserm_cli.config import EncodeConfig, ExtractConfig, Note, Progress
from sparserm_cli.models.sae.load import find_sae, read_metadata
from sparserm_cli.models.sae.metadata import sae_digest
from sparserm_cli.stages.encode.sae_layers import captured_by, check_saes, fit_line, name_by_layer, sae_facts
from sparserm_cli.stages.engine.open import open_engine
from sparserm_cli.store.capture.artifact import open_capture
from sparserm_cli.store.capture.layout import ACTIVATIONS
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.capture.writer import ActivationsWriter
from sparserm_cli.store.features.artifact import features_path, remove_features
from sparserm_cli.store.features.plan import (
    FEATURES,
    VERSION,
    FeaturesPlan,
    SAEFacts,
    features_identity,
    plan_features,
)
from sparserm_cli.store.features.reader import FeaturesReader
from sparserm_cli.store.features.writer import FeaturesWriter
from sparserm_cli.store.io.atomic import sweep
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.provenance import Lineage, check_parent, check_same_plan
from sparserm_cli.store.run.artifacts import is_made
from sparserm_cli.store.run.locks import plan_lock, run_lock, worker_lock
from sparserm_cli.store.units.unit_store import MANIFEST, is_planned

if TYPE_CHECKING:
    from sparserm_cli.models.sae.quality import SAEQuality
    from sparserm_cli.stages.encode.worker import Examined


class EncodeSummary(NamedTuple):
    """The result of `encode`.

    Fields:
        path: folder of the features.
        plan: plan of the features.
        state: `complete`, or `partial` while other workers are not done.
        computed: number of units that this call computed.
        seconds: time that this call spent on units, in seconds.
        samples: layer to the fit of its SAE to a sample of the activations; empty if nothing was left to do.
        digest: digest of the content; "" unless complete.
    """

    path: PurePath
    plan: FeaturesPlan
    state: str
    computed: int
    seconds: float
    samples: "Mapping[int, SAEQuality]"
    digest: str

    @property
    def fresh(self) -> bool:
        """Whether the features were complete already."""
        return self.state == "complete" and self.computed == 0


def encode(config: EncodeConfig, *, progress: Progress, note: Note) -> EncodeSummary:
    """Encode the captured tokens of a run, or continue where an earlier call was cut off.

    Args:
        config: the options.
        progress: called with tokens encoded and tokens in all, where each token counts once per layer.
        note: called with each message for the user.

    Raises:
        UsageError: options contradict each other, or there is no such SAE.
        IncompatibleError: there is no complete capture, an SAE does not fit, or the run has other features.
        CorruptStoreError: the capture is damaged.
        ResourceError: disk, memory or device do not suffice.
        TemporaryError: another run holds the directory, or the hub does not answer.
        PartialError: some units failed three times.
        StoppedError: Ctrl-C or SIGTERM arrived; the units done are safe.

    """
    # 1. Check each SAE's metadata against the capture; a mismatch is refused before weights are read.
    capture = open_capture(config.run)
    trials = check_saes(
        config.sae,
        captured_by(capture.plan.settings),
        note,
        allow_pickle=config.allow_pickle,
        allow_mismatch=config.allow_mismatch,
    )
    names = name_by_layer(trials)
    root = features_path(config.run)
    if (finished := finished_features(root, capture, names)) is not None:
        note(f"{root.name} is up to date")
        return finished
    for layer in names:
        capture.require(layer, "response")
    from sparserm_cli.stages.encode.worker import EncodeWorker

    run_id = uuid.uuid4().hex
    make = partial(EncodeWorker, config, names, run_id)
    rank, world = config.worker
    with (
        run_lock(config.run) if world == 1 else worker_lock(config.run, rank),
        open_engine(config, make, progress=progress, note=note) as engine,
    ):
        # 2. Load the SAEs; a sample of the activations shows whether their weights match their metadata.
        examined = engine.ask(EncodeWorker.examine)
        # 3. Continue an existing plan if it is the same; a new plan is frozen before any work.
        plan_encoding(root, capture, examined, config, note)
        # 4. Encode units without a record; the worker that completes the last one writes the manifest.
        writer = FeaturesWriter(root, run_id)
        manifest = engine.fill(writer.store, writer.plan.layout.response_tokens * len(names), config.worker)
    state, digest = ("partial", "") if manifest is None else ("complete", manifest.digest)
    return EncodeSummary(root, writer.plan, state, engine.computed, engine.seconds, examined.samples, digest)


def finished_features(
    root: PurePath, capture: ActivationsReader, names: Mapping[int, str]
) -> EncodeSummary | None:
    """Return the summary of complete features of these SAEs and this capture, else None, without weights."""
    if storage_of(root / MANIFEST).size() < 0:
        return None
    facts = []
    for layer, name in names.items():
        files = find_sae(name)
        metadata = read_metadata(files)
        if metadata.d_in is None or metadata.d_sae is None:  # only the weights have the widths
            return None
        facts.append(sae_facts(metadata, sae_digest(files, metadata), layer))
    parents = {ACTIVATIONS: capture.lineage.as_parent()}
    if not is_made(root.parent, Lineage(FEATURES, VERSION, features_identity(facts), parents)):
        return None
    features = FeaturesReader(root)
    return EncodeSummary(root, features.plan, "complete", 0, 0.0, {}, features.digest)


def plan_encoding(
    root: PurePath,
    capture: ActivationsReader | ActivationsWriter,
    examined: "Examined",
    config: EncodeConfig | ExtractConfig,
    note: Note,
) -> None:
    """Ensure a plan of these SAEs and this capture at `root`, and report how well the SAEs fit.

    Raises:
        IncompatibleError: there is a plan of other SAEs or of another capture, and no `--force`.

    """
    for fact in examined.facts:
        sample = examined.samples[fact.layer]
        note(fit_line(fact.layer, fact.architecture, fact.d_sae, sample))
    with plan_lock(config.run):
        _ensure_plan(root, capture, examined.facts, config, note)


def _ensure_plan(
    root: PurePath,
    capture: ActivationsReader | ActivationsWriter,
    facts: Sequence[SAEFacts],
    config: EncodeConfig | ExtractConfig,
    note: Note,
) -> None:
    """Ensure a plan of these SAEs and this capture at `root`; raises as `plan_encoding`."""
    sweep(root.parent, everything=config.worker[1] == 1)
    if is_planned(root):
        plan = FeaturesWriter(root).store.plan
        recorded, present = plan.parents[ACTIVATIONS], capture.lineage.as_parent()
        if not config.force:
            check_same_plan(str(root), plan.identity, features_identity(facts))
            where = f"{root} (from {capture.root.name})"
            check_parent(where, recorded, present, "run `sparserm encode --force`")
        if recorded.digest == present.digest and plan.identity == features_identity(facts):
            return
        note(f"{root.name}: thrown away, since --force asks for other features")
        remove_features(root)
    plan_features(root, capture, facts)
