"""The comparison as a whole on small planted runs, and its tables."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import planted_run as planted
from helpers import sae_files

from sparserm_cli.analysis.compare import method_sets
from sparserm_cli.analysis.compare.compare import compare, compare_samples
from sparserm_cli.analysis.compare.markdown import markdown
from sparserm_cli.analysis.compare.run_sample import Sample, load_sample
from sparserm_cli.config import CompareConfig, FitConfig, SelectConfig
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.sae.quality import SAEQuality
from sparserm_cli.stages.fit import model_selection
from sparserm_cli.store.artifacts.results import COMPARISON

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two penalties, two learning curve points and one share of noise are enough."""
    monkeypatch.setattr("sparserm_cli.models.head.fits.penalty.STRENGTHS", (1.0, 0.1))
    monkeypatch.setattr("sparserm_cli.models.head.fits.penalty.WHITENINGS", (0.5,))
    monkeypatch.setattr("sparserm_cli.analysis.compare.compare.TRAIN_PAIRS", (10, 5000))
    monkeypatch.setattr("sparserm_cli.analysis.compare.compare.FLIPPED", (0.5,))
    monkeypatch.setattr("sparserm_cli.analysis.compare.compare.DRAWS", 2)


def quiet(*_: object) -> None:
    """Neither progress nor notes."""


@pytest.fixture(scope="module")
def sample_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Sample]:
    """Give a function that plants a run and loads it."""

    def make(name: str, **options: Any) -> Sample:
        made = planted.plant(tmp_path_factory.mktemp(name), **{"prompts": 40, **options})
        return load_sample(name, made.run, decoder=made.decoder)

    return make


def test_every_sweep_is_there_and_json(sample_of: Callable[..., Sample]):
    """A run of two layers and another of the same prompts: all points, and JSON without NaN."""
    samples = [sample_of(name, layers=(3, 5), seed=seed) for seed, name in enumerate(("one", "two"))]
    steps: list[tuple[str, int, int]] = []
    notes: list[str] = []
    config = CompareConfig(top_k=(2, 3, 500), folds=2)
    comparison = compare_samples(
        samples, config, progress=lambda *step: steps.append(step), note=notes.append
    )
    assert notes[0].startswith("directions, 500: left out: ")
    assert [line.partition(":")[0] for line in notes] == [
        "directions, 500",
        "methods, all",
        "variants, all",
        "layers, 3",
        "layers, 5",
        "layers, 3, 5",
        "transfer, two",
    ]
    assert steps[0] == ("comparing", 1, steps[0][2])
    config = CompareConfig(top_k=(2, 3), folds=2, sweep=("methods", "variants", "layers", "transfer"))
    more = compare_samples(samples, config, progress=lambda *step: steps.append(step), note=notes.append)
    run = json.loads(json.dumps(comparison, allow_nan=False))["runs"]["one"]
    assert (run["pairs"], run["prompts"]) == (40, 40)
    assert list(run["saes"]) == ["one"]
    assert run["saes"]["one"]["3"]["d_sae"] == planted.D_SAE
    assert run["saes"]["one"]["3"]["l0"] == pytest.approx(0.22 * planted.D_SAE, rel=0.1)
    sweeps = {**run["sweeps"], **more["runs"]["one"]["sweeps"]}
    assert {sweep: list(points) for sweep, points in sweeps.items()} == {
        "directions": ["2", "3"],
        "labels": ["10"],
        "noise": ["0.5"],
        "methods": ["all"],
        "variants": ["all"],
        "layers": ["3", "5", "3, 5"],
        "transfer": ["two"],
    }
    first, second = sweeps["directions"]["2"][:2]
    assert [row["method"]["name"] for row in sweeps["directions"]["2"]] == ["SparseRM", *method_sets.CONTROLS]
    assert first["against"] is None
    assert second["against"]["low"] <= second["against"]["high"]
    assert len(notes) == 7
    assert steps[-1] == ("comparing", steps[-1][2], steps[-1][2])


