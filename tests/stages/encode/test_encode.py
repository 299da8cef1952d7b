"""encode on a tiny capture: right latents, whatever the chunk size, and no SAE that does not belong to it."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import sae_files

from sparserm_cli.config import EncodeConfig, ExtractConfig
from sparserm_cli.errors import IncompatibleError, StoppedError, UsageError
from sparserm_cli.models.sae import sparse_encoder
from sparserm_cli.models.sae.autoencoder import SparseAutoencoder
from sparserm_cli.models.sae.load import load_sae
from sparserm_cli.stages.encode import worker as encode_units
from sparserm_cli.stages.encode.encode import EncodeSummary, encode
from sparserm_cli.stages.extract.extract import extract
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.features.reader import FeaturesReader

random_sae, perfect_sae, saved = sae_files.random_sae, sae_files.perfect_sae, sae_files.save_sae
ROWS = [
    {"prompt": f"Question {n % 5}?", "chosen": f"yes, {n} " + "a" * n, "rejected": f"no {n}"}
    for n in range(12)
]
D_IN = 32


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """Capture two layers of twelve pairs in several units; the model is called `tiny`."""
    folder = tmp_path_factory.mktemp("capture")
    (folder / "tiny").symlink_to(tiny_model("llama"))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    config = ExtractConfig(
        data=str(folder / "pairs.jsonl"),
        model=str(folder / "tiny"),
        run=folder / "run",
        layer=(1, 2),
        dtype="bfloat16",
        unit_tokens=60,
    )
    extract(config, progress=lambda _done, _total: None, note=lambda _text: None)
    return folder / "run"


@pytest.fixture
def run(capture: Path, tmp_path: Path) -> Path:
    """Give a run directory of its own, whose capture is the shared one."""
    (tmp_path / "run").mkdir()
    capture_path(tmp_path / "run").symlink_to(capture_path(capture))
    return tmp_path / "run"


def do(run: Path, *saes: str, **changes: Any) -> EncodeSummary:
    """Encode quietly."""
    config = EncodeConfig(run=run, sae=saes, **changes)
    return encode(config, progress=lambda _done, _total: None, note=lambda _text: None)


def dense(run: Path, layer: int) -> np.ndarray:
    """Read all features of a layer densely."""
    reader = FeaturesReader(run / "features.zarr")
    parts = []
    for block in reader.iter_blocks(layer):
        part = np.zeros((int(block.lengths.sum()), reader.plan.sae(layer).d_sae), np.float32)
        rows = np.repeat(np.arange(len(part)), np.diff(block.csr.indptr))
        part[rows, block.csr.indices] = block.csr.data
        parts.append(part)
    return np.concatenate(parts)


def activations(run: Path, layer: int) -> torch.Tensor:
    """Read all activations of a layer."""
    blocks = ActivationsReader(capture_path(run)).iter_tokens(layer)
    return torch.from_numpy(np.concatenate([block.rows for block in blocks]))


def test_features_are_the_latents_of_the_captured_tokens(run: Path, tmp_path: Path) -> None:
    """Two SAEs, one a layer, against their dense encode; the sample's fit is told."""
    first = saved(tmp_path / "a", perfect_sae(D_IN))
    second = saved(tmp_path / "b", perfect_sae(D_IN, hook="blocks.2.hook_resid_post"))
    summary = do(run, second, first)
    assert summary.state == "complete"
    assert summary.computed == summary.plan.layout.units > 2
    assert summary.plan.layers == (1, 2)
    for layer, name in ((1, first), (2, second)):
        expected = load_sae(name).encode(activations(run, layer)).numpy()
        np.testing.assert_allclose(dense(run, layer), expected, rtol=1e-5, atol=1e-6)
        assert summary.samples[layer].explained_variance > 0.999
    assert FeaturesReader(run / "features.zarr").lineage.identity["sae_digest"][0] == load_sae(first).digest


@pytest.fixture
def unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SAEs through that explain nothing of the activations."""
    monkeypatch.setattr(encode_units, "sample_saes", partial(encode_units.sample_saes, judge=False))


@pytest.mark.usefixtures("unjudged")
@pytest.mark.parametrize("kind", ["standard", "topk", "jumprelu"])
def test_results_do_not_depend_on_the_chunk_size(
    kind: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest of the whole store is the same for chunks of 1, 17 and 10,000 rows."""
    monkeypatch.setattr(sparse_encoder, "LOWEST_TILE", 8)
    monkeypatch.setitem(sparse_encoder.TILE_NUMBERS, "cpu", 8 * 64)
    name = saved(tmp_path / "sae", random_sae(kind, D_IN, 64))
    digests = {do(run, name, chunk_rows=rows, allow_mismatch=True, force=True).digest for rows in (10_000,)}
    for rows in (1, 17):
        (run / "features.zarr").rename(tmp_path / f"{rows}.zarr")
        digests.add(do(run, name, chunk_rows=rows, allow_mismatch=True).digest)
    assert len(digests) == 1


