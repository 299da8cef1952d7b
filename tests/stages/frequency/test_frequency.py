"""`frequency` on runs with planted latents: what it finds, what it leaves out, what it refuses."""

import itertools
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import planted_run as planted
from helpers import sae_files

from sparserm_cli.config import FrequencyConfig
from sparserm_cli.data.splits import validation_mask
from sparserm_cli.errors import BadInputError, IncompatibleError
from sparserm_cli.models.sae.autoencoder import SparseAutoencoder
from sparserm_cli.stages.frequency.frequency import FrequencySummary, frequency
from sparserm_cli.store.artifacts.frequency import read_frequency
from sparserm_cli.store.features.artifact import features_path


def count(run: Path, **options: object) -> FrequencySummary:
    """Run the stage quietly."""
    return frequency(
        FrequencyConfig(run=run, **options), progress=lambda _done, _all: None, note=lambda _text: None
    )


@pytest.mark.parametrize("unit", ["token", "response", "last"])
def test_planted_latents_stand_out(tmp_path: Path, unit: str):
    """The two planted latents have the largest differences of their sides, all others are near 0."""
    planted.plant(tmp_path)
    measures = count(tmp_path, unit=unit).frequency.layers[3]
    assert int(np.argmax(measures.difference)) == planted.GOOD
    assert int(np.argmin(measures.difference)) == planted.BAD
    others = np.delete(measures.difference, [planted.GOOD, planted.BAD])
    assert np.abs(others).max() < 0.15
    assert measures.mcnemar_q[[planted.GOOD, planted.BAD]].max() < 0.01
    assert measures.rate[:, 0].tolist() == [0.0, 0.0]


def test_rates_by_the_definition(tmp_path: Path):
    """Without validation prompts the rates are counts over all responses, straight from the features."""
    made = planted.plant(tmp_path, prompts=20)
    measures = count(tmp_path, val_fraction=0.0).frequency.layers[3]
    fired, tokens = np.zeros((2, planted.D_SAE)), np.zeros(2)
    for block in made.features.iter_blocks(3):
        rows = np.repeat(np.arange(len(block.lengths)), block.lengths)
        for row, response in enumerate(rows.tolist()):
            side = (block.responses.start + response) % 2
            latents = block.csr.indices[block.csr.indptr[row] : block.csr.indptr[row + 1]]
            fired[side, latents] += 1
            tokens[side] += 1
    assert measures.rate == pytest.approx(fired / tokens[:, None])


def test_flipped_labels_flip_the_measures(tmp_path: Path):
    """Swapping chosen and rejected changes the sign of every measure and nothing else."""
    planted.plant(tmp_path / "a")
    planted.plant(tmp_path / "b", flip=True)
    right, flipped = (count(tmp_path / name).frequency.layers[3] for name in "ab")
    for name in ("difference", "standardised", "length_controlled", "z", "mcnemar"):
        assert getattr(right, name) == pytest.approx(-getattr(flipped, name)), name
    assert right.mutual_information == pytest.approx(flipped.mutual_information)
    assert right.q == pytest.approx(flipped.q)


def test_the_size_of_units_does_not_matter(tmp_path: Path):
    """The table has the same digest whatever units the data was cut into."""
    digests = set()
    for number, unit_tokens in enumerate((40, 150, 100_000)):
        planted.plant(tmp_path / str(number), unit_tokens=unit_tokens, responses=4, prompts=20)
        digests.add(count(tmp_path / str(number)).frequency.lineage.digest)
    assert len(digests) == 1


def test_validation_prompts_are_left_out(tmp_path: Path):
    """The counted pairs are those of prompts outside the validation split of this seed."""
    made = planted.plant(tmp_path)
    groups = made.capture.response_group()[made.capture.pairs().chosen]
    for seed in (0, 1):
        summary = count(tmp_path, val_fraction=0.25, seed=seed)
        held_out = int(validation_mask(groups, 0.25, seed).sum())
        assert summary.left_out == held_out > 10
        assert summary.frequency.totals.pairs == 120 - held_out
        assert summary.frequency.totals.responses == (120 - held_out, 120 - held_out)


def test_what_is_written_is_what_is_returned(tmp_path: Path):
    """The artifact on disk has the summary's numbers, its settings and its parent."""
    made = planted.plant(tmp_path)
    summary = count(tmp_path, seed=3)
    read = read_frequency(tmp_path)
    assert read.lineage == summary.frequency.lineage
    assert read.lineage.identity == {
        "unit": "token",
        "val_fraction": 0.1,
        "seed": 3,
        "folds": 10,
        "strata": 4,
    }
    assert read.lineage.parents["features"].digest == made.features.digest


