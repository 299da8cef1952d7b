"""`encode`: SAE latents of every captured token, as sparse rows.

Reads: `activations.zarr`, an SAE for each layer to encode. Writes: `features.zarr`.
Memory: the SAEs, one unit of activations with its latents, and one tile of pre-activations.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sparserm_cli.config import EncodeConfig, ExtractConfig, Note, Progress
from sparserm_cli.models.sae_files import sae_digest
from sparserm_cli.models.sae_metadata import find_sae, read_metadata
from sparserm_cli.stages.layer_saes import name_by_layer, sae_facts
from sparserm_cli.stages.stopping import finish_unit_in_hand
from sparserm_cli.store.activations import ActivationsReader, ActivationsWriter, open_capture
from sparserm_cli.store.chain import is_made
from sparserm_cli.store.features import (
    FeaturesPlan,
    FeaturesReader,
    FeaturesWriter,
    SAEFacts,
    features_identity,
    features_path,
    plan_features,
    remove_features,
)
from sparserm_cli.store.features_plan import FEATURES, VERSION
from sparserm_cli.store.files import sweep
from sparserm_cli.store.layout import ACTIVATIONS
from sparserm_cli.store.lineage import Lineage, check_parent, check_same_plan
from sparserm_cli.store.locks import plan_lock, run_lock, worker_lock
from sparserm_cli.store.units import MANIFEST
from sparserm_cli.store.work import work_units

if TYPE_CHECKING:
    from sparserm_cli.models.sae_check import SAEQuality
    from sparserm_cli.stages import encode_units


class EncodeSummary(NamedTuple):
    """What `encode` has done.

    Fields:
        path: where the features are.
        plan: what they hold.
        state: `complete`, or `partial` while other workers are not done.
        computed: units that this call computed.
        seconds: how long this call worked on units.
        samples: layer to how well its SAE fits a sample of the activations; empty if nothing was left to do.
        digest: of the content; "" unless complete.
    """

    path: Path
    plan: FeaturesPlan
    state: str
    computed: int
    seconds: float
    samples: "Mapping[int, SAEQuality]"
    digest: str

    @property
    def fresh(self) -> bool:
        """Whether everything was there already."""
        return self.state == "complete" and self.computed == 0


def encode(config: EncodeConfig, *, progress: Progress, note: Note) -> EncodeSummary:
    """Encode the captured tokens of a run, or continue where an earlier call was cut off.

    Args:
        config: the options.
        progress: called with tokens encoded and tokens in all, counted once a layer.
        note: told what is worth knowing on the way.

    Raises:
        UsageError: options that cannot be, or no such SAE.
        IncompatibleError: no complete capture, an SAE that does not fit it, or other features are there.
        CorruptStoreError: the capture is damaged.
        ResourceError: disk, memory or device are not to be had.
        TemporaryError: another run holds the directory, or the hub does not answer.
        PartialError: some units failed three times.
        StoppedError: Ctrl-C or SIGTERM; the units done are safe.

    """
    # 1. The capture, and what each SAE says about itself: what cannot fit is refused before weights are read.
    capture = open_capture(config.run)
    names = name_by_layer(config.sae, capture.plan.settings, allow_mismatch=config.allow_mismatch)
    root = features_path(config.run)
    if (finished := finished_features(root, capture, names)) is not None:
        note(f"{root.name} is up to date")
        return finished
    for layer in names:
        capture.require(layer, "response")
    # 2. The SAEs; a sample of these very activations shows whether the weights are what the labels say.
    from sparserm_cli.stages import encode_units

    def read(layer: int, unit: int) -> "encode_units.UnitActivations":
        return encode_units.unit_activations(capture, layer, unit)

    saes, samples = encode_units.load_and_sample(
        names, config, note, lambda layer: read(layer, capture.units[0]).usable_rows
    )
    facts = [sae_facts(sae.metadata, sae.digest, layer) for layer, sae in saes.items()]
    rank, world = config.worker
    with run_lock(config.run) if world == 1 else worker_lock(config.run, rank):
        # 3. The plan that is there is continued if it is the same; a new one is frozen before any work.
        with plan_lock(config.run):
            ensure_features_plan(root, capture, facts, config, note)
        # 4. Units without a receipt are encoded, and whoever finds none missing writes the manifest.
        writer = FeaturesWriter(root)
        done = encode_units.tokens_encoded(writer, config.worker)
        encoder = encode_units.UnitEncoder(
            writer, saes, chunk_rows=config.chunk_rows, progress=progress, done=done
        )
        with finish_unit_in_hand(note) as stop:
            manifest = work_units(
                writer.store,
                lambda unit: encoder.compute(unit, lambda layer: read(layer, unit)),
                rank=rank,
                world=world,
                stop=lambda: stop.requested,
            )
            if manifest is None:
                stop.check(writer.store.done(), writer.plan.layout.units)
    state, digest = ("partial", "") if manifest is None else ("complete", manifest.digest)
    return EncodeSummary(root, writer.plan, state, encoder.computed, encoder.seconds, samples, digest)


def finished_features(
    root: Path, capture: ActivationsReader, names: Mapping[int, str]
) -> EncodeSummary | None:
    """Return the summary of complete features of these SAEs and this capture, else None; reads no weights."""
    if not (root / MANIFEST).is_file():
        return None
    facts = []
    for layer, name in names.items():
        files = find_sae(name)
        metadata = read_metadata(files)
        if metadata.d_in is None or metadata.d_sae is None:  # only the weights say
            return None
        facts.append(sae_facts(metadata, sae_digest(files, metadata), layer))
    parents = {ACTIVATIONS: capture.lineage.as_parent()}
    if not is_made(root.parent, Lineage(FEATURES, VERSION, features_identity(facts), parents)):
        return None
    features = FeaturesReader(root)
    return EncodeSummary(root, features.plan, "complete", 0, 0.0, {}, features.digest)


def ensure_features_plan(
    root: Path,
    capture: ActivationsReader | ActivationsWriter,
    facts: Sequence[SAEFacts],
    config: EncodeConfig | ExtractConfig,
    note: Note,
) -> None:
    """Leave a plan of these SAEs and this capture at `root`.

    Raises:
        IncompatibleError: there is one of other SAEs or of another capture, and no `--force`.

    """
    sweep(root.parent, everything=config.worker[1] == 1)
    if root.exists():
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
