"""Whole runs without a model, in a folder or on an object store."""

from pathlib import PurePath

from helpers.captures import SAES, compute, encode_unit, plan
from helpers.small_artifacts import directions, frequency, reward
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.capture.writer import ActivationsWriter
from sparserm_cli.store.features.artifact import features_path
from sparserm_cli.store.features.plan import plan_features
from sparserm_cli.store.features.writer import FeaturesWriter
from sparserm_cli.store.io.atomic import sweep
from sparserm_cli.store.run.locks import run_lock
from sparserm_cli.store.run.status import status
from sparserm_cli.store.units.records import Manifest
from sparserm_cli.store.units.unit_store import is_planned
from sparserm_cli.store.units.work_loop import work_units

CHAIN = ("activations", "features", "frequency", "directions", "reward")


def capture(run: PurePath, rank: int = 0, world: int = 1) -> Manifest | None:
    """Do this worker's pending units of the capture."""
    if not is_planned(capture_path(run)):
        plan(capture_path(run))
    writer = ActivationsWriter(capture_path(run))
    return work_units(writer.store, lambda unit: compute(writer, unit), rank=rank, world=world)


def encode(run: PurePath) -> Manifest | None:
    """Do the pending units of the encoding."""
    reader = ActivationsReader(capture_path(run))
    if not is_planned(features_path(run)):
        plan_features(features_path(run), reader, SAES)
    writer = FeaturesWriter(features_path(run))
    return work_units(writer.store, lambda unit: encode_unit(writer, reader, unit))


def whole_run(run: PurePath) -> None:
    """Make every artifact that is not there."""
    with run_lock(run):
        sweep(run, everything=True)
        capture(run)
        encode(run)
    for make in (frequency, directions, reward):
        make(run)


def digests(run: PurePath) -> dict[str, str]:
    """Return the content digest of every artifact of a whole run."""
    artifacts = status(run).artifacts
    assert [(artifact.name, artifact.state) for artifact in artifacts] == [
        (name, "complete") for name in CHAIN
    ]
    return {artifact.name: artifact.lineage.digest for artifact in artifacts if artifact.lineage is not None}
