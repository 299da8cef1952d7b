"""LoRA reward models in the comparison: they learn, they repeat, they are left out where trl is not there."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny_run

from sparserm_cli.analysis.compare import method_sets
from sparserm_cli.analysis.compare.compare import compare_samples
from sparserm_cli.analysis.compare.cross_validation import Protocol, training_of
from sparserm_cli.analysis.compare.lora import fit_lora, missing_packages
from sparserm_cli.analysis.compare.run_sample import Sample, load_sample
from sparserm_cli.config import CompareConfig
from sparserm_cli.errors import IncompatibleError

pytestmark = pytest.mark.slow

quiet = tiny_run.quiet
needs_align = pytest.mark.skipif(missing_packages() is not None, reason=str(missing_packages()))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Sample:
    """Give a run of forty pairs with the tiny model."""
    return load_sample("tiny", tiny_run.tiny_run(tmp_path_factory.mktemp("run"), tiny_model()))


@needs_align
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_adapters_learn_the_training_pairs(
    sample: Sample, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Pairs that begin with other words are told apart after a few passes; a second fit is the same."""
    monkeypatch.setattr("sparserm_cli.analysis.compare.lora.choose_dtype", lambda *_: (dtype, ""))
    monkeypatch.setattr("sparserm_cli.analysis.compare.lora.EPOCHS", 3)
    monkeypatch.setattr("sparserm_cli.analysis.compare.lora.BATCH_PAIRS", 2)
    monkeypatch.setattr("sparserm_cli.analysis.compare.lora.LEARNING_RATE", 5e-3)
    kept = np.flatnonzero(np.arange(len(sample.pairs)) % 5 != 3)  # the others have their labels swapped
    training = training_of(sample, kept, Protocol())
    scorer, again = (fit_lora(training) for _ in range(2))
    scores = scorer.score(sample)
    pairs = sample.pairs[kept]
    assert np.mean(scores[pairs[:, 0]] > scores[pairs[:, 1]]) > 0.9
    assert np.array_equal(scores, again.score(sample))
    assert capsys.readouterr().out == ""
    # Every linear layer of every block has 16 x (inputs + outputs) more, and the score has the width.
    config = json.loads((Path(sample.capture.plan.settings.model) / "config.json").read_text())
    width, inner, kept_heads = (
        config["hidden_size"],
        config["intermediate_size"],
        config["num_key_value_heads"],
    )
    narrow = kept_heads * width // config["num_attention_heads"]
    attention = 2 * (width + width) + 2 * (width + narrow)
    a_block = 16 * (attention + 3 * (width + inner))
    assert scorer.parameters == config["num_hidden_layers"] * a_block + width


@needs_align
def test_padding_does_not_change_scores(sample: Sample, monkeypatch: pytest.MonkeyPatch):
    """Each response alone scores as in company."""
    monkeypatch.setattr("sparserm_cli.analysis.compare.lora.choose_dtype", lambda *_: (torch.float32, ""))
    scorer = fit_lora(training_of(sample, np.arange(8), Protocol()))
    together = scorer.score(sample)
    monkeypatch.setattr("sparserm_cli.analysis.compare.lora.SCORED_TOGETHER", 1)
    assert scorer.score(sample) == pytest.approx(together, abs=1e-5)


def test_another_model_is_refused(sample: Sample, monkeypatch: pytest.MonkeyPatch):
    """The model that is found has to be the one that was captured."""
    settings = sample.capture.plan.settings
    monkeypatch.setattr("sparserm_cli.analysis.compare.lora.resolve_model", lambda name: resolved(name))
    from sparserm_cli.models.checkpoints.resolve import resolve_model

    def resolved(name: str):
        return resolve_model(name)._replace(revision="another")

    with pytest.raises(IncompatibleError) as caught:
        fit_lora(training_of(sample, np.arange(8), Protocol()))
    assert str(caught.value) == (
        f"model {settings.model}: expected revision {settings.model_revision}, found another; capture again"
    )


def test_without_its_packages_it_is_left_out(sample: Sample, monkeypatch: pytest.MonkeyPatch):
    """And said so, with what to install; the other sweeps go on."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    notes: list[str] = []
    config = CompareConfig(sweep=("lora", "labels"), top_k=(2,), folds=2)
    comparison = compare_samples([sample], config, progress=quiet, note=notes.append)
    assert notes == ["lora: left out: trl and peft not found; run pip install 'sparserm[align]'"]
    assert list(comparison["runs"]["tiny"]["sweeps"]) == ["labels"]


@needs_align
def test_it_stands_beside_sparserm_on_the_same_pairs(sample: Sample):
    """One point with the product's methods, few training pairs, every pair tested."""
    config = CompareConfig(sweep=("lora",), top_k=(2,), folds=2, train_pairs=8)
    comparison = compare_samples([sample], config, progress=quiet, note=quiet)
    rows = comparison["runs"]["tiny"]["sweeps"]["lora"]["all"]
    assert [row["method"]["name"] for row in rows][-1] == method_sets.LORA.name
    assert {row["accuracy"]["pairs"] for row in rows} == {40}
    assert rows[-1]["against"] is not None
