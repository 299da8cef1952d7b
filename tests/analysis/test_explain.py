"""`explain`: parts that add up to the score, checked by hand and on a tiny model, and what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_run

from sparserm_cli.analysis.explain import explain
from sparserm_cli.config import ExplainConfig, FitConfig
from sparserm_cli.data.example import Example
from sparserm_cli.errors import BadInputError, CorruptStoreError, UsageError
from sparserm_cli.models.explanation import Explanation
from sparserm_cli.models.head.attribution import attribution, attributions, columns
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.stages.fit.fit import fit
from sparserm_cli.store.artifacts.directions import directions_path, read_directions
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.artifacts.reward import reward_path
from sparserm_cli.store.io.storage import storage_of

tiny_run, ROWS, quiet = tiny_run.tiny_run, tiny_run.ROWS, tiny_run.quiet
HEADS = [("linear", "mean"), ("linear", "last"), ("linear", "both"), ("mlp", "mean")]
TEXTS = ("Short.", "A longer answer, with more to say\nover two lines.", "Naïve café 🙂")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> dict[Any, Path]:
    """Give a run with two layers, and in it a reward model of every head and pooling."""
    run = tiny_run(tmp_path_factory.mktemp("run"), tiny_model(), layers=(1, 2))
    folders: dict[Any, Path] = {"run": run}
    for head, pool in HEADS[::-1]:
        fit(FitConfig(run=run, val_fraction=0.25, head=head, pool=pool), progress=quiet, note=quiet)
        folders[head, pool] = reward_path(run).rename(run / f"{head}-{pool}")
    folders["linear", "mean"].rename(reward_path(run))
    folders["linear", "mean"] = reward_path(run)
    return folders


def do(runs: dict[Any, Path], head: str = "linear", pool: str = "mean", **options: Any) -> Explanation:
    """Explain quietly."""
    options = options or {"prompt": "Why?", "response_text": TEXTS[1]}
    return explain(ExplainConfig(run=runs["run"], reward=runs[head, pool], **options), note=quiet)


def head_of(weights: dict[str, Any], pool: str = "mean", layers: int = 1) -> RewardHead:
    """Give a head with two axes as directions of each layer and no standardisation."""
    axes = {layer: np.eye(3, dtype=np.float32)[:2] for layer in range(layers)}
    count = 2 * layers * (2 if pool == "both" else 1)
    arrays = {name: np.array(value, np.float32) for name, value in weights.items()}
    mean, std = np.zeros(count, np.float32), np.ones(count, np.float32)
    return RewardHead(HeadArrays(mean, std, arrays, axes), range(layers), pool)


def test_linear_parts_by_hand() -> None:
    """Weights 2 and -1, bias 0.5, tokens (1, 0), (0, 3), (2, 0): mean (1, 1), score 2 - 1 + 0.5."""
    head = head_of({"weight": [2, -1], "bias": [0.5]})
    shares = attribution(head, {0: torch.tensor([[1.0, 0, 9], [0, 3, 9], [2, 0, 9]])})
    assert (shares.score, shares.intercept, shares.method) == (1.5, 0.5, "exact")
    np.testing.assert_allclose(shares.directions, [2, -1])
    np.testing.assert_allclose(shares.tokens, np.array([2, -3, 4]) / 3 + 0.5 / 3)


def test_last_token_alone_has_the_whole_score_where_it_is_pooled() -> None:
    """The tokens before it add nothing, the intercept included."""
    head = head_of({"weight": [2, -1], "bias": [0.5]}, "last")
    shares = attribution(head, {0: torch.tensor([[1.0, 0, 9], [2, 1, 9]])})
    assert shares.tokens.tolist() == [0, 3.5]


def test_both_poolings_over_two_layers_by_hand() -> None:
    """Order of projections: layer 0 mean, layer 0 last, layer 1 mean, layer 1 last."""
    head = head_of({"weight": [1, 0, 10, 0, 100, 0, 1000, 0], "bias": [0]}, "both", 2)
    assert list(columns(head))[::2] == [(0, "mean", 0), (0, "last", 0), (1, "mean", 0), (1, "last", 0)]
    layers = {0: torch.tensor([[2.0, 0, 0], [4, 0, 0]]), 1: torch.tensor([[6.0, 0, 0], [8, 0, 0]])}
    shares = attribution(head, layers)
    assert shares.directions[::2].tolist() == [3, 40, 700, 8000]
    assert shares.tokens.tolist() == [1 + 300, 2 + 40 + 400 + 8000]


def test_integrated_gradients_by_hand() -> None:
    """relu(x1 + x2 - 2) at (1, 3): on for the last half of the way, so half of each part: 0.5 and 1.5."""
    weights = {"weight_1": [[1], [1]], "bias_1": [-2], "weight_2": [1], "bias": [0]}
    shares = attribution(head_of(weights), {0: torch.tensor([[0.0, 6, 0], [2, 0, 0]])})
    assert (shares.score, shares.intercept, shares.method) == (2.0, 0.0, "integrated gradients")
    np.testing.assert_allclose(shares.directions, [0.5, 1.5], atol=2e-3)
    np.testing.assert_allclose(shares.tokens, [1.5, 0.5], atol=2e-3)
    assert abs(shares.error) < 4e-3


@pytest.mark.parametrize(("head", "pool"), HEADS)
def test_parts_add_up_to_the_score_of_the_reward_model(head: str, pool: str, runs: dict[Any, Path]) -> None:
    """Directions and intercept, and tokens, to 1e-5 for linear heads, to the error shown for others."""
    explanation = do(runs, head, pool)
    model = RewardModel.load(runs[head, pool])
    assert explanation.score == pytest.approx(float(model.score(["Why?"], [TEXTS[1]])[0]), abs=1e-5)
    whole = explanation.intercept + sum(share.contribution for share in explanation.directions)
    exact = head == "linear"
    assert explanation.method == ("exact" if exact else "integrated gradients")
    assert whole + explanation.error == pytest.approx(explanation.score, abs=1e-9)
    assert abs(explanation.error) < (1e-5 if exact else 1e-2 * max(1, abs(explanation.score)))
    assert sum(token.contribution for token in explanation.tokens) == pytest.approx(whole, abs=1e-5)
    assert "".join(token.text for token in explanation.tokens) == TEXTS[1]
    groups = sum(group.contribution for group in explanation.groups)
    assert groups == pytest.approx(whole - explanation.intercept, abs=1e-9)
    assert len(explanation.groups) == 10
    assert len(explanation.directions) == 2 * 8 * (2 if pool == "both" else 1)


@pytest.mark.parametrize(("head", "pool"), HEADS)
def test_token_rewards_add_up_to_each_score(head: str, pool: str, runs: dict[Any, Path]) -> None:
    """For all responses of a row at once, an equal pair of them among these."""
    model = RewardModel.load(runs[head, pool])
    texts = (*TEXTS, TEXTS[0])
    (row,) = model.template.tokenize([Example(1, None, "Why?", texts, (0,) * 4, None, {})])
    rewards = [shares.tokens for shares in attributions(model.lm, model.head, [row])]
    assert [len(values) for values in rewards] == [len(response.response_ids) for response in row.responses]
    scores = model.score(["Why?"] * 4, texts)
    tolerance = 2e-5 if head == "linear" else 1e-2 * float(np.abs(scores).max())
    np.testing.assert_allclose([values.sum() for values in rewards], scores, atol=tolerance)
    np.testing.assert_array_equal(rewards[0], rewards[3])


def test_each_direction_is_named_and_the_largest_come_first(runs: dict[Any, Path]) -> None:
    """Layer, latent, side and rates are those of directions/; parts are weight times deviation."""
    explanation = do(runs)
    table = read_directions(runs["run"])
    sizes = [abs(share.contribution) for share in explanation.directions]
    assert sizes == sorted(sizes, reverse=True)
    model = RewardModel.load(runs["linear", "mean"])
    weights = {
        (layer, int(table.layers[layer].feature[number])): weight
        for (layer, _, number), weight in zip(
            columns(model.head), model.files.head.weights["weight"], strict=True
        )
    }
    for share in explanation.directions:
        layer = table.layers[share.layer]
        at = layer.feature.tolist().index(share.feature)
        assert share.side == layer.side[at]
        assert (share.rate_chosen, share.rate_rejected) == (layer.rate_chosen[at], layer.rate_rejected[at])
        assert share.contribution == pytest.approx(weights[share.layer, share.feature] * share.projection)


def test_rates_are_unknown_without_the_directions(runs: dict[Any, Path], tmp_path: Path) -> None:
    """A reward model that has been moved is explained all the same."""
    (tmp_path / "reward").symlink_to(runs["linear", "mean"])
    moved = do({**runs, ("linear", "mean"): tmp_path / "reward"})
    assert {share.rate_chosen for share in moved.directions} == {None}
    assert [share.feature for share in moved.directions] == [share.feature for share in do(runs).directions]


def test_row_and_response_of_a_file(runs: dict[Any, Path]) -> None:
    """Row 8, its rejected response, with the prompt as the model sees it."""
    data = str(runs["run"].parent / "pairs.jsonl")
    explanation = do(runs, file=data, row=8, response=2)
    assert (explanation.row, explanation.response, explanation.text) == (8, 2, ROWS[7]["rejected"])
    assert ROWS[7]["prompt"] in explanation.prompt
    typed = do(runs, prompt=ROWS[7]["prompt"], response_text=ROWS[7]["rejected"])
    assert typed.score == pytest.approx(explanation.score, abs=1e-5)


def test_rows_that_are_not_there_are_named(runs: dict[Any, Path], tmp_path: Path) -> None:
    """A number beyond the file, a bad row, a response too many."""
    data = str(runs["run"].parent / "pairs.jsonl")
    with pytest.raises(BadInputError) as caught:
        do(runs, file=data, row=41)
    expected = f"{data}: row 41: expected a row, found none among 40 rows read; give another --row"
    assert str(caught.value) == expected
    with pytest.raises(BadInputError) as caught:
        do(runs, file=data, row=2, response=3)
    assert str(caught.value) == "row 2: --response: expected a number from 1 to 2, found 3; choose one"
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a"}\n')
    with pytest.raises(BadInputError, match=r"bad.jsonl: row 2: expected a row that can be scored, found "):
        do(runs, file=str(tmp_path / "bad.jsonl"), row=2)


def test_text_that_cannot_be_scored_is_refused(runs: dict[Any, Path]) -> None:
    """No token, or too many of them."""
    with pytest.raises(BadInputError) as caught:
        do(runs, prompt="Why?", response_text="")
    assert (
        str(caught.value) == "--response-text: expected a response with tokens, found none; give it some text"
    )
    with pytest.raises(BadInputError, match="expected at most 512 tokens, found "):
        do(runs, prompt="Why?", response_text="a" * 600)


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({}, "nothing"),
        ({"prompt": "a"}, "--prompt"),
        ({"file": "f", "response_text": ""}, "FILE and --response-text"),
        ({"file": "f", "prompt": "a", "response_text": "b"}, "FILE and --prompt and --response-text"),
    ],
)
def test_one_response_must_be_meant(options: dict[str, str], given: str) -> None:
    """A file or both texts, not both and not neither."""
    with pytest.raises(UsageError) as caught:
        ExplainConfig(**options)
    expected = "explain: expected FILE, or --prompt and --response-text, found "
    assert str(caught.value) == expected + given + "; name one response"


@pytest.mark.parametrize("name", ["row", "response", "top"])
def test_numbers_begin_at_one(name: str) -> None:
    """0 is refused by the option's name."""
    with pytest.raises(UsageError, match=f"--{name}: expected a whole number of at least 1, found 0"):
        ExplainConfig(file="f", **{name: 0})


def test_damaged_directions_are_not_passed_over(runs: dict[Any, Path], tmp_path: Path) -> None:
    """Rates from a changed file would be wrong without a word."""
    shutil.copytree(directions_path(runs["run"]), directions_path(tmp_path))
    shutil.copytree(runs["linear", "mean"], tmp_path / "reward")
    (tmp_path / "directions" / "directions.json").write_text("{}")
    with pytest.raises(CorruptStoreError):
        do({**runs, ("linear", "mean"): tmp_path / "reward"})
    storage_of(directions_path(tmp_path)).remove_artifact()
    assert do({**runs, ("linear", "mean"): tmp_path / "reward"}).directions
