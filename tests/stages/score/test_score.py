"""score, RewardModel and evaluate on a tiny pipeline run in this process."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import fitted_run as shared

from sparserm_cli.analysis.evaluate.evaluate import evaluate
from sparserm_cli.config import EvaluateConfig, FitConfig, ScoreConfig, ScoreLimits
from sparserm_cli.errors import BadInputError, IncompatibleError, PartialError, UsageError
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.stages.fit.fit import fit
from sparserm_cli.stages.score import responses
from sparserm_cli.stages.score import windows as scoring
from sparserm_cli.stages.score.score import score
from sparserm_cli.store.artifacts.reward import read_reward, write_reward

QUIET, ROWS, write, fitted = shared.QUIET, shared.ROWS, shared.write_rows, shared.fit_tiny


@pytest.fixture(scope="module")
def run(fitted_run):
    """Give the run directory that all tests only read."""
    return fitted_run


@pytest.fixture(scope="module")
def model(run):
    """Load it once."""
    return RewardModel.load(run / "reward")


PROMPTS = [row["prompt"] for row in ROWS]
RESPONSES = [row["chosen"] for row in ROWS]


def test_row_63_scores_do_not_depend_on_company(model):
    """Alone, all together, in another order or in other batches: the same score within 1e-4."""
    together = model.score(PROMPTS, RESPONSES)
    alone = np.concatenate([model.score([p], [r]) for p, r in zip(PROMPTS, RESPONSES, strict=True)])
    order = np.random.default_rng(0).permutation(len(PROMPTS))
    shuffled = model.score([PROMPTS[i] for i in order], [RESPONSES[i] for i in order], batch_tokens=64)
    np.testing.assert_allclose(alone, together, atol=1e-4)
    np.testing.assert_allclose(shuffled, together[order], atol=1e-4)


def test_row_63_deterministic_scores_are_equal_to_the_bit(model):
    """With deterministic=True company changes nothing at all."""
    together = model.score(PROMPTS, RESPONSES, deterministic=True)
    alone = [model.score([p], [r], deterministic=True)[0] for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    np.testing.assert_array_equal(together, alone)


def test_equal_responses_have_equal_scores(model):
    """The same text twice is computed once and scored twice."""
    scores = model.score(["a?", "b?", "a?"], ["x", "x", "x"])
    assert scores[0] == scores[2] != scores[1]


def test_a_template_file_goes_along(tmp_path, tiny_model):
    """A reward model fitted with --template FILE scores without the file, with that template."""
    template = tmp_path / "template.jinja"
    template.write_text("{% for turn in messages %}[{{ turn.content }}]{% endfor %} Answer: ")
    model = RewardModel.load(fitted(tmp_path, tiny_model("llama"), template=str(template)) / "reward")
    written = template.read_text()
    template.unlink()
    assert RewardModel.load(model.path).template.text == written
    assert model.template.render("Hi?") == "[Hi?] Answer: "


def test_messages_and_text_prompts_agree(model):
    """A string is one user turn."""
    as_text = model.score(["Hi?"], ["x"])
    as_turns = model.score([[{"role": "user", "content": "Hi?"}]], ["x"])
    np.testing.assert_array_equal(as_text, as_turns)


def test_nothing_gives_nothing_and_bad_calls_say_why(model):
    """No response, no score; too few prompts, an empty or a too long response are named."""
    assert model.score([], []).shape == (0,)
    with pytest.raises(ValueError, match="1 prompts for 2 responses"):
        model.score(["a"], ["x", "y"])
    with pytest.raises(BadInputError) as caught:
        model.score(["a"], ["x" * 600])
    assert "response 1: expected at most 512 tokens, found" in str(caught.value)
    with pytest.raises(BadInputError, match="response 1: expected a response with tokens, found none"):
        model.score(["a"], [""])


@pytest.mark.parametrize(
    ("field", "shown"),
    [("tokenizer", "tokenizer"), ("template_digest", "template"), ("model_revision", "model revision")],
)
def test_row_30_another_tokenizer_template_or_model_is_refused(run, tmp_path, field, shown):
    """What is not as it was at the fit is named with both values."""
    files = read_reward(run / "reward")
    changed = replace(files, config=replace(files.config, **{field: "another"}))
    write_reward(tmp_path / "reward", changed)
    with pytest.raises(IncompatibleError) as caught:
        RewardModel.load(tmp_path / "reward")
    now = getattr(files.config, field)
    assert str(caught.value).startswith(f"{tmp_path}/reward: {shown}: expected another, found {now}; ")


def test_rejected_rows_are_left_out_and_counted(run, tmp_path):
    """Accepted and rejected rows add up to rows read; the file appears whole."""
    file = write(
        tmp_path / "r.jsonl",
        [{"prompt": "a", "response": "x"}, {"prompt": "a"}, {"prompt": "b", "response": "y"}],
    )
    with pytest.raises(BadInputError, match=r"r\.jsonl:line 2"):
        score(ScoreConfig(file=file, run=run, output=str(tmp_path / "s.jsonl")), **QUIET)
    assert not (tmp_path / "s.jsonl").exists()
    done = score(
        ScoreConfig(file=file, run=run, output=str(tmp_path / "s.jsonl"), on_bad_row="reject"), **QUIET
    )
    assert (done.read, done.accepted, done.rejected, done.responses) == (3, 2, 1, 2)
    assert [json.loads(line)["row"] for line in (tmp_path / "s.jsonl").read_text().splitlines()] == [1, 3]


@pytest.mark.slow
@pytest.mark.parametrize("point", ["scores-appended:1", "scores-appended:3", "rename:1"])
def test_row_05_a_killed_run_goes_on_to_the_same_bytes(run, tmp_path, monkeypatch, point):
    """After a real SIGKILL no scores are there; the next run computes those that are missing."""
    monkeypatch.setattr(responses, "WINDOW_ROWS", 2)
    rows = [{"id": str(n), "prompt": f"New {n}?", "responses": ["good " * n, "poor"]} for n in range(1, 10)]
    file, place = write(tmp_path / "g.jsonl", [*rows[:4], {"prompt": "bad"}, *rows[4:]]), tmp_path / "run"
    words = ["score", file, "--run", str(place), "--reward", str(run / "reward"), "--tokens", "--clip", "1"]
    shared.killed([*words, "--on-bad-row", "reject"], point)
    assert not (place / "scores.jsonl").exists()
    options = {"reward": run / "reward", "tokens": True, "clip": 1.0, "on_bad_row": "reject"}
    config = ScoreConfig(file=file, run=place, **options)
    computed = []
    real = scoring.scored_window
    monkeypatch.setattr(scoring, "scored_window", lambda *args: computed.append(len(args[1])) or real(*args))
    continued = score(config, **QUIET)
    if point == "scores-appended:3":  # the head and two windows were there, of 9 rows
        assert computed == [2, 2, 1]
    assert {entry.name for entry in place.iterdir()} == {"scores.jsonl", "scored"}
    never_killed = score(replace(config, run=tmp_path / "other"), **QUIET)
    assert Path(continued.output).read_bytes() == Path(never_killed.output).read_bytes()
    assert continued._replace(output="", seconds=0) == never_killed._replace(output="", seconds=0)
    assert (continued.read, continued.accepted, continued.rejected, continued.responses) == (10, 9, 1, 18)


def test_row_53_rows_that_fail_three_times_are_left_for_the_next_run(run, tmp_path, monkeypatch):
    """The other windows are scored, exit 7 names the rows; the next run computes only those."""
    monkeypatch.setattr(responses, "WINDOW_ROWS", 2)
    options = {"file": write(tmp_path / "x.jsonl", [{"prompt": p, "response": "good"} for p in PROMPTS[:6]])}
    options["reward"] = run / "reward"
    whole = score(ScoreConfig(run=tmp_path / "whole", **options), **QUIET)
    compute, tried = scoring.scored_window, []

    def failing(model, window, config):
        tried.append(window[0].example.row)
        if window[0].example.row == 3:
            raise RuntimeError("out of memory")
        return compute(model, window, config)

    monkeypatch.setattr(scoring, "scored_window", failing)
    config = ScoreConfig(run=tmp_path / "cut", **options)
    with pytest.raises(PartialError) as caught:
        score(config, **QUIET)
    assert str(caught.value).endswith(
        "expected the scores of all rows, found 1 windows failed, the first is rows 3 to 4 with "
        "RuntimeError: out of memory; run the command again to repeat only those"
    )
    assert tried == [1, 3, 5, 3, 3]
    assert not (tmp_path / "cut" / "scores.jsonl").exists()
    tried.clear()
    monkeypatch.setattr(scoring, "scored_window", lambda *rest: tried.append(3) or compute(*rest))
    again = score(config, **QUIET)
    assert tried == [3]
    assert Path(again.output).read_bytes() == Path(whole.output).read_bytes()


def test_known_scores_need_no_model_and_no_other_guards(run, tmp_path, monkeypatch):
    """The same command again reads the log; with another guard the scores are others, and are computed."""
    file = write(tmp_path / "g.jsonl", [{"prompt": "a", "response": "x"}])
    config = ScoreConfig(file=file, run=tmp_path / "run", reward=run / "reward")
    first = score(config, **QUIET)
    monkeypatch.setattr(scoring, "load_reward", None)
    again = score(config, **QUIET)
    assert again._replace(seconds=0) == first._replace(seconds=0)
    with pytest.raises(TypeError):
        score(replace(config, normalize=True), **QUIET)


def test_groups_of_responses_come_back_as_groups(run, tmp_path):
    """Several responses a row give several scores a line; of a preference row the chosen one is first."""
    rows = [{"prompt": "a", "responses": ["x", "y", "x"]}]
    score(
        ScoreConfig(file=write(tmp_path / "g.jsonl", rows), run=run, output=str(tmp_path / "s.jsonl")),
        **QUIET,
    )
    line = json.loads((tmp_path / "s.jsonl").read_text())
    assert len(line["scores"]) == 3
    assert line["scores"][0] == line["scores"][2]
    score(
        ScoreConfig(file=write(tmp_path / "p.jsonl", ROWS[:1]), run=run, output=str(tmp_path / "s.jsonl")),
        **QUIET,
    )
    good, poor = json.loads((tmp_path / "s.jsonl").read_text())["scores"]
    assert good > poor


def test_evaluate_by_hand(run, model, tmp_path):
    """The accuracy is the share of pairs whose chosen response scores higher, recomputed here."""
    rows = ROWS[30:]
    done = evaluate(EvaluateConfig(file=write(tmp_path / "t.jsonl", rows), run=run), **QUIET)
    good = model.score([row["prompt"] for row in rows], [row["chosen"] for row in rows])
    poor = model.score([row["prompt"] for row in rows], [row["rejected"] for row in rows])
    scorers = done.metrics["scorers"]
    assert scorers["reward"]["accuracy"] == pytest.approx(np.mean(good > poor))
    assert scorers["chance"]["accuracy"] == 0.5
    assert {"random directions", "dense", "difference of means", "length only"} < set(scorers)
    assert scorers["length only"]["ties"] == len(rows)
    # Ten pairs are one bin: its confidence is the mean of 1 / (1 + exp(-|margin|)).
    (bin_,) = done.metrics["reliability"]["bins"]
    assert bin_["confidence"] == pytest.approx(np.mean(1 / (1 + np.exp(-np.abs(good - poor)))), abs=1e-6)
    assert bin_["right"]["accuracy"] == scorers["reward"]["accuracy"]
    assert done.metrics["length_bias"]["equal"]["pairs"] == len(rows)
    assert done.metrics["length_bias"]["correlation"] is None


def test_row_22_trained_prompts_are_no_held_out_data(run, tmp_path):
    """Evaluating on trained prompts stops, unless it is meant."""
    file = write(tmp_path / "t.jsonl", ROWS[:30])
    with pytest.raises(BadInputError, match="expected no prompt of the training data, found"):
        evaluate(EvaluateConfig(file=file, run=run), **QUIET)
    done = evaluate(EvaluateConfig(file=file, run=run, allow_overlap=True), **QUIET)
    assert done.metrics["prompts_shared_with_training"] > 0


def test_rm_bench_and_reward_bench_2_rules(run, tmp_path):
    """Both benchmarks' shapes go through their own rules."""
    rm = [
        {
            "id": str(n),
            "prompt": f"New {n}?",
            "chosen": ["good"] * 3,
            "rejected": ["poor"] * 3,
            "domain": "chat",
        }
        for n in range(4)
    ]
    file = write(tmp_path / "rm.jsonl", rm)
    results = evaluate(EvaluateConfig(file=file, run=run, benchmark="rm-bench"), **QUIET).metrics["scorers"][
        "reward"
    ]
    assert results["domains"]["chat"]["n"] == 4
    assert results["total"] in {0.0, 0.25, 0.5, 0.75, 1.0}
    assert 0.0 <= results["low"] <= results["total"] <= results["high"] <= 1.0
    best = [
        {
            "id": str(n),
            "prompt": f"New {n}?",
            "chosen": ["good"],
            "rejected": ["poor", "poor ", "poor  "],
            "num_correct": 1,
            "total_completions": 4,
            "subset": "Focus",
        }
        for n in range(4)
    ]
    file = write(tmp_path / "rb.jsonl", best)
    results = evaluate(EvaluateConfig(file=file, run=run, benchmark="reward-bench-2"), **QUIET).metrics[
        "scorers"
    ]
    assert set(results["reward"]["subsets"]) == {"focus"}
    assert results["reward"]["low"] <= results["reward"]["score"] <= results["reward"]["high"]
    with pytest.raises(BadInputError, match="expected three chosen and three rejected answers"):
        evaluate(
            EvaluateConfig(file=write(tmp_path / "x.jsonl", ROWS[30:]), run=run, benchmark="rm-bench"),
            **QUIET,
        )


