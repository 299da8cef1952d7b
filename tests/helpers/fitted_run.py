"""A reward model fitted on the tiny model in this process: what every test of its use begins with."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers import sae_files

QUIET: dict[str, Any] = {"progress": lambda _done, _total: None, "note": lambda _text: None}
D_IN = 32
"""Width of the tiny models."""
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
        "import sys; from sparserm_cli.stages.score import responses; responses.WINDOW_ROWS = 2; "
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


def run_stages(
    folder: Path,
    model: Path,
    rows: list[Any],
    *,
    layers: tuple[int, ...] = (1,),
    top_k: int = 6,
    val_fraction: float = 0.2,
    extract_options: Mapping[str, Any] | None = None,
    fit_options: Mapping[str, Any] | None = None,
) -> Path:
    """Run every stage in `folder`, with SAEs that reconstruct exactly, and return the run directory.

    Args:
        folder: where to; the run is `folder/run`, its data `folder/pairs.jsonl`.
        model: a tiny model's folder, linked as `folder/tiny`.
        rows: the data.
        layers: captured, with an SAE each.
        top_k: directions a side.
        val_fraction: of the prompts, for counting and fitting.
        extract_options: more options of extract.
        fit_options: more options of fit.

    """
    from sparserm_cli.config import EncodeConfig, ExtractConfig, FitConfig, FrequencyConfig, SelectConfig
    from sparserm_cli.stages.encode.encode import encode
    from sparserm_cli.stages.extract.extract import extract
    from sparserm_cli.stages.fit.fit import fit
    from sparserm_cli.stages.frequency.frequency import frequency
    from sparserm_cli.stages.select.select import select

    (folder / "tiny").symlink_to(model)
    data, place = write_rows(folder / "pairs.jsonl", rows), {"run": folder / "run"}
    options = {"model": str(folder / "tiny"), "layer": layers, "dtype": "float32", **(extract_options or {})}
    extract(ExtractConfig(data=data, **options, **place), **QUIET)
    saes = [sae_files.perfect_sae(D_IN, hook=f"blocks.{layer}.hook_resid_post") for layer in layers]
    stored = [
        sae_files.save_sae(folder / f"sae-{layer}", sae) for layer, sae in zip(layers, saes, strict=True)
    ]
    encode(EncodeConfig(sae=tuple(stored), **place), **QUIET)
    frequency(FrequencyConfig(val_fraction=val_fraction, **place), **QUIET)
    select(SelectConfig(top_k=top_k, **place), note=QUIET["note"])
    fit(FitConfig(val_fraction=val_fraction, **(fit_options or {}), **place), **QUIET)
    return folder / "run"


def fit_tiny(folder: Path, model: Path, **options: Any) -> Path:
    """Fit on thirty pairs, good against poor; `options` are those of extract. Returns the run directory."""
    return run_stages(folder, model, ROWS[:30], extract_options=options)
