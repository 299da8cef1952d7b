"""The object that every command prints with --json has the keys that the guide documents."""

import json
import shutil
from pathlib import Path

import pytest
from helpers import tiny_run
from typer.testing import CliRunner

from sparserm_cli.cli.builder import COMMANDS
from sparserm_cli.cli.main import app
from sparserm_cli.store.artifacts.reward import read_reward, reward_path

GUIDE = Path(__file__).parents[2] / "examples" / "guides" / "json.md"
ROWS = [line.strip("|").split("|") for line in GUIDE.read_text().splitlines() if line.startswith("| ")]
DOCUMENTED = {cells[0].strip(): cells[1].strip().split(", ") for cells in ROWS[1:]}


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model):
    """Give a run whose artifacts may be replaced."""
    folder = tmp_path_factory.mktemp("run")
    made = tiny_run.tiny_run(folder, tiny_model())
    copy = folder / "copy"
    shutil.copytree(made, copy)
    shutil.copy(made.parent / "pairs.jsonl", folder / "copy.jsonl")
    return copy


def test_the_guide_documents_every_command():
    """A new command needs a line."""
    assert {name.split()[0] for name in DOCUMENTED} == set(COMMANDS)


@pytest.mark.parametrize(
    "words",
    [
        ["select", "--top-k", "2"],
        ["fit", "--val-fraction", "0.2", "--head", "linear", "--loss", "bt"],
        ["status"],
        ["verify"],
        ["repair"],
        ["describe"],
        ["score", "FILE", "--limit", "2"],
        ["rank", "FILE", "--limit", "2"],
        ["pairs", "FILE", "--limit", "2"],
        ["suggest", "POOL"],
        ["explain", "FILE"],
        ["data", "FILE"],
        ["report"],
        ["edit", "--drop", "DIRECTION", "--on", "FILE", "--output", "OUT"],
        ["adapt", "FILE", "--output", "OUT"],
        ["export", "OUT.npz"],
        ["cache"],
    ],
    ids=lambda words: words[0],
)
def test_a_command_prints_what_the_guide_says(run, tmp_path, monkeypatch, words):
    """The keys of the object, no more and no fewer."""
    monkeypatch.setenv("SPARSERM_CACHE", str(tmp_path))
    (tmp_path / "pool.jsonl").write_text('{"prompt": "Unseen?", "responses": ["one", "two"]}\n')
    latent = read_reward(reward_path(run)).config.selection["latents"]["1"][0]
    replacements = {
        "FILE": str(run.parent / "copy.jsonl"),
        "OUT": str(tmp_path / "out"),
        "OUT.npz": str(tmp_path / "out.npz"),
        "POOL": str(tmp_path / "pool.jsonl"),
        "DIRECTION": f"1:{latent}",
    }
    words = [replacements.get(word, word) for word in words]
    done = CliRunner().invoke(app, [*words, "--run", str(run), "--json", "--quiet"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert sorted(json.loads(done.stdout)) == DOCUMENTED[words[0]]
