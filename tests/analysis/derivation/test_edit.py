"""`edit`: exact changes of scores, lineage, what is printed, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import fitted_run
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sparserm_cli.alignment.hf_export.export import build
from sparserm_cli.analysis.derivation.edit import EditSummary, edit
from sparserm_cli.analysis.derivation.factors import columns_of, factors_of, with_factors
from sparserm_cli.cli.main import app
from sparserm_cli.config import EditConfig, FitConfig
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.checkpoints.resolve import load_tokenizer
from sparserm_cli.models.head.attribution import direction_names
from sparserm_cli.models.head.heads import scores_of
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.stages.fit.fit import fit
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.artifacts.reward import read_reward, reward_path

QUIET, ROWS = fitted_run.QUIET, fitted_run.ROWS
HEADS = [("linear", "mean"), ("linear", "both"), ("mlp", "mean")]
PROMPTS, TEXTS = ["Question 1?", "Question 2?"], ["good good, and more", "poor"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> dict[Any, Path]:
    """Give a run with two layers, and in it a reward model of every head and pooling."""
    folder = tmp_path_factory.mktemp("edit")
    run = fitted_run.run_stages(folder, tiny_model("llama"), ROWS[:30], layers=(1, 2), top_k=4)
    folders: dict[Any, Path] = {"run": run}
    for head, pool in HEADS[::-1]:
        fit(FitConfig(run=run, val_fraction=0.2, head=head, pool=pool, loss="bt"), **QUIET)
        folders[head, pool] = reward_path(run).rename(run / f"{head}-{pool}")
    return folders


def names_of(reward: Path) -> list[str]:
    """Name the directions of a reward model, each once."""
    files = read_reward(reward)
    return list(dict.fromkeys(direction_names(RewardHead.from_files(files), files.config.selection)))


def do(runs: dict[Any, Path], output: Path, key: tuple[str, str] = HEADS[0], **asked: Any) -> EditSummary:
    """Edit quietly."""
    options = {"run": runs["run"], "reward": runs[key], "output": str(output), "device": "cpu", **asked}
    return edit(EditConfig(**options), **QUIET)


@given(
    x=st.lists(st.lists(st.floats(-4, 4), min_size=3, max_size=3), min_size=1, max_size=4),
    factors=st.lists(st.floats(-2, 2), min_size=3, max_size=3),
)
def test_factors_act_on_the_inputs_of_every_head(x: list[list[float]], factors: list[float]) -> None:
    """An edited head scores x as the old one scores the inputs times the factors, and is linear in them."""
    generator = np.random.default_rng(0)
    ones = np.ones(3, np.float32)
    linear = {"weight": generator.normal(size=3), "bias": [0.5]}
    mlp = {"weight_1": generator.normal(size=(3, 4)), "bias_1": [0.1] * 4, "weight_2": ones[[0, 0, 0, 0]]}
    given_x, columns = np.array(x, np.float32), np.array(factors)
    for weights in (linear, {**mlp, "bias": [0.0]}):
        head = HeadArrays(0 * ones, ones, {key: np.array(v, np.float32) for key, v in weights.items()})
        edited = with_factors(head, columns)
        expected = scores_of(head.weights, (given_x * columns).astype(np.float32))
        np.testing.assert_allclose(scores_of(edited.weights, given_x), expected, atol=1e-4)


@pytest.mark.parametrize("key", HEADS)
def test_a_dropped_direction_counts_as_at_its_mean(
    key: tuple[str, str], runs: dict[Any, Path], tmp_path: Path
) -> None:
    """Scores are those of inputs with 0 in its columns, for each pooling; a linear score loses its parts."""
    name = names_of(runs[key])[3]
    made = do(runs, tmp_path / "new", key, drop=(name,))
    old, new = RewardModel.load(runs[key], device="cpu"), RewardModel.load(made.path, device="cpu")
    rows = old.encode(PROMPTS, TEXTS)
    x = old.head.standardised(old.pooled(rows)).numpy()
    columns = np.array([each != name for each in direction_names(old.head, old.config.selection)])
    assert (~columns).sum() == (2 if key[1] == "both" else 1)
    np.testing.assert_allclose(
        new.score(PROMPTS, TEXTS), scores_of(old.head.arrays.weights, x * columns), atol=1e-5
    )
    if key[0] == "linear":
        lost = (x * ~columns) @ old.head.arrays.weights["weight"]
        np.testing.assert_allclose(new.score(PROMPTS, TEXTS), old.score(PROMPTS, TEXTS) - lost, atol=1e-5)


def test_record_of_an_edit(runs: dict[Any, Path], tmp_path: Path) -> None:
    """The parent's digest and the factors stand in the record; ood stays, and two edits add up."""
    first, second, third = names_of(runs[HEADS[0]])[:3]
    made = do(runs, tmp_path / "one", drop=(f"{first},{second}",), scale=(f"{third}=0.5",))
    old, new = read_reward(runs[HEADS[0]]), read_reward(tmp_path / "one")
    factors = {first: 0.0, second: 0.0, third: 0.5}
    step = {"by": "edit", "parent": old.config.lineage.digest, "factors": factors, "refit": False}
    assert new.config.derivation == (step,)
    assert new.config.lineage.parents["reward"].digest == old.config.lineage.digest
    assert new.config.lineage.digest not in {"", old.config.lineage.digest}
    assert set(new.config.lineage.parents) == {"activations", "directions", "reward"}
    text = (tmp_path / "one" / "README.md").read_text()
    assert f"- `edit` of `{old.config.lineage.digest}`: factors: {first} = 0.0, {second} = 0.0, " in text
    rows = RewardModel.load(runs[HEADS[0]]).encode(PROMPTS, TEXTS)
    distances = [RewardModel.load(path).rewards(rows).ood for path in (runs[HEADS[0]], made.path)]
    np.testing.assert_array_equal(*distances)
    again = do({**runs, HEADS[0]: made.path}, tmp_path / "two", scale=(f"{third}=0.5",))
    np.testing.assert_allclose(
        read_reward(again.path).head.weights["weight"],
        old.head.weights["weight"] * columns_of({**factors, third: 0.25}, names_of(runs[HEADS[0]])),
    )
    assert [step["parent"] for step in again.config.derivation] == [
        old.config.lineage.digest,
        new.config.lineage.digest,
    ]


