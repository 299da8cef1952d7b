"""The recipes: every one is read, its SAE is in SAELens' table, and it runs on a tiny model of its kind."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from runpy import run_path

import pytest
import yaml
from helpers import sae_files

from sparserm_cli.models.sae.releases import find_release
from sparserm_cli.store.run.status import status

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "examples" / "recipes"
ARCHITECTURES = {
    "gemma-2-2b-it": "gemma2",
    "gemma-2-9b-it": "gemma2",
    "gemma-3-270m-it": "gemma3",
    "llama-3.1-8b-instruct": "llama",
    "qwen2.5-coder-1.5b": "qwen2",
    "qwen3-1.7b-base": "qwen3",
}
PAIRS = [
    {"prompt": f"Question {n}?", "chosen": ["good " * (1 + n % 3)], "rejected": ["poor " * (1 + n % 3)]}
    for n in range(40)
]
data = run_path(str(RECIPES / "data.py"))


def recipe(name):
    """Read a recipe."""
    return tomllib.loads((RECIPES / f"{name}.toml").read_text())


def bash(folder, *words, **env):
    """Run a script as users do, with `sparserm` on the path."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    command = bin_folder / "sparserm"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m sparserm_cli "$@"\n')
    command.chmod(0o755)
    paths = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", *map(str, words)],
        cwd=folder,
        env={**os.environ, **paths, **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def made_up(name, folder, tiny_model):
    """Lay out a folder as `run.sh` does, with a tiny model, an SAE that suits it, and made-up pairs."""
    settings = (RECIPES / f"{name}.toml").read_text()
    recorded = recipe(name)
    layer = recorded["extract"]["layer"]
    model = tiny_model(ARCHITECTURES[name], num_hidden_layers=layer + 2)
    hook = f"blocks.{layer}.hook_resid_post"
    sae = sae_files.save_sae(folder / "sae", sae_files.perfect_sae(32, hook=hook, model=model.name))
    for old, new in (
        (recorded["extract"]["model"], str(model)),
        (recorded["encode"]["sae"], sae),
        ("top-k = 128", "top-k = 8"),
    ):
        assert settings.count(old) == 1
        settings = settings.replace(old, new)
    (folder / "sparserm.toml").write_text(settings)
    for part, rows in (("train", PAIRS[:30]), ("test", PAIRS[30:])):
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_every_recipe_is_tested():
    """No recipe without an architecture here."""
    assert {path.stem for path in RECIPES.glob("*.toml")} == set(ARCHITECTURES)
    assert all(f"`{name}`" in (RECIPES / "README.md").read_text() for name in ARCHITECTURES)


TRAINED = "trained-here"
"""What a recipe calls an SAE that a script beside it trains."""


@pytest.mark.parametrize(
    "name", [recipe_name for recipe_name in ARCHITECTURES if recipe(recipe_name)["encode"]["sae"] != TRAINED]
)
def test_the_sae_is_known_and_of_the_layer(name):
    """SAELens' table knows where it lies, and its name says the layer that is captured."""
    settings = recipe(name)
    release = find_release(settings["encode"]["sae"])
    assert "/" in release.repo
    layer = settings["extract"]["layer"]
    assert any(f"{word}{layer}{end}" in release.folder for word in ("layer_", "layer", "L") for end in "/_.R")


def test_an_sae_that_is_not_public_is_trained(tmp_path, tiny_model):
    """The script trains for its recipe's model and layer, and leaves the SAE where it is looked for."""
    name = "qwen2.5-coder-1.5b"
    made_up(name, tmp_path, tiny_model)
    settings = recipe(name)["extract"]
    model = tiny_model("qwen2", num_hidden_layers=settings["layer"] + 2)
    script = RECIPES / f"{name}-sae.sh"
    assert (
        f"--model {settings['model']} --layer {settings['layer']} --output {TRAINED} " in script.read_text()
    )
    small = ["--model", model, "--d-sae", 64, "--k", 4, "--steps", 3, "--batch-rows", 32]
    bash(tmp_path, script, *small, "--warm-up-steps", 1)
    assert (tmp_path / TRAINED / "cfg.json").is_file()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_recipe_runs_on_a_tiny_model_of_its_kind(name, tmp_path, tiny_model, monkeypatch):
    """All five stages, with every setting of the recipe but model, SAE and the number of directions."""
    from sparserm_cli.cli.main import app

    made_up(name, tmp_path, tiny_model)
    monkeypatch.chdir(tmp_path)
    app(["run", "--quiet", "--config", "sparserm.toml"], standalone_mode=False)
    run_status = status(tmp_path / "run")
    assert {artifact.state for artifact in run_status.artifacts} == {"complete"}
    settings = recipe(name)["fit"]
    identity = run_status["reward"].lineage.identity
    assert {key: identity[key] for key in settings} == settings


def test_run_sh_goes_from_data_to_a_report(tmp_path, tiny_model):
    """Data that is there is not fetched again; the settings are the recipe's."""
    made_up("gemma-3-270m-it", tmp_path, tiny_model)
    settings = (tmp_path / "sparserm.toml").read_text()
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "run.sh").write_text((RECIPES / "run.sh").read_text())
    (recipes / "mine.toml").write_text(settings)
    done = bash(tmp_path, recipes / "run.sh", "mine", "truthful-qa", ".")
    assert "10 pairs of 10 prompts" in done.stdout
    assert (tmp_path / "run" / "report.html").stat().st_size > 0