def test_the_command_writes_what_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A quick comparison of a run in its directory, read back from it."""
    monkeypatch.setattr("sparserm_cli.analysis.compare.compare.QUICK_TOP_K", (2,))
    made = planted.plant(tmp_path / "mine", prompts=20)
    monkeypatch.setattr("sparserm_cli.analysis.compare.run_sample.sae_decoder", lambda _saes: made.decoder)
    sae = sae_files.random_sae("standard", planted.D_IN, planted.D_SAE)
    encoder = torch.as_tensor(made.decoders[3]).T.contiguous()
    sae = replace(sae, digest="xxh3:3", W_enc=encoder, b_enc=torch.full((planted.D_SAE,), -0.2))
    monkeypatch.setattr("sparserm_cli.stages.frequency.mean_vectors.load_saes", lambda *_: {3: sae})
    quality = SAEQuality(0.75, 9.0, 0, 100, 0)
    monkeypatch.setattr("sparserm_cli.analysis.compare.compare.load_saes", lambda *_: {})
    monkeypatch.setattr("sparserm_cli.analysis.compare.compare.sample_saes", lambda *_, **__: {3: quality})
    summary = compare(
        CompareConfig(run=tmp_path / "mine", quick=True, top_k=(2,), folds=2), progress=quiet, note=quiet
    )
    assert summary.path == COMPARISON.path(tmp_path / "mine")
    stored = COMPARISON.read(summary.path)
    assert stored["runs"] == json.loads(json.dumps(summary.found["runs"]))
    assert stored["protocol"]["top_k"] == [2]
    assert set(stored["runs"]["mine"]["sweeps"]) == {"directions", "methods"}
    methods = [row["method"]["name"] for row in stored["runs"]["mine"]["sweeps"]["methods"]["all"]]
    assert {method.name for method in method_sets.PAPER} <= set(methods)
    lines = markdown(stored).splitlines()
    assert lines[0] == "### mine: 20 pairs of 20 prompts"
    assert re.fullmatch(r"- mine: layer 3, 48 latents, L0 1\d\.\d, explained variance 0\.750", lines[2])
    assert lines[4].startswith("| directions a side | SparseRM |")


def test_saes_are_compared_on_one_capture(sample_of: Callable[..., Sample]):
    """Another SAE's latents of the same responses are a point of that sweep, and no other data to test on."""
    sample = sample_of("one")
    turned = {3: lambda latents: sample.decoder(3, latents)[:, ::-1]}
    other = replace(sample, name="turned", decoder=lambda layer, latents: turned[layer](latents).copy())
    config = CompareConfig(top_k=(2,), folds=2, sweep=("saes", "transfer"))
    compared = compare_samples([sample, other], config, progress=quiet, note=quiet)["runs"]["one"]
    assert list(compared["sweeps"]) == ["saes"]
    assert list(compared["saes"]) == ["one", "turned"]
    own, others = (compared["sweeps"]["saes"][name][0]["accuracy"]["accuracy"] for name in ("one", "turned"))
    assert own > others


def test_forward_stands_beside_what_is_chosen_alike(sample_of: Callable[..., Sample]):
    """Who looks at the pairs' vectors to select is compared with other directions that are selected so."""
    config = CompareConfig(top_k=(2,), folds=2, sweep=("directions",), by="forward")
    (run,) = compare_samples([sample_of("one")], config, progress=quiet, note=quiet)["runs"].values()
    names = [row["method"]["name"] for row in run["sweeps"]["directions"]["2"]]
    assert names == [
        "SparseRM",
        "SparseRM, by difference",
        *method_sets.CONTROLS,
        *method_sets.FORWARD_SELECTED,
    ]


def test_some_of_the_layers_are_used(sample_of: Callable[..., Sample]):
    """All sweeps use the layers that are asked for, but the one that is about layers."""
    samples = [sample_of(name, layers=(3, 5), seed=seed) for seed, name in enumerate(("one", "two"))]
    config = CompareConfig(top_k=(2,), folds=2, sweep=("directions", "layers", "transfer"), layer=(5,))
    (run,) = compare_samples(samples, config, progress=quiet, note=quiet)["runs"].values()
    assert list(run["sweeps"]["layers"]) == ["3", "5", "3, 5"]
    alone, of_two = (run["sweeps"]["layers"][point][0]["parameters"] for point in ("5", "3, 5"))
    used = run["sweeps"]["directions"]["2"][0]["parameters"]
    assert used == alone < of_two
    assert run["sweeps"]["transfer"]["two"][2]["parameters"] == alone
    with pytest.raises(UsageError) as caught:
        compare_samples(samples, replace(config, layer=(5, 7)), progress=quiet, note=quiet)
    assert str(caught.value) == "--layer: expected some of 3, 5 (one), found 7; capture and encode that layer"


def test_the_setting_is_chosen_in_the_training_folds(sample_of: Callable[..., Sample]):
    """SparseRM, its strongest control and the dense probe choose among as many settings, and tell which."""
    sample = sample_of("one", layers=(3, 5))
    config = CompareConfig(sweep=("choice",), top_k=(2,), folds=2)
    (run,) = compare_samples([sample], config, progress=quiet, note=quiet)["runs"].values()
    *choosing, usual = run["sweeps"]["choice"]["all"]
    assert [row["method"]["kind"] for row in choosing] == ["selected", "pair-components", "dense"]
    assert usual["method"]["name"] == method_sets.DEFAULTS.name
    for row in choosing:
        settings = [setting["name"] for setting in row["method"]["among"]]
        assert settings == [
            f"{setting}, layers {layers}"
            for layers in ("3", "5", "3, 5")
            for setting in model_selection.SETTINGS
        ]
        assert len(row["chosen"]) == 2
        assert set(row["chosen"]) <= set(settings)
    shown = markdown({"runs": {"one": json.loads(json.dumps(run))}})
    first = choosing[0]["chosen"]
    settings_text = f"{first[0]} (2)" if first[0] == first[1] else f"{first[0]} (1); {first[1]} (1)"
    assert f"\n\nSparseRM, best setting: {settings_text}\n" in shown


