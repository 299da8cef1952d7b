"""`run`: all stages that leave an artifact, each skipped when what is there is what its options ask for.

Reads and writes: what the stages read and write. Memory: that of the stage at work.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any, NamedTuple

from sparserm_cli.config import STAGES, Note, Phases, StageConfig


class RanStage(NamedTuple):
    """One stage of a run.

    Fields:
        name: the stage.
        seconds: how long it took, imports included.
        summary: what the stage returned; `fresh` tells whether there was nothing to do.
    """

    name: str
    seconds: float
    summary: Any


def run_stages(configs: Mapping[str, StageConfig], *, progress: Phases, note: Note) -> list[RanStage]:
    """Bring every artifact up to date, in order; what other options or data made is made anew.

    Each stage finds for itself whether what is there is what its options ask for.

    Args:
        configs: the options of every stage.
        progress: told the stage and how far it is.
        note: told what is worth knowing on the way.

    Raises:
        SparseRMError: as the stage that fails.
        StoppedError: Ctrl-C or SIGTERM.

    """
    return [_run_stage(name, configs, progress, note) for name in STAGES]


def _run_stage(name: str, configs: Mapping[str, StageConfig], progress: Phases, note: Note) -> RanStage:
    begun, config = time.monotonic(), configs[name]
    # --force makes extract and encode replace what other options made, and nothing else.
    if name in {"extract", "encode"}:
        config = replace(config, force=True)  # type: ignore[call-arg]
    stage = getattr(import_module(f"sparserm_cli.stages.{name}.{name}"), name)
    given: dict[str, Any] = {"note": note}
    if name == "extract":
        given["later"] = configs["encode"]
    if name != "select":
        given["progress"] = lambda done, total: progress(name, done, total)
    summary = stage(config, **given)
    return RanStage(name, time.monotonic() - begun, summary)