def rm_bench_rows(**labels: object) -> list[dict[str, object]]:
    """Give three rows of RM-Bench's shape with whatever labels."""
    sides = {"chosen": ["good"] * 3, "rejected": ["poor"] * 3}
    return [{"id": n, "prompt": f"New {n}?", **sides, **labels} for n in range(3)]


def test_files_of_rm_bench_name_the_domain_of_their_rows(run, tmp_path):
    """A subset that is a domain goes before the file's name, also where a folder holds several files."""
    folder = tmp_path / "rm"
    folder.mkdir()
    write(folder / "chat_filtered.jsonl", rm_bench_rows(subset="alpaca"))
    write(folder / "safety-refuse_filtered.jsonl", rm_bench_rows())
    write(folder / "total.jsonl", rm_bench_rows(domain="safety-response"))
    notes: list[str] = []
    config = EvaluateConfig(file=str(folder), run=run, benchmark="rm-bench")
    results = evaluate(config, progress=QUIET["progress"], note=notes.append).metrics["scorers"]["reward"]
    assert {domain: part["n"] for domain, part in results["domains"].items()} == {"chat": 3, "safety": 6}
    assert notes[:2] == [
        f"{file}: rows without a domain of RM-Bench count for {domain}, as the file is called"
        for file, domain in (("chat_filtered.jsonl", "chat"), ("safety-refuse_filtered.jsonl", "safety"))
    ]


