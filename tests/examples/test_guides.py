"""README and guides: each command is run on a tiny model or says what it needs, and links lead somewhere."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import fitted_run
from typer.testing import CliRunner

from sparserm_cli.cli.main import app
from sparserm_cli.store.artifacts.reward import read_reward

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "examples" / "guides").glob("*.md"))]


def name_of(page: Path) -> str:
    """Name a page in the output of the tests."""
    return str(page.relative_to(ROOT))


BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
PLAIN = {"json", "toml", "mermaid", "text"}
"""Languages of blocks that show something and run nothing."""
OWN_TESTS = {"python.md", "cli.md", "json.md"}
"""Pages whose blocks other tests run, or that are made from the code."""
IN_PLACE_OF = {"smollm2-135m": "tiny", "14": "1", "64": "4"}
"""Words of the pages, and what stands for them here."""
DIRECTIONS: dict[str, int] = {}
"""Directions of the pages, and the number of the one that stands for each here."""
SETTINGS = """
[extract]
data = "pairs.jsonl"
model = "{model}"
layer = 1
[encode]
sae = "sae-1"
[frequency]
val-fraction = 0.25
[select]
top-k = 4
[fit]
val-fraction = 0.25
"""


class Block(NamedTuple):
    """One block of code in a page."""

    mark: str
    """The comment above it: `run`, or what it needs."""
    language: str
    """The word after the fence."""
    body: str
    """Its lines."""


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page in order."""
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield Block(match["mark"] or "", match["language"], match["body"])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_model) -> Path:
    """Lay out what the pages take for granted: data, a settings file and a finished run."""
    folder = tmp_path_factory.mktemp("guides")
    rows = [
        {"prompt": f"Question {n}?", "chosen": "good " * (1 + n % 3), "rejected": "poor " * (1 + n % 3)}
        for n in range(48)
    ]
    fitted_run.run_stages(folder, tiny_model("llama"), rows[:40], top_k=4, val_fraction=0.25)
    generations = [
        {"prompt": row["prompt"], "responses": [row["chosen"], row["rejected"]]} for row in rows[:6]
    ]
    responses = [{"prompt": row["prompt"], "response": row["chosen"]} for row in rows[:6]]
    pool = [{**row, "prompt": f"New {row['prompt']}"} for row in generations]
    files = {"test": rows[40:], "generations": generations, "responses": responses, "pool": pool}
    for name, content in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    (folder / "sparserm.toml").write_text(SETTINGS.format(model=folder / "tiny"))
    return folder


def with_own_directions(word: str, folder: Path) -> str:
    """Put directions of the project's reward model in the place of those of the page."""
    named = re.findall(r"14:\d+", word)
    latents = read_reward(folder / "run" / "reward").config.selection["latents"]["1"] if named else []
    for direction in named:
        number = DIRECTIONS.setdefault(direction, len(DIRECTIONS))
        word = word.replace(direction, f"1:{latents[number]}")
    return word


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_is_run_or_says_what_it_needs(page: Path):
    """A block without a mark shows data, settings, a picture or output."""
    if page.name in OWN_TESTS:
        pytest.skip("other tests run the blocks of this page")
    for block in blocks(page):
        marked = block.mark == "run" or block.mark.startswith("needs: ")
        assert marked != (block.language in PLAIN), block.body


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in OWN_TESTS], ids=name_of)
def test_commands_run(page: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each command of the page ends with 0, in the page's order, on a copy of the project."""
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SPARSERM_RUN", "run")
    for block in blocks(page):
        for line in block.body.splitlines() if block.mark == "run" else ():
            words = shlex.split(line, comments=True)
            assert words[0] == "sparserm", line
            words = [with_own_directions(IN_PLACE_OF.get(word, word), folder) for word in words[1:]]
            done = CliRunner().invoke(app, words, catch_exceptions=False)
            assert done.exit_code == 0, f"{line}\n{done.output}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path):
    """Files and headings that a page links to are there."""
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in anchors, target


def test_the_readme_is_short():
    """A newcomer reads about 160 lines."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160
