"""Fields that all configs share: the run directory, and the division of a stage's work."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Annotated

from sparserm_cli.config.option import AT_LEAST_1, CLUSTER, OUTPUT, Option, check_fields
from sparserm_cli.config.shared import Device, Engine
from sparserm_cli.errors import UsageError
from sparserm_cli.locations import parse_location

STAGES = ("extract", "encode", "frequency", "select", "fit")
"""The stages that leave an artifact in the run directory, in order; `score` reads the last one."""

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_SAE = "smollm2-135m"
"""The SAE for the default model, which is installed with this package."""
DEFAULT_RUN = Path("sparserm-run")

Progress = Callable[[int, int], None]
"""Called with (work done, work in all) as a stage advances; the unit is the stage's own."""

Phases = Callable[[str, int, int], None]
"""Called with (what is done, work done, work in all) where a command does one thing after another."""

Note = Callable[[str], None]
"""Called with a sentence worth telling while a stage works."""


def default_run() -> PurePath:
    """Return `$SPARSERM_RUN` if set, else `./sparserm-run`."""
    return parse_location(os.environ.get("SPARSERM_RUN") or DEFAULT_RUN)


@dataclass(frozen=True)
class StageConfig:
    """Base of all configs, with the run directory, and the check of every field by its type and range."""

    run: Annotated[
        PurePath,
        Option(
            "Run directory that holds the artifacts of all stages, or s3://BUCKET/PREFIX.",
            OUTPUT,
            metavar="DIRECTORY|URL",
            path="always",
        ),
    ] = field(default_factory=default_run)

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            UsageError: a value is of another type, none of the choices, or out of range.

        """
        check_fields(self)


@dataclass(frozen=True)
class EngineConfig(StageConfig):
    """Options of stages whose work can run on several workers."""

    engine: Engine = "serial"
    ray_address: Annotated[
        str | None, Option("Address of a running Ray cluster.", CLUSTER, shown="a local one is started")
    ] = None
    actor_cpus: Annotated[
        int, Option("Number of CPUs, and so of threads, of each Ray actor.", CLUSTER, check=AT_LEAST_1)
    ] = 1
    actor_gpus: Annotated[
        int,
        Option(
            "Number of GPUs of each Ray actor, where the cluster has any and the device is not cpu.",
            CLUSTER,
            check=AT_LEAST_1,
        ),
    ] = 1
    device: Device = "auto"

    def __post_init__(self) -> None:
        """Check that Ray is there and that its options mean something.

        Raises:
            UsageError: Ray is absent or not asked for, or a value is out of range.

        """
        super().__post_init__()
        if self.engine == "ray" and find_spec("ray") is None:
            raise UsageError("--engine ray", "the package ray", "none", "pip install 'sparserm[ray]'")
        if self.engine != "ray" and self.ray_address is not None:
            raise UsageError("--ray-address", "--engine ray beside it", self.engine, "give both or neither")


@dataclass(frozen=True)
class UnitsConfig(EngineConfig):
    """Options of stages that fill a store unit by unit."""

    worker: Annotated[
        tuple[int, int],
        Option(
            "Do only this worker's share of the units, like 0/4 for the first of four.",
            CLUSTER,
            metavar="RANK/WORLD",
            shown="all units",
        ),
    ] = (0, 1)

    def __post_init__(self) -> None:
        """Check that only one of the two shares out the units.

        Raises:
            UsageError: both do, or a value is out of range.

        """
        super().__post_init__()
        if self.engine == "ray" and self.worker != (0, 1):
            raise UsageError("--engine ray", "no --worker beside it", "--worker", "leave one of them out")


def column_map(columns: tuple[str, ...]) -> Mapping[str, str]:
    """Read `("prompt=question",)` as a mapping of our names to the file's.

    Raises:
        UsageError: a part has no equals sign or an empty side.

    """
    parts = {column: column.partition("=") for column in columns}
    for column, (ours, _, theirs) in parts.items():
        if not ours or not theirs:
            raise UsageError(
                "--column", "OURS=THEIRS, like prompt=question", repr(column), "correct the option"
            )
    return {ours: theirs for ours, _, theirs in parts.values()}