@pytest.mark.parametrize(
    ("benchmark", "rows", "message"),
    [
        (
            "rm-bench",
            [*rm_bench_rows(domain="chat"), *rm_bench_rows(domain="law")],
            (
                "x.jsonl row 4: expected three chosen and three rejected answers and a domain of RM-Bench, "
                "found 6 answers, domain 'law'; use --benchmark pairs"
            ),
        ),
        (
            "reward-bench-2",
            [{**row, "id": f"tied:{row['id']}"} for row in rm_bench_rows(subset="Ties")],
            (
                "row 1, subset Ties: expected a partner of tied:0, found no row ref:0; "
                "evaluate the whole benchmark, or use --benchmark pairs"
            ),
        ),
    ],
)
def test_rows_that_a_benchmark_cannot_count_stop_before_any_model(
    run, tmp_path, monkeypatch, benchmark, rows, message
):
    """The reward model is not even loaded."""
    monkeypatch.setattr("sparserm_cli.analysis.evaluate.evaluate.load_reward", None)
    file = write(tmp_path / "x.jsonl", rows)
    with pytest.raises(BadInputError) as caught:
        evaluate(EvaluateConfig(file=file, run=run, benchmark=benchmark), **QUIET)
    assert str(caught.value) == message


@pytest.fixture(scope="module")
def linear(run, tmp_path_factory):
    """Fit a linear head on the same run, whose token rewards are exact."""
    from shutil import copytree

    copy = copytree(run, tmp_path_factory.mktemp("linear") / "run")
    fit(FitConfig(val_fraction=0.2, head="linear", loss="bt", run=copy), **QUIET)
    return RewardModel.load(copy / "reward")


