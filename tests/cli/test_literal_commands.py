"""The commands that CI scripts run, literally, with `sparserm.toml`, a tiny model and a tiny SAE."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers import forked, sae_files

from sparserm_cli.models.reward_model import RewardModel

pytestmark = pytest.mark.slow

ROWS = [
    {
        "id": f"row-{n}",
        "prompt": f"Question {n // 2}?",
        "chosen": "good " * (1 + n % 3),
        "rejected": "poor " * (1 + n % 3),
    }
    for n in range(60)
]
TOML = """
run = "run"
[extract]
data = "pairs.jsonl"
model = "tiny"
layer = 1
[encode]
sae = "sae"
[select]
top-k = 8
[fit]
pool = "mean"
val-fraction = 0.2
[frequency]
val-fraction = 0.2
"""


class Done(NamedTuple):
    """What a command wrote to stdout and to stderr."""

    stdout: str
    stderr: str


def sparserm(folder, *words, code=0):
    """Run the command as a script would, in `folder`."""
    with tempfile.TemporaryDirectory() as streams:
        status, *written = forked.start([*words], Path(streams), cwd=folder).wait()
    done = Done(*written)
    assert status == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_model):
    """Lay out a project folder and run the whole pipeline by its literal commands."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "tiny").symlink_to(tiny_model("llama"))
    for name, rows in (("pairs", ROWS[:50]), ("test", ROWS[50:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    responses = [{"id": row["id"], "prompt": row["prompt"], "response": row["chosen"]} for row in ROWS]
    (folder / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in responses))
    (folder / "sparserm.toml").write_text(TOML)
    sae_files.save_sae(folder / "sae", sae_files.perfect_sae(32))
    for words in (
        ["extract"],
        ["encode"],
        ["frequency"],
        ["select", "--top-k", "6"],
        ["fit"],
        ["score", "responses.jsonl"],
    ):
        sparserm(folder, *words)
    return folder


def lines(path):
    """Read a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_scores_keep_order_and_ids(project):
    """One object a line, in the file's order."""
    scores = lines(project / "run" / "scores.jsonl")
    assert [line["id"] for line in scores] == [row["id"] for row in ROWS]
    assert [line["row"] for line in scores] == list(range(1, 61))
    assert all(np.isfinite(line["score"]) for line in scores)


def test_the_command_line_wins_over_the_file(project):
    """`--top-k 6` was typed, 8 stands in the file."""
    record = json.loads((project / "run" / "directions" / "directions.json").read_text())
    assert record["identity"]["top_k"] == 6


def test_library_and_command_give_the_same_scores(project):
    """RewardModel.score is what `score` writes."""
    model = RewardModel.load(project / "run" / "reward", model=str(project / "tiny"))
    scores = model.score([row["prompt"] for row in ROWS], [row["chosen"] for row in ROWS])
    written = [line["score"] for line in lines(project / "run" / "scores.jsonl")]
    np.testing.assert_allclose(scores, written, atol=1e-4)


def test_guarded_scores_with_token_rewards(project):
    """Normalised, clipped, abstained from; one reward a token, and how they were found on stderr."""
    words = ("--normalize", "--clip", "0.5", "--abstain", "1", "--tokens", "--output", "-")
    done = sparserm(project, "score", "responses.jsonl", *words)
    scores = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(scores) == 60
    for line in scores:
        assert (line["score"] is None) == (line["ood"] > 1) == (line["token_rewards"] is None)
        assert line["score"] is None or abs(line["score"]) <= 0.5
        assert line["score"] is None or len(line["token_ids"]) == len(line["token_rewards"])
    assert "token rewards are integrated gradients: approximate" in done.stderr


def test_it_learns_what_is_there_to_learn(project):
    """Held-out prompts, responses of one length: good against bad is told apart, length says nothing."""
    done = sparserm(project, "evaluate", "test.jsonl", "--json")
    evaluation = json.loads(done.stdout)
    assert evaluation["scorers"]["reward"]["accuracy"] > 0.9
    assert evaluation["scorers"]["length only"]["ties"] == 10
    assert evaluation["rows_read"] == evaluation["rows_accepted"] + evaluation["rows_rejected"] == 10
    assert json.loads((project / "run" / "evaluation.json").read_text())["pairs"] == 10


def test_json_is_one_object_and_quiet_is_quiet(project):
    """With --json stdout is one object; with --quiet stderr is empty."""
    done = sparserm(project, "frequency", "--json", "--quiet")
    assert json.loads(done.stdout)["pairs"] > 0
    assert done.stderr == ""


def test_run_skips_what_is_up_to_date(project):
    """`run` recomputes only the directions and the head: the file asks for other ones than were typed."""

    def states() -> dict[str, str]:
        stages = json.loads(sparserm(project, "run", "--json").stdout)["stages"]
        assert all(stage["seconds"] >= 0 for stage in stages.values())
        return {name: stage["state"] for name, stage in stages.items()}

    assert states() == {
        "extract": "up to date",
        "encode": "up to date",
        "frequency": "up to date",
        "select": "done",
        "fit": "done",
    }
    assert set(states().values()) == {"up to date"}


def test_status_says_what_is_stale_and_what_to_run(project, tmp_path):
    """One changed byte of input makes every later stage stop, naming the file."""
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, symlinks=True)
    data = copy / "pairs.jsonl"
    sparserm(copy, "extract", "--force")
    data.write_text(data.read_text().replace("good", "fine", 1))
    output = json.loads(sparserm(copy, "status", "--json").stdout)
    assert output["artifacts"][0]["state"] == "stale"
    assert output["next"] == "sparserm extract --force"
    for words in (["encode"], ["frequency"], ["select"], ["fit"]):
        stopped = sparserm(copy, *words, code=4)
        assert "pairs.jsonl: expected sha256" in stopped.stderr, words
        assert stopped.stderr.strip().count("\n") == 0 or "reading" in stopped.stderr


def test_the_setting_of_the_head_is_told_or_chosen(project):
    """What stands in sparserm.toml is told; without it the setting is chosen, shown, and scored with."""
    refused = sparserm(project, "fit", "--choose", code=2)
    assert refused.stderr == (
        "sparserm: --choose: expected no --pool, --head, --loss or --plain beside it, nor in sparserm.toml, "
        "found --pool; leave --choose out, or what it chooses\n"
    )
    copy, settings = project / "copy", project / "choose.toml"
    shutil.copytree(project / "run", copy)
    settings.write_text(TOML.replace('"run"', '"copy"').replace('pool = "mean"', "choose = true"))
    shown = sparserm(project, "fit", "--config", settings.name).stdout.splitlines()
    summary = json.loads(sparserm(project, "fit", "--config", settings.name, "--json").stdout)
    choice = summary["training"]["choice"]
    assert shown[0] == f"{choice['chosen']}: the best by 3 folds of the training prompts"
    assert shown[1].split() == ["setting", "accuracy", "n"]
    assert [row.rsplit(maxsplit=3)[0] for row in shown[2:4]] == [
        setting["name"] for setting in choice["tried"]
    ]
    assert shown[4].startswith("copy/reward: trained on")
    scored = sparserm(project, "score", "responses.jsonl", "--config", settings.name, "--output", "-")
    assert len(scored.stdout.splitlines()) == 60


def test_row_62_a_reader_that_goes_away_is_no_error(project):
    """`| head -1` ends quietly."""
    command = f"{sys.executable} -m sparserm_cli score responses.jsonl --output - --quiet | head -1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=project, capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["row"] == 1