def test_spread_is_that_of_the_new_scores(runs: dict[Any, Path], tmp_path: Path) -> None:
    """Mean and deviation are measured on the run's pairs; without the run they are estimated closely."""
    name = names_of(runs[HEADS[0]])[0]
    made = do(runs, tmp_path / "here", drop=(name,))
    scores = RewardModel.load(made.path).score(dataset=ROWS[:30])
    both = np.array([[row["score_chosen"], row["score_rejected"]] for row in scores])
    assert made.config.score_mean == pytest.approx(both.mean(), abs=1e-4)
    assert made.config.score_std == pytest.approx(both.std(), rel=1e-4)
    away = do({**runs, "run": tmp_path / "nowhere"}, tmp_path / "away", drop=(name,))
    assert away.config.score_std == pytest.approx(made.config.score_std, rel=0.1)
    assert away.config.probe["score"] == pytest.approx(made.config.probe["score"], abs=1e-4)
    assert "validation" not in away.changes
    np.testing.assert_array_equal(away.config.lineage.digest, made.config.lineage.digest)


@pytest.mark.parametrize("key", HEADS)
def test_validation_pairs_judge_both_heads_held_out(
    key: tuple[str, str], runs: dict[Any, Path], tmp_path: Path
) -> None:
    """The old accuracy is the recorded one, and the new one is recorded in turn."""
    made = do(runs, tmp_path / "new", key, keep_only=tuple(names_of(runs[key])[:1]))
    change = made.changes["validation"]
    recorded = {
        (metric.scorer, metric.split): metric.accuracy for metric in read_reward(runs[key]).config.metrics
    }
    assert change.held_out
    assert change.before.accuracy.accuracy == recorded["reward", "validation"]
    new = {(metric.scorer, metric.split): metric.accuracy for metric in made.config.metrics}
    assert change.after.accuracy.accuracy == new["reward", "validation"]
    assert {scorer for scorer, _ in new} == {scorer for scorer, _ in recorded}
    gain = change.after.accuracy.accuracy - change.before.accuracy.accuracy
    assert change.difference.value == pytest.approx(gain)
    turned = sum(1 if flip.after > 0 else -1 for flip in change.flipped)
    assert turned == round(gain * change.after.accuracy.pairs)


