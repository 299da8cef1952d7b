"""A whole run with the tiny model and SAEs that reconstruct exactly, to explain and to report on."""

import json
from pathlib import Path
from runpy import run_path
from typing import Any

from sparserm_cli.config import EncodeConfig, ExtractConfig, FitConfig, FrequencyConfig, SelectConfig
from sparserm_cli.stages.encode import encode
from sparserm_cli.stages.extract import extract
from sparserm_cli.stages.fit import fit
from sparserm_cli.stages.frequency import frequency
from sparserm_cli.stages.select import select

D_IN = 32
NASTY = '<script>alert("x")</script> & <b>bold</b>'


def pair(n: int) -> dict[str, str]:
    """Give a pair; every fifth has its labels swapped, so that a fit cannot be right everywhere."""
    texts = f"Yes, {n} is good{'.' * (n % 4)}", f"no{' never' * (n % 3)} {NASTY}"
    chosen, rejected = texts[::-1] if n % 5 == 3 else texts
    return {"prompt": f"Question {n}? {NASTY if n == 7 else ''}", "chosen": chosen, "rejected": rejected}


ROWS = [pair(n) for n in range(40)]
"""Forty pairs; some of their text would run in a page that does not escape it."""
sae_fixtures = run_path(str(Path(__file__).parents[1] / "models" / "sae_fixtures.py"))


def quiet(*_: object) -> None:
    """Neither progress nor notes."""


def tiny_run(folder: Path, model: Path, *, layers: tuple[int, ...] = (1,), **head: Any) -> Path:
    """Make a run directory with every artifact of the chain, in several units.

    Args:
        folder: where to; the run is `folder/run`, its data `folder/pairs.jsonl`.
        model: a tiny model's folder.
        layers: captured, with an SAE each.
        head: options of the fit.

    """
    run, data = folder / "run", folder / "pairs.jsonl"
    (folder / "tiny").symlink_to(model)
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    asked = ExtractConfig(
        run=run,
        data=str(data),
        model=str(folder / "tiny"),
        layer=layers,
        dtype="float32",
        unit_tokens=700,
    )
    extract(asked, progress=quiet, note=quiet)
    saes = []
    for layer in layers:
        sae = sae_fixtures["perfect_sae"](D_IN, hook=f"blocks.{layer}.hook_resid_post")
        saes.append(sae_fixtures["save_sae"](folder / f"sae-{layer}", sae))
    encode(EncodeConfig(run=run, sae=tuple(saes)), progress=quiet, note=quiet)
    frequency(FrequencyConfig(run=run, val_fraction=0.25), progress=quiet, note=quiet)
    select(SelectConfig(run=run, top_k=4), note=quiet)
    fit(
        FitConfig(run=run, val_fraction=0.25, **{"head": "linear", "loss": "bt", **head}),
        progress=quiet,
        note=quiet,
    )
    return run