def test_slurm_sh_shares_a_capture_and_finishes_it(tmp_path, tiny_model):
    """Two jobs of an array, then one without a number."""
    made_up("gemma-3-270m-it", tmp_path, tiny_model)
    for task in (4, 5):
        numbers = {"ID": str(task), "MIN": "4", "COUNT": "2"}
        env = {f"SLURM_ARRAY_TASK_{name}": value for name, value in numbers.items()}
        bash(tmp_path, RECIPES / "slurm.sh", tmp_path, **env)
    assert status(tmp_path / "run")["activations"].state == "complete"
    bash(tmp_path, RECIPES / "slurm.sh", tmp_path)
    assert status(tmp_path / "run")["reward"].state == "complete"


def test_ray_sh_captures_on_a_cluster_and_finishes_here(tmp_path, tiny_model):
    """A cluster of this machine alone; the address `local` starts one."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    made_up("gemma-3-270m-it", tmp_path, tiny_model)
    bash(tmp_path, RECIPES / "ray.sh", tmp_path, "local")
    assert status(tmp_path / "run")["reward"].state == "complete"


def test_the_skypilot_file_runs_a_recipe_that_there_is():
    """It is YAML, and its command names run.sh, a recipe and a data set."""
    task = yaml.safe_load((RECIPES / "skypilot.yaml").read_text())
    assert task["run"].startswith("bash examples/recipes/run.sh ")
    assert task["envs"]["RECIPE"] in ARCHITECTURES
    assert task["envs"]["DATA"] in (RECIPES / "data.py").read_text()


def test_rows_of_the_public_data_sets_become_pairs():
    """A question without a wrong answer and a pair with two safe responses are left out."""
    questions = [
        {"question": "q", "correct_answers": ["a", "b"], "incorrect_answers": ["c"]},
        {"question": "r", "correct_answers": ["a"], "incorrect_answers": []},
    ]
    assert list(data["truthful_qa"](questions)) == [{"prompt": "q", "chosen": ["a", "b"], "rejected": ["c"]}]
    drawn = data["single_pairs"](data["truthful_qa"](questions), 1000)
    assert sorted((row["chosen"], row["rejected"]) for row in drawn) == [("a", "c"), ("b", "c")]
    assert len(data["single_pairs"](data["truthful_qa"](questions), 1)) == 1
    row = {"prompt": "p", "response_0": "x", "response_1": "y"}
    safe = [(True, True), (False, True), (True, False)]
    rows = [{**row, "is_response_0_safe": a, "is_response_1_safe": b} for a, b in safe]
    assert [(row["chosen"], row["rejected"]) for row in data["safe_rlhf"](rows)] == [("y", "x"), ("x", "y")]
