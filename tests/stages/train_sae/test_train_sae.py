"""train-sae on a tiny model: SAELens can load what was trained, and what is told of it is true."""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import sae_files

from sparserm_cli.config import EncodeConfig, ExtractConfig
from sparserm_cli.config.train_sae import SAERecipe, TrainSAEConfig
from sparserm_cli.errors import BadInputError, IncompatibleError, UsageError
from sparserm_cli.models.sae.load import load_sae, read_sae_metadata
from sparserm_cli.models.sae.quality import SinkRule, measure
from sparserm_cli.stages.encode.encode import encode
from sparserm_cli.stages.extract.extract import extract
from sparserm_cli.stages.train_sae.text_source import TextReading, text_source
from sparserm_cli.stages.train_sae.train_sae import fit_sae, train_sae

WIDE = {"d_sae": 64, "k": 8, "batch_rows": 128, "warm_up_steps": 10, "held_out_fraction": 0.25, "lr": 3e-3}


class Cloud:
    """Activations with few directions in them and some sinks, in place of a model's."""

    def __init__(self, rows: int = 3000, d_in: int = 16, shift: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(0)
        atoms = torch.randn(24, d_in, generator=generator)
        codes = (torch.rand(rows, 24, generator=generator) < 0.1) * torch.rand(rows, 24, generator=generator)
        atoms[:12] += shift * torch.randn(12, d_in, generator=generator)
        self.rows = (codes @ atoms * 30 + 5).bfloat16()
        self.rows[::500] *= 1000
        names = {"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post", "prepend_bos": False}
        self.facts = {**names, "model_revision": "sha256:0", "inputs": [{"name": "cloud", "sha256": "0"}]}

    def blocks(self, *, held_out: bool) -> Iterator[torch.Tensor]:
        """Hold out the first tenth."""
        cut = len(self.rows) // 10
        yield from (self.rows[:cut] if held_out else self.rows[cut:]).split(700)


@pytest.fixture(scope="module")
def theirs() -> Callable[[Path], Any]:
    """Give SAELens' own loader."""
    from sparserm_cli.models.sae.training.sae_lens_noise import silence_sae_lens

    with silence_sae_lens():
        from sae_lens import SAE
    return SAE.load_from_disk


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu"])
def test_trained_sae_is_what_saelens_loads(
    architecture: str, tmp_path: Path, theirs: Callable[[Path], Any]
) -> None:
    """Raw activations in, most of the variance out, by SAELens' loader and ours alike; metadata complete."""
    recipe = SAERecipe(architecture=architecture, steps=250, weights_dtype="bfloat16", **WIDE)
    steps = []
    done = fit_sae(
        Cloud(), tmp_path / "sae", recipe, progress=lambda what, n, total: steps.append((what, n, total))
    )
    assert sorted(path.name for path in (tmp_path / "sae").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]
    ours, other = load_sae(tmp_path / "sae"), theirs(tmp_path / "sae")
    x = next(Cloud().blocks(held_out=True))[1:200].float()
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(x), other.encode(x), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(ours.reconstruct(x)[0], other(x), rtol=1e-3, atol=1e-2)
    saved = {"topk": "topk", "batchtopk": "jumprelu", "jumprelu": "jumprelu"}[architecture]
    recorded = other.cfg.metadata
    assert (other.cfg.architecture(), other.cfg.normalize_activations) == (saved, "none")
    assert (recorded.model_name, recorded.hook_name, recorded.training_architecture) == (
        "tiny",
        "blocks.1.hook_resid_post",
        architecture,
    )
    own = recorded.sparserm
    assert own["recipe"]["steps"] == 250
    assert own["inputs"] == [{"name": "cloud", "sha256": "0"}]
    assert own["sink_rule"]["factor"] == 10.0
    assert done.held_out.explained_variance > 0.7
    assert done.held_out.l0 == pytest.approx(own["held_out"]["l0"])
    assert done.held_out.sinks == 1
    if architecture != "jumprelu":  # whose L0 nears its target only after many more steps
        assert WIDE["k"] / 1.5 < done.held_out.l0 < WIDE["k"] * 1.5
    assert done.rows == 2700 - 5
    assert ("training", 250 * 128, 250 * 128) in [(what.split(",")[0], n, total) for what, n, total in steps]
    assert read_sae_metadata(tmp_path / "sae").model_revision == "sha256:0"


def test_told_figures_are_those_of_the_saved_file(tmp_path: Path) -> None:
    """Explained variance, L0 and dead latents are recomputed here by their definitions in float64."""
    done = fit_sae(Cloud(), tmp_path / "sae", SAERecipe(steps=30, weights_dtype="bfloat16", **WIDE))
    sae = load_sae(tmp_path / "sae")
    x = torch.cat(list(Cloud().blocks(held_out=True)))[1:].float()
    out, latents = sae.reconstruct(x)
    errors, spread = (x - out).double().square().sum(), (x - x.double().mean(0)).double().square().sum()
    assert done.held_out.explained_variance == pytest.approx(float(1 - errors / spread), abs=1e-6)
    assert done.held_out.l0 == pytest.approx(float((latents > 0).sum(dim=1).double().mean()))
    assert done.held_out.dead == int((latents == 0).all(dim=0).sum())
    assert done.held_out.tokens == len(x) == 299


def test_equal_seeds_give_equal_weights(tmp_path: Path) -> None:
    """The same recipe twice is the same file; another seed is another."""
    digests = []
    for number, seed in enumerate((0, 0, 1)):
        fit_sae(Cloud(), tmp_path / str(number), SAERecipe(steps=5, seed=seed, **WIDE))
        digests.append(load_sae(tmp_path / str(number)).digest)
    assert digests[0] == digests[1] != digests[2]


def test_row_5_failed_training_leaves_the_old_sae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is replaced when the new SAE is whole, and not before."""
    fit_sae(Cloud(), tmp_path / "sae", SAERecipe(steps=2, **WIDE))
    before = load_sae(tmp_path / "sae").digest
    monkeypatch.setattr("sparserm_cli.stages.train_sae.train_sae.measure", None)
    with pytest.raises(TypeError):
        fit_sae(Cloud(), tmp_path / "sae", SAERecipe(steps=3, **WIDE))
    assert load_sae(tmp_path / "sae").digest == before
    assert [path.name for path in tmp_path.iterdir()] == ["sae"]


def test_diverged_training_names_the_learning_rate(tmp_path: Path) -> None:
    """Weights that are no numbers are not saved."""
    with pytest.raises(
        UsageError, match="--lr: expected a rate that the training survives, found 1e\\+30; lower it"
    ):
        fit_sae(Cloud(), tmp_path / "sae", SAERecipe(steps=20, **{**WIDE, "lr": 1e30}))
    assert not (tmp_path / "sae").exists()


def write_pairs(path: Path) -> str:
    """Write forty preferences over twenty prompts."""
    rows = [
        {"prompt": f"What of {n % 20}?", "chosen": f"Yes, that is {n}.", "rejected": f"Never {n}!"}
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_text_of_every_kind_becomes_an_sae(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """Preferences, rows of text and a plain file together; a further file is only measured."""
    (tmp_path / "plain.txt").write_text("Some words. " * 300)
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"text": f"Row {n} of text. " * 5}) + "\n" for n in range(9))
    )
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    config = TrainSAEConfig(
        data=(pairs, str(tmp_path / "rows.jsonl"), str(tmp_path / "plain.txt")),
        output=tmp_path / "sae",
        model=str(tiny_model("llama")),
        layer=2,
        tests=(pairs,),
        test_limit=5,
        steps=20,
        context_size=128,
        **WIDE,
    )
    done = train_sae(config)
    assert load_sae(done.folder).metadata.hook_name == "blocks.2.hook_resid_post"
    own = read_sae_metadata(done.folder).settings["metadata"]
    assert [item["name"] for item in own["sparserm"]["inputs"]] == ["pairs.jsonl", "rows.jsonl", "plain.txt"]
    assert all(len(item["sha256"]) == 64 for item in own["sparserm"]["inputs"])
    assert own["sparserm"]["recipe"]["context_size"] == own["context_size"] == 128
    assert 0 < done.tests[pairs].tokens < done.rows


def test_conversations_are_split_by_prompt_and_learned_from_once(tiny_model: Callable[..., Path]) -> None:
    """No prompt is on both sides; the shared start is left out; each prompt's tokens come once."""
    from sparserm_cli.data.chat_template import PromptTemplate
    from sparserm_cli.models.checkpoints.resolve import load_tokenizer, resolve_model
    from sparserm_cli.models.lm.language_model import LanguageModel

    identity = resolve_model(str(tiny_model("llama")))
    lm, tokenizer = (
        LanguageModel.load(identity, layers=[1], dtype="float32", device="cpu"),
        load_tokenizer(identity),
    )
    pairs = write_pairs(identity.folder.parent / "pairs.jsonl")
    source = text_source(TextReading(lm, tokenizer, 512), [pairs], held_out_fraction=0.4, seed=1)
    groups = np.array([document.group for document in source.documents])
    assert len(source.documents) == 80
    assert len(set(groups)) == 20
    assert 0 < source.held_out.sum() < 80
    assert not set(groups[source.held_out]) & set(groups[~source.held_out])
    start = PromptTemplate(tokenizer).render("What of ")
    shared = len(tokenizer(start[: start.index("What of ") + 8], add_special_tokens=False)["input_ids"])
    firsts = [document for document in source.documents if len(document.tree.prompt_ids) == shared]
    assert len(firsts) == 20
    rows = sum(len(block) for part in (True, False) for block in source.blocks(held_out=part))
    assert rows == sum(len(ids) for document in source.documents for ids in document.tree.responses)
    assert source.facts["hook_name"] == "blocks.1.hook_resid_post"


def test_run_gives_its_tokens_and_its_features_accept_the_sae(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    """Trained on a capture without the model; encode then takes the SAE without a word."""
    wanted = {"layer": (1,), "dtype": "bfloat16", "unit_tokens": 200}
    config = ExtractConfig(
        data=write_pairs(tmp_path / "pairs.jsonl"),
        model=str(tiny_model("llama")),
        run=tmp_path / "run",
        **wanted,
    )
    extract(config, progress=lambda _done, _total: None, note=lambda _text: None)
    done = train_sae(TrainSAEConfig(output=tmp_path / "sae", run=tmp_path / "run", steps=150, **WIDE))
    assert done.epochs > 1
    assert done.held_out.tokens > 0
    metadata = read_sae_metadata(done.folder)
    assert (metadata.layer, metadata.d_in) == (1, 32)
    options = EncodeConfig(run=tmp_path / "run", sae=(str(done.folder),))
    summary = encode(options, progress=lambda _done, _total: None, note=lambda _text: None)
    assert summary.samples[1].explained_variance > 0.3


def test_training_goes_on_from_an_sae_and_records_it(tmp_path: Path) -> None:
    """Thirty steps on other activations do more for an SAE that knows half of them than for a new one."""
    first = fit_sae(Cloud(), tmp_path / "first", SAERecipe(steps=250, **WIDE))
    start = load_sae(first.folder)
    other = Cloud(shift=4.0)
    few = {**WIDE, "d_sae": None, "k": None}
    tuned = fit_sae(other, tmp_path / "tuned", SAERecipe(steps=30, **few), start=start)
    new = fit_sae(other, tmp_path / "new", SAERecipe(steps=30, **WIDE))
    assert tuned.held_out.explained_variance > new.held_out.explained_variance + 0.05
    sae = load_sae(tuned.folder)
    assert (sae.d_sae, sae.k, sae.metadata.architecture) == (64, 8, "topk")
    assert sae.metadata.own_record["from"] == {"name": str(first.folder), "digest": start.digest}
    assert sae.metadata.own_record["recipe"]["k"] == 8
    assert load_sae(first.folder).digest == start.digest


def test_a_start_that_does_not_fit_is_refused_before_the_capture(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    """Another width or another layer; the data that would be read are not even there."""
    model = str(tiny_model("llama"))
    start = sae_files.save_sae(tmp_path / "start", sae_files.perfect_sae(16))
    config = TrainSAEConfig(data=("no.txt",), output=tmp_path / "sae", model=model, start=start)
    with pytest.raises(IncompatibleError, match="d_in: expected 32, found 16; start from an SAE of a model"):
        train_sae(config)
    start = sae_files.save_sae(tmp_path / "start", sae_files.perfect_sae(32))
    with pytest.raises(IncompatibleError, match=r"expected the output of block 2, found blocks\.1\."):
        train_sae(replace(config, layer=2, start=start))


def test_the_command_trains_on_from_an_sae(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """`--from` gives layer, latents and kind: a ReLU SAE becomes a JumpReLU one."""
    from sparserm_cli.cli.main import app

    start = sae_files.save_sae(tmp_path / "start", sae_files.perfect_sae(32))
    words = ["train-sae", write_pairs(tmp_path / "pairs.jsonl"), "--model", str(tiny_model("llama"))]
    options = ["--from", start, "--output", str(tmp_path / "sae"), "--steps", "5", "--batch-rows", "64"]
    app([*words, *options, "--quiet"], standalone_mode=False)
    sae = load_sae(tmp_path / "sae")
    assert (sae.metadata.layer, sae.d_sae, sae.metadata.architecture) == (1, 64, "jumprelu")
    assert sae.metadata.own_record["from"]["name"] == start


def test_no_tokens_are_refused_before_training(tmp_path: Path) -> None:
    """A source whose training part is empty."""
    cloud = Cloud(rows=0)
    with pytest.raises(BadInputError, match="training data: expected tokens to train on, found none"):
        fit_sae(cloud, tmp_path / "sae", SAERecipe(steps=1, **WIDE))


def test_some_source_is_needed(tmp_path: Path) -> None:
    """Data or a run; what is only measured needs the model, so data."""
    config = TrainSAEConfig(output=tmp_path / "sae", run=tmp_path)
    with pytest.raises(
        IncompatibleError, match="expected a store of activations, found nothing; run `sparserm extract`"
    ):
        train_sae(config)
    with pytest.raises(
        UsageError, match="expected DATA, or a run directory alone, found --test without DATA"
    ):
        train_sae(replace(config, tests=("a",)))
    with pytest.raises(UsageError, match="--layer: expected a layer, found none"):
        train_sae(replace(config, data=("pairs.jsonl",)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 0, "--steps: expected more than 0, found 0"),
        ("k", -1, "--k: expected more than 0, found -1"),
        ("held_out_fraction", 1.0, "--held-out-fraction: expected a share between 0 and 1, found 1.0"),
    ],
)
def test_recipe_names_the_option_out_of_range(name: str, value: Any, message: str) -> None:
    """Wrong numbers are usage errors."""
    with pytest.raises(UsageError, match=message):
        SAERecipe(**{name: value})


def test_measure_leaves_sinks_out() -> None:
    """A sink would carry all the variance; it is counted and not measured."""
    sae_rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1e6, 0.0]])
    both = torch.cat([torch.eye(2), -torch.eye(2)], dim=1)
    from sparserm_cli.models.sae.autoencoder import SparseAutoencoder
    from sparserm_cli.models.sae.metadata import SAEMetadata

    metadata = SAEMetadata("an-sae", "saelens", "standard", 2, 4, None, None, "float32", "none", {})
    half = SparseAutoencoder(metadata, "", both, torch.zeros(4), both.T.contiguous() / 2, torch.zeros(2))
    quality = measure(half, itertools.chain([sae_rows[:2]], [sae_rows[2:]]), SinkRule(1.0))
    # Three points around (0, 1/3): spread 3 - 3 * 1/9 = 8/3; halving them leaves errors of 3/4.
    assert quality.explained_variance == pytest.approx(1 - (3 / 4) / (8 / 3))
    assert (quality.l0, quality.dead, quality.tokens, quality.sinks) == (1.0, 1, 3, 1)
