"""Small files as public data sets have them, and as reports of faults had them, with what each must become.

`cases.json` holds the rows of each file; `case_file` writes them in the format that its name says.
"""

import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

_ROWS = Path(__file__).parents[1] / "data" / "cases.json"
FILES: dict[str, Any] = json.loads(_ROWS.read_text(encoding="utf-8"))
EGG, PRIME = "How do I boil an egg?", "Name a prime above ten."
GOOD, BAD = "Put it in boiling water for nine minutes.", "Eggs are round."
ASKED = [("user", EGG)]
PIRATE = [("system", "You are a pirate. Answer in one word."), *ASKED]


class Case(NamedTuple):
    """What a file must become: its shape, and its first row's prompt, responses and sides."""

    shape: str
    prompt: Any = EGG
    responses: tuple[str, ...] = (GOOD, BAD)
    sides: tuple[int, ...] = (1, -1)
    margins: tuple[float, ...] = ()
    ignored: str = ""
    """Columns that are not used, with spaces between."""


_IMPLICIT, _TOLD = "conversational preference, implicit prompt", "conversational preference"
SHAPE_CASES = {
    "alpaca_pref.jsonl": Case("preference", f"Answer the question.\n{EGG}"),
    "arena_33k.parquet": Case(
        "arena, conversations", ASKED, ignored="question_id model_a model_b judge anony language tstamp"
    ),
    "arena_55k.csv": Case("arena, lists", ASKED, ignored="model_a model_b"),
    "axolotl_dpo.jsonl": Case(_TOLD, [("system", "Be brief."), *ASKED]),
    "distilabel_orca.jsonl": Case(
        "preference", PIRATE,
        ignored="generations order labelling_model labelling_prompt raw_labelling_response rating rationale "
        "status original_chosen original_rejected in_gsm8k_train",
    ),
    "h4_orca_dpo_pairs.jsonl": Case(_TOLD, [("system", "You are a pirate."), *ASKED], ("Boil it.", "No.")),
    "helpsteer2.jsonl": Case(
        "helpsteer", margins=(3.0,), ignored="correctness coherence complexity verbosity"
    ),
    "helpsteer2_preference.jsonl": Case(
        "helpsteer2-preference", margins=(2.0,),
        ignored="split preference_statement preference_elaboration all_preferences_unprocessed",
    ),
    "helpsteer3_preference.jsonl": Case(
        "helpsteer3-preference", ASKED, margins=(2.0,), ignored="domain language individual_preference"
    ),
    "hh_rlhf.jsonl": Case("hh-rlhf", ASKED),
    "magpie_dpo.parquet": Case(_TOLD, ASKED, ignored="uuid responses rewards_armorm"),
    "mt_bench_human.jsonl": Case("arena, conversations", ASKED, ignored="question_id model_a model_b judge"),
    "nectar.parquet": Case(
        "nectar", ASKED, (GOOD, BAD, f"{BAD} Yes."), (1, 0, -1),
        ignored="turns num_responses source good_natured",
    ),
    "openrlhf_mixture.parquet": Case(_IMPLICIT, ASKED, margins=(0.0,)),
    "orca_dpo_pairs.jsonl": Case("preference", PIRATE),
    "orpo_dpo_mix_40k.parquet": Case(_TOLD, ASKED, ignored="source question"),
    "pku_saferlhf.jsonl": Case(
        "pku-saferlhf", EGG, (BAD, GOOD), (-1, 1),
        ignored="prompt_source response_0_source response_1_source is_response_0_safe is_response_1_safe "
        "response_0_harm_category response_1_harm_category response_0_severity_level "
        "response_1_severity_level better_response_id response_0_sha256 response_1_sha256",
    ),
    "rewardbench2.parquet": Case(
        "reward-bench-2", EGG, (GOOD, BAD, f"{BAD} x", f"{BAD} y"), (1, -1, -1, -1),
        ignored="num_correct num_incorrect total_completions models subset additional_metadata",
    ),
    "rewardbench_v1.parquet": Case("preference", ignored="chosen_model rejected_model subset"),
    "rm_bench.json": Case(
        "rm-bench", EGG, (GOOD, f"{GOOD} a", f"{GOOD} b", BAD, f"{BAD} a", f"{BAD} b"),
        (1, 1, 1, -1, -1, -1), ignored="domain",
    ),
    "sharegpt_pref.jsonl": Case(_TOLD, ASKED),
    "shp.jsonl": Case(
        "shp",
        ignored="post_id domain upvote_ratio c_root_id_A c_root_id_B created_at_utc_A created_at_utc_B "
        "score_A score_B seconds_difference score_ratio",
    ),
    "skywork_80k.parquet": Case(_IMPLICIT, ASKED, ignored="source"),
    "stack_exchange_paired.jsonl": Case("stack-exchange-paired", ignored="qid date metadata"),
    "tulu3_8b_mixture.parquet": Case(_TOLD, ASKED, ignored="source chosen_model rejected_model"),
    "tulu3_multiturn_prompt_first.parquet": Case(
        _TOLD, [("user", "Hi, I cook."), ("assistant", "Great!"), ("user", "How long for an egg?")],
        ("Nine minutes.", "A year."), ignored="source",
    ),
    "ultrafeedback_binarized.parquet": Case(_TOLD, ASKED, margins=(4.5,), ignored="prompt_id messages"),
    "ultrafeedback_raw.jsonl": Case(
        "ultrafeedback", [("system", "Be nice."), *ASKED], margins=(5.0,),
        ignored="source models correct_answers incorrect_answers",
    ),
    "webgpt.jsonl": Case("webgpt", margins=(1.32,), ignored="quotes_0 tokens_0 quotes_1 tokens_1"),
}  # fmt: skip
"""File of `shapes/` to what it must become."""