def test_finished_features_are_left_alone_without_reading_weights(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call, forced or not, finds everything done by digests alone."""
    name = saved(tmp_path / "sae", perfect_sae(D_IN))
    first = do(run, name)
    monkeypatch.setattr(encode_units, "load_sae", None)
    for force in (False, True):
        again = do(run, name, force=force)
        assert (again.computed, again.digest) == (0, first.digest)


def test_a_relative_path_is_recorded_whole(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later stages find the SAE from any folder, and the same SAE by another path is no other SAE."""
    name = saved(tmp_path / "sae", perfect_sae(D_IN))
    monkeypatch.chdir(tmp_path)
    first = do(run, "sae")
    assert first.plan.sae(1).name == name
    assert do(run, "./sae").computed == 0


@pytest.mark.usefixtures("unjudged")
def test_another_sae_is_refused_without_force(run: Path, tmp_path: Path) -> None:
    """Features of another SAE stay; --force makes them anew."""
    first = do(run, saved(tmp_path / "sae", perfect_sae(D_IN)))
    other = perfect_sae(D_IN)
    name = saved(tmp_path / "sae", SparseAutoencoder(**{**vars(other), "b_enc": other.b_enc + 0.5}))
    with pytest.raises(IncompatibleError, match=r"features\.zarr: sae_digest: expected"):
        do(run, name, allow_mismatch=True)
    assert do(run, name, allow_mismatch=True, force=True).digest != first.digest


def test_stopped_run_is_continued(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interruption between units only the others are computed, and the result is the same."""
    name = saved(tmp_path / "sae", perfect_sae(D_IN))
    whole = do(run, name)
    (run / "features.zarr").rename(tmp_path / "whole")
    compute, calls = encode_units.UnitEncoder.compute, []

    def twice(self: encode_units.UnitEncoder, unit: int, read: Any) -> None:
        if len(calls) == 2:
            raise StoppedError(2, "two units are done")
        calls.append(unit)
        compute(self, unit, read)

    monkeypatch.setattr(encode_units.UnitEncoder, "compute", twice)
    with pytest.raises(StoppedError):
        do(run, name)
    monkeypatch.undo()
    again = do(run, name)
    assert again.computed == whole.computed - 2
    assert again.digest == whole.digest


def test_two_workers_share_the_units(run: Path, tmp_path: Path) -> None:
    """Each takes its own; the second finishes the store, which equals that of one worker."""
    name = saved(tmp_path / "sae", perfect_sae(D_IN))
    whole = do(run, name)
    (run / "features.zarr").rename(tmp_path / "whole")
    first, second = (do(run, name, worker=(rank, 2)) for rank in (0, 1))
    assert (first.state, second.state) == ("partial", "complete")
    assert first.computed + second.computed == whole.computed
    assert second.digest == whole.digest


@pytest.mark.usefixtures("unjudged")
def test_rejected_responses_have_no_latents(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that the capture keeps as NaN become empty rows, although the biases alone would fire."""
    sae = perfect_sae(D_IN)
    name = saved(tmp_path / "sae", SparseAutoencoder(**{**vars(sae), "b_enc": sae.b_enc + 0.01}))
    before = ActivationsReader.__init__

    def with_reject(self: ActivationsReader, *args: Any, **more: Any) -> None:
        before(self, *args, **more)
        self.rejected = (1,)

    monkeypatch.setattr(ActivationsReader, "__init__", with_reject)
    do(run, name, allow_mismatch=True)
    reader = ActivationsReader(capture_path(run))
    start = int(reader.response_lengths[0])
    counts = (dense(run, 1) > 0).sum(axis=1)
    assert not counts[start : start + int(reader.response_lengths[1])].any()
    assert counts[:start].all()


def test_row_33_wrong_width_is_refused_before_weights_are_read(run: Path, tmp_path: Path) -> None:
    """The width in the configuration decides; the weight file here is not even one."""
    name = saved(tmp_path / "sae", perfect_sae(16))
    (tmp_path / "sae" / "sae_weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(IncompatibleError) as caught:
        do(run, name, allow_mismatch=True)
    assert (
        str(caught.value) == f"{name}: d_in: expected 32, found 16; use an SAE that was trained on this model"
    )
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "gemma-2-2b"},
            "model_name: expected .*/tiny, found gemma-2-2b; use an SAE of this model, or give",
        ),
        (
            {"hook": "blocks.3.hook_resid_post"},
            r"expected blocks.1.* or blocks.2.*, found blocks.3.*--layer 3",
        ),
        ({"hook": "blocks.1.hook_mlp_out"}, "found blocks.1.hook_mlp_out; use an SAE of the residual stream"),
    ],
)
def test_row_34_another_model_layer_or_hook_is_refused(
    changes: dict[str, str], message: str, run: Path, tmp_path: Path
) -> None:
    """Same width, other labels: named with both values."""
    name = saved(tmp_path / "sae", perfect_sae(D_IN, **changes))
    with pytest.raises(IncompatibleError, match=message):
        do(run, name)


