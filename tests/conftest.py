"""Fixtures of every room, and run-time checks of the types and shapes that the package's signatures state."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.typechecks import checked
from hypothesis import settings
from jaxtyping import install_import_hook

# Not the command line (typer hands its callbacks a context that is no `typer.Context`), and not the configs,
# which refuse wrong values in words of their own.
ROOMS = (
    "statistics",
    "data",
    "store",
    "models",
    "stages",
    "analysis",
    "alignment",
    "errors",
    "formatting",
    "console",
)
install_import_hook([f"sparserm_cli.{room}" for room in ROOMS], f"{checked.__module__}.{checked.__name__}")

# Nearly every write is synced, which a disk takes longer for than everything else here.
MEMORY = Path("/dev/shm")  # noqa: S108
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

NEEDS = {"ray_address": "ray", "s3_server": "s3", "tiny_model": "model"}
"""Fixtures that start a server or make a language model, and the marker of the tests that ask for them."""

LONG = ("slow", "ray", "s3")
"""Markers of the tests that take seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a server or a model by the fixtures that they ask for; put long files first.

    Files are shared out in this order, so that no process is left with a long one while the others are done.
    """
    for item in items:
        for fixture in NEEDS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(NEEDS[fixture])
    long = {item.path for item in items if any(map(item.get_closest_marker, LONG))}
    items.sort(key=lambda item: item.path not in long)


# How long an example takes says something about the machine, not about the code.
settings.register_profile("sparserm", deadline=None)
settings.load_profile("sparserm")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give a function `tiny_model(arch="llama", **config changes)` that returns a saved model's folder."""
    from helpers import tiny_models

    made: dict[str, Path] = {}

    def make(arch: str = "llama", **changes: Any) -> Path:
        key = repr((arch, sorted(changes.items())))
        if key not in made:
            made[key] = tiny_models.save_tiny(tmp_path_factory.mktemp(arch), arch, **changes)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """Give the tiny models' tokenizer: one token a byte, `<|im_start|>` and `<|im_end|>`, a chat template."""
    from helpers import tiny_models

    return tiny_models.tiny_tokenizer()


@pytest.fixture(scope="session")
def fitted_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """Give a run directory with a reward model fitted in float32 on thirty pairs, good against poor."""
    from helpers import fitted_run as helper

    return helper.fit_tiny(tmp_path_factory.mktemp("fitted"), tiny_model("llama"))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of an S3 server on this machine."""
    for package in ("s3fs", "moto"):
        pytest.importorskip(package, reason=f"{package} is not installed (extras `s3` and `test`)")
    from helpers import object_store

    with object_store.serving(tmp_path_factory.mktemp("s3") / "log") as address:
        yield address


@pytest.fixture
def bucket(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a new bucket that this process and its children can write, with a cache of its own."""
    from helpers import object_store

    with object_store.bucket(s3_server, tmp_path_factory.mktemp("bucket")) as url:
        yield url
