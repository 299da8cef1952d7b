"""pairs: which two responses are chosen, why rows are dropped, and files that trainers read."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import fitted_run as fitted
from hypothesis import given
from hypothesis import strategies as st

from sparserm_cli.alignment.response_choice.pairs import choose, pairs
from sparserm_cli.alignment.response_choice.scored_rows import Scored
from sparserm_cli.config import PairsConfig
from sparserm_cli.data.example import CHOSEN, REJECTED, UNLABELLED, Example
from sparserm_cli.errors import UsageError
from sparserm_cli.store.outputs.preferences import REASONS

QUIET, ROWS, write = fitted.QUIET, fitted.ROWS, fitted.write_rows


def example(*responses, sides=None):
    """Return a row with these responses."""
    return Example(1, None, "p", responses, sides or (UNLABELLED,) * len(responses), None, {})


def picked(responses, scores, sides=None, ood=None, **limits):
    """Choose among responses and return the choice."""
    arrays = (np.array(values, np.float32) for values in (scores, ood or [0.5] * len(scores)))
    return choose(Scored(example(*responses, sides=sides), *arrays), PairsConfig(**limits))


def test_best_and_worst():
    """The pair with the largest margin, whatever its place."""
    choice = picked(["a", "b", "c"], [0.5, -1.0, 2.0])
    assert (choice.chosen, choice.rejected, choice.margin, choice.reason) == (2, 1, 3.0, "")


def test_labels_are_kept_and_filtered():
    """Of labelled rows the sides stay; the paper's filter keeps s_w >= s_l, equal scores included."""
    choice = picked(["a", "b", "c", "d"], [0, 1, 5, 0.5], (CHOSEN, CHOSEN, REJECTED, REJECTED))
    assert (choice.chosen, choice.rejected, choice.margin, choice.reason) == (1, 3, 0.5, "")
    assert picked(["a", "b"], [1, 1], (CHOSEN, REJECTED)).reason == ""
    dropped = picked(["a", "b"], [1, 1.5], (CHOSEN, REJECTED))
    assert (dropped.reason, dropped.detail) == ("order", "-0.5000")


def test_rows_without_two_different_responses():
    """Nothing can be preferred to itself."""
    assert picked(["a"], [1.0]).reason == "one response"
    assert picked(["a", "a"], [1.0, 1.0])[3:] == ("one response", "1 different")


def test_equal_scores_are_no_preference():
    """Two different responses with one score make no pair where nothing is labelled."""
    assert picked(["a", "b"], [1.0, 1.0])[3:] == ("tie", "+1.0000 each")


def test_margin():
    """The limit itself is enough."""
    assert picked(["a", "b"], [1.0, 0.5], margin=0.5).reason == ""
    assert picked(["a", "b"], [1.0, 0.5], margin=0.6)[3:] == ("margin", "+0.5000 is less than 0.6")


def test_responses_unlike_the_training_data_are_not_compared():
    """Neither the best nor the worst may be further away than the limit."""
    choice = picked(["a", "b", "c"], [3, 2, 1], ood=[1.5, 0.9, 1.0], abstain=1.0)
    assert (choice.chosen, choice.rejected) == (1, 2)
    assert picked(["a", "b"], [3, 2], ood=[1.5, 0.9], abstain=1.0)[3:] == ("ood", "1 of 2 at most 1")


def test_length_matching_takes_the_best_matching_pair():
    """The widest gap whose lengths match, not the widest gap."""
    choice = picked(["a" * 30, "b" * 10, "c" * 12], [3.0, 1.0, 0.0], length_ratio=1.2)
    assert (choice.chosen, choice.rejected) == (1, 2)
    assert picked(["a" * 30, "b" * 10], [3.0, 1.0], length_ratio=2)[3:] == ("length", "10 to 30 characters")
    assert picked(["a" * 20, "b" * 10], [3.0, 1.0], length_ratio=2).reason == ""


@given(
    st.lists(st.tuples(st.text("ab", min_size=1, max_size=4), st.integers(-3, 3)), min_size=1, max_size=6),
    st.sampled_from([0.0, 1.0, 2.5]),
    st.sampled_from([None, 1.0, 2.0]),
)
def test_choice_is_the_best_by_trying_all(scored_texts, margin, ratio):
    """Against a plain loop over all pairs: the same margin, and a reason exactly if there is none."""
    texts, scores = zip(*scored_texts, strict=True)
    choice = picked(texts, scores, margin=margin, length_ratio=ratio)
    gaps = [
        scores[i] - scores[j]
        for i in range(len(texts))
        for j in range(len(texts))
        if texts[i] != texts[j]
        and (
            ratio is None
            or max(map(len, (texts[i], texts[j]))) <= ratio * min(map(len, (texts[i], texts[j])))
        )
    ]
    best = max(gaps, default=-1)
    assert (not choice.reason) == (best > 0 and best >= margin)
    if not choice.reason:
        assert choice.margin == best
    assert choice.reason in {"", *REASONS}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -1.0}, "--margin: expected a number of at least 0, found -1.0; correct the option"),
        (
            {"length_ratio": 0.5},
            "--length-ratio: expected a number of at least 1, found 0.5; correct the option",
        ),
        ({"to": "x"}, "--to: expected one of trl, openrlhf, verl, found 'x'; correct the option"),
    ],
)
def test_options_out_of_range(options, message):
    """Limits that no pair can mean are refused."""
    with pytest.raises(UsageError) as caught:
        PairsConfig(**options)
    assert str(caught.value) == message


