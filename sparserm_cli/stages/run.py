"""`run`: all stages that leave an artifact, each skipped when what is there is what its options ask for.

Reads and writes: what the stages read and write. Memory: that of the stage at work.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from importlib import import_module
from typing import Any, NamedTuple

from sparserm_cli.config import STAGES, Note, StageConfig
from sparserm_cli.store.chain import COMPLETE
from sparserm_cli.store.status import status

ARTIFACTS = {
    "extract": "activations",
    "encode": "features",
    "frequency": "frequency",
    "select": "directions",
    "fit": "reward",
}
"""What each stage leaves in the run directory."""

Phases = Callable[[str, int, int], None]
"""Called with (stage, work done, work in all)."""


class RanStage(NamedTuple):
    """One stage of a run.

    Fields:
        name: the stage.
        skipped: what was there is up to date.
        seconds: how long it took, imports included.
        summary: what the stage returned; None if it was skipped.
    """

    name: str
    skipped: bool
    seconds: float
    summary: Any


def run_stages(configs: Mapping[str, StageConfig], *, progress: Phases, note: Note) -> list[RanStage]:
    """Bring every artifact up to date, in order; what other options or data made is made anew.

    Args:
        configs: the options of every stage.
        progress: told the stage and how far it is.
        note: told what is worth knowing on the way.

    Raises:
        SparseRMError: as the stage that fails.
        StoppedError: Ctrl-C or SIGTERM.

    """
    return [_run_stage(name, configs[name], progress, note) for name in STAGES]


def _run_stage(name: str, config: StageConfig, progress: Phases, note: Note) -> RanStage:
    # extract and encode compare content themselves, and continue what was cut off; --force makes them replace
    # what other options made, and nothing else.
    begun = time.monotonic()
    if name in {"extract", "encode"}:
        config = replace(config, force=True)  # type: ignore[call-arg]
    elif is_fresh(name, config):
        note(f"{name} is up to date")
        return RanStage(name, skipped=True, seconds=time.monotonic() - begun, summary=None)
    stage = getattr(import_module(f"sparserm_cli.stages.{name}"), name)
    given: dict[str, Any] = {"note": note}
    if name != "select":
        given["progress"] = lambda done, total: progress(name, done, total)
    summary = stage(config, **given)
    skipped = getattr(summary, "computed", 1) == 0
    return RanStage(name, skipped, time.monotonic() - begun, summary)


def is_fresh(name: str, config: StageConfig) -> bool:
    """Tell whether the stage's artifact is whole, made from its present parents, and with these options."""
    artifact = status(config.run)[ARTIFACTS[name]]
    if artifact.state != COMPLETE or artifact.lineage is None:
        return False
    recorded = artifact.lineage.identity
    asked = {item.name: getattr(config, item.name) for item in fields(config) if item.name in recorded}
    return all(recorded[key] == value for key, value in asked.items())
