"""The report on a tiny run: every section, what is missing, nothing that runs or loads, in a browser."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_run

from sparserm_cli.analysis.describe.describe import describe
from sparserm_cli.analysis.evaluate.evaluate import evaluate
from sparserm_cli.analysis.report.content.directions import shown_directions
from sparserm_cli.analysis.report.content.explanations import explained_pairs
from sparserm_cli.analysis.report.content.stored_scores import most_right, pair_scores, stored_scores
from sparserm_cli.analysis.report.content.texts import Words
from sparserm_cli.analysis.report.figures.sweeps import sweep_figure, sweep_figures
from sparserm_cli.analysis.report.report import ReportSummary, report
from sparserm_cli.config import DescribeConfig, EvaluateConfig, ReportConfig
from sparserm_cli.errors import CorruptStoreError, IncompatibleError, UsageError
from sparserm_cli.models.checkpoints.resolve import load_tokenizer
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.store.artifacts.descriptions import read_descriptions, write_descriptions
from sparserm_cli.store.artifacts.directions import LayerDirections, directions_path, read_directions
from sparserm_cli.store.artifacts.frequency import frequency_path
from sparserm_cli.store.artifacts.results import COMPARISON, EVALUATION
from sparserm_cli.store.artifacts.reward import read_reward, reward_path
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.features.artifact import features_path

tiny_run, NASTY, quiet = tiny_run.tiny_run, tiny_run.NASTY, tiny_run.quiet
SECTIONS = [
    "accuracy",
    "frequency",
    "directions",
    "scores",
    "calibration",
    "length",
    "explained",
    "wrong",
    "provenance",
]
FIGURES = {
    "accuracy-figure",
    "frequency-figure-1",
    "frequency-figure-2",
    "score-figure",
    "margin-figure",
    "reliability-figure",
    "length-figure",
    "length-accuracy-figure",
}
CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--enable-logging=stderr",
    "--virtual-time-budget=10000",
    "--window-size=1280,800",
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium")


class Parsed(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and the text outside scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        """Leave an element."""
        self._inside = ""

    def handle_data(self, data: str) -> None:
        """Note text."""
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.text += data

    def ids(self) -> list[str | None]:
        """Return the ids of all elements that have one."""
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """Give a run of two layers with an evaluation and a report; tests do not change it."""
    run = tiny_run(tmp_path_factory.mktemp("run"), tiny_model(), layers=(1, 2))
    rows = [{"prompt": f"Other {n}?", "chosen": "Yes, it is.", "rejected": f"no {n}"} for n in range(30)]
    held_out = run.parent / "held-out.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate(EvaluateConfig(run=run, file=str(held_out)), progress=quiet, note=quiet)
    do(run)
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """Give a copy of the run to be spoilt."""
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    return tmp_path / "run"


def do(run: Path, **options: Any) -> ReportSummary:
    """Report quietly."""
    return report(ReportConfig(run=run, **options), progress=quiet, note=quiet)


def page_of(run: Path) -> Parsed:
    """Read the report of a run."""
    return Parsed((run / "report.html").read_text(encoding="utf-8"))


def test_every_section_and_figure_is_there(whole: Path) -> None:
    """In order, each figure with its data; nothing is reported missing."""
    summary, page = do(whole), page_of(whole)
    assert summary.missing == {}
    assert (summary.path, summary.bytes) == (whole / "report.html", (whole / "report.html").stat().st_size)
    assert summary.pairs == 40
    assert [section for section in page.ids() if section in SECTIONS] == SECTIONS
    assert {figure for figure in page.ids() if figure in FIGURES} == FIGURES
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    # The frequencies of both layers are drawn on two kinds of axes, and each card has its activations.
    assert len(drawings) == len(FIGURES) + 2 + 16
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in drawings)
    assert summary.bytes < 1_500_000
    assert "Not shown" not in page.text


def test_headline_is_the_held_out_accuracy_beside_the_best_control(whole: Path) -> None:
    """The numbers are those of evaluation.json, the tables name every scorer."""
    scorers = json.loads(EVALUATION.path(whole).read_text())["scorers"]
    text = " ".join(page_of(whole).text.split())
    own = scorers["reward"]
    interval = f"{100 * own['low']:.1f} to {100 * own['high']:.1f} %"
    assert f"Held-out accuracy{100 * own['accuracy']:.1f} %{interval}, 30 pairs" in text
    best = max(scorer["accuracy"] for name, scorer in scorers.items() if name != "reward")
    assert f"Best control{100 * best:.1f} %" in text
    for name in [*scorers, *(metric.scorer for metric in read_reward(reward_path(whole)).config.metrics)]:
        assert name in text


def test_text_of_the_data_is_shown_and_never_runs(whole: Path) -> None:
    """Markup in prompts and responses stays text; the page has no element of it."""
    page = page_of(whole)
    assert NASTY in page.text
    assert [tag for tag, _ in page.elements if tag == "script"] == ["script"]
    assert NASTY not in (whole / "report.html").read_text(encoding="utf-8")
    wrong = page.text[page.text.index("Most wrong pairs") : page.text.index("Every artifact knows")]
    assert NASTY in wrong


def test_nothing_is_loaded_from_anywhere(whole: Path) -> None:
    """No address in any attribute or style, and the page itself forbids every request."""
    page = page_of(whole)
    addresses = ("src", "href", "action", "srcset", "poster", "data", "formaction", "background")
    links = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in addresses
    ]
    assert links
    assert all(value is not None and value.startswith("#") for value in links)
    text = (whole / "report.html").read_text(encoding="utf-8")
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"url\(|@import|https?:", style)
    (policy,) = [
        attributes["content"]
        for tag, attributes in page.elements
        if "http-equiv" in attributes and tag == "meta"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline';")


def test_each_direction_has_its_card(whole: Path) -> None:
    """Sixteen directions: contexts, responses at either end, activations, and the weight in the head."""
    page = page_of(whole)
    cards = [
        attributes
        for tag, attributes in page.elements
        if tag == "details" and attributes.get("class") == "direction"
    ]
    assert len(cards) == 16
    headings = (
        "Fires most strongly",
        "Fires, over the quantiles of its activations",
        "Responses furthest along it",
        "Responses furthest against it",
        "What is known of it",
    )
    assert [page.text.count(heading) for heading in headings] == [16] * 5
    assert [page.text.count("Fires on "), page.text.count("The axis is logarithmic.")] == [16, 16]
    peaks = [
        attributes for tag, attributes in page.elements if tag == "mark" and attributes.get("class") == "peak"
    ]
    assert 16 * (3 + 1) <= len(peaks) <= 16 * (3 + 5)
    reward = read_reward(reward_path(whole))
    for weight in reward.head.weights["weight"]:
        assert f"{weight:+.3f}" in page.text
        verb = "raises" if weight > 0 else "lowers"
        assert f"standard deviation higher {verb} the score by {abs(weight):.3f}, " in page.text
    assert "Names come from sparserm describe, which has not been run." in page.text.replace("\n", " ")


def test_names_stand_on_the_cards(run: Path) -> None:
    """Those that beat chance; the others are called unnamed, and both can be filtered."""
    describe(DescribeConfig(run=run), progress=quiet, note=quiet)
    descriptions = read_descriptions(run)
    rows = [{**row, "name": None} for row in descriptions.layers[1]]
    rows[0]["name"] = "“yes”, <b>a number</b>"
    write_descriptions(run, replace(descriptions, layers={**descriptions.layers, 1: rows}))
    do(run)
    page = page_of(run)
    named = [
        attributes["data-named"]
        for tag, attributes in page.elements
        if attributes.get("class") == "direction"
    ]
    assert named.count("yes") == 1 + sum(row["name"] is not None for row in descriptions.layers[2])
    assert "“yes”, <b>a number</b>" in page.text
    assert f"unnamed, latent {rows[1]['feature']}" in page.text
    assert page.text.count("Promotes ") == 16
    assert f"{named.count('yes')} of the directions shown have a name" in page.text.replace("\n", " ")


def test_explained_pairs_add_up_and_lead_to_the_cards(whole: Path) -> None:
    """Tokens of both responses, their scores as the reward model gives them, links both ways."""
    page = page_of(whole)
    text = page.text[page.text.index("Explained pairs") : page.text.index("Most wrong pairs")]
    assert "Most wrong" in text
    assert "Most right" in text
    shades = [
        attributes
        for tag, attributes in page.elements
        if tag == "mark" and attributes.get("class") in {"up", "down"}
    ]
    assert len(shades) > 20
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a" and "href" in attributes]
    cards = {str(link)[1:] for link in links if str(link).startswith("#direction-")}
    pairs = {str(link)[1:] for link in links if str(link).startswith("#pair-")}
    assert cards
    assert pairs
    assert cards | pairs <= set(page.ids())
    model = RewardModel.load(whole)
    capture = ActivationsReader(capture_path(whole))
    head, stored = model.head, capture.pairs()
    scores = stored_scores(capture, head, quiet)
    scored = pair_scores(capture, scores.scores)
    numbers = most_right(capture, scored, 2)
    assert scored.margin[numbers[0]] == scored.margin.max()
    words = Words(capture, load_tokenizer(model.lm.identity), range(capture.plan.layout.responses))
    for pair in explained_pairs(capture, head, scored, numbers, words):
        (at,) = np.flatnonzero(stored.row == pair.row)
        chosen = int(stored.chosen[at])
        assert pair.chosen.score == pytest.approx(float(scores.scores[chosen]), abs=1e-4)
        ids = capture.token_ids(chosen)
        assert "".join(shade.text for shade in pair.chosen.tokens) == words.response(chosen, len(ids))
        assert max(abs(shade.share) for shade in (*pair.chosen.tokens, *pair.rejected.tokens)) == 1.0


def test_another_run_stands_beside(run: Path, whole: Path) -> None:
    """The same run twice: every value is there twice, and all latents are in both."""
    do(run, against=whole)
    page = page_of(run)
    table = page.text[page.text.index("Beside another run") : page.text.index("How often latents fire")]
    assert table.count("16 of 16") == 2
    assert str(whole) in table
    own = json.loads(EVALUATION.path(whole).read_text())["scorers"]["reward"]["accuracy"]
    assert table.count(f"{100 * own:.1f} %") >= 2
    EVALUATION.path(run).unlink()
    do(run, against=whole)
    assert "none" in page_of(run).text


def test_many_layers_share_the_cards(whole: Path) -> None:
    """At least sixteen per side and layer; all layers together no more than 64 where that leaves so many."""
    directions = read_directions(whole)
    layer = directions.layers[1]
    values = {field.name: np.repeat(getattr(layer, field.name), 20, axis=0) for field in fields(layer)}
    wide = LayerDirections(**values)
    for layers, per_side in ((1, 64), (2, 32), (8, 16)):
        many = replace(directions, layers=dict.fromkeys(range(layers), wide))
        assert len(shown_directions(many)) == layers * 2 * per_side


def test_provenance_names_digests_of_everything(whole: Path) -> None:
    """Each artifact's, the data's, and the model."""
    page, capture = page_of(whole), ActivationsReader(capture_path(whole))
    expected = [capture.digest, capture.plan.settings.inputs[0].sha256, capture.plan.settings.model_revision]
    expected.append(read_reward(reward_path(whole)).config.lineage.digest)
    for digest in expected:
        assert digest in page.text
    for name in ("activations", "features", "frequency", "directions", "reward", "transformers"):
        assert name in page.text


def test_report_is_the_same_twice_but_for_its_date(whole: Path, tmp_path: Path) -> None:
    """Nothing in it is random; --output puts it elsewhere."""
    pages = []
    for name in ("a.html", "b/c.html"):
        assert do(whole, output=tmp_path / name).path == tmp_path / name
        text = (tmp_path / name).read_text(encoding="utf-8")
        pages.append(re.sub(r"on [0-9-]{10} [0-9:]{5} UTC", "", text))
    assert pages[0] == pages[1]


def test_without_evaluation_the_validation_pairs_lead(run: Path) -> None:
    """And the page says what to run."""
    EVALUATION.path(run).unlink()
    summary, page = do(run), page_of(run)
    assert summary.missing == {"evaluation": "no held-out evaluation: run `sparserm evaluate FILE` first"}
    assert "Not shown: no held-out evaluation" in page.text
    assert "Validation accuracy" in page.text


def test_evaluation_of_another_reward_model_is_not_shown(run: Path) -> None:
    """Its figures would stand beside the wrong directions."""
    evaluation = json.loads(EVALUATION.path(run).read_text())
    del evaluation["seal"]
    EVALUATION.write(EVALUATION.path(run), {**evaluation, "reward": "another"})
    assert do(run).missing == {
        "evaluation": f"{EVALUATION.path(run)} is of another reward model: run `sparserm evaluate FILE` again"
    }


def test_calibration_and_length_on_held_out_pairs_come_first(run: Path) -> None:
    """What `evaluate` measured stands before what the fitted pairs show."""
    evaluation = json.loads(EVALUATION.path(run).read_text())
    del evaluation["seal"]
    accuracy = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "pairs": 9, "prompts": 9, "ties": 0}
    measured = {"bins": [{"confidence": 0.75, "right": accuracy}], "error": 0.25}
    lengths = {**evaluation["length_bias"], "correlation": 0.43}
    EVALUATION.write(EVALUATION.path(run), {**evaluation, "reliability": measured, "length_bias": lengths})
    do(run)
    page = page_of(run)
    assert "Expected calibration error on held-out pairs: 25.0 %." in page.text
    assert "Rank correlation of length difference and margin on held-out pairs: +0.43." in page.text
    drawn = (run / "report.html").read_text(encoding="utf-8")
    for name in ("reliability-figure", "length-accuracy-figure"):
        figure = drawn[drawn.index(f'id="{name}"') :].split("</figure>")[0]
        assert all(f">{trace}</text>" in figure for trace in ("held-out", "fitted"))


@pytest.mark.parametrize("benchmark", ["rm-bench", "reward-bench-2"])
def test_other_benchmarks_have_their_tables(benchmark: str, run: Path) -> None:
    """Hard, normal, easy; or a column a subset."""
    evaluation = json.loads(EVALUATION.path(run).read_text())
    for name in ("seal", "pairs"):  # these benchmarks count rows
        del evaluation[name]
    if benchmark == "rm-bench":
        parts = {"hard": 0.25, "normal": 0.5, "easy": 0.75}
        results: dict[str, Any] = {"domains": {"chat": parts, "math": parts}, "total": 0.5}
        expected = ["hard", "normal", "easy", "total", "25.0 %", "31.0 to 71.0 %"]
    else:
        evaluation["prompts"] = {"factuality": 7}
        results = {"subsets": {"factuality": 0.625}, "score": 0.625}
        expected = ["factuality", "score", "62.5 %", "31.0 to 71.0 %"]
    scorers = {name: {**results, "low": 0.31, "high": 0.71} for name in evaluation["scorers"]}
    EVALUATION.write(EVALUATION.path(run), {**evaluation, "benchmark": benchmark, "scorers": scorers})
    assert do(run).missing == {}
    text = page_of(run).text
    assert f"by the rules of {benchmark}" in text
    for cell in expected:
        assert cell in text
    assert "Validation accuracy" in text


def test_without_features_there_are_no_contexts(run: Path) -> None:
    """Everything else is shown."""
    shutil.rmtree(features_path(run))
    missing = do(run).missing
    assert list(missing) == ["contexts of directions"]
    assert missing["contexts of directions"].endswith("found nothing; run `sparserm encode` first")
    text = page_of(run).text
    assert "Fires most strongly" not in text
    assert "Responses furthest along it" in text


def test_before_the_fit_there_are_frequencies_and_contexts(run: Path) -> None:
    """No reward model: no scores, no calibration, no wrong pairs."""
    shutil.rmtree(reward_path(run))
    summary, page = do(run), page_of(run)
    assert summary.pairs == 0
    assert {"fit", "length", "wrong", "ends of directions", "score figure"} <= set(summary.missing)
    assert {name for name in page.ids() if name in FIGURES} == {"frequency-figure-1", "frequency-figure-2"}
    assert "Fires most strongly" in page.text
    assert [section for section in page.ids() if section in SECTIONS] == SECTIONS


def test_a_capture_alone_is_a_report(run: Path) -> None:
    """Every later section names the stage to run."""
    for path in (features_path(run), directions_path(run), reward_path(run)):
        shutil.rmtree(path)
    frequency_path(run).unlink()
    EVALUATION.path(run).unlink()
    missing = do(run).missing
    assert "run `sparserm frequency` first" in missing["frequencies"]
    assert "run `sparserm select` first" in missing["directions"]
    assert "run `sparserm fit` first" in missing["fit"]


def test_without_the_model_there_are_no_texts(run: Path) -> None:
    """The tokenizer is gone; numbers and figures are shown."""
    model = run.parent / "elsewhere"
    missing = do(run, model=str(model)).missing
    assert set(missing) == {"wrong", "explained", "contexts of directions", "ends of directions"}
    assert all(str(model) in reason for reason in missing.values())


def test_a_stale_artifact_is_named_on_top(run: Path) -> None:
    """The data have changed since."""
    settings = ActivationsReader(capture_path(run)).plan.settings
    data = Path(settings.inputs[0].path)
    before = data.read_bytes()
    try:
        data.write_bytes(before.replace(b"good", b"fine"))
        do(run)
    finally:
        data.write_bytes(before)
    assert "activations is stale: " in page_of(run).text


def test_a_damaged_artifact_is_an_error(run: Path) -> None:
    """Figures of damaged bytes would be worse than none."""
    (directions_path(run) / "directions.json").write_text("{}")
    with pytest.raises(CorruptStoreError):
        do(run)
    assert not (run / "report.html").exists()


def swept(names: tuple[str, ...], value: float) -> list[dict[str, Any]]:
    """Give rows as `compare` tells them."""
    ahead = {"value": 0.05, "low": 0.01, "high": 0.09, "p": 0.01}
    return [
        {
            "method": {"name": name},
            "accuracy": {"accuracy": value - 0.05 * i, "low": value - 0.1, "high": value + 0.1},
            "fold_sd": None if i else 0.012,
            "parameters": 1000 + i,
            "seconds": 0.5,
            "against": ahead if i else None,
        }
        for i, name in enumerate(names)
    ]


def test_a_comparison_is_shown_with_its_curves(run: Path) -> None:
    """A line a method along each sweep, the table of methods, the other data; names may be anything."""
    names = ("SparseRM", "random <directions>")
    compared_run = {
        "pairs": 1234,
        "prompts": 99,
        "sweeps": {
            "directions": {"4": swept(names, 0.7), "8": swept(names, 0.8)},
            "methods": {"all": swept(names, 0.75)},
            "labels": {"100": swept(names, 0.6), "all": swept(names, 0.8)},
            "transfer": {"other": swept(names, 0.65)},
        },
    }
    comparison = {"protocol": {"folds": 5}, "runs": {"my run/é": compared_run}}
    COMPARISON.write(COMPARISON.path(run), comparison)
    assert do(run).missing == {}
    page = page_of(run)
    assert "comparison" in page.ids()
    curves = sweep_figures(comparison)
    assert set(curves) == {"sweep-directions-my_20_run_2f__e9_", "sweep-labels-my_20_run_2f__e9_"}
    assert set(curves) <= set(page.ids())
    first, second = curves["sweep-directions-my_20_run_2f__e9_"]["data"]
    assert (first["name"], first["x"], first["y"]) == ("SparseRM", ["4", "8"], [0.7, 0.8])
    assert second["y"] == pytest.approx([0.65, 0.75])
    for text in (
        "1,234 pairs of 99 prompts, 5 folds",
        "random <directions>",
        "75.0 %",
        "1.2",
        "+5.0 [+1.0, +9.0]",
        "SparseRM less this",
        "Tested on other",
    ):
        assert text in page.text


def test_no_two_lines_look_alike() -> None:
    """More methods than colours differ by their dashes, and the figure grows with its legend."""
    few, many = (
        sweep_figure({"4": swept(tuple(map(str, range(number))), 0.7)}, "directions a side")
        for number in (6, 9)
    )
    looks = {(trace["line"]["color"], trace["line"]["dash"]) for trace in many["data"]}
    assert len(looks) == 9
    assert {trace["line"]["dash"] for trace in few["data"]} == {"solid"}
    plots = [figure["layout"]["height"] - figure["layout"]["margin"]["t"] for figure in (few, many)]
    assert plots[0] == plots[1]
    assert many["layout"]["height"] > few["layout"]["height"]


def test_nothing_to_report_on_is_an_error(tmp_path: Path) -> None:
    """An empty directory, and an evaluation that is not there."""
    with pytest.raises(IncompatibleError) as caught:
        do(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: expected a run directory, found none of its artifacts; "
        "run `sparserm extract` first, or name the run directory with --run"
    )


@pytest.mark.parametrize(("name", "command"), [("evaluation", "evaluate"), ("comparison", "compare")])
def test_what_is_named_must_be_there(name: str, command: str, whole: Path) -> None:
    """A typing mistake is no gap."""
    with pytest.raises(UsageError) as caught:
        do(whole, **{name: whole / "no.json"})
    assert str(caught.value) == (
        f"--{name}: expected a file that `sparserm {command}` wrote, found none; correct the path"
    )


def browse(page: Path, folder: Path, *more: str) -> tuple[str, str]:
    """Open a page in headless Chromium; return the page as it is then, and what the browser logged."""
    assert CHROMIUM is not None
    words = [CHROMIUM, *FLAGS, "--dump-dom", f"--user-data-dir={folder}", *more, page.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_every_figure_without_a_complaint(scheme: str, whole: Path, tmp_path: Path) -> None:
    """No console message, every figure is there, the script of the directions ran, and nothing is sent."""
    dark = ("--blink-settings=preferredColorScheme=0",) if scheme == "dark" else ()
    log = tmp_path / "net.json"
    dom, console = browse(whole / "report.html", tmp_path / "profile", f"--log-net-log={log}", *dark)
    assert console == ""
    page = Parsed(dom)
    figures = {attributes["id"] for tag, attributes in page.elements if tag == "figure"}
    assert figures == FIGURES
    (shown,) = (attributes for tag, attributes in page.elements if tag == "output")
    assert shown["id"] == "shown"
    assert "8 of 8 shown" in page.text.replace("16 of 16", "8 of 8")
    assert requested_by_page(log) == []


AXE = Path(sys.prefix) / "axe" / "package" / "axe.min.js"
FAILURES = "r.violations.map(v => [v.id, v.nodes[0].html])"


@pytest.mark.browser
@needs_browser
@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: tests/setup.sh fetches it by npm")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("spoilt", "failures"), [("", []), ("<img src='data:,'>", ["image-alt"])])
def test_axe_finds_no_fault(
    scheme: str, spoilt: str, failures: list[str], whole: Path, tmp_path: Path
) -> None:
    """axe-core names no violation in either theme, and names an image without a text."""
    run = f"axe.run().then(r => {{document.body.textContent = 'AXE' + JSON.stringify({FAILURES}) + 'END'}})"
    scripts = f"<script>{AXE.read_text(encoding='utf-8')}</script><script>{run}</script>"
    page = (whole / "report.html").read_text(encoding="utf-8").replace("</main>", f"{spoilt}</main>")
    page = page.replace('<details class="direction"', '<details open class="direction"')
    (tmp_path / "axe.html").write_text(page.replace("</body>", f"{scripts}</body>"), encoding="utf-8")
    dark = ("--blink-settings=preferredColorScheme=0",) if scheme == "dark" else ()
    dom, _ = browse(tmp_path / "axe.html", tmp_path / "profile", *dark)
    violations = Parsed(dom).text.split("AXE")[1].split("END")[0]
    assert [name for name, _ in json.loads(violations)] == failures


def requested_by_page(log: Path) -> list[str]:
    """Return the addresses on a network that a file's page asked for, from Chromium's own record."""
    text = log.read_text(encoding="utf-8")
    netlog = json.loads(text if text.rstrip().endswith("}") else text.rstrip().rstrip(",") + "]}")
    addresses = []
    for event in netlog["events"]:
        params = event.get("params", {})
        if str(params.get("initiator", "")).startswith(("file:", "null")) and "url" in params:
            addresses.append(params["url"])
    return [url for url in addresses if url.startswith(("http", "ws"))]


@pytest.mark.browser
@needs_browser
def test_the_browser_would_notice(whole: Path, tmp_path: Path) -> None:
    """A script that fails is heard; an image from elsewhere is seen, or refused by the page's own policy."""
    address = "http://127.0.0.1:59999/x.png"
    text = (whole / "report.html").read_text(encoding="utf-8")
    text = text.replace("</body>", f'<img src="{address}"><script>nothing.there</script></body>')
    outcomes = {}
    for name, page in (("with", text), ("without", text.replace("Content-Security-Policy", "nothing"))):
        (tmp_path / f"{name}.html").write_text(page, encoding="utf-8")
        log = tmp_path / f"{name}.json"
        _, console = browse(tmp_path / f"{name}.html", tmp_path / "profile", f"--log-net-log={log}")
        assert "ReferenceError: nothing is not defined" in console
        outcomes[name] = ("violates the following Content Security Policy" in console, requested_by_page(log))
    assert outcomes["with"] == (True, [])
    assert outcomes["without"][0] is False
    assert set(outcomes["without"][1]) == {address}
