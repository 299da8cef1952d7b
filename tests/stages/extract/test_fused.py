"""`extract --sae`: the same features and pooled vectors as in two steps, whatever interrupts it."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import sae_files

from sparserm_cli.analysis.compare.compare import compare
from sparserm_cli.cli.output import pipeline as reports
from sparserm_cli.config import (
    CompareConfig,
    EncodeConfig,
    ExtractConfig,
    FitConfig,
    FrequencyConfig,
    SelectConfig,
)
from sparserm_cli.console import Output
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.lm import language_model as lm
from sparserm_cli.models.sae.autoencoder import SparseAutoencoder
from sparserm_cli.stages.encode.encode import encode
from sparserm_cli.stages.extract import fused
from sparserm_cli.stages.extract.extract import ExtractSummary, extract
from sparserm_cli.stages.fit.fit import fit
from sparserm_cli.stages.frequency.frequency import frequency
from sparserm_cli.stages.select.select import select
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.features.artifact import features_path
from sparserm_cli.store.features.reader import FeaturesReader
from sparserm_cli.store.features.writer import FeaturesWriter
from sparserm_cli.store.run.status import status

ROWS = [
    {"prompt": f"Question {n % 7}?", "chosen": f"yes, {n} " + "a" * n, "rejected": f"no {n}"}
    for n in range(20)
]


def quiet(*_: object) -> None:
    """Neither progress nor notes."""


class Place:
    """A data file, a tiny model and an SAE for block 1, and runs beside them."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, folder / "tiny"
        self.model.symlink_to(model)
        self.data = folder / "pairs.jsonl"
        self.data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        self.sae = sae_files.save_sae(folder / "sae", sae_files.perfect_sae(32))

    def extract(self, run: str, **changes: Any) -> ExtractSummary:
        """Capture in units of forty tokens."""
        options = {"layer": (1,), "dtype": "float32", "unit_tokens": 40, **changes}
        config = ExtractConfig(data=str(self.data), model=str(self.model), run=self.folder / run, **options)
        return extract(config, progress=quiet, note=quiet)

    def fused(self, run: str, **changes: Any) -> ExtractSummary:
        """Capture and encode in one pass."""
        return self.extract(run, sae=(self.sae,), layer=None, **changes)

    def encode(self, run: str, **changes: Any) -> Any:
        """Encode as a second step."""
        config = EncodeConfig(run=self.folder / run, sae=(self.sae,), **changes)
        return encode(config, progress=quiet, note=quiet)

    def features(self, run: str) -> FeaturesReader:
        """Open the features of a run."""
        return FeaturesReader(features_path(self.folder / run))


@pytest.fixture
def place(tmp_path, tiny_model) -> Place:
    """Give data, model and SAE."""
    return Place(tmp_path, tiny_model("llama"))


def test_what_latents_take_is_not_known_before(place: Place, capsys):
    """A dry run names as left out how many latents fire, and the SAE's part of the time."""
    reports.extract(Output(), place.fused("dry", dry_run=True))
    disk, expected = capsys.readouterr().out.splitlines()[-2:]
    assert disk.endswith("; besides, 6 to 8 bytes for each latent that fires on a token")
    assert ", measured here for 0 s, the SAE left out; " in expected


def test_the_files_are_those_of_the_two_steps(place: Place):
    """Every file of latents and of pooled vectors has the same digest; only tokens are missing."""
    place.extract("two")
    place.encode("two")
    done = place.fused("one")
    assert done.plan.settings.positions == "latents"
    assert done.plan.layout.units > 2
    fused, two = (place.features(run).manifest for run in ("one", "two"))
    assert [unit.files for unit in fused.units] == [unit.files for unit in two.units]
    captures = [ActivationsReader(capture_path(place.folder / run)).manifest for run in ("one", "two")]
    pooled = [
        [[file for file in unit.files if "/tokens/" not in file.path] for unit in manifest.units]
        for manifest in captures
    ]
    assert pooled[0] == pooled[1]
    assert not (capture_path(place.folder / "one") / "layers/1/tokens").exists()


def test_the_rest_of_the_chain_follows(place: Place):
    """frequency, select and fit read what the pass left, and encode finds nothing to do."""
    place.fused("one")
    run = place.folder / "one"
    assert place.encode("one").computed == 0
    frequency(FrequencyConfig(run=run, val_fraction=0.3), progress=quiet, note=quiet)
    select(SelectConfig(run=run, top_k=3), note=quiet)
    fit(FitConfig(run=run, val_fraction=0.3, head="linear", loss="bt"), progress=quiet, note=quiet)
    assert {artifact.state for artifact in status(run).artifacts} == {"complete"}


