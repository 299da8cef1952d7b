"""What all configs share: the run directory, the checks of fields, and how options given as text are read."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sparserm_cli.errors import UsageError
from sparserm_cli.locations import place

STAGES = ("extract", "encode", "frequency", "select", "fit")
"""The stages that leave an artifact in the run directory, in order; `score` reads the last one."""

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_RUN = Path("sparserm-run")

Progress = Callable[[int, int], None]
"""Called with (work done, work in all) as a stage advances; the unit is the stage's own."""

Phases = Callable[[str, int, int], None]
"""Called with (what is done, work done, work in all) where a command does one thing after another."""

Note = Callable[[str], None]
"""Called with a sentence worth telling while a stage works."""


def default_run() -> PurePath:
    """Return `$SPARSERM_RUN` if set, else `./sparserm-run`."""
    return place(os.environ.get("SPARSERM_RUN") or DEFAULT_RUN)


@dataclass(frozen=True)
class StageConfig:
    """What all stages share: the run directory and checks that read the field types."""

    run: PurePath = field(default_factory=default_run)
    """Run directory that holds the artifacts of all stages; `place("s3://bucket/run")` on an object store."""

    def __post_init__(self) -> None:
        """Check every field that has a fixed set of values or must be positive."""
        hints = get_type_hints(type(self))
        for item in fields(self):
            value, hint = getattr(self, item.name), hints[item.name]
            option = "--" + item.name.replace("_", "-")
            choices = _choices(hint)
            if choices and value not in choices:
                listed = ", ".join(str(choice) for choice in choices if choice is not None)
                raise UsageError(option, f"one of {listed}", repr(value), "correct the option")
            self._check_number(option, item.name, value)

    @staticmethod
    def _check_number(option: str, name: str, value: Any) -> None:
        if name in {"tokens_per_second", "price_per_hour"} and value is not None and not 0 < value < math.inf:
            raise UsageError(option, "a number above 0", str(value), "correct the option")
        if name.endswith("_fraction") and not 0 <= value < 1:
            raise UsageError(option, "a share from 0 up to, but not, 1", str(value), "correct the option")
        positive = name in {
            "top_k",
            "chunk_rows",
            "batch_tokens",
            "max_length",
            "limit",
            "unit_tokens",
            "train_pairs",
            "gpus",
            "actor_cpus",
            "actor_gpus",
        }
        if positive and value is not None:
            least = min(value, default=0) if isinstance(value, tuple) else value
            if least < 1:
                raise UsageError(option, "a whole number of at least 1", str(least), "correct the option")


@dataclass(frozen=True)
class EngineConfig(StageConfig):
    """Of stages that share out their work: who does it."""

    engine: Literal["serial", "ray"] = "serial"
    """Work in this process, or by the actors of a Ray cluster, all of which see the run directory."""
    ray_address: str | None = None
    """Address of a running Ray cluster; None starts one on this machine."""
    actor_cpus: int = 1
    """CPUs, and so threads, of each Ray actor."""
    actor_gpus: int = 1
    """GPUs of each Ray actor, where the cluster has any and `device` is not cpu."""
    device: str = "auto"
    """Torch device; auto is cuda where there is one, else cpu."""

    def __post_init__(self) -> None:
        """Check that Ray is there and that its options mean something."""
        super().__post_init__()
        if self.engine == "ray" and find_spec("ray") is None:
            raise UsageError("--engine ray", "the package ray", "none", "pip install 'sparserm[ray]'")
        if self.engine != "ray" and self.ray_address is not None:
            raise UsageError("--ray-address", "--engine ray beside it", self.engine, "give both or neither")


@dataclass(frozen=True)
class UnitsConfig(EngineConfig):
    """Of stages that fill a store unit by unit."""

    worker: tuple[int, int] = (0, 1)
    """This worker's rank and the number of workers on one plan."""

    def __post_init__(self) -> None:
        """Check that only one of the two shares out the units."""
        super().__post_init__()
        if self.engine == "ray" and self.worker != (0, 1):
            raise UsageError("--engine ray", "no --worker beside it", "--worker", "leave one of them out")


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return what a field with a fixed set of values can be, None included if it may be; () for others."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    literals = [choice for part in get_args(hint) if get_origin(part) is Literal for choice in get_args(part)]
    return (*literals, None) if literals else ()


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
