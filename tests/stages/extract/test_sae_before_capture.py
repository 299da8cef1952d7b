"""A wrong SAE is refused before anything is captured, wherever it is named."""

import json
from pathlib import Path

import pytest
import torch
from helpers import sae_files
from safetensors.torch import load_file, save_file

from sparserm_cli.cli.main import app
from sparserm_cli.config import EncodeConfig, ExtractConfig
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.stages.extract.extract import extract
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.writer import ActivationsWriter

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture
def made(tmp_path, tiny_model):
    """Write pairs, a model and an SAE that reconstructs its residual stream exactly."""
    rows = [{"prompt": f"What of {n}?", "chosen": f"Yes, {n}.", "rejected": f"Never {n}!"} for n in range(12)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = tiny_model("llama")
    sae = sae_files.save_sae(tmp_path / "sae", sae_files.perfect_sae(32, hook=HOOK, model=model.name))
    return data, model, sae


def broken(made, **changes):
    """Change the SAE's configuration; a model is named in its metadata."""
    path = Path(made[2]) / "cfg.json"
    config = json.loads(path.read_text())
    config["metadata"] |= changes.pop("metadata", {})
    path.write_text(json.dumps(config | changes))


def capture(made, tmp_path, *, sae=(), positions="response", later=(), notes=None, **changes):
    """Extract into a run directory, with the SAEs of this command and of the next."""
    data, model, _ = made
    config = ExtractConfig(
        data=str(data),
        model=str(model),
        run=tmp_path / "run",
        layer=(1,),
        dtype="float32",
        sae=sae,
        positions=positions,
        **changes,
    )
    encode = EncodeConfig(run=tmp_path / "run", sae=later) if later else None
    lines = [] if notes is None else notes
    return extract(config, progress=lambda _done, _total: None, note=lines.append, later=encode)


WRONG = {
    "another model": ({"metadata": {"model_name": "another"}}, "model_name: expected"),
    "another width": ({"d_in": 31}, "d_in: expected 32, found 31"),
    "a missing scale": (
        {"normalize_activations": "expected_average_only_in"},
        "normalize_activations: expected",
    ),
}


@pytest.mark.parametrize("named", ["sae", "later", "latents"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_an_sae_says_is_checked_before_the_data_are_read(wrong, named, made, tmp_path):
    """The run directory stays empty, whether this command names the SAE or `encode` will."""
    changes, message = WRONG[wrong]
    broken(made, **changes)
    made[0].write_text("these are no rows")
    how = {"later": {"later": (made[2],)}, "latents": {"sae": (made[2],), "positions": "latents"}}
    with pytest.raises(IncompatibleError, match=message):
        capture(made, tmp_path, **how.get(named, {"sae": (made[2],)}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("named", ["sae", "later"])
def test_wrong_weights_are_found_before_the_first_unit(named, made, tmp_path):
    """Right labels over weights of another scale: the sample refuses them, and no unit is there."""
    weights = Path(made[2]) / "sae_weights.safetensors"
    save_file(load_file(weights) | {"b_enc": torch.full((64,), 9.0)}, weights)
    with pytest.raises(IncompatibleError, match=r"on your activations: expected at least 0\.3"):
        capture(made, tmp_path, **{named: (made[2],)})
    assert not ActivationsWriter(capture_path(tmp_path / "run")).store.done()


def test_a_right_sae_is_tried_and_told(made, tmp_path):
    """The fit is said before the capture, once; a second call has nothing left to try."""
    notes = []
    assert capture(made, tmp_path, later=(made[2],), notes=notes).state == "complete"
    lines = [note for note in notes if note.startswith("layer 1: standard SAE, 64 latents")]
    assert len(lines) == 1
    assert "explains 1.000 of the variance" in lines[0]
    again = []
    assert capture(made, tmp_path, later=(made[2],), notes=again).fresh
    assert not [note for note in again if "explains" in note]


def test_extracts_own_waiver_leaves_the_next_command_alone(made, tmp_path):
    """A capture that is not meant for the SAE of the settings file is still possible."""
    broken(made, metadata={"model_name": "another"})
    assert capture(made, tmp_path, later=(made[2],), allow_mismatch=True).state == "complete"


def test_a_caution_is_noted(made, tmp_path):
    """Centred weights are told where the SAE is named."""
    broken(made, metadata={"model_from_pretrained_kwargs": {"center_writing_weights": True}})
    notes = []
    capture(made, tmp_path, later=(made[2],), notes=notes)
    assert len([note for note in notes if "center_writing_weights" in note]) == 1


@pytest.mark.parametrize("words", [["extract"], ["run"]])
def test_the_settings_file_names_the_sae(words, made, tmp_path, monkeypatch):
    """`extract` and `run` look at the table of `encode` first."""
    broken(made, d_in=31)
    data, model, sae = made
    (tmp_path / "sparserm.toml").write_text(
        f'[extract]\ndata = "{data}"\nmodel = "{model}"\nlayer = 1\n[encode]\nsae = "{sae}"\n'
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IncompatibleError, match="d_in: expected 32, found 31"):
        app([*words, "--quiet"], standalone_mode=False)
    assert not (tmp_path / "run").exists()


def test_an_sae_that_is_not_there_is_a_usage_error(made, tmp_path):
    """A wrong path is found before the capture, too."""
    with pytest.raises(UsageError, match="found no such folder"):
        capture(made, tmp_path, later=(str(tmp_path / "nothing"),))
