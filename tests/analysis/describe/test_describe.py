"""`describe` on a tiny run: what it stores, when it is stale, names by a server, and who shows the names."""

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_run
from typer.testing import CliRunner

from sparserm_cli.analysis.describe.describe import DescribeSummary, describe
from sparserm_cli.analysis.explain import explain
from sparserm_cli.cli.main import app
from sparserm_cli.config import DESCRIBER_KEY, DescribeConfig, ExplainConfig, SelectConfig
from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.stages.select.select import select
from sparserm_cli.store.artifacts.descriptions import (
    descriptions_path,
    names_of,
    read_descriptions,
    why_no_names,
    write_descriptions,
)
from sparserm_cli.store.artifacts.directions import directions_path, read_directions
from sparserm_cli.store.artifacts.reward import read_reward, reward_path
from sparserm_cli.store.features.artifact import features_path
from sparserm_cli.store.run.status import status
from sparserm_cli.store.run.verify import verify

quiet = tiny_run.quiet


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """Give a run with descriptions; tests do not change it."""
    run = tiny_run.tiny_run(tmp_path_factory.mktemp("run"), tiny_model())
    do(run)
    return run


@pytest.fixture
def run(described: Path, tmp_path: Path) -> Path:
    """Give a copy to be changed."""
    shutil.copytree(described, tmp_path / "run")
    return tmp_path / "run"


def do(run: Path, **options: Any) -> DescribeSummary:
    """Describe quietly."""
    return describe(DescribeConfig(run=run, **options), progress=quiet, note=quiet)


def test_every_direction_has_its_description_in_order(described: Path) -> None:
    """Latent and side are those of directions/; tokens, words and examples are there."""
    descriptions, directions = read_descriptions(described), read_directions(described)
    (layer,) = directions.layers
    rows, chosen = descriptions.layers[layer], directions.layers[layer]
    assert [row["feature"] for row in rows] == chosen.feature.tolist()
    assert [row["side"] for row in rows] == chosen.side.tolist()
    for row in rows:
        assert (len(row["promotes"]), len(row["suppresses"])) == (10, 10)
        assert row["neuronpedia"] is None
        assert row["responses"] > 0
        values = [example["value"] for example in row["examples"]]
        assert values == sorted(values, reverse=True)
        for example in row["examples"]:
            assert max(value for _, value in example["tokens"]) == example["value"]
        score = row["rule"] and row["rule"]["score"]
        assert row["name"] == (row["rule"]["text"] if score and score["low"] > 0.5 else None)
    assert descriptions.lineage.parent("directions").digest == directions.lineage.digest


def test_a_second_time_nothing_is_done(described: Path) -> None:
    """Another seed draws other prompts and replaces the file."""
    before = descriptions_path(described).read_bytes()
    again = do(described)
    assert again.fresh
    assert descriptions_path(described).read_bytes() == before


def test_descriptions_repeat_and_depend_on_the_seed(run: Path) -> None:
    """The same digest after a removal, another one with another seed."""
    digest = read_descriptions(run).lineage.digest
    descriptions_path(run).unlink()
    assert do(run).descriptions.lineage.digest == digest
    assert do(run, seed=1).descriptions.lineage.digest != digest


def test_status_and_verify_know_the_descriptions(run: Path) -> None:
    """They are listed where they are there, and a changed byte is found."""
    assert status(run)["descriptions"].state == "complete"
    assert status(run).next_command == ""
    path = descriptions_path(run)
    path.write_bytes(path.read_bytes().replace(b'"side": 1', b'"side": 2', 1))
    assert status(run)["descriptions"].state == "corrupt"
    (damaged,) = verify(run).damaged
    assert damaged.artifact.name == "descriptions"
    with pytest.raises(CorruptStoreError):
        read_descriptions(run)
    path.unlink()
    assert "descriptions" not in [artifact.name for artifact in status(run).artifacts]


