"""Two processes that share a plan, and actors of which one is killed, make what one process alone makes.

In a folder and on an S3 server; the digests are those of a serial run in a folder.
"""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

import pytest
from helpers import fitted_run as fitted
from helpers import sae_files

from sparserm_cli.config import EncodeConfig, ExtractConfig, ScoreConfig
from sparserm_cli.locations import parse_location as place_of
from sparserm_cli.stages.encode import worker as encode_units
from sparserm_cli.stages.encode.encode import encode
from sparserm_cli.stages.extract import extract as extract_module
from sparserm_cli.stages.extract.extract import ExtractSummary, extract
from sparserm_cli.stages.score import responses
from sparserm_cli.stages.score import windows as scoring
from sparserm_cli.stages.score.score import score
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.features.artifact import features_path
from sparserm_cli.store.features.reader import FeaturesReader
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.outputs.scores import scores_path
from sparserm_cli.store.units.integrity import check

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
LINES = [json.dumps({"prompt": f"Question {n}?", "response": "good " * (1 + n % 3)}) for n in range(20)]
LINES[7:7], LINES[20:20] = ["no JSON"], ["{}"]


class Serial:
    """Requests, and what one process makes of them in a folder."""

    def __init__(self, folder: Path, model: Path, reward: Path) -> None:
        self.folder, self.reward = folder, reward
        (folder / "tiny").symlink_to(model)  # the name of the SAE's model
        self.data = fitted.write_rows(folder / "pairs.jsonl", fitted.ROWS[:20])
        self.responses = fitted.write_rows(folder / "responses.jsonl", [*LINES, "[]"])
        self.sae = str(sae_files.save_sae(folder / "sae", sae_files.perfect_sae(32)))
        self.capture = digests(extract(self.extracting(folder / "capture"), **fitted.QUIET))
        self.encoded = encode(self.encoding(folder / "capture"), **fitted.QUIET)
        self.fused = digests(extract(self.extracting(folder / "fused", fused=True), **fitted.QUIET))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(responses, "WINDOW_ROWS", 3)
            self.scored = score(self.scoring(folder / "scored"), **fitted.QUIET)

    def extracting(self, run: PurePath, *, fused: bool = False) -> ExtractConfig:
        """Ask for three units, of tokens or of their latents."""
        wanted: dict[str, Any] = {"sae": (self.sae,)} if fused else {"layer": (1,)}
        wanted |= {"dtype": "float32", "unit_tokens": 150, "batch_tokens": 400}
        return ExtractConfig(run=run, data=self.data, model=str(self.folder / "tiny"), **wanted)

    def encoding(self, run: PurePath) -> EncodeConfig:
        """Ask for the latents of a capture."""
        return EncodeConfig(run=run, sae=(self.sae,))

    def scoring(self, run: PurePath) -> ScoreConfig:
        """Ask for the scores of twenty responses by a reward model in that run; three lines are no rows."""
        copy_files(self.reward, run / "reward")
        return ScoreConfig(run=run, file=self.responses, on_bad_row="reject")


def copy_files(folder: Path, to: PurePath) -> None:
    """Copy a folder's files to a run."""
    storage_of(to).make_folder()
    for path in folder.iterdir():
        storage_of(to / path.name).write_atomic(path.read_bytes())


def digests(made: ExtractSummary) -> dict[str, str]:
    """Return the digests of a capture, and of the features of the same pass."""
    by_store = {"capture": made.digest}
    if made.plan.settings.positions == "latents":
        by_store["features"] = FeaturesReader(features_path(made.path.parent)).digest
    return by_store


@pytest.fixture(scope="module")
def serial(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path], fitted_run: Path
) -> Serial:
    """Give the requests and what a serial run makes of them."""
    return Serial(tmp_path_factory.mktemp("serial"), tiny_model("llama"), fitted_run / "reward")


