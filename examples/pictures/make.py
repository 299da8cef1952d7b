"""Make the pictures of the README anew from a finished run: the report as PNG and a terminal session as SVG.

    python examples/pictures/make.py RUN

The report is opened in headless Chromium, which has to be on the PATH. The terminal shows what `sparserm fit`
and `sparserm status` print for the run, which is up to date.
"""

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
CHROMIUM = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,1010")
COLUMNS = 104


def picture_of_report(run: Path) -> None:
    """Write report.png."""
    browser = shutil.which("chromium")
    if browser is None:
        raise SystemExit("make.py: expected chromium on the PATH, found none")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "report.html")
        subprocess.run(
            [sys.executable, "-m", "sparserm_cli", "report", "--run", str(run), "--output", str(page), "-q"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        page.write_text(page.read_text(encoding="utf-8").replace(str(run), run.name), encoding="utf-8")
        shot = f"--screenshot={HERE / 'report.png'}"
        subprocess.run(
            [browser, *CHROMIUM, f"--user-data-dir={folder}/profile", shot, page.as_uri()], check=True
        )


def picture_of_terminal(run: Path) -> None:
    """Write terminal.svg."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    settings = os.environ | {"COLUMNS": str(COLUMNS), "SPARSERM_RUN": run.name, "NO_COLOR": "1"}
    for command in ("fit", "status"):
        words = [sys.executable, "-m", "sparserm_cli", command]
        done = subprocess.run(
            words,
            cwd=run.parent,
            env=settings,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        console.print(Text(f"$ sparserm {command}", style="bold"))
        console.print(Text(done.stdout.replace(f"{run.parent}/", "")))
    (HERE / "terminal.svg").write_text(console.export_svg(title="sparserm"), encoding="utf-8")


if __name__ == "__main__":
    chosen = Path(sys.argv[1]).resolve()
    picture_of_report(chosen)
    picture_of_terminal(chosen)