def test_a_new_selection_takes_the_descriptions_away(run: Path) -> None:
    """They would be of other directions."""
    select(SelectConfig(run=run, top_k=2), note=quiet)
    assert not descriptions_path(run).exists()


def test_descriptions_of_other_directions_are_stale(run: Path) -> None:
    """Copied from a run with another choice: nobody shows their names, and status says why."""
    kept = descriptions_path(run).read_bytes()
    select(SelectConfig(run=run, top_k=2), note=quiet)
    descriptions_path(run).write_bytes(kept)
    artifact = status(run)["descriptions"]
    assert (artifact.state, artifact.detail) == ("stale", "made from other directions: top_k was 4, is 2")
    assert names_of(run, read_directions(run).lineage.as_parent()) == {}
    recorded = read_directions(run).lineage.as_parent()
    expected = (
        f"no names are shown: {descriptions_path(run)} describes other directions; run `sparserm describe`"
    )
    assert why_no_names(run, recorded) == expected


def test_without_features_there_is_nothing_to_describe(run: Path) -> None:
    """The error names the stage."""
    shutil.rmtree(features_path(run))
    with pytest.raises(IncompatibleError, match="run `sparserm encode` first"):
        do(run)


def test_random_directions_have_tokens_and_no_name(run: Path) -> None:
    """They are no latents, so nothing fires."""
    select(SelectConfig(run=run, top_k=2, by="random-directions"), note=quiet)
    (rows,) = do(run).descriptions.layers.values()
    assert [(row["feature"], row["name"], row["examples"]) for row in rows] == [(None, None, [])] * 4
    assert all(row["promotes"] for row in rows)


def test_a_damaged_run_keeps_its_old_descriptions(run: Path) -> None:
    """An error before the write leaves the file as it was."""
    before = descriptions_path(run).read_bytes()
    (directions_path(run) / "directions.json").write_text("{}")
    with pytest.raises(CorruptStoreError):
        do(run)
    assert descriptions_path(run).read_bytes() == before


def test_names_are_shown_where_directions_are(run: Path) -> None:
    """By explain, by the table of a reward model, and on the command line; two are given names here."""
    descriptions = read_descriptions(run)
    rows = list(descriptions.layers[1])
    rows[0], rows[5] = {**rows[0], "name": "“yes”"}, {**rows[5], "name": "“no”, a number"}
    descriptions = write_descriptions(run, replace(descriptions, layers={1: rows}))
    names = {
        (layer, row["feature"]): row["name"] for layer, rows in descriptions.layers.items() for row in rows
    }
    recorded = read_reward(reward_path(run)).config.lineage.parents["directions"]
    assert names_of(run, recorded) == {key: name for key, name in names.items() if name}
    typed = ExplainConfig(run=run, prompt="Why?", response_text="Yes, it is good.")
    for share in explain(typed, note=quiet).directions:
        assert share.name == names[share.layer, share.feature]
    table = RewardModel.load(run).directions()
    shown = dict(zip(table["feature"].tolist(), table["name"].fillna("").tolist(), strict=True))
    assert shown == {feature: name or "" for (_, feature), name in names.items()}
    done = CliRunner().invoke(app, ["describe", "--run", str(run), "--top", "4"], catch_exceptions=False)
    assert f"{len(descriptions.names)} of 8 directions have a name that beats chance" in done.stdout
    assert len([line for line in done.stdout.splitlines() if re.search(r" 1:\d+ ", line)]) == 4


def test_a_name_that_beats_no_chance_is_not_among_the_names(run: Path) -> None:
    """It stays in the file with its score."""
    descriptions = read_descriptions(run)
    layers = {
        layer: [{**row, "name": "“yes”"} for row in rows] for layer, rows in descriptions.layers.items()
    }
    assert len(write_descriptions(run, replace(descriptions, layers=layers)).names) == 8
    layers = {layer: [{**row, "name": None} for row in rows] for layer, rows in descriptions.layers.items()}
    write_descriptions(run, replace(descriptions, layers=layers))
    assert read_descriptions(run).names == {}


