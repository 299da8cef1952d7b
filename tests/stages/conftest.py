"""What the stages' tests share: runs with planted latents, and one Ray cluster."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from helpers import object_store

TESTS = Path(__file__).parents[1]
"""Ray's processes import the helpers below it."""
AUTHENTICATION = "RAY_AUTH_MODE"


@pytest.fixture(scope="session")
def ray_address(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a cluster whose processes find the package, the workers in this folder and the S3 server."""
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    variables = object_store.environment(s3_server, tmp_path_factory.mktemp("ray"))
    variables |= {"PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS))), AUTHENTICATION: "disabled"}
    command = [sys.executable, str(TESTS / "helpers" / "ray_cluster.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=os.environ | variables, text=True, **pipes) as process:
        yield process.stdout.readline().strip()
        ray.shutdown()
        process.stdin.close()


@pytest.fixture
def cluster(ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the cluster's address; its actors are those of the tests before, and work in `tmp_path`."""
    monkeypatch.setenv(AUTHENTICATION, "disabled")
    monkeypatch.setattr(
        "sparserm_cli.stages.engine.ray_engine.RayEngine", import_module("helpers.ray_actors").KeptActors
    )
    monkeypatch.setattr("ray.shutdown", lambda: None)  # actors live as long as their driver is connected
    monkeypatch.chdir(tmp_path)
    gc.collect()  # what a failed run has left of its actors gives back their processors
    return ray_address
