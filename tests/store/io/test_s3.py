"""Runs on an S3 server of this machine: killed and continued, and what the server says in one line."""

import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from helpers import crash_driver
from helpers.object_store import forget_clients
from helpers.runs import capture

from sparserm_cli.errors import IncompatibleError, ResourceError, TemporaryError
from sparserm_cli.locations import parse_location
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.run.locks import RUN_LOCK, run_lock
from sparserm_cli.store.run.status import status
from sparserm_cli.store.units.integrity import check
from sparserm_cli.store.units.unit_store import UnitStore


def test_row_03_a_capture_on_s3_is_killed_and_continued(bucket, tmp_path):
    """Between data and receipt; the dead process's lock is taken over; the digest is that of a folder."""
    run = parse_location(f"{bucket}/run")
    killed = subprocess.run(
        [sys.executable, crash_driver.__file__, "object-store", str(run)],
        env={**os.environ, "SPARSERM_FAULT": "unit-written:3"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert storage_of(run / RUN_LOCK).size() > 0
    assert status(run)["activations"].done == 2
    with run_lock(run):
        continued = capture(run)
    assert continued.digest == capture(tmp_path / "run").digest
    store = UnitStore(capture_path(run), "activations", 1, "sparserm extract")
    assert check(store, deep=True) == []
    receipts = [store.receipt(unit) for unit in range(store.plan.units)]
    assert [receipt.attempts for receipt in receipts] == [1, 1, 2, *[1] * (len(receipts) - 3)]
    pooled = ActivationsReader(capture_path(run)).pooled(1, "mean")
    np.testing.assert_array_equal(pooled, ActivationsReader(capture_path(tmp_path / "run")).pooled(1, "mean"))


def test_an_object_is_made_only_if_absent(bucket):
    """The second to come is told so; who repeats a request whose answer was lost has made it."""
    path = parse_location(f"{bucket}/lock")
    lock = storage_of(path)
    assert lock.create(b"one")
    assert not lock.create(b"two")
    assert lock.create(b"one")
    assert lock.read_bytes() == b"one"
    assert lock.size() == 3
    assert storage_of(path.parent).size() == -1
    lock.remove()
    lock.remove()
    assert lock.size() == -1


def test_a_missing_bucket_is_named(bucket):
    """Nothing can be written there, and nothing is there to be read."""
    run = parse_location("s3://no-such-bucket/run")
    with pytest.raises(ResourceError) as caught, run_lock(run):
        pass
    assert caught.value.exit_code == 6
    assert str(caught.value) == (
        "s3://no-such-bucket/run/run.lock: expected a bucket to write to, found none of this name; "
        "make it, or choose another --run"
    )
    with pytest.raises(IncompatibleError, match="expected a store of activations, found nothing"):
        ActivationsReader(capture_path(run))


def test_missing_credentials_are_told(bucket, monkeypatch):
    """No retry helps, so the exit code is not that of a temporary error."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget_clients()
    with pytest.raises(IncompatibleError) as caught:
        status(parse_location(f"{bucket}/run"))
    assert caught.value.exit_code == 4
    assert "found Unable to locate credentials; give credentials" in str(caught.value)


class _Busy(BaseHTTPRequestHandler):
    """Answers that there are too many requests, until it has done so `left` times."""

    protocol_version = "HTTP/1.1"
    left = 0
    requests = 0

    def do_PUT(self) -> None:
        """Take the body, and refuse or accept it."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        type(self).requests += 1
        refused = type(self).left > 0
        type(self).left -= refused
        body = b"<Error><Code>SlowDown</Code><Message>Slow down</Message></Error>" if refused else b""
        self.send_response(503 if refused else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture
def busy(bucket, monkeypatch):
    """Give a server that answers as `_Busy` says."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Busy)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(_Busy, "requests", 0)
    forget_clients()
    yield _Busy
    server.shutdown()
    thread.join()
    server.server_close()


def test_row_59_a_throttled_request_is_repeated_a_bounded_number_of_times(busy, monkeypatch):
    """Twice refused is no error; always refused ends with exit 75 and says what to do."""
    monkeypatch.setattr(busy, "left", 2)
    storage_of(parse_location("s3://bucket/object")).write_atomic(b"data")
    assert busy.requests == 3
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    forget_clients()
    monkeypatch.setattr(busy, "left", 1000)
    with pytest.raises(TemporaryError) as caught:
        storage_of(parse_location("s3://bucket/object")).write_atomic(b"data")
    assert caught.value.exit_code == 75
    assert str(caught.value).endswith("run the same command again later; what is done is kept")
    assert busy.requests < 50


def test_a_server_that_does_not_answer_is_a_temporary_error(bucket, monkeypatch):
    """Nobody listens at the address."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    forget_clients()
    with pytest.raises(
        TemporaryError, match="expected an answer of the object store, found Could not connect"
    ):
        status(parse_location(f"{bucket}/run"))