TURNS = [{"role": "system", "content": "Be good."}, {"role": "user", "content": "New?"}]
MIXED = [
    {"id": "a", "prompt": "New 1?", "responses": ["poor", "good", "good good"]},
    {"prompt": "New 2?", "responses": ["same", "same"]},
    {"prompt": "bad"},
    {"prompt": TURNS, "responses": ["good", "poor"]},
]


def made(run, folder, rows, **options):
    """Make pairs in a run directory of their own; return the summary, the pairs' path and the audit."""
    file = write(folder / "rows.jsonl", rows)
    config = PairsConfig(file=file, run=folder / "run", reward=run / "reward", **options)
    summary = pairs(config, **QUIET)
    return summary, [json.loads(line) for line in Path(summary.audit).read_text().splitlines()]


def test_every_row_is_accounted_for(fitted_run, tmp_path):
    """Kept and dropped rows add up to the rows read, and the audit has one line of each."""
    summary, audit = made(fitted_run, tmp_path, MIXED, on_bad_row="reject")
    assert summary.read == 4 == summary.kept + sum(summary.dropped.values()) == len(audit)
    assert summary.dropped == {"bad row": 1, "one response": 1}
    assert [(line["row"], line["kept"], line.get("reason")) for line in audit] == [
        (1, True, None),
        (2, False, "one response"),
        (3, False, "bad row"),
        (4, True, None),
    ]
    assert audit[0]["id"] == "a"


def test_labelled_rows_pass_the_papers_filter(fitted_run, tmp_path):
    """Rows whose labels the reward model shares stay; turned round they go."""
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS[35:]]
    summary, audit = made(fitted_run, tmp_path, ROWS[30:35] + turned)
    assert (summary.shape, summary.kept, summary.dropped) == ("preference", 5, {"order": 5})
    assert all(line["margin"] >= 0 for line in audit[:5])
    assert all(line["margin"] < 0 for line in audit[5:])


def test_trl_reads_the_pairs(fitted_run, tmp_path):
    """One form for all rows: lists of messages, which TRL applies the trainer's own template to."""
    import datasets

    summary, _ = made(fitted_run, tmp_path, MIXED, on_bad_row="reject")
    data = datasets.Dataset.from_json(str(summary.output), cache_dir=str(tmp_path / "cache"))
    assert data[0]["prompt"] == [{"role": "user", "content": "New 1?"}]
    assert data[1]["prompt"] == TURNS
    assert data[0]["chosen"][0]["content"] in {"good", "good good"}
    assert data[0]["rejected"] == [{"role": "assistant", "content": "poor"}]
    assert data[0]["score_chosen"] > data[0]["score_rejected"]
    assert data[0]["id"] == "a"


def test_openrlhf_reads_the_pairs(fitted_run, tmp_path, tiny_tokenizer):
    """Its own way to texts: prompt and prompt with a side through the template, less the prompt."""
    summary, _ = made(fitted_run, tmp_path, MIXED[:1], to="openrlhf")
    row = json.loads(summary.output.read_text())
    prompt = tiny_tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    rejected = tiny_tokenizer.apply_chat_template(row["prompt"] + row["rejected"], tokenize=False)[
        len(prompt) :
    ]
    assert rejected == "poor<|im_end|>\n"
    assert row["margin"] == pytest.approx(row["score_chosen"] - row["score_rejected"])


def test_verl_reads_the_pairs(fitted_run, tmp_path):
    """A parquet file with the columns of its RL data, the prompt once more where reward functions see it."""
    import datasets

    summary, _ = made(fitted_run, tmp_path, MIXED, to="verl", on_bad_row="reject")
    assert summary.output.name == "pairs.parquet"
    data = datasets.Dataset.from_parquet(str(summary.output), cache_dir=str(tmp_path / "cache"))
    assert data[1]["prompt"] == data[1]["extra_info"]["prompt"] == TURNS
    assert data[0]["reward_model"] == {"style": "model", "ground_truth": data[0]["chosen"]}
    assert (data[0]["data_source"], data[0]["rejected"], data[0]["extra_info"]["id"]) == (
        "sparserm",
        "poor",
        "a",
    )
    assert data[1]["extra_info"]["id"] is None


def test_other_limits_need_no_second_scoring(fitted_run, tmp_path, monkeypatch):
    """The scores of a file are kept, so the filter can be tried again in no time."""
    from sparserm_cli.stages.score import windows as scoring

    first, _ = made(fitted_run, tmp_path, MIXED, on_bad_row="reject")
    monkeypatch.setattr(scoring, "load_reward", None)
    second, _ = made(fitted_run, tmp_path, MIXED, on_bad_row="reject", margin=1e6)
    assert (first.kept, second.kept, second.dropped["margin"]) == (2, 0, 2)
