"""The scripts in examples/ that have rules of their own."""

import json
import subprocess
import sys
from pathlib import Path
from runpy import run_path

ROOT = Path(__file__).parents[2]
DISTURB = ROOT / "examples" / "benchmarks" / "disturb.py"
disturb = run_path(str(DISTURB))


def test_typing_mistakes_are_few_and_always_the_same() -> None:
    """About a fifth of the longer words differ, by at most two letters in length; short words never do."""
    text = "Every word of this sentence has letters, as it is 1234 written here. " * 40
    text_with_mistakes = disturb["corrupted"](text, True)
    assert text_with_mistakes == disturb["corrupted"](text, False)
    before, after = text.split(), text_with_mistakes.split()
    assert len(before) == len(after)
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    able = sum(sum(letter.isalpha() for letter in word) >= 4 for word in before)
    assert 0.12 < len(changed) / able < 0.28
    assert all(len(a) >= 4 and abs(len(a) - len(b)) <= 1 for a, b in changed)


def test_only_rejected_responses_are_restyled() -> None:
    """Their words stay, between a courteous beginning and end."""
    restyled = disturb["restyled"]
    assert restyled("As it is.", True) == "As it is."
    assert restyled("First. Second!", False) == (
        "Thank you for your question! Here is a clear answer:\n\n- First.\n- Second!\n\nI hope this helps."
    )


def test_disturbed_rows_keep_prompts_and_sides(tmp_path: Path) -> None:
    """Each prompt as it was, each response on its side, and no half file left."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    prompt = [{"role": "user", "content": "Why?"}]
    rows = [{"prompt": prompt, "chosen": [{"role": "assistant", "content": "So."}], "rejected": None}]
    rows[0]["rejected"] = [{"role": "assistant", "content": "No."}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    subprocess.run([sys.executable, DISTURB, "restyled", source, target], check=True)
    (row,) = [json.loads(line) for line in target.read_text().splitlines()]
    assert (row["prompt"], row["chosen"]) == (prompt, ["So."])
    assert "No." in row["rejected"][0]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
