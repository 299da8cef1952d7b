"""suggest on a tiny reward model: the choice, what is left out, resuming, and the cycle with extract."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import fitted_run as fitted

from sparserm_cli.alignment.response_choice.suggest import suggest
from sparserm_cli.config import SuggestConfig
from sparserm_cli.data.reader import Reader
from sparserm_cli.errors import BadInputError
from sparserm_cli.models.head.heads import features_of
from sparserm_cli.models.head.information import choose_pairs, information, label_variance
from sparserm_cli.models.head.projections import projections
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.stages.fit.split import split_pairs
from sparserm_cli.stages.score import windows as scoring
from sparserm_cli.store.capture.artifact import open_capture

QUIET, write = fitted.QUIET, fitted.write_rows
POOL = [
    {"id": f"p{n}", "prompt": f"New {n}?", "responses": ["poor " * (n % 4 + 1), "good " * (n % 3 + 1)]}
    for n in range(12)
]


def lines(path):
    """Return the objects of a file of JSON lines."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def suggested(run, folder, rows, **options):
    """Suggest pairs in a run directory of their own and return what it says and what it wrote."""
    file = write(folder / "pool.jsonl", rows)
    config = SuggestConfig(file=file, run=folder / "run", reward=run / "reward", **options)
    summary = suggest(config, **QUIET)
    return summary, lines(summary.output)


def test_the_choice_is_that_of_the_formula(fitted_run, tmp_path):
    """Features, penalty and training pairs, put together by hand, give the same pairs and nats."""
    summary, chosen = suggested(fitted_run, tmp_path, POOL, count=5)
    model = RewardModel.load(fitted_run / "reward")
    head = model.head.arrays
    weight = head.weights["weight_2"]
    texts = [(row["prompt"], response) for row in POOL for response in row["responses"]]
    scores = model.score([prompt for prompt, _ in texts], [response for _, response in texts]).reshape(-1, 2)
    capture = open_capture(fitted_run)
    split = split_pairs(capture, model.config.val_fraction, model.config.seed)
    taken = projections(capture, model.config.layers, model.config.pool, head.directions, split.rows)
    hidden = features_of(head.weights, (taken - head.mean) / head.std)
    trained = hidden[split.pairs[:, 0]] - hidden[split.pairs[:, 1]]
    precision = np.eye(len(weight)) * model.config.training["l2"] * len(trained)
    precision += information(trained, label_variance(trained @ weight))
    rows = model.tokenize([prompt for prompt, _ in texts], [response for _, response in texts])
    new = features_of(head.weights, model.head.standardised(model.pooled(rows)).numpy())
    differences = new[::2] - new[1::2]
    design = choose_pairs(differences, label_variance(differences @ weight), np.arange(12), precision, 5)
    assert [line["row"] - 1 for line in chosen] == design.pairs.tolist()
    np.testing.assert_allclose([line["nats"] for line in chosen], design.nats, rtol=1e-3)
    assert summary.nats == pytest.approx(design.nats.sum(), rel=1e-3)
    assert (summary.trained, summary.pairs, summary.prompts, summary.suggested) == (30, 12, 12, 5)
    for line in chosen:
        row = POOL[line["row"] - 1]
        assert [line["id"], line["prompt"]] == [row["id"], row["prompt"]]
        assert [line["response_a"], line["response_b"], line["winner"]] == [*row["responses"], None]
        first, second = scores[line["row"] - 1]
        assert line["score_difference"] == pytest.approx(first - second, abs=1e-4)


def test_rows_that_give_no_pair_are_counted(fitted_run, tmp_path):
    """Known prompts, equal responses and bad rows are left out; three responses are three pairs."""
    rows = [
        {"prompt": "Question 3?", "responses": ["a", "b"]},
        {"prompt": "New?", "responses": ["a", "a"]},
        {"prompt": "Bad"},
        {"prompt": "Three?", "responses": ["a", "b", "c c"]},
    ]
    summary, chosen = suggested(fitted_run, tmp_path, rows, on_bad_row="reject")
    assert summary.left_out == {
        "their prompt is one of those that the reward model was fitted on": 1,
        "fewer than two different responses": 1,
        "they cannot be read, or are too long": 1,
    }
    assert (summary.read, summary.pairs, summary.prompts) == (4, 3, 1)
    assert sorted(line["response_a"] + line["response_b"] for line in chosen) == ["ab", "ac c", "bc c"]


