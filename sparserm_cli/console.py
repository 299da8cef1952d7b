"""The only place that prints: results on stdout, everything else on stderr.

`--json` makes the result one JSON object on stdout; `--quiet` silences notes and progress, never errors.
rich is imported at its first use, since `--help` must be fast.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from sparserm_cli.config import Progress
from sparserm_cli.errors import SparseRMError, StoppedError
from sparserm_cli.formatting import duration, one_line, plain, strict


class Output:
    """The output of a command, controlled by the two switches that every command has.

    Args:
        as_json: print results as one JSON object.
        quiet: print no notes and no progress.
        carried: options that the suggested next commands need as well, such as ` --run mine`.
        settings: tables of the settings file in use.

    """

    printed = False
    """Whether this process has printed a result."""

    def __init__(
        self,
        *,
        as_json: bool = False,
        quiet: bool = False,
        carried: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.as_json, self.quiet = as_json, quiet
        self._carried, self._settings = carried, settings or {}

    def command(self, name: str, **needed: str) -> str:
        """Return a next command for this run, as it must be typed with the settings file in use.

        Args:
            name: the command and its arguments, such as `score responses.jsonl`.
            needed: options that it needs; those that the settings file has are left out.

        """
        table = self._settings.get(name.split()[0], {})
        words = [f"sparserm {name}"]
        for option, value in needed.items():
            if option not in table and option.replace("_", "-") not in table:
                words.append(f"--{option.replace('_', '-')} {value}")
        return " ".join(words) + self._carried

    def result(self, data: Mapping[str, Any], text: str, *, styled: bool = False) -> None:
        """Print the result of a command: `data` if JSON is requested, otherwise `text`.

        Args:
            data: the result as a JSON object.
            text: the same result for people.
            styled: whether `text` holds colours; text of others in it must already be `plain`.

        """
        Output.printed = True
        if self.as_json:
            text = plain(json.dumps(strict(data), ensure_ascii=False, allow_nan=False))
        elif not styled:
            text = plain(text)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def table(
        self, data: Mapping[str, Any], title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None:
        """Print rows under columns, or `data` if JSON is requested."""
        if self.as_json:
            self.result(data, "")
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for number, column in enumerate(columns):
            table.add_column(
                one_line(column), justify="left" if number == 0 else "right", no_wrap=number == 0
            )
        for row in rows:
            table.add_row(*map(one_line, row))
        width = None if sys.stdout.isatty() else 120
        # rich would wrap a title of its own at the width of the table.
        console = Console(file=sys.stdout, width=width, highlight=False, markup=False)
        console.print(*([plain(title), table] if title else [table]), sep="\n", soft_wrap=True)

    def written(self, output: str, data: Mapping[str, Any], text: str) -> None:
        """Report what a file of results holds; as a note if `output` is "-", since stdout is that file."""
        if output == "-":
            self.note(text)
        else:
            self.result(data, text)

    def note(self, text: str) -> None:
        """Print a note on stderr."""
        if not self.quiet:
            sys.stderr.write(plain(text) + "\n")
            sys.stderr.flush()

    @contextmanager
    def phases(self, unit: str) -> Iterator[Callable[[str, int, int], None]]:
        """Show the progress of work in several named phases; a total of 0 means that it is not known."""
        with ExitStack() as current:
            update: Progress = _silent
            name = ""

            def say(what: str, done: int, total: int) -> None:
                nonlocal update, name
                # A figure after a comma may change within a phase, so only the text before it is the name.
                if what.partition(",")[0] != name:
                    name = what.partition(",")[0]
                    current.close()
                    update = current.enter_context(self.progress(name, unit))
                update(done, total)

            yield say

    @contextmanager
    def progress(self, title: str, unit: str) -> Iterator[Progress]:
        """Show the progress of a stage, its rate and the time left.

        A terminal shows a bar; a log file gets plain lines, at least every 30 seconds.
        """
        title = one_line(title)
        if self.quiet:
            yield _silent
        elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            with _bar(title, unit) as update:
                yield update
        else:
            lines = _LineProgress(title, unit)
            try:
                yield lines
            finally:
                lines.ended.set()


def error(problem: SparseRMError | StoppedError, *, as_json: bool = False) -> None:
    """Print an error as one line on stderr and, with `as_json`, as one JSON object on stdout."""
    sys.stderr.write(f"sparserm: {one_line(str(problem))}\n")
    sys.stderr.flush()
    if as_json:
        error_object(problem)


def error_object(problem: SparseRMError | StoppedError) -> None:
    """Print an error as one JSON object on stdout, unless a result was printed there already."""
    if Output.printed:
        return
    if isinstance(problem, SparseRMError):
        facts = {"where": problem.where, "expected": problem.expected, "found": problem.found}
        facts["next"] = problem.hint
    else:
        facts = {"where": "", "expected": "", "found": str(problem), "next": "run the same command again"}
    Output(as_json=True).result({"error": {"code": problem.exit_code, **facts}}, "")


def _silent(done: int, total: int) -> None:
    """Show nothing."""


@contextmanager
def _bar(title: str, unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + " · {task.fields[rate]}"),
    )
    times = (TimeElapsedColumn(), TextColumn("elapsed,"), TimeRemainingColumn(), TextColumn("left"))
    with Bar(*columns, *times, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, rate="")
        begun, first = time.monotonic(), -1

        def update(done: int, total: int) -> None:
            nonlocal begun, first
            if first < 0:
                begun, first = time.monotonic(), done
            rate = (done - first) / max(time.monotonic() - begun, 1e-6)
            bar.update(
                task, completed=done, total=total or None, rate=f"{rate:,.0f}/s" if done > first else ""
            )

        yield update


class _LineProgress:
    """Plain progress lines for logs, at most every 10 seconds, and every 30 while nothing advances."""

    interval = 10.0
    """Seconds between lines."""
    patience = 30.0
    """Seconds after which a line is printed although nothing has advanced."""

    def __init__(self, title: str, unit: str) -> None:
        self.title, self.unit = title, unit
        self.begun = self.said = time.monotonic()
        self.first = -1
        self.ended = threading.Event()
        threading.Thread(target=self._keep_saying, daemon=True).start()

    def _keep_saying(self) -> None:
        """Print that the work goes on whenever no line was printed for a while."""
        while not self.ended.wait(self.patience):
            now = time.monotonic()
            if now - self.said >= self.patience:
                self.said = now
                sys.stderr.write(f"{self.title}: at work, {duration(now - self.begun)} elapsed\n")
                sys.stderr.flush()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.first < 0:
            self.begun, self.first = now, done
        if now - self.said < self.interval or done <= self.first:
            return
        self.said = now
        rate = (done - self.first) / (now - self.begun)
        out_of = f" of {total:,}" if total else ""
        left = f", {duration((total - done) / rate)} left" if total else ""
        sys.stderr.write(f"{self.title}: {done:,}{out_of} {self.unit}, {rate:,.0f}/s{left}\n")
        sys.stderr.flush()
