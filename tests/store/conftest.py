"""What the store's tests share."""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def _module(name: str) -> None:
    """Let tests import a helper that lies beside them as `sparserm_store_<name>`; tests are no package."""
    spec = spec_from_file_location(f"sparserm_store_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


for _name in ("toy", "captures", "small", "runs"):
    _module(_name)


@pytest.fixture(scope="session", autouse=True)
def _children_find_the_package():
    """Let the processes that tests start import the package whatever their working directory is."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), before] if before else [str(ROOT)])
    yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
