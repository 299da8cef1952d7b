"""`select` on runs with planted latents."""

from pathlib import Path

import numpy as np
import pytest
from helpers import planted_run as planted

from sparserm_cli.config import FrequencyConfig, SelectConfig
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.stages.frequency.frequency import frequency
from sparserm_cli.stages.frequency.unit_responses import counted_pairs
from sparserm_cli.stages.select.rankings import RANKINGS
from sparserm_cli.stages.select.select import SelectSummary, counted_moments, sae_decoder, select
from sparserm_cli.statistics.pair_moments import moments
from sparserm_cli.store.artifacts.directions import read_directions
from sparserm_cli.store.artifacts.frequency import read_frequency
from sparserm_cli.store.capture.artifact import capture_path, remove_capture
from sparserm_cli.store.features.plan import SAEFacts


def prepared(run: Path, **options: object) -> planted.Planted:
    """Plant a run and count it."""
    made = planted.plant(run, **options)
    frequency(FrequencyConfig(run=run), progress=lambda _done, _all: None, note=lambda _text: None)
    return made


def choose(made: planted.Planted, notes: list[str] | None = None, **options: object) -> SelectSummary:
    """Run the stage with the planted decoder."""
    lines: list[str] = [] if notes is None else notes
    return select(SelectConfig(run=made.run, **options), note=lines.append, decoder=made.decoder)


@pytest.mark.parametrize("by", [by for by in RANKINGS if not by.startswith("random-")])
def test_every_measure_finds_the_planted_latents(tmp_path: Path, by: str):
    """The first of each side is the planted one, and its row is the decoder's."""
    made = prepared(tmp_path)
    latents = choose(made, top_k=2, by=by).directions.layers[3]
    assert latents.feature[[0, 2]].tolist() == [planted.GOOD, planted.BAD]
    assert np.array_equal(latents.rows, made.decoders[3][latents.feature])
    assert latents.rate_chosen[0] > latents.rate_rejected[0]
    assert latents.q[0] < 0.01


def test_what_is_written_is_what_is_returned(tmp_path: Path):
    """Rows, settings and parents are in the artifact."""
    made = prepared(tmp_path, layers=(2, 3))
    summary = choose(made, top_k=3)
    read = read_directions(tmp_path)
    assert read.lineage == summary.directions.lineage
    assert read.lineage.identity == {"by": "difference", "top_k": 3, "seed": 0}
    assert set(read.lineage.parents) == {"frequency", "features", "activations"}
    assert list(read.layers) == [2, 3]
    for layer in (2, 3):
        assert np.array_equal(read.layers[layer].rows, summary.directions.layers[layer].rows)


def test_forward_needs_the_vectors(tmp_path: Path):
    """A capture may be thrown away after it has been encoded, but not before the pairs' vectors are read."""
    made = prepared(tmp_path)
    remove_capture(capture_path(tmp_path))
    assert choose(made, top_k=2).by == "difference"
    with pytest.raises(IncompatibleError) as caught:
        choose(made, top_k=2, by="forward")
    assert caught.value.where == str(capture_path(tmp_path))


def test_forward_leaves_out_validation_prompts(tmp_path: Path):
    """What the counted pairs are is asked of the frequencies, so that no validation pair selects."""
    planted.plant(tmp_path)
    counted = FrequencyConfig(run=tmp_path, val_fraction=0.4, seed=3)
    frequency(counted, progress=lambda _done, _all: None, note=lambda _text: None)
    made = planted.plant(tmp_path / "again")
    capture = made.capture
    pairs = capture.pairs()
    both = np.stack([pairs.chosen, pairs.rejected], axis=1)[counted_pairs(capture, 0.4, 3)]
    expected = moments(capture.pooled(3, "mean"), both)
    pair_moments = counted_moments(SelectConfig(run=tmp_path), read_frequency(tmp_path))(3)
    assert np.allclose(pair_moments.mean, expected.mean)
    assert np.allclose(pair_moments.second, expected.second)


def test_controls(tmp_path: Path):
    """Random latents have decoder rows, random directions none; both follow the seed."""
    made = prepared(tmp_path)
    latents = choose(made, top_k=4, by="random-latents", seed=5).directions.layers[3]
    assert np.array_equal(latents.rows, made.decoders[3][latents.feature])
    assert 0 not in latents.feature  # the dead one
    random = choose(made, top_k=4, by="random-directions", seed=5).directions.layers[3]
    again = choose(made, top_k=4, by="random-directions", seed=5).directions.layers[3]
    assert np.array_equal(random.rows, again.rows)
    assert (random.feature == -1).all()
    assert np.isnan(random.q).all()


def test_doubtful_directions_are_named(tmp_path: Path):
    """Only two latents are planted, so of 12 directions 10 could be chance."""
    notes: list[str] = []
    choose(prepared(tmp_path), notes, top_k=6)
    assert notes == ["layer 3: 10 of 12 directions could be chance (q above 0.05)"]


def test_too_few_latents(tmp_path: Path):
    """More directions than latents is refused, and nothing is written."""
    made = prepared(tmp_path)
    with pytest.raises(UsageError) as caught:
        choose(made, top_k=60)
    assert caught.value.where == "--top-k"
    assert not (tmp_path / "directions").exists()


def test_row_36_frequencies_of_other_features(tmp_path: Path):
    """Frequencies counted before the features were made anew are stale."""
    prepared(tmp_path / "a")
    other = prepared(tmp_path / "b", seed=1)
    (tmp_path / "a" / "frequency.parquet").rename(tmp_path / "b" / "frequency.parquet")
    with pytest.raises(IncompatibleError) as caught:
        choose(other)
    assert "frequency.parquet (from features.zarr)" in str(caught.value)
    assert "it is stale: run `sparserm frequency`" in str(caught.value)


def test_nothing_counted_yet(tmp_path: Path):
    """Without frequencies the error says what to run."""
    made = planted.plant(tmp_path, prompts=4)
    with pytest.raises(IncompatibleError) as caught:
        choose(made)
    assert caught.value.hint == "run `sparserm frequency` first"


def test_decoder_of_a_changed_sae_is_refused(tmp_path: Path):
    """An SAE whose weights are no longer those that encoded the features is named with both digests."""
    import json

    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    tensors = {
        "W_enc": rng.standard_normal((4, 6)).astype(np.float32),
        "W_dec": rng.standard_normal((6, 4)).astype(np.float32),
        "b_enc": np.zeros(6, np.float32),
        "b_dec": np.zeros(4, np.float32),
    }
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    config = {
        "architecture": "standard",
        "d_in": 4,
        "d_sae": 6,
        "dtype": "float32",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "metadata": {"hook_name": "blocks.3.hook_resid_post", "sae_lens_version": "6.0.0"},
    }
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    facts = SAEFacts(str(tmp_path), "xxh3:0", "standard", "blocks.3.hook_resid_post", 3, 4, 6)
    with pytest.raises(IncompatibleError) as caught:
        sae_decoder({3: facts})(3, np.array([1]))
    assert caught.value.expected == "xxh3:0"
    right = SAEFacts(str(tmp_path), caught.value.found, "standard", "blocks.3.hook_resid_post", 3, 4, 6)
    assert np.array_equal(sae_decoder({3: right})(3, np.array([4, 1])), tensors["W_dec"][[4, 1]])
