"""An S3 server on this machine, for tests: started when it is first asked for, stopped at the end."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_START_SECONDS = 120


@contextmanager
def serving(log: Path) -> Iterator[str]:
    """Run a server and give its address; what it says goes to `log`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as server:
        try:
            _wait(port, server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def _wait(port: int, server: "subprocess.Popen[bytes]") -> None:
    """Wait until the server listens."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("the S3 server did not start")


def environment(address: str, cache: Path) -> dict[str, str]:
    """Return the variables that let a process use a server, and a cache of its own."""
    return {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_ENDPOINT_URL": address,
        "SPARSERM_CACHE": str(cache),
    }


@contextmanager
def bucket(address: str, folder: Path) -> Iterator[str]:
    """Give the URL of a new bucket for this process and its children, named after their cache's folder."""
    name = folder.name.replace("_", "-")
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in environment(address, folder).items():
            patch.setenv(variable, value)
        forget_clients()
        request = urllib.request.Request(f"{address}/{name}", method="PUT")  # noqa: S310
        urllib.request.urlopen(request).close()  # noqa: S310
        yield f"s3://{name}"
    forget_clients()


def forget_clients() -> None:
    """Let the next request read the environment anew: clients are kept for a process's life."""
    import fsspec

    from sparserm_cli.store.io import object_store as remote

    remote._filesystem.cache_clear()
    remote._verified_buckets.clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