def test_normalised_scores_by_hand(model):
    """(score - mean) / std, with the mean and standard deviation that the fit recorded."""
    rows = model.tokenize(PROMPTS, RESPONSES)
    plain, normal = model.rewards(rows).scores, model.rewards(rows, ScoreLimits(normalize=True)).scores
    expected = (plain - model.config.score_mean) / model.config.score_std
    np.testing.assert_allclose(normal, expected, atol=1e-5)
    np.testing.assert_allclose(plain, model.score(PROMPTS, RESPONSES), atol=1e-6)


def test_training_scores_are_of_mean_0_and_deviation_1_when_normalised(model):
    """Over the responses of all pairs, which is what the recorded numbers mean."""
    texts = [row[side] for row in ROWS[:30] for side in ("chosen", "rejected")]
    rows = model.tokenize([row["prompt"] for row in ROWS[:30] for _ in range(2)], texts)
    scores = model.rewards(rows, ScoreLimits(normalize=True)).scores
    assert abs(scores.mean()) < 1e-3
    assert scores.std() == pytest.approx(1, abs=1e-3)


def test_clipping_bounds_both_sides(model):
    """Nothing is beyond the bound, what was within is as it was."""
    rows = model.tokenize(PROMPTS, RESPONSES)
    plain = model.rewards(rows).scores
    bound = float(np.median(np.abs(plain)))
    np.testing.assert_array_equal(
        model.rewards(rows, ScoreLimits(clip=bound)).scores, np.clip(plain, -bound, bound)
    )


