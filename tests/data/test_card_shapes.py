"""Rows in the columns of ten more public data sets, as their cards show them; the texts are made up.

Read by code that knew none of them: when2rl/SHP_reformatted, liavonpenn/Processed_UltraFeedback_Binarized,
nbalepur/persona-tailoring, allenai/preference-test-sets; and, with one `--column`, PreferenceLab's pairs.
Read by one more entry in a table each: lmarena-ai/PPE-Human-Preference-V1, Eloquent/preference_prediction,
ashercn97/preferences_data_oct_23 (distilabel), openai/summarize_from_feedback (for which paths had to learn
`summaries[0].text`), and, for the margin alone, gp02-mcgill/ultrafeedback_binarised_rnd_max.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from sparserm_cli.data.example import Message
from sparserm_cli.data.reader import Reader
from sparserm_cli.errors import BadInputError

ASKED = {"role": "user", "content": "hi?"}
GOOD, BAD = {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}
ROWS: dict[str, tuple[dict[str, Any], dict[str, str], str, Any, tuple[Any, ...]]] = {
    "shp-reformatted": (
        {
            "prompt": "hi?", "prompt_id": "1", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD],
            "messages": [ASKED, GOOD], "score_chosen": 7.5, "score_rejected": 6.0,
            "other_info": {"domain": "d", "post_id": "p", "raw_score_chosen": 3}, "source": "shp",
        },
        {}, "conversational preference", (Message("user", "hi?"),), (1.5,),
    ),
    "ultrafeedback-rnd-max": (
        {
            "source": "s", "prompt": "hi?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD],
            "chosen-rating": 4.5, "rejected-rating": 4.0, "chosen-model": "a", "rejected-model": "b",
        },
        {}, "conversational preference", (Message("user", "hi?"),), (0.5,),
    ),
    "processed-ultrafeedback": (
        {"prompt": "hi?", "chosen": "yes", "rejected": "no", "score_chosen": 8, "score_rejected": 6.5},
        {}, "preference", "hi?", (1.5,),
    ),
    "persona-tailoring": (
        {
            "prompt": "hi?", "chosen": "yes", "rejected": "no", "chosen_persona_gold": "likes words",
            "rejected_persona_gold": "likes none", "chosen_persona_retr": "x y", "rejected_persona_retr": "z",
        },
        {}, "preference", "hi?", (),
    ),
    "preference-test-sets": (
        {"prompt": "hi?", "chosen": "yes", "rejected": "no", "subset": "hh"}, {}, "preference", "hi?", (),
    ),
    "preference-lab": (
        {"prompt": "hi?", "response_a": "yes", "response_b": "no", "gold_label": "A", "source": "hh-rlhf"},
        {"winner": "gold_label"}, "two answers, winner", "hi?", (),
    ),
    "ppe": (
        {
            "question_id": "q", "model_a": "m", "model_b": "n", "winner": "model_b", "prompt": "hi?",
            "response_1": "no", "response_2": "yes", "language": "English", "hard_prompt": True,
        },
        {}, "ppe-human-preference", "hi?", (),
    ),
    "eloquent": (
        {
            "id": "1", "instruction": "hi?", "output_a": "no", "output_b": "yes", "relevance_preference": "A",
            "relevance_explanation": "It fits.", "safety_preference": "tie", "truthfulness_preference": "B",
            "naturalness_preference": "A", "overall_quality_preference": "B",
        },
        {}, "eloquent-preference-prediction", "hi?", (),
    ),
    "summarize": (
        {
            "info": {"id": "t3", "post": "hi?", "title": "t", "subreddit": "s"}, "worker": "w", "choice": 1,
            "summaries": [{"text": "no", "policy": "sup1"}, {"text": "yes", "policy": "ref"}],
        },
        {}, "summarize-from-feedback", "hi?", (),
    ),
    "distilabel": (
        {
            "gen": "g", "instruction": "hi?", "model_names": ["a", "b"], "generations": ["no", "yes"],
            "ratings": [2, 5], "rationales": ["r", "s"], "model_name": "gpt-4",
        },
        {}, "distilabel-generations", "hi?", (3.0,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_public_data_sets_are_read(name: str, tmp_path: Path):
    """Shape, prompt, the better response over the worse, and by how much."""
    row, columns, shape, prompt, margins = ROWS[name]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    reader = Reader(path, purpose="pairs", columns=columns)
    (example,) = reader
    pairs = [(example.responses[good], example.responses[bad]) for good, bad in example.pairs]
    assert (reader.shape, example.prompt, pairs, example.margins) == (shape, prompt, [("yes", "no")], margins)


@pytest.mark.parametrize("verdict", ["tie", "both", "Tie (bothbad)", "equal"])
def test_ties_make_no_pair_and_are_counted(verdict: str, tmp_path: Path):
    """They are accepted rows, so that the numbers of rows add up."""
    row = ROWS["preference-lab"][0]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"gold_label": verdict}) + "\n")
    reader = Reader(path, purpose="pairs", columns={"winner": "gold_label"})
    assert [len(example.pairs) for example in reader] == [1, 0]
    assert (reader.read, reader.accepted, dict(reader.undecided)) == (2, 2, {"tie": 1})


def test_a_verdict_in_unknown_words_is_refused(tmp_path: Path):
    """A number says nothing where the columns have none."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS["preference-lab"][0] | {"gold_label": 2}) + "\n")
    with pytest.raises(BadInputError) as caught:
        list(Reader(path, purpose="pairs", columns={"winner": "gold_label"}))
    assert (
        "field gold_label: expected the winner, such as a, b or tie, or response_a, found a number: 2"
        in str(caught.value)
    )
