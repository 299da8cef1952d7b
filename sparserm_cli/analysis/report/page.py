"""The report as one HTML page that needs nothing else: text by a template, figures as inline SVG.

The page's own security policy forbids every request, so that it is the browser that keeps it offline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from sparserm_cli.analysis.report.content.directions import DirectionRow
from sparserm_cli.analysis.report.content.explanations import ExplainedPair, Part
from sparserm_cli.analysis.report.content.side_by_side import SideBySide
from sparserm_cli.analysis.report.content.tables import AccuracyTable, ArtifactRow, WrongPair, interval
from sparserm_cli.analysis.report.figures.base import Figure
from sparserm_cli.analysis.report.figures.svg import figure_svg
from sparserm_cli.analysis.report.figures.sweeps import ComparedRun
from sparserm_cli.analysis.report.run_facts import Missing
from sparserm_cli.formatting import percent
from sparserm_cli.statistics.calibration import LengthBias
from sparserm_cli.store.io.atomic import atomic_file
from sparserm_cli.store.io.storage import storage_of

_TEMPLATE, _STYLE, _SCRIPT = "report.html.jinja", "report.css", "report.js"


class Card(NamedTuple):
    """One number at the top of the page.

    Fields:
        label: what it is.
        value: the number as text.
        note: what to know of it.
    """

    label: str
    value: str
    note: str


class Evaluated(NamedTuple):
    """Accuracies on held-out data.

    Fields:
        on: the data in words.
        table: the accuracies.
        verdict: how the reward model stands beside its controls, in one sentence.
    """

    on: str
    table: AccuracyTable
    verdict: str


class DirectionTable(NamedTuple):
    """The directions that are shown.

    Fields:
        statistic: what they were chosen by.
        rows: one row per direction.
        named: number of rows with a name; None where nothing describes the directions.
        hidden: how many are not shown.
        contexts: why it is not shown where their latents fire, if it is not.
        ends: why the responses at their ends are not shown, if they are not.
    """

    statistic: str
    rows: Sequence[DirectionRow]
    named: int | None
    hidden: int
    contexts: Missing | None
    ends: Missing | None


class WrongTable(NamedTuple):
    """The pairs that are most wrong.

    Fields:
        rows: one a pair.
        frame: what the chat template puts before and after each prompt.
    """

    rows: Sequence[WrongPair]
    frame: tuple[str, str]


class Origin(NamedTuple):
    """The origin of the run.

    Fields:
        artifacts: the chain.
        inputs: path, bytes and sha256 of each input file.
        packages: package and version of the capture.
    """

    artifacts: Sequence[ArtifactRow]
    inputs: Sequence[tuple[str, str, str]]
    packages: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Page:
    """Everything that a report shows."""

    run: str
    """The run directory, as it was named."""
    made: str
    """By what and when."""
    what: str
    """The reward model in one line."""
    warnings: Sequence[str]
    """Warnings about the run, such as a stale artifact."""
    cards: Sequence[Card]
    """The numbers at the top."""
    evaluation: Evaluated | Missing
    """Accuracies that `evaluate` measured."""
    fit: AccuracyTable | Missing
    """Accuracies that `fit` measured."""
    fit_verdict: str
    """How the reward model stands beside its controls on the validation prompts; nothing without a fit."""
    comparison: Sequence[ComparedRun]
    """What `compare` measured; nothing where it was not run."""
    figures: Mapping[str, Figure | Missing]
    """Name to figure."""
    frequencies: Mapping[int, str] | Missing
    """Layer to the name of its frequency figure."""
    counted: str
    """Whether rates are shares of tokens or of responses."""
    directions: DirectionTable | Missing
    """The directions."""
    calibration: Mapping[str, float]
    """Set of pairs to expected calibration error."""
    length: Mapping[str, LengthBias] | Missing
    """Set of pairs to what length has to do with their scores."""
    wrong: WrongTable | Missing
    """The most wrong pairs."""
    explained: Mapping[str, Sequence[ExplainedPair]] | Missing
    """The most wrong and the most right pairs with the parts of their scores."""
    beside: SideBySide | None
    """Another run beside this one; None without one."""
    origin: Origin
    """The origin of the run."""

    def direction(self, part: Part) -> DirectionRow | None:
        """Return the row of the direction that a part of a score belongs to, if it is shown."""
        rows = () if isinstance(self.directions, Missing) else self.directions.rows
        return next((row for row in rows if (row.layer, row.number) == part[:2]), None)

    def explains(self, row: DirectionRow) -> list[tuple[ExplainedPair, str, float]]:
        """Return the explained pairs in which a direction is among the largest parts: pair, side and part."""
        if isinstance(self.explained, Missing):
            return []
        return [
            (pair, side, part.adds)
            for pairs in self.explained.values()
            for pair in pairs
            for side, response in (("chosen", pair.chosen), ("rejected", pair.rejected))
            for part in response.parts
            if part[:2] == (row.layer, row.number)
        ]

    def missing(self) -> dict[str, str]:
        """Return the parts that are not shown, with the reason."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(self.directions, DirectionTable):
            parts |= {
                "contexts of directions": self.directions.contexts,
                "ends of directions": self.directions.ends,
            }
        parts |= {name.replace("-", " "): figure for name, figure in self.figures.items()}
        return {name: part.reason for name, part in parts.items() if isinstance(part, Missing)}


def write_page(path: PurePath, page: Page) -> int:
    """Write the page whole or not at all, and return its size in bytes.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.

    """
    stream = (
        _environment()
        .get_template(_TEMPLATE)
        .stream(
            page=page,
            style=_asset(_STYLE),
            script=_asset(_SCRIPT),
        )
    )
    storage_of(path.parent).make_folder()
    with atomic_file(path) as part:
        stream.dump(str(part), encoding="utf-8")
        return part.stat().st_size


def _environment() -> Any:
    """Return the template engine: every value is escaped, and a name that is not there is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "signed": _signed, "short": _short}
    environment.globals |= {"interval": interval, "drawing": figure_svg}
    environment.tests["missing"] = lambda value: isinstance(value, Missing)
    return environment


def _asset(name: str) -> str:
    """Read a file that lies beside this one."""
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _signed(value: float | None, digits: int = 2) -> str:
    """Write a number with its sign; "" for none."""
    return "" if value is None or np.isnan(value) else f"{value:+.{digits}f}"


def _short(value: float) -> str:
    """Write a small number in one digit; "" for NaN."""
    return "" if np.isnan(value) else f"{value:.1g}"