@pytest.fixture(params=["folder", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> PurePath:
    """Give a run directory in a folder, or on the S3 server."""
    if request.param == "folder":
        return tmp_path / "run"
    return place_of(request.getfixturevalue("bucket")) / "run"


@pytest.fixture
def workers(cluster: str) -> ModuleType:
    """Give the workers of which one is killed."""
    return import_module("helpers.ray_workers")


def by_ray(config: Any, address: str) -> Any:
    """Ask the same of Ray."""
    return replace(config, engine="ray", ray_address=address)


@pytest.mark.parametrize("fused", [False, True], ids=["extract", "fused"])
def test_workers_of_which_one_is_killed_make_the_stores_of_a_serial_run(
    serial: Serial, run: PurePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fused: bool
):
    """One is killed between data and receipt, then two processes share what is left."""
    start = import_module("helpers.forked").start
    words = ["extract", serial.data, "--model", str(serial.folder / "tiny"), "--run", str(run), "--json"]
    words += ["--dtype", "float32", "--unit-tokens", "150", "--batch-tokens", "400", "--quiet"]
    words += ["--sae", serial.sae] if fused else ["--layer", "1"]
    code, *stderr = start(words, tmp_path, SPARSERM_FAULT="unit-written:2").wait()
    assert code == -signal.SIGKILL, stderr
    begun = [start([*words, "--worker", f"{rank}/2"], tmp_path) for rank in range(2)]
    ended = [process.wait() for process in begun]
    assert [code for code, *_ in ended] == [0, 0], ended
    again = extract(serial.extracting(run, fused=fused), **fitted.QUIET)
    assert again.fresh
    assert digests(again) == (serial.fused if fused else serial.capture)
    computed = sum(json.loads(out)["units_computed"] for _, out, _ in ended)
    assert computed == again.plan.layout.units - (not fused)


def test_extract_and_encode_with_actors_killed(
    serial: Serial, run: PurePath, cluster: str, workers: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    """Killed between data and receipt; another tries again, and its death is no failure of the run."""
    monkeypatch.setattr(extract_module, "CaptureWorker", workers.KilledCapture)
    wanted = by_ray(serial.extracting(run), cluster)
    shared = extract(wanted, **fitted.QUIET)
    workers.KILLED.unlink()
    assert digests(shared) == serial.capture
    assert (shared.computed, shared.fresh) == (shared.plan.layout.units, False)
    assert check(ActivationsReader(shared.path).store, deep=True) == []
    assert storage_of(run / "run.lock").size() == -1
    assert extract(wanted, **fitted.QUIET).fresh

    monkeypatch.setattr(encode_units, "EncodeWorker", workers.KilledEncode)
    notes, steps = [], []
    encoded = encode(
        by_ray(serial.encoding(run), cluster),
        progress=lambda done, total: steps.append((done, total)),
        note=notes.append,
    )
    workers.KILLED.unlink()
    assert (encoded.digest, encoded.samples) == (serial.encoded.digest, serial.encoded.samples)
    assert notes[0] == "Ray: at most 2 actors, 1 CPU each"
    assert "it explains 1.000 of the variance" in notes[1]
    tokens = encoded.plan.layout.response_tokens
    assert steps[-1] == (tokens, tokens)


def test_fused_extract_with_an_actor_killed(
    serial: Serial, run: PurePath, cluster: str, workers: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    """Killed with the unit's latents committed and its vectors not."""
    monkeypatch.setattr(extract_module, "FusedWorker", workers.KilledFused)
    shared = extract(by_ray(serial.extracting(run, fused=True), cluster), **fitted.QUIET)
    workers.KILLED.unlink()
    assert digests(shared) == serial.fused
    assert check(FeaturesReader(features_path(run)).store, deep=True) == []


def test_score_with_an_actor_killed(
    serial: Serial, run: PurePath, cluster: str, workers: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    """Windows are done in any order, refused rows and all; the lines are in the file's."""
    monkeypatch.setattr(responses, "WINDOW_ROWS", 3)
    monkeypatch.setattr(scoring, "ScoreWorker", workers.KilledScore)
    shared = score(by_ray(serial.scoring(run), cluster), **fitted.QUIET)
    workers.KILLED.unlink()
    assert storage_of(scores_path(run)).read_bytes() == Path(serial.scored.output).read_bytes()
    assert shared[1:-1] == serial.scored[1:-1]
    assert (shared.accepted, shared.rejected) == (20, 3)
