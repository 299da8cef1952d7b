"""`run`: run all stages that make an artifact, and skip each stage whose artifact is up to date.

Reads and writes: the files of the stages. Memory: that of the running stage.
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
        name: name of the stage.
        seconds: duration of the stage in seconds, including imports.
        summary: summary that the stage returned; its `fresh` is true if there was nothing to do.
    """

    name: str
    seconds: float
    summary: Any


def run_stages(configs: Mapping[str, StageConfig], *, progress: Phases, note: Note) -> list[RanStage]:
    """Update every artifact, in order; artifacts of other options or data are made again.

    Each stage checks by itself whether its artifact matches its options.

    Args:
        configs: the options of every stage.
        progress: called with the name of the stage, work done and work in all.
        note: called with each message for the user.

    Raises:
        SparseRMError: a stage failed; the error is that of the stage.
        StoppedError: Ctrl-C or SIGTERM arrived.

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