@pytest.mark.parametrize("key", HEADS)
def test_a_new_fit_leaves_the_dropped_directions_out(
    key: tuple[str, str], runs: dict[Any, Path], tmp_path: Path
) -> None:
    """Their weights are 0, others differ from those of the mere edit; an edit of it keeps the zeros."""
    first, second = names_of(runs[key])[:2]
    made = do(runs, tmp_path / "fit", key, drop=(first,), refit=True)
    plain = do(runs, tmp_path / "cut", key, drop=(first,))
    heads = [read_reward(summary.path).head for summary in (made, plain)]
    tensor = "weight" if key[0] == "linear" else "weight_1"
    dropped = np.array(
        [
            each == first
            for each in direction_names(RewardHead(heads[0], (1, 2), key[1]), made.config.selection)
        ]
    )
    assert not heads[0].weights[tensor][dropped].any()
    assert heads[0].weights[tensor][~dropped].any()
    assert not np.allclose(heads[0].weights[tensor], heads[1].weights[tensor])
    assert made.changes["validation"].held_out
    again = do({**runs, key: made.path}, tmp_path / "again", key, drop=(second,), refit=True)
    both = with_factors(read_reward(again.path).head, (~dropped).astype(np.float64))
    np.testing.assert_array_equal(both.weights[tensor], read_reward(again.path).head.weights[tensor])
    assert again.changes["validation"].held_out


@pytest.mark.parametrize("key", HEADS[1:])
def test_an_export_scores_as_the_edited_reward_model(
    key: tuple[str, str], runs: dict[Any, Path], tmp_path: Path
) -> None:
    """The transformers module gives the scores of the edited reward model."""
    made = do(runs, tmp_path / "new", key, drop=(names_of(runs[key])[0],))
    model = RewardModel.load(made.path, device="cpu")
    tokenizer = load_tokenizer(model.lm.identity)
    exported = build(model, tokenizer)
    turns = [{"role": "user", "content": PROMPTS[0]}, {"role": "assistant", "content": TEXTS[0]}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    with torch.no_grad():
        logits = exported(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits
    assert float(logits[0, 0]) == pytest.approx(float(model.score(PROMPTS[:1], TEXTS[:1])[0]), abs=1e-4)


def test_the_command_shows_both_sets_of_pairs(runs: dict[Any, Path], tmp_path: Path) -> None:
    """The table has a row per set, and JSON the same numbers."""
    data = fitted_run.write_rows(tmp_path / "held-out.jsonl", ROWS[30:])
    name = names_of(runs[HEADS[0]])[0]
    words = ["edit", "--run", str(runs["run"]), "--reward", str(runs[HEADS[0]]), "--drop", name, "--on", data]
    done = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "a")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert f"changed: {name} dropped" in done.stdout
    assert "held-out.jsonl  10" in done.stdout
    done = CliRunner().invoke(
        app, [*words, "--output", str(tmp_path / "b"), "--json"], catch_exceptions=False
    )
    output = json.loads(done.stdout)
    assert output["factors"] == {name: 0.0}
    assert set(output["changes"]) == {"validation", "held-out.jsonl"}
    assert output["changes"]["held-out.jsonl"]["after"]["accuracy"]["pairs"] == 10
    old, new = (RewardModel.load(path).score(dataset=ROWS[30:]) for path in (runs[HEADS[0]], tmp_path / "b"))
    right = [sum(row["score_chosen"] > row["score_rejected"] for row in rows) / 10 for rows in (old, new)]
    change = output["changes"]["held-out.jsonl"]
    assert [change[side]["accuracy"]["accuracy"] for side in ("before", "after")] == right


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {},
            (
                "edit: expected --drop, --drop-named, --scale or --keep-only, found none of them; "
                "name a direction; `sparserm explain` lists them"
            ),
        ),
        (
            {"drop": ("1:1",), "refit": True, "scale": ("1:2=2",)},
            (
                "--refit: expected no --scale beside it, found --scale; "
                "leave one of them out: a new fit would choose its own weight for a scaled direction"
            ),
        ),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], expected: str) -> None:
    """An edit names a direction, and a new fit scales none."""
    with pytest.raises(UsageError) as caught:
        EditConfig(output="new", **options)
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"drop": ("14:182",)},
            (
                "--drop: expected a direction of this reward model, found '14:182'; "
                "near ones are 14:1829, 14:18, 15:1829"
            ),
        ),
        (
            {"drop": ("14:18", "14:18")},
            ("--drop: expected each direction once, found 14:18 twice; leave one of them out"),
        ),
        (
            {"scale": ("14:18=",)},
            (
                "--scale: expected LAYER:LATENT=FACTOR with a finite factor, like 14:3450=0.5, "
                "found '14:18='; correct the option"
            ),
        ),
        (
            {"scale": ("14:18=inf",)},
            (
                "--scale: expected LAYER:LATENT=FACTOR with a finite factor, like "
                "14:3450=0.5, found '14:18=inf'; correct the option"
            ),
        ),
        (
            {"drop": ("14:18",), "keep_only": ("14:18",)},
            "--keep-only: expected a direction that is not dropped, found 14:18; name it once",
        ),
        (
            {"drop": ("14:18,14:1829,15:1829",)},
            "edit: expected a direction that still counts, found none of 3; drop fewer directions",
        ),
    ],
)
def test_directions_that_are_not_there_are_refused(options: dict[str, Any], expected: str) -> None:
    """The error names the option, the direction and those that look most like it."""
    with pytest.raises(UsageError) as caught:
        factors_of(EditConfig(output="new", **options), ["14:1829", "14:18", "15:1829"])
    assert str(caught.value) == expected


