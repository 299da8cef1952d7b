"""What the stages' tests share: runs with planted latents, and one Ray cluster."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

HERE = Path(__file__).parent

if "sparserm_planted" not in sys.modules:
    spec = spec_from_file_location("sparserm_planted", HERE.parent / "study" / "planted.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["sparserm_planted"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["sparserm_planted"])


@pytest.fixture(scope="session")
def ray_address(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a cluster whose processes find the package, the workers in this folder and the S3 server."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    folders = (HERE.parents[1], HERE, HERE.parent / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        for folder in folders[1:]:
            patch.syspath_prepend(folder)
        with sys.modules["sparserm_object_store"].environment(s3_server, tmp_path_factory.mktemp("ray")):
            command = [sys.executable, str(HERE / "ray_cluster.py")]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(command, text=True, **pipes)
        with process:
            yield process.stdout.readline().strip()
            import ray

            ray.shutdown()
            process.stdin.close()


@pytest.fixture
def cluster(ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the cluster's address; its actors are those of the tests before, and work in `tmp_path`."""
    monkeypatch.setattr("sparserm_cli.stages.ray_engine.RayEngine", import_module("ray_actors").KeptActors)
    monkeypatch.setattr("ray.shutdown", lambda: None)  # actors live as long as their driver is connected
    monkeypatch.chdir(tmp_path)
    gc.collect()  # what a failed run has left of its actors gives back their processors
    return ray_address