def test_progress_counts_tokens(tmp_path: Path):
    """The last call says that all tokens of all layers are done."""
    made = planted.plant(tmp_path, prompts=30, layers=(2, 5))
    calls: list[tuple[int, int]] = []
    frequency(
        FrequencyConfig(run=tmp_path), progress=lambda *call: calls.append(call), note=lambda _text: None
    )
    total = 2 * int(made.capture.response_lengths.sum())
    assert calls[-1] == (total, total)
    assert all(call[0] < other[0] for call, other in itertools.pairwise(calls))


def test_nothing_left_to_count(tmp_path: Path):
    """All prompts in the validation split leave nothing."""
    planted.plant(tmp_path, prompts=3)
    with pytest.raises(BadInputError) as caught:
        count(tmp_path, val_fraction=0.999999)
    assert str(caught.value) == (
        f"{tmp_path}/activations.zarr: expected pairs to count, found none of 3; "
        "use more data or a smaller --val-fraction"
    )


def test_row_15_no_features(tmp_path: Path):
    """Activations alone are not enough; the error says what to run."""
    planted.plant(tmp_path, prompts=3)
    shutil.rmtree(features_path(tmp_path))
    with pytest.raises(IncompatibleError) as caught:
        count(tmp_path)
    assert "sparserm encode" in str(caught.value)


def test_row_36_features_of_other_activations(tmp_path: Path):
    """Features whose activations have been replaced are stale."""
    planted.plant(tmp_path / "a", prompts=5)
    planted.plant(tmp_path / "b", prompts=5, seed=1)
    shutil.rmtree(features_path(tmp_path / "a"))
    shutil.move(features_path(tmp_path / "b"), features_path(tmp_path / "a"))
    with pytest.raises(IncompatibleError) as caught:
        count(tmp_path / "a")
    assert "it is stale" in str(caught.value)


def test_rates_of_last_tokens_by_the_definition(tmp_path: Path):
    """A rate is the share of responses on whose last token the latent fires, whatever the units of work."""
    made = planted.plant(tmp_path / "a", unit_tokens=60)
    planted.plant(tmp_path / "b", unit_tokens=100_000)
    tables = [count(tmp_path / name, unit="last", val_fraction=0.0).frequency for name in ("a", "b")]
    pairs, fires = made.capture.pairs(), []
    for block in made.features.iter_blocks(3):
        ends = np.cumsum(block.lengths)
        for end in ends.tolist():
            row = np.zeros(planted.D_SAE)
            row[block.csr.indices[block.csr.indptr[end - 1] : block.csr.indptr[end]]] = 1.0
            fires.append(row)
    expected = [np.stack(fires)[np.unique(side)].mean(axis=0) for side in (pairs.chosen, pairs.rejected)]
    for table in tables:
        assert table.unit == "last"
        assert table.totals.tokens == table.totals.responses
        assert table.layers[3].rate == pytest.approx(np.stack(expected))


def test_rates_of_mean_vectors_by_the_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A rate is the share of responses on whose mean vector the latent fires."""
    made = planted.plant(tmp_path)
    decoder = torch.as_tensor(made.decoders[3])
    metadata = sae_files.metadata("standard", planted.D_IN, planted.D_SAE)
    bias = torch.full((planted.D_SAE,), -0.5)
    zero = torch.zeros(planted.D_IN)
    sae = SparseAutoencoder(metadata, "xxh3:3", decoder.T.contiguous(), bias, decoder, zero)
    monkeypatch.setattr("sparserm_cli.stages.frequency.mean_vectors.load_saes", lambda *_: {3: sae})
    rate = count(tmp_path, unit="mean", val_fraction=0.0).frequency.layers[3].rate
    pairs, vectors = made.capture.pairs(), made.capture.pooled(3, "mean")
    fires = vectors @ made.decoders[3].T - 0.5 > 0
    for number, side in enumerate((pairs.chosen, pairs.rejected)):
        assert rate[number] == pytest.approx(fires[np.unique(side)].mean(axis=0))
    assert int(np.argmax(rate[0] - rate[1])) == planted.GOOD


def test_means_are_encoded_by_the_sae_of_the_features_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another SAE under the same name is refused with both digests."""
    planted.plant(tmp_path)
    other = SimpleNamespace(digest="xxh3:other")
    monkeypatch.setattr("sparserm_cli.stages.frequency.mean_vectors.load_saes", lambda *_: {3: other})
    with pytest.raises(IncompatibleError) as caught:
        count(tmp_path, unit="mean")
    hint = "restore that SAE or run `sparserm encode --force`"
    assert str(caught.value) == f"planted: weights: expected xxh3:3, found xxh3:other; {hint}"
