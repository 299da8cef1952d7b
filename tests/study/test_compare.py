"""The comparison as a whole on a small planted run, and its tables."""

import json
from pathlib import Path

import pytest
import sparserm_planted as planted

from sparserm_cli.config import FitConfig, SelectConfig
from sparserm_cli.study.compare import CONTROLS, DEFAULTS, SPARSERM, UNSWEPT, Sweeps, compare, markdown
from sparserm_cli.study.sample import load_sample


def test_every_sweep_is_there_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two runs, small sweeps: all points, the transfer both ways, and JSON without NaN."""
    monkeypatch.setattr("sparserm_cli.models.fitting.STRENGTHS", (1.0, 0.1))
    samples = []
    for number, name in enumerate(("one", "two")):
        made = planted.plant(tmp_path / name, prompts=40, seed=number)
        samples.append(load_sample(name, made.run, decoder=made.decoder))
    sweeps = Sweeps(top_ks=(2, 500), train_pairs=(10, 5000), flipped=(0.5,), variants=False, folds=2)
    steps: list[tuple[str, int, int]] = []
    notes: list[str] = []
    found = compare(samples, sweeps, progress=lambda *step: steps.append(step), note=notes.append)
    run = json.loads(json.dumps(found, allow_nan=False))["runs"]["one"]
    assert (run["pairs"], run["prompts"]) == (40, 40)
    assert list(run["directions"]) == ["2"]
    assert list(run["labels"]) == ["10"]
    assert list(run["noise"]) == ["0.5"]
    assert list(run["transfer"]) == ["two"]
    names = [row["method"]["name"] for row in run["directions"]["2"]]
    assert names == [SPARSERM.name, *(one.name for one in CONTROLS)]
    assert run["directions"]["2"][0]["against"] is None
    assert run["directions"]["2"][1]["against"]["low"] <= run["directions"]["2"][1]["against"]["high"]
    assert run["methods"] == []
    assert len(notes) == 4
    assert notes[0].startswith("one: 500 directions a side left out: ")
    assert notes[1].startswith("one: methods with 64 directions a side left out: ")
    assert {step[0] for step in steps} >= {"one, 2 directions a side", "two, 10 pairs", "one, 50% flipped"}


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
        "directions": {"4": rows},
        "methods": rows[:2],
        "labels": {},
        "noise": {},
        "transfer": {},
    }
    assert markdown({"runs": {"x": run}}) == (
        "### x: 1,234 pairs of 99 prompts\n\n"
        "| directions a side | SparseRM | a | b | c |\n"
        "|---|---|---|---|---|\n"
        "| 4 | 0.800 | 0.700- | 0.900+ | 0.800 |\n\n"
        "| method | accuracy | 95 % interval | between folds | parameters | seconds | SparseRM less this |\n"
        "|---|---|---|---|---|---|---|\n"
        "| SparseRM | 0.800 | 0.700 to 0.900 |  | 1,234 | 1.2 |  |\n"
        "| a | 0.700 | 0.600 to 0.800 | 0.012 | 1,234 | 1.2 | +0.100 (+0.050 to +0.150) |\n"
    )


def test_the_comparison_holds_the_controls_that_must_be_there():
    """Random directions, components, latents, dense, length and chance stand in every comparison."""
    kinds = {one.kind for one in (*CONTROLS, *UNSWEPT)}
    assert kinds >= {"random-latents", "random-directions", "components", "pair-components"}
    assert kinds >= {"latent-means", "latent-maxima", "dense", "means", "length", "chance"}


@pytest.mark.parametrize("name", [one.name for one in (*CONTROLS, *UNSWEPT)])
def test_names_are_told_apart(name: str):
    """No two methods of one table have the same name."""
    assert [one.name for one in (SPARSERM, *CONTROLS, *UNSWEPT)].count(name) == 1


def test_defaults_are_those_of_the_commands():
    """What the table calls defaults is what `frequency`, `select` and `fit` do when nothing is said."""
    fit, select = FitConfig(), SelectConfig()
    assert (DEFAULTS.head, DEFAULTS.loss, DEFAULTS.pool) == (fit.head, fit.loss, fit.pool)
    assert (DEFAULTS.top_k, DEFAULTS.by) == (select.top_k, select.by)
