"""Every stage and command with its run on an S3 server: equal to a run in a folder."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import pytest
from helpers import fitted_run as fitted
from helpers import object_store, sae_files
from typer.testing import CliRunner

from sparserm_cli.alignment.server.serve import serve
from sparserm_cli.analysis.evaluate.evaluate import evaluate
from sparserm_cli.cli.main import app
from sparserm_cli.config import (
    EncodeConfig,
    EvaluateConfig,
    ExtractConfig,
    FitConfig,
    FrequencyConfig,
    ScoreConfig,
    SelectConfig,
    ServeConfig,
)
from sparserm_cli.locations import parse_location
from sparserm_cli.stages.encode.encode import encode
from sparserm_cli.stages.extract.extract import extract
from sparserm_cli.stages.fit.fit import fit
from sparserm_cli.stages.frequency.frequency import frequency
from sparserm_cli.stages.score.score import score
from sparserm_cli.stages.select.select import select
from sparserm_cli.store.artifacts.results import EVALUATION
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.outputs.scores import scores_path
from sparserm_cli.store.run.status import status
from sparserm_cli.store.run.verify import verify


class Runs(NamedTuple):
    """The same run twice, and what it is made of, as options name it."""

    folder: Path
    url: PurePath
    data: str
    held_out: str
    model: str
    sae: str

    def capture(self, run: PurePath):
        """Extract, in several units."""
        options = {"layer": (1,), "dtype": "float32", "unit_tokens": 150, "batch_tokens": 400}
        return extract(ExtractConfig(run=run, data=self.data, model=self.model, **options), **fitted.QUIET)

    def finish(self, run: PurePath) -> None:
        """Run every stage after extract, and what uses the reward model."""
        encode(EncodeConfig(run=run, sae=(self.sae,)), **fitted.QUIET)
        frequency(FrequencyConfig(run=run, val_fraction=0.2), **fitted.QUIET)
        select(SelectConfig(run=run, top_k=6), note=fitted.QUIET["note"])
        fit(FitConfig(run=run, val_fraction=0.2), **fitted.QUIET)
        score(ScoreConfig(run=run, file=self.held_out), **fitted.QUIET)
        evaluate(EvaluateConfig(run=run, file=self.held_out), **fitted.QUIET)


@pytest.fixture(scope="module")
def runs(
    s3_server: str, tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runs]:
    """Give a run of thirty pairs, ten to evaluate, in a folder and on the S3 server."""
    folder = tmp_path_factory.mktemp("runs")
    sae = sae_files.save_sae(folder / "sae", sae_files.perfect_sae(32))
    (folder / "tiny").symlink_to(tiny_model("llama"))  # the name of the SAE's model
    data = fitted.write_rows(folder / "pairs.jsonl", fitted.ROWS[:30])
    held_out = fitted.write_rows(folder / "held-out.jsonl", fitted.ROWS[30:])
    with object_store.bucket(s3_server, tmp_path_factory.mktemp("chain")) as bucket:
        made = Runs(
            folder / "run", parse_location(f"{bucket}/run"), data, held_out, str(folder / "tiny"), str(sae)
        )
        for run in (made.folder, made.url):
            made.capture(run)
            made.finish(run)
        yield made


def digests(run: PurePath) -> dict[str, str]:
    """Return the content digest of every artifact."""
    run_status = status(run)
    assert run_status.next_command == ""
    return {artifact.name: artifact.lineage.digest for artifact in run_status.artifacts}


def test_the_whole_chain_on_s3_has_the_digests_of_a_folder(runs: Runs):
    """Every stage, what scores and judges, and the deep check; rerun, it is fresh."""
    assert digests(runs.url) == digests(runs.folder)
    assert storage_of(scores_path(runs.url)).read_bytes() == scores_path(runs.folder).read_bytes()
    here, there = (EVALUATION.read(EVALUATION.path(run)) for run in (runs.folder, runs.url))
    assert here == there
    assert verify(runs.url, deep=True).damaged == ()
    again = runs.capture(runs.url)
    assert (again.fresh, again.free) == (True, None)
    assert encode(EncodeConfig(run=runs.url, sae=(runs.sae,)), **fitted.QUIET).fresh


def lasting(value: Any) -> Any:
    """Leave out of a JSON value what differs from call to call: times, and the bytes of names and times."""
    if isinstance(value, list):
        return [lasting(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: lasting(item) for key, item in value.items() if key not in ("seconds", "bytes", "created")}


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["verify", "--deep"],
        ["repair"],
        ["rank", "GENERATIONS", "--reward", "RUN/reward"],
        ["pairs", "GENERATIONS"],
        ["explain", "HELD_OUT", "--row", "3"],
        ["compare", "--quick", "--sweep", "directions", "--folds", "2", "--other", "again=RUN"],
        ["report", "--evaluation", "RUN/evaluation.json"],
        ["export", "FOLDER/capture.h5"],
        ["export", "FOLDER/hf", "--to", "hf"],
    ],
    ids=lambda words: "-".join(word for word in words if word.islower() and "--" not in word),
)
def test_a_command_says_of_a_run_on_s3_what_it_says_of_a_folder(runs: Runs, words: list[str], tmp_path: Path):
    """The same JSON object on stdout."""
    generations = [{"prompt": f"Question {n}?", "responses": ["good", "poor", "good good"]} for n in range(4)]
    files = {"GENERATIONS": fitted.write_rows(tmp_path / "generations.jsonl", generations)}
    files["HELD_OUT"] = runs.held_out
    outputs = []
    for run in (runs.folder, runs.url):
        folder = tmp_path / run.parent.name
        given = [
            files.get(word, word.replace("RUN", f"{run}").replace("FOLDER", f"{folder}")) for word in words
        ]
        done = CliRunner().invoke(app, [*given, "--run", str(run), "--json", "--quiet"])
        assert done.exception is None, (done.stdout, done.stderr, done.exception)
        outputs.append(
            lasting(json.loads(done.stdout.replace(str(run), "RUN").replace(str(folder), "FOLDER")))
        )
    assert outputs[0] == outputs[1]


def test_a_reward_model_on_s3_is_served(runs: Runs, monkeypatch: pytest.MonkeyPatch):
    """The server is ready once the model scores its probe as at the fit; here it is stopped at once."""
    monkeypatch.setattr("sparserm_cli.alignment.server.serve.signals", lambda: nullcontext([signal.SIGTERM]))
    heard: list[str] = []
    serve(ServeConfig(reward=runs.url / "reward", port=0), listening=heard.append, note=heard.append)
    assert [text.partition(" ")[0] for text in heard] == [heard[0], "ready:", "draining"]
    assert heard[0].startswith("http://127.0.0.1:")
