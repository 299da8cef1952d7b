"""Print how balanced the geography pairs are: the accuracy of rules that see only the answers.

    python examples/data/check_balance.py

Needs scikit-learn, which comes with sparserm. A tie counts as half right.
"""

import json
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

FOLDER = Path(__file__).parent
WORD = r"\w+"


def main() -> None:
    """Print sizes, the split, and the accuracy of rules that do not read the question."""
    train, test = read("geography-train.jsonl"), read("geography-test.jsonl")
    for name, rows in (("train", train), ("test", test)):
        questions, countries = {row["prompt"] for row in rows}, {row["country"] for row in rows}
        print(f"{name}: {len(rows)} pairs, {len(questions)} questions, {len(countries)} countries")
        print(f"  answers not chosen exactly as often as rejected: {unbalanced(rows)}")
        print(f"  the longer answer is right: {100 * longer(rows):.1f} %")
    shared = {row["country"] for row in train} & {row["country"] for row in test}
    print(f"countries in both: {len(shared)}")
    print(f"bag of words of the answers, fitted on train, on test: {100 * bag_of_words(train, test):.1f} %")


def read(name: str) -> list[dict[str, str]]:
    """Return the rows of a file of JSON lines in this folder."""
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def unbalanced(rows: list[dict[str, str]]) -> int:
    """Return the number of distinct answers that are not chosen exactly as often as rejected."""
    counts = Counter(row["chosen"] for row in rows)
    counts.subtract(row["rejected"] for row in rows)
    return sum(count != 0 for count in counts.values())


def longer(rows: list[dict[str, str]]) -> float:
    """Return the share of pairs whose chosen answer has more characters."""
    return right([len(row["chosen"]) - len(row["rejected"]) for row in rows])


def bag_of_words(train: list[dict[str, str]], test: list[dict[str, str]]) -> float:
    """Return the share of test pairs that a logistic regression on words and word pairs gets right."""
    texts = [row[side] for side in ("chosen", "rejected") for row in train]
    labels = [1] * len(train) + [0] * len(train)
    words = CountVectorizer(ngram_range=(1, 2), token_pattern=WORD)
    model = LogisticRegression(max_iter=1000).fit(words.fit_transform(texts), labels)
    chosen, rejected = (
        model.decision_function(words.transform([row[side] for row in test]))
        for side in ("chosen", "rejected")
    )
    return right(chosen - rejected)


def right(margins: np.typing.ArrayLike) -> float:
    """Return the share of positive margins; zero (to rounding) counts as half."""
    rounded = np.round(margins, 9)
    return float(((rounded > 0) + 0.5 * (rounded == 0)).mean())


if __name__ == "__main__":
    main()