def test_directions_are_dropped_by_what_they_stand_for() -> None:
    """Every direction whose name contains the text, in any case; a text that no name has is refused."""
    described = {"14:1829": "“Lists”, “and”", "15:1829": "“lists”"}
    names = ["14:1829", "14:18", "15:1829"]
    config = EditConfig(output="new", drop_named=("LISTS",))
    assert factors_of(config, names, described) == {"14:1829": 0.0, "15:1829": 0.0}
    with pytest.raises(UsageError) as caught:
        factors_of(EditConfig(output="new", drop_named=("cats",)), names, described)
    assert str(caught.value) == (
        "--drop-named: expected a direction whose name contains 'cats', found none of 2 names has it; "
        "`sparserm describe` shows the names"
    )
    with pytest.raises(UsageError, match="found none of 0 names has it; run `sparserm describe` first"):
        factors_of(config, names)


def test_a_new_fit_needs_the_run(runs: dict[Any, Path], tmp_path: Path) -> None:
    """Its activations must be those of the fit."""
    with pytest.raises(IncompatibleError) as caught:
        do({**runs, "run": tmp_path}, tmp_path / "new", drop=(names_of(runs[HEADS[0]])[0],), refit=True)
    assert str(caught.value) == (
        f"{tmp_path}: activations: expected those that the reward model was fitted on, found none or others; "
        "give --run with that run, or leave --refit out"
    )


def test_the_target_must_be_free(runs: dict[Any, Path], tmp_path: Path) -> None:
    """Neither the old reward model nor other files are replaced; another reward model is with --force."""
    name = names_of(runs[HEADS[0]])[0]
    with pytest.raises(UsageError, match="expected another folder, found "):
        do(runs, runs[HEADS[0]], drop=(name,))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("")
    with pytest.raises(UsageError, match="expected a new or empty folder, found something else; name a new"):
        do(runs, tmp_path / "notes", drop=(name,), force=True)
    shutil.copytree(runs[HEADS[1]], tmp_path / "there")
    with pytest.raises(UsageError, match="expected a new or empty folder, found a reward model; use --force"):
        do(runs, tmp_path / "there", drop=(name,))
    assert do(runs, tmp_path / "there", drop=(name,), force=True).config.pool == "mean"