def test_row_34_allow_mismatch_encodes_another_models_activations(run: Path, tmp_path: Path) -> None:
    """The flag lets an SAE of another model through where the layer is clear."""
    name = saved(tmp_path / "sae", perfect_sae(D_IN, model="other"))
    assert do(run, name, allow_mismatch=True).state == "complete"


def test_row_34_allow_mismatch_waives_the_name_alone(run: Path, tmp_path: Path) -> None:
    """Another model's SAE that explains nothing is refused whatever the flag says."""
    name = saved(tmp_path / "sae", random_sae("jumprelu", D_IN, 64))
    with pytest.raises(IncompatibleError, match="explained variance on your activations: expected at least"):
        do(run, name, allow_mismatch=True)


def test_row_35_right_labels_with_wrong_weights_are_found_by_a_sample(run: Path, tmp_path: Path) -> None:
    """Random weights explain nothing; weights that leave every latent on reconstruct, but not sparsely."""
    name = saved(tmp_path / "sae", random_sae("jumprelu", D_IN, 64))
    with pytest.raises(
        IncompatibleError, match=r"explained variance on your activations: expected at least 0.3, found"
    ):
        do(run, name)
    assert not (run / "features.zarr").exists()
    sae = perfect_sae(D_IN)
    shifted = SparseAutoencoder(**{**vars(sae), "b_enc": sae.b_enc + 100, "W_dec": sae.W_dec / 2})
    with pytest.raises(
        IncompatibleError, match=r"latents active on a token: expected 1.0 to 32.0, found 64.0"
    ):
        do(run, saved(tmp_path / "on", shifted))


def test_row_32_an_sae_made_for_float16_refuses_activations_that_overflow_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of float16's range is the limit."""
    monkeypatch.setattr("sparserm_cli.models.sae.quality.FLOAT16_LIMIT", 0.01)
    name = saved(tmp_path / "sae", perfect_sae(D_IN), dtype="float16")
    with pytest.raises(
        IncompatibleError, match="dtype float16: expected activations below 0, found activations up to"
    ):
        do(run, name)


def test_unknown_dtype_is_refused(run: Path, tmp_path: Path) -> None:
    """A type that no weights are computed in."""
    name = saved(tmp_path / "sae", perfect_sae(D_IN), dtype="int8")
    with pytest.raises(IncompatibleError, match=r"dtype: expected one of float32, .*, found int8"):
        do(run, name)


def test_no_sae_and_two_for_a_layer_are_usage_errors(run: Path, tmp_path: Path) -> None:
    """Exactly one SAE encodes a layer."""
    with pytest.raises(UsageError, match="--sae: expected an SAE for a captured layer, found none"):
        do(run)
    names = [saved(tmp_path / letter, perfect_sae(D_IN)) for letter in "ab"]
    with pytest.raises(UsageError, match="expected one SAE per layer"):
        do(run, *names)


def test_encoding_a_local_folder_never_imports_sae_lens(run: Path, tmp_path: Path) -> None:
    """The import would take 8 seconds; without sae_lens the whole stage still works."""
    name = saved(tmp_path / "sae", perfect_sae(D_IN))
    program = (
        "import sys; from pathlib import Path\n"
        "from sparserm_cli.config import EncodeConfig\n"
        "from sparserm_cli.stages.encode.encode import encode\n"
        "assert 'torch' not in sys.modules\n"
        f"config = EncodeConfig(run=Path({str(run)!r}), sae=({name!r},))\n"
        "encode(config, progress=lambda *_: None, note=print)\n"
        "sys.exit('sae_lens' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "explains 1.000 of the variance" in done.stdout