_YES = ("Yes.", "No.")
_HI = [("user", "Hi?")]
_WEATHER = [("user", "Weather in Oslo?"), ("assistant", ""), ("tool", '{"t": -3}')]
_FRANCE = ("The capital is Paris.", "The capital is Lyon.")
_SEA = [("system", "Answer like a pirate."), ("user", "What is the capital of France?")]
_PRIMES = [("system", "Answer like a pirate."), ("user", "Name a prime above ten.")]
TRAP_CASES = {
    "a1_question_shared_words.jsonl": Case("preference", _SEA, _FRANCE),
    "a1_question_shared_words_first_not.jsonl": Case("preference", _PRIMES, ("Eleven.", "Twelve is one.")),
    "a2_messages_chosen_str_shared.jsonl": Case("preference", _SEA[1:], _FRANCE),
    "b1_system_col.jsonl": Case("preference", _SEA, _FRANCE, ignored="question"),
    "c1_tools_history_empty_content.jsonl": Case(_TOLD, _WEATHER, ("It is minus three.", "It is hot.")),
    "c2_tools_history_null_content.jsonl": Case(_TOLD, _WEATHER, ("It is minus three.", "It is hot.")),
    "c5_response_tool_call_same_text.jsonl": Case(_TOLD, _WEATHER[:1], ("Let me look.", "Let me look.")),
    "d1_reasoning_content.jsonl": Case(_TOLD, [("user", "2+2?")], ("4.", "5.")),
    "d2_thinking_only_differs.jsonl": Case(_TOLD, [("user", "2+2?")], ("4.", "4.")),
    "e1_text_parts.jsonl": Case(_TOLD, _HI, _YES),
    "f2_identical.jsonl": Case("preference, implicit prompt", "The sky is", (" blue", " blue")),
    "g5_hh_no_leading.jsonl": Case("hh-rlhf", [("user", "Hi")], ("Hello", "Yo there")),
    "g6_hh_prompt_col.jsonl": Case("preference", [("user", "Hi")], ("Hello", "Yo there")),
    "i1_float_id.jsonl": Case("preference", "Hi?", _YES),
    "i2_object_id.jsonl": Case("preference", "Hi?", _YES),
    "i3_bool_id.jsonl": Case("preference", "Hi?", _YES),
    "identical.jsonl": Case("preference", "Hi?", ("Yes.", "Yes.")),
    "k1_json_string_messages.jsonl": Case(_IMPLICIT, _HI, _YES),
    "k5_semicolon.csv": Case("preference", "Hi?", _YES),
    "k8_utf16.csv": Case("preference", "Hi?", _YES),
    "k10.tsv": Case("preference", "Hi?", _YES),
    "k13_truthfulqa_hf_generation.jsonl": Case(
        "truthfulqa, generation", "Is it?", ("Yes", "Yes it is", "No", "Never"), (1, 1, -1, -1),
        ignored="type category best_answer source",
    ),
    "k14_truthfulqa_hf_mc.jsonl": Case(
        "truthfulqa, multiple choice", "Is it?", ("Yes", "Yes it is", "No"), (1, 1, -1), ignored="mc1_targets"
    ),
    "m1_templated_strings.jsonl": Case(
        "preference", "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n",
        ("Yes.<|im_end|>", "No.<|im_end|>"),
    ),
    "n1_mixed_system.jsonl": Case(_TOLD, _HI, _YES),
    "o6_roles_human_gpt.jsonl": Case(_TOLD, _HI, _YES),
    "p4.ndjson": Case("preference", "Hi?", _YES),
    "p6.csv.gz": Case("preference", "Hi?", _YES),
    "prefill.jsonl": Case(_TOLD, [("user", "2+2?"), ("assistant", "The answer is")], (" 4.", " 5.")),
    "rb2_ties_only_tied.jsonl": Case(
        "reward-bench-2", "Name a colour of the rainbow.", ("Red.", "Blue.", "Green.", "Dog.", "Cat."),
        (1, 1, 1, -1, -1), ignored="num_correct num_incorrect total_completions subset",
    ),
    "shards": Case("preference", "Hi 0?", _YES),
    "typo2.jsonl": Case("preference", "What is the capital of France?", _FRANCE),
    "ultrainteract_pair.parquet": Case(
        "preference", [("user", "Tom has 3 apples and buys 4. How many?")],
        ("Step 1: Add the numbers.\n3 + 4 = 7.", "Step 1: Add the numbers wrongly.\n3 + 4 = 8."),
        ignored="task dataset parent_id",
    ),
}  # fmt: skip
"""File or folder of `data/` that is read without options to what it must become."""


def case_file(name: str, folder: Path) -> Path:
    """Write a file of the cases (or all of a folder of them) and return its path."""
    inside = [key for key in FILES if key.startswith(f"{name}/")]
    for key in inside:
        case_file(key, folder)
    path = folder / name
    if inside:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FILES[name]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(held), path)
    elif isinstance(held, str):
        data = held.encode("utf-16" if "utf16" in name else "utf-8")
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    elif path.suffix == ".json":
        path.write_text(json.dumps(held), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in held), encoding="utf-8")
    return path