def test_nothing_new_is_refused_in_one_line(fitted_run, tmp_path):
    """A pool of known prompts alone says why it has nothing to suggest."""
    with pytest.raises(BadInputError) as caught:
        suggested(fitted_run, tmp_path, [{"prompt": "Question 3?", "responses": ["a", "b"]}])
    assert str(caught.value) == (
        f"{tmp_path / 'pool.jsonl'}: expected two responses to a new prompt, found 1 rows: their prompt is "
        "one of those that the reward model was fitted on; "
        "give prompts that have no label yet, with two responses each"
    )


def test_without_the_activations_of_the_fit_the_penalty_is_all_that_is_known(fitted_run, tmp_path):
    """A published reward model has no capture beside it; its listed prompts are still left out."""
    import shutil

    shutil.copytree(fitted_run / "reward", tmp_path / "published" / "reward")
    file = write(tmp_path / "pool.jsonl", [*POOL, {"prompt": "Question 3?", "responses": ["a", "b"]}])
    notes = []
    reward = tmp_path / "published" / "reward"
    config = SuggestConfig(file=file, run=tmp_path / "run", reward=reward, count=3)
    summary = suggest(config, progress=QUIET["progress"], note=notes.append)
    assert summary.trained == 0
    assert any("has not the activations of the fit" in note for note in notes)
    with_capture, _ = suggested(fitted_run, tmp_path, POOL, count=3)
    assert summary.nats > with_capture.nats


def test_labels_and_known_projections_are_not_needed_again(fitted_run, tmp_path, monkeypatch):
    """Another count needs no model, and rows with labels give the pairs that rows without them give."""
    _, first = suggested(fitted_run, tmp_path, POOL, count=4)
    monkeypatch.setattr(scoring, "load_reward", None)
    _, more = suggested(fitted_run, tmp_path, POOL, count=6)
    assert more[:4] == first
    monkeypatch.undo()
    (tmp_path / "labelled").mkdir()
    pairs = [
        {
            "id": row["id"],
            "prompt": row["prompt"],
            "chosen": row["responses"][0],
            "rejected": row["responses"][1],
        }
        for row in POOL
    ]
    _, labelled = suggested(fitted_run, tmp_path / "labelled", pairs, count=4)
    assert [line["row"] for line in labelled] == [line["row"] for line in first]


@pytest.mark.slow
def test_row_05_a_killed_suggestion_goes_on_where_it_was(fitted_run, tmp_path, monkeypatch):
    """After a real SIGKILL no file is there; the next run computes only what is missing and says the same."""
    file = write(tmp_path / "pool.jsonl", POOL)
    words = ["suggest", file, "--run", str(tmp_path / "run"), "--reward", str(fitted_run / "reward")]
    fitted.killed([*words, "--deterministic"], "scores-appended:4")
    assert not (tmp_path / "run" / "suggestions.jsonl").exists()
    computed = []
    real = scoring.scored_window
    monkeypatch.setattr(scoring, "scored_window", lambda *args: computed.extend(args[1]) or real(*args))
    _, resumed = suggested(fitted_run, tmp_path, POOL, deterministic=True)
    assert len(computed) == len(POOL) - 6
    (tmp_path / "again").mkdir()
    _, never_killed = suggested(fitted_run, tmp_path / "again", POOL, deterministic=True)
    assert resumed == never_killed


def test_a_labelled_suggestion_is_training_data(fitted_run, tmp_path):
    """With `winner` filled in, the file is read as pairs of a better and a worse response."""
    _, chosen = suggested(fitted_run, tmp_path, POOL, count=4)
    for line, winner in zip(chosen, ("a", "b", "tie", "b"), strict=True):
        line["winner"] = winner
    reader = Reader(write(tmp_path / "labelled.jsonl", chosen), purpose="pairs")
    rows = list(reader)
    assert reader.shape == "two answers, winner"
    assert [row.pairs for row in rows] == [((0, 1),), ((1, 0),), (), ((1, 0),)]


@pytest.mark.slow
def test_a_linear_head_counts_by_its_projections(tmp_path, tiny_model):
    """The features of a linear head are the projections; the penalty and the pairs give the precision."""
    run = fitted.run_stages(
        tmp_path, tiny_model(), fitted.ROWS[:30], fit_options={"head": "linear", "loss": "bt"}
    )
    (tmp_path / "pool").mkdir()
    summary, chosen = suggested(run, tmp_path / "pool", POOL, count=5)
    assert summary.trained == 30
    assert len({line["row"] for line in chosen}) == 5
    assert all(line["nats"] > 0 for line in chosen)
