"""A reward model fitted on the tiny model in this process: what every test of its use begins with."""

import json
import os
import subprocess
import sys
from pathlib import Path
from runpy import run_path
from typing import Any

QUIET: dict[str, Any] = {"progress": lambda _done, _total: None, "note": lambda _text: None}
ROWS = [
    {"prompt": f"Question {n}?", "chosen": "good " * (1 + n % 3), "rejected": "poor " * (1 + n % 3)}
    for n in range(40)
]
"""The first thirty are trained on."""


def write_rows(path: Path, rows: list[Any]) -> str:
    """Write rows as JSON lines and return the path as text; a string is a line as it is."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def killed(words: list[str], fault: str) -> None:
    """Run a command, two rows a window, in a process that dies by SIGKILL at a point of `store.faults`."""
    program = (
        "import sys; from sparserm_cli.stages import responses; responses.WINDOW_ROWS = 2; "
        "from sparserm_cli.cli.main import main; sys.argv[0] = 'sparserm'; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env=os.environ | {"SPARSERM_FAULT": fault, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -9, done.stderr


def fit_tiny(folder: Path, model: Path, **options: Any) -> Path:
    """Run every stage in `folder` and return the run directory; `options` are those of extract."""
    from sparserm_cli.config import EncodeConfig, ExtractConfig, FitConfig, FrequencyConfig, SelectConfig
    from sparserm_cli.stages.encode import encode
    from sparserm_cli.stages.extract import extract
    from sparserm_cli.stages.fit import fit
    from sparserm_cli.stages.frequency import frequency
    from sparserm_cli.stages.select import select

    fixtures = run_path(str(Path(__file__).parents[1] / "models" / "sae_fixtures.py"))
    (folder / "tiny").symlink_to(model)
    sae = fixtures["save_sae"](folder / "sae", fixtures["perfect_sae"](32))
    data, place = write_rows(folder / "pairs.jsonl", ROWS[:30]), {"run": folder / "run"}
    asked = {"model": str(folder / "tiny"), "layer": (1,), "dtype": "float32", **options}
    extract(ExtractConfig(data=data, **asked, **place), **QUIET)
    encode(EncodeConfig(sae=(sae,), **place), **QUIET)
    frequency(FrequencyConfig(val_fraction=0.2, **place), **QUIET)
    select(SelectConfig(top_k=6, **place), note=QUIET["note"])
    fit(FitConfig(val_fraction=0.2, **place), **QUIET)
    return folder / "run"