def test_far_responses_are_abstained_from(model):
    """Random bytes are further from the training responses than these are from each other."""
    near = model.rewards(model.tokenize(PROMPTS[:30], RESPONSES[:30]))
    rows = model.tokenize(["Q?"] * 2, ["good good", "q]Z~#|^@"])
    rewards = model.rewards(rows)
    assert (near.ood < 1).mean() > 0.9
    assert rewards.ood[1] > 1 > rewards.ood[0]
    guarded = model.rewards(rows, ScoreLimits(abstain=1.0), tokens=True)
    assert np.isnan(guarded.scores).tolist() == [False, True]
    assert guarded.tokens[1] is None
    np.testing.assert_allclose(guarded.ood, rewards.ood, rtol=1e-3)


@pytest.mark.parametrize("limits", [{}, {"normalize": True}, {"normalize": True, "clip": 0.1}])
def test_token_rewards_add_up_to_the_guarded_score(linear, limits):
    """However the score was normalised or clipped."""
    rows = linear.tokenize(PROMPTS, RESPONSES)
    rewards = linear.rewards(rows, ScoreLimits(**limits), tokens=True)
    assert rewards.method == "exact"
    assert [len(values) for values in rewards.tokens] == [len(row.responses[0].response_ids) for row in rows]
    np.testing.assert_allclose([values.sum() for values in rewards.tokens], rewards.scores, atol=2e-5)
    np.testing.assert_allclose(rewards.scores, linear.rewards(rows, ScoreLimits(**limits)).scores, atol=1e-5)


def test_token_rewards_of_a_hidden_layer_are_labelled_approximate(model):
    """Integrated gradients add up nearly."""
    rewards = model.rewards(model.tokenize(PROMPTS[:5], RESPONSES[:5]), tokens=True)
    assert rewards.method == "integrated gradients"
    np.testing.assert_allclose([values.sum() for values in rewards.tokens], rewards.scores, atol=1e-2)


def test_rewards_are_split_among_rows(model):
    """Two of the first, none of the next, one of the last."""
    whole = model.rewards(model.tokenize(PROMPTS[:3], RESPONSES[:3]), tokens=True)
    first, none, last = whole.split([2, 0, 1])
    assert (len(first.scores), len(none.scores), len(last.tokens)) == (2, 0, 1)
    assert last.scores[0] == whole.scores[2]
    assert last.ood[0] == whole.ood[2]