class _Answers(BaseHTTPRequestHandler):
    """An OpenAI-compatible server whose model knows the words Yes and no."""

    def do_GET(self) -> None:
        """List one model."""
        self._answer({"data": [{"id": "tiny-judge"}]})

    def do_POST(self) -> None:
        """Name everything alike, and find the name in the texts with a certain word."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = request["messages"][0]["content"]
        self.server.requests.append((self.path, self.headers["Authorization"], request["model"], prompt))  # type: ignore[attr-defined]
        if "JSON list" not in prompt:
            self._say("<think>hm</think>\n**responses that agree**\n")
            return
        texts = re.split(r"\n\n\d+\. ", prompt)[1:]
        self._say(f"Here: {[int(self.server.test(text)) for text in texts]}")  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print nothing."""

    def _say(self, text: str) -> None:
        self._answer({"choices": [{"message": {"role": "assistant", "content": text}}]})

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Any]:
    """Give a server on this machine; `test` says in which texts its model finds a name."""
    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    made.requests, made.test = [], lambda _text: True
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_a_server_makes_and_tests_names(run: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt, the answer and the model are stored; the key comes from the environment."""
    monkeypatch.setenv(DESCRIBER_KEY, "a-key")
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    descriptions = do(run, describer=url, judged=5).descriptions
    assert descriptions.describer == {"url": url, "model": "tiny-judge"}
    paths = {
        path for path, key, model, _ in server.requests if (key, model) == ("Bearer a-key", "tiny-judge")
    }
    assert paths == {"/v1/chat/completions"}
    for row in descriptions.layers[1]:
        assert row["model"]["text"] == "responses that agree"
        assert "<<" in row["model"]["prompt"]
        score = row["model"]["score"]
        # A judge that says yes to everything recognises no context without firing.
        assert (score["firing_right"], score["others_right"], row["name"]) == (score["firing"], 0, None)
        assert 0 < score["firing"] <= 5
    assert both_kinds_were_asked(server)


def both_kinds_were_asked(server: Any) -> bool:
    """Tell whether both kinds of question were asked."""
    kinds = {"JSON list" in prompt for *_, prompt in server.requests}
    return kinds == {True, False}


def test_a_name_of_a_server_counts_if_it_tells_contexts_apart(run: Path, server: Any) -> None:
    """The model recognises the contexts of the first direction that has any of both kinds."""
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    firing = {
        "".join(text for text, _ in example["tokens"])
        for example in read_descriptions(run).layers[1][0]["examples"]
    }
    server.test = lambda text: any(part.strip() in text for part in firing)
    rows = do(run, describer=url, judged=12).descriptions.layers[1]
    for row in rows:
        score = row["model"]["score"]
        assert row["name"] == ("responses that agree" if score["low"] > 0.5 else None)
        assert score["firing_right"] <= score["firing"]


def test_an_answer_in_another_form_recognises_nothing(run: Path, server: Any) -> None:
    """A judge that cannot be read is no evidence for a name."""
    server.test = lambda _text: 7
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    rows = do(run, describer=url, judged=3).descriptions.layers[1]
    assert {row["name"] for row in rows} == {None}
    assert {row["model"]["score"]["firing_right"] for row in rows} == {0}


def test_a_server_that_is_not_there_is_named_before_any_work(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written."""
    from sparserm_cli import http_client
    from sparserm_cli.errors import TemporaryError

    monkeypatch.setattr(http_client, "PATIENCE", 0.0)
    before = descriptions_path(run).read_bytes()
    with pytest.raises(TemporaryError, match=r"127\.0\.0\.1:9/v1/models: expected a server that answers"):
        do(run, describer="http://127.0.0.1:9/v1")
    assert descriptions_path(run).read_bytes() == before