def test_other_layers_cannot_be_tested_on(sample_of: Callable[..., Sample]):
    """What was fitted on one layer says nothing on another."""
    samples = [sample_of("one"), sample_of("two", layers=(4,))]
    with pytest.raises(IncompatibleError) as caught:
        compare_samples(samples, CompareConfig(sweep=("transfer",)), progress=quiet, note=quiet)
    assert str(caught.value) == (
        "two: expected layers 3, found layers 4; capture and encode the same layers of both runs"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sweep": ("layer",)}, "--sweep: expected one of directions, methods, variants, labels, "),
        ({"other": ("x",)}, "--other: expected NAME=RUN, found 'x'; correct the option"),
        ({"top_k": (0, 4)}, "--top-k: expected a whole number of at least 1, found 0; correct the option"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str):
    """Told before any work."""
    with pytest.raises(UsageError) as caught:
        CompareConfig(**options)
    assert str(caught.value).startswith(message)


def row(name: str, value: float, low: float | None = None, high: float | None = None) -> dict[str, object]:
    """Make a row of a table."""
    against = None if low is None else {"value": 0.1, "low": low, "high": high, "p": 0.5}
    return {
        "method": {"name": name},
        "accuracy": {"accuracy": value, "low": value - 0.1, "high": value + 0.1},
        "fold_sd": None if low is None else 0.012,
        "parameters": 1234,
        "seconds": 1.25,
        "against": against,
    }


def test_markdown_marks_who_is_surely_ahead():
    """A minus where SparseRM's lead excludes zero, a plus where its lag does, nothing in between."""
    rows = [
        row("SparseRM", 0.8),
        row("a", 0.7, 0.05, 0.15),
        row("b", 0.9, -0.2, -0.01),
        row("c", 0.8, -0.1, 0.1),
    ]
    run = {
        "pairs": 1234,
        "prompts": 99,
        "saes": {"x": {"3": {"d_sae": 4608, "l0": 64.0}}},
        "sweeps": {"directions": {"4": rows}, "methods": {"all": rows[:2]}, "transfer": {"y": rows[2:3]}},
    }
    assert markdown({"runs": {"x": run}}) == (
        "### x: 1,234 pairs of 99 prompts\n\n"
        "- x: layer 3, 4,608 latents, L0 64.0\n\n"
        "| directions a side | SparseRM | a | b | c | told apart |\n"
        "|---|---|---|---|---|---|\n"
        "| 4 | 0.800 | 0.700- | 0.900+ | 0.800 | 0.143 |\n\n"
        "| method | accuracy | 95 % interval | between folds | parameters | seconds | SparseRM less this "
        "| told apart |\n"
        "|---|---|---|---|---|---|---|---|\n"
        "| SparseRM | 0.800 | 0.700 to 0.900 |  | 1,234 | 1.2 |  |  |\n"
        "| a | 0.700 | 0.600 to 0.800 | 0.012 | 1,234 | 1.2 | +0.100 (+0.050 to +0.150) | 0.071 |\n\n"
        "Tested on y:\n\n"
        "| method | accuracy | 95 % interval | between folds | parameters | seconds | b less this "
        "| told apart |\n"
        "|---|---|---|---|---|---|---|---|\n"
        "| b | 0.900 | 0.800 to 1.000 | 0.012 | 1,234 | 1.2 | +0.100 (-0.200 to -0.010) | 0.136 |\n"
    )


def test_the_comparison_holds_the_controls_that_must_be_there():
    """Random directions, components, latents, dense, length and chance stand in every comparison, once."""
    methods = method_sets.all_methods(CompareConfig())
    assert {method.kind for method in methods} >= {"random-latents", "random-directions", "components"}
    assert {method.kind for method in methods} >= {
        "pair-components",
        "latent-means",
        "latent-maxima",
        "dense",
    }
    assert {method.kind for method in methods} >= {"means", "length", "chance"}
    names = [method.name for method in methods]
    assert len(set(names)) == len(names)


def test_variants_differ_from_the_method_itself():
    """What changes nothing is not tried twice."""
    first, *others = method_sets.variants(CompareConfig(pool="both"))
    assert first.pool == "both"
    assert "SparseRM, mean and last" not in {method.name for method in others}
    assert "SparseRM, mean" in {method.name for method in others}


def test_defaults_are_those_of_the_commands():
    """What the table calls defaults is what `frequency`, `select` and `fit` do when nothing is said."""
    fit, select, defaults = FitConfig().setting, SelectConfig(), method_sets.DEFAULTS
    assert (defaults.head, defaults.loss, defaults.pool) == (fit.head, fit.loss, fit.pool)
    assert (defaults.top_k, defaults.by) == (select.top_k, select.by)
    assert defaults in method_sets.all_methods(CompareConfig())
