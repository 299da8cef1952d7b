"""Fixtures of every room, and run-time checks of the types and shapes that the package's signatures state."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook


def _module(name: str, path: str) -> ModuleType:
    """Import a helper that lies beside the tests, which are no package."""
    spec = spec_from_file_location(name, Path(__file__).parent / path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


_module("sparserm_typechecks", "typechecks.py")
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
install_import_hook([f"sparserm_cli.{room}" for room in ROOMS], "sparserm_typechecks.checked")
tiny = _module("sparserm_tiny", "models/tiny.py")
fitted = _module("sparserm_fitted", "stages/fitted.py")
cases = _module("sparserm_cases", "data/cases.py")
object_store = _module("sparserm_object_store", "object_store.py")

# Nearly every write is synced, which a disk takes longer for than everything else here.
MEMORY = Path("/dev/shm")  # noqa: S108
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# How long an example takes says something about the machine, not about the code.
settings.register_profile("sparserm", deadline=None)
settings.load_profile("sparserm")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give a function `tiny_model(arch="llama", **config changes)` that returns a saved model's folder."""
    made: dict[str, Path] = {}

    def make(arch: str = "llama", **changes: Any) -> Path:
        key = repr((arch, sorted(changes.items())))
        if key not in made:
            made[key] = tiny.save_tiny(tmp_path_factory.mktemp(arch), arch, **changes)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """Give the tiny models' tokenizer: one token a byte, `<|im_start|>` and `<|im_end|>`, a chat template."""
    return tiny.tiny_tokenizer()


@pytest.fixture(scope="session")
def fitted_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """Give a run directory with a reward model fitted in float32 on thirty pairs, good against poor."""
    return fitted.fit_tiny(tmp_path_factory.mktemp("fitted"), tiny_model("llama"))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of an S3 server on this machine."""
    for package in ("s3fs", "moto"):
        pytest.importorskip(package, reason=f"{package} is not installed (extras `s3` and `test`)")
    with object_store.serving(tmp_path_factory.mktemp("s3") / "log") as address:
        yield address


@pytest.fixture
def bucket(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a new bucket that this process and its children can write, with a cache of its own."""
    with object_store.bucket(s3_server, tmp_path_factory.mktemp("bucket")) as url:
        yield url