def test_lines_with_tokens_and_abstained_rows(linear, tmp_path):
    """The file says null where there is no score, and gives tokens with their rewards."""
    rows = [
        {"prompt": "Q?", "responses": ["good good", "q]Z~#|^@"]},
        {"prompt": "Q?", "responses": ["good good"]},
    ]
    file, output = write(tmp_path / "r.jsonl", rows), tmp_path / "s.jsonl"
    options = {"reward": linear.path, "run": tmp_path, "tokens": True, "abstain": 1.0}
    summary = score(ScoreConfig(file=file, output=str(output), **options), **QUIET)
    both, line = (json.loads(line) for line in output.read_text().splitlines())
    assert (summary.responses, summary.abstained, summary.token_method) == (3, 1, "exact")
    assert both["scores"][1] is both["token_rewards"][1] is None
    assert [len(ids) for ids in both["token_ids"]] == [9, 8]
    assert both["ood"][1] > 1 > both["ood"][0]
    assert sum(both["token_rewards"][0]) == pytest.approx(both["scores"][0], abs=1e-5)
    assert len(line["token_ids"]) == len(line["token_rewards"]) == 9
    assert sum(line["token_rewards"]) == pytest.approx(line["score"], abs=1e-5)
    assert summary.mean == pytest.approx((both["scores"][0] + line["score"]) / 2, abs=1e-6)


@pytest.mark.parametrize("tokens", [False, True])
def test_parts_add_up_to_the_guarded_score(linear, model, tokens):
    """Exactly for a linear head, and with the remainder for a hidden layer; with token rewards too."""
    limits = ScoreLimits(normalize=True, clip=0.5)
    for scorer in (linear, model):
        rows = scorer.tokenize(PROMPTS[:4], RESPONSES[:4])
        rewards = scorer.rewards(rows, limits, tokens=tokens, groups=scorer.part_groups(3))
        sums = [sum(parts.values()) for parts in rewards.parts]
        np.testing.assert_allclose(sums, rewards.scores, atol=1e-5)
        exact = rewards.method == "exact"
        assert exact == (scorer is linear)
        assert [("remainder" in parts) for parts in rewards.parts] == [not exact] * 4
        assert len(rewards.tokens) == (4 if tokens else 0)


def test_lines_with_parts(linear, tmp_path):
    """One object per response, whose names the summary explains; a log without them is another."""
    file, output = write(tmp_path / "r.jsonl", [{"prompt": "Q?", "response": "good"}]), tmp_path / "s.jsonl"
    options = {"reward": linear.path, "run": tmp_path, "file": file, "output": str(output)}
    plain = score(ScoreConfig(**options), **QUIET)
    summary = score(ScoreConfig(**options, parts=True, part_groups=2), **QUIET)
    (line,) = (json.loads(line) for line in output.read_text().splitlines())
    assert plain.part_groups is None
    assert list(line["parts"]) == ["intercept", *summary.part_groups]
    assert line["part_method"] == "exact"
    assert sum(line["parts"].values()) == pytest.approx(line["score"], abs=1e-5)
    assert sum(map(len, summary.part_groups.values())) == 12
    assert "token_method" not in line


def test_the_probe_is_scored_as_at_the_fit(model):
    """What a server tests itself with: ids and score of one training response."""
    row = model.probe()
    assert row is not None
    assert float(model.rewards([row]).scores[0]) == pytest.approx(model.config.probe["score"], abs=1e-4)


def test_a_model_that_scores_its_probe_otherwise_scores_nothing(run, tmp_path, monkeypatch):
    """Weights that changed under one revision are found before a score is written."""
    load = LanguageModel.load

    def zeroed(*args, **options):
        lm = load(*args, **options)
        for weights in lm.backbone.parameters():
            weights.zero_()
        return lm

    monkeypatch.setattr(LanguageModel, "load", zeroed)
    file, output = write(tmp_path / "rows.jsonl", ROWS), tmp_path / "scores.jsonl"
    with pytest.raises(IncompatibleError, match=r"reward: the score of its own probe: expected .*, found "):
        score(ScoreConfig(file=str(file), run=run, output=str(output)), **QUIET)
    assert not output.exists()


@pytest.mark.parametrize("options", [{"clip": 0.0}, {"abstain": -1.0}, {"clip": float("nan")}])
def test_limits_that_make_no_sense_are_refused(options):
    """Named like the option."""
    (name,) = options
    with pytest.raises(UsageError, match=f"--{name}: expected a number above 0"):
        ScoreConfig(file="x", **options)