def test_what_is_compared_needs_no_tokens(place: Place, monkeypatch: pytest.MonkeyPatch):
    """A comparison finds after the pass what it finds after the two steps, but for the explained variance."""
    monkeypatch.setattr("sparserm_cli.models.head.fits.penalty.STRENGTHS", (0.1,))
    place.extract("two")
    place.encode("two")
    place.fused("one")
    notes: list[str] = []
    runs = {}
    for run in ("two", "one"):
        config = CompareConfig(run=place.folder / run, name="r", top_k=(2,), folds=2, sweep=("directions",))
        runs[run] = compare(config, progress=quiet, note=notes.append).found["runs"]["r"]
        for row in runs[run]["sweeps"]["directions"]["2"]:
            row.pop("seconds")
    assert notes == [
        "r: explained variance is left out, since the capture keeps latents and no token vectors"
    ]
    assert runs["two"]["saes"]["r"]["1"].pop("explained_variance") > 0.99
    assert runs["one"] == runs["two"]


def test_a_finished_pass_loads_no_model(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Digests alone say that both are there."""
    first = place.fused("one")
    monkeypatch.setattr(lm.LanguageModel, "load", None)
    again = place.fused("one")
    assert (again.state, again.computed, again.digest) == ("complete", 0, first.digest)


@pytest.mark.slow
@pytest.mark.parametrize("after", ["encoding", "capture"])
def test_row_02_an_interrupted_pass_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch, after: str):
    """Stopped with the second unit's latents on the disk, or its vectors too, it ends the same."""
    whole = place.fused("whole")
    take, calls = fused.FusedWorker.take_tokens, []

    def stopping(self: fused.FusedWorker, unit: int, *rest: Any) -> None:
        calls.append(unit)
        if after == "capture" and len(calls) == 3:
            raise KeyboardInterrupt
        take(self, unit, *rest)
        if after == "encoding" and len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(fused.FusedWorker, "take_tokens", stopping)
    with pytest.raises(KeyboardInterrupt):
        place.fused("cut")
    monkeypatch.undo()
    done = place.fused("cut")
    units = whole.plan.layout.units
    assert done.computed == units - (2 if after == "capture" else 1)
    assert done.digest == whole.digest
    assert place.features("cut").digest == place.features("whole").digest


@pytest.mark.parametrize("damaged", ["features", "capture"])
def test_units_that_only_one_store_has_are_done_again(place: Place, damaged: str):
    """Tokens are not kept, so a repaired unit of either is made anew in both; nothing else is."""
    first = place.fused("one")
    features = place.features("one")
    store = features.store if damaged == "features" else ActivationsReader(first.path).store
    store.drop([1])
    again = place.fused("one")
    assert (again.computed, again.digest) == (1, first.digest)
    assert place.features("one").digest == features.digest


def test_a_pass_cut_between_the_manifests_is_finished(place: Place):
    """The capture is complete, the features are all there but for their manifest."""
    first = place.fused("one")
    digest = place.features("one").digest
    place.features("one").store.drop([])
    assert FeaturesWriter(features_path(place.folder / "one")).store.manifest() is None
    assert place.fused("one").computed == 0
    assert place.features("one").digest == digest
    assert place.features("one").parent.digest == first.digest


def test_another_sae_is_refused_and_replaced_with_force(place: Place):
    """Features of another SAE stay; --force makes both stores anew, since no tokens are there to encode."""
    place.fused("one")
    sae = sae_files.perfect_sae(32)
    louder = SparseAutoencoder(**{**vars(sae), "W_enc": sae.W_enc * 2, "W_dec": sae.W_dec / 2})
    place.sae = sae_files.save_sae(place.folder / "other", louder)
    with pytest.raises(IncompatibleError, match=r"features\.zarr: sae: expected"):
        place.fused("one")
    done = place.fused("one", force=True)
    assert done.computed == done.plan.layout.units
    assert place.features("one").plan.sae(1).name == place.sae


def test_what_cannot_be_is_said(place: Place):
    """Latents need an SAE; a capture without tokens cannot be encoded as a second step."""
    with pytest.raises(UsageError) as caught:
        place.extract("none", positions="latents")
    assert str(caught.value) == (
        "--positions latents: expected an SAE for each layer to encode, found none; "
        "give --sae, or leave --positions out"
    )
    place.extract("pooled", positions="pooled")
    with pytest.raises(
        UsageError, match=r"extract --positions response --force`, or `sparserm extract --sae"
    ):
        place.encode("pooled")
