"""`sparserm serve` as a process: ports, keys, signals, and what its log must never hold."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sparserm_cli.alignment.server import serve as module
from sparserm_cli.config import KEY_VARIABLE, ServeConfig
from sparserm_cli.errors import ResourceError, UsageError
from sparserm_cli.models.reward_model import RewardModel

pytestmark = pytest.mark.slow

KEY = "key-0123456789-never-log-me"
BODY = {"queries": "Question 3?", "documents": ["good", "bad"]}


def post(url: str, body: Any, key: str = KEY) -> tuple[int, Any]:
    """Post JSON, or get where there is none."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    try:
        request = urllib.request.Request(url, data, headers)  # noqa: S310 - http alone
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@contextmanager
def process(reward: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the command with a key, and give it with its address."""
    command = [sys.executable, "-m", "sparserm_cli", "serve", "--reward", str(reward), "--port", "0", *words]
    place = {"PYTHONPATH": str(Path(__file__).parents[3]), KEY_VARIABLE: KEY}
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **place}
    )
    try:
        assert started.stdout is not None
        yield started, started.stdout.readline().removeprefix("listening on ").strip()
    finally:
        started.kill()
        started.communicate()


def wait_ready(url: str) -> None:
    """Wait until scores can be had."""
    until = time.monotonic() + 90
    while post(url + "/ready", None)[0] != 200:
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_answers_what_was_asked_and_the_key_is_in_no_log(
    reward: Path, number: int, code: int
) -> None:
    """Port 0 prints the real one; right, wrong and broken requests; then an orderly end."""
    if find_spec("uvicorn") is None:
        pytest.skip("the extra `serve` is not installed")
    with process(reward) as (started, url):
        assert url.startswith("http://127.0.0.1:")
        wait_ready(url)
        assert post(url + "/score", BODY)[0] == 200
        assert post(url + "/score", BODY, key="wrong-" + KEY)[0] == 401
        assert post(url + f"/score?key={KEY}", {"queries": 3, "documents": KEY})[0] == 422
        assert post(url + f"/{KEY}", {})[0] == 404
        requests = [subprocess_post(url) for _ in range(4)]
        time.sleep(0.3)
        started.send_signal(number)
        said, logged = started.communicate(timeout=60)
        assert started.returncode == code, logged
        answers = [json.loads(process.communicate(timeout=60)[0] or "null") for process in requests]
        refused = [answer["error"]["code"] for answer in answers if answer and "error" in answer]
        assert set(refused) <= {503}
        assert all(len(answer["data"]) == 2 for answer in answers if answer and "error" not in answer)
    assert KEY not in said + logged
    assert "Traceback" not in logged
    assert "ready: tiny-reward-" in logged


def subprocess_post(url: str) -> subprocess.Popen[str]:
    """Post from another process, so that the answer comes while this one waits."""
    code = (
        "import json, sys, urllib.request as u\n"
        f"r = u.Request({url + '/score'!r}, json.dumps({BODY!r}).encode(), "
        f"{{'Content-Type': 'application/json', 'Authorization': 'Bearer {KEY}'}})\n"
        "try: print(u.urlopen(r, timeout=60).read().decode())\n"
        "except u.HTTPError as e: print(e.read().decode())\n"
        "except OSError: pass\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_row_48_a_taken_port_is_told_before_the_model_loads(
    reward: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing heavy has been done by then."""
    monkeypatch.setattr(RewardModel, "load", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = ServeConfig(reward=reward, port=port)
        with pytest.raises(ResourceError) as caught:
            module.serve(config, listening=print, note=print)
    assert str(caught.value) == (
        f"--host 127.0.0.1 --port {port}: expected a free port, found Address already in use; "
        "choose another, 0 takes a free one"
    )
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])  # noqa: S104
def test_row_46_a_public_address_needs_a_key(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before the port is taken."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(UsageError) as caught:
        module.serve(ServeConfig(host=host), listening=print, note=print)
    assert str(caught.value) == (
        f"--host {host}: expected a key, since others reach this address, found none; "
        "set SPARSERM_API_KEY or --api-key-file, or stay on 127.0.0.1"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    """And with a key any address will do; neither is refused."""
    configs = [(ServeConfig(host=host), False), (ServeConfig(host="0.0.0.0"), True)]  # noqa: S104
    assert [module.require_private(config, has_key=has_key) for config, has_key in configs] == [None, None]


def test_row_73_keys_come_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file wins; an empty or missing one is an error, not an open door."""
    monkeypatch.setenv(KEY_VARIABLE, " outer \n")
    file = tmp_path / "key"
    file.write_text("inner\n")
    file.chmod(0o600)
    notes: list[str] = []
    assert module.read_key(ServeConfig(), notes.append) == "outer"
    assert module.read_key(ServeConfig(api_key_file=file), notes.append) == "inner"
    assert notes == []
    file.write_text("\n")
    with pytest.raises(UsageError, match="--api-key-file: expected a key in the file, found nothing"):
        module.read_key(ServeConfig(api_key_file=file), notes.append)
    with pytest.raises(UsageError, match="expected a readable file, found No such file or directory"):
        module.read_key(ServeConfig(api_key_file=tmp_path / "none"), notes.append)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_row_73_a_key_that_others_can_open_is_warned_of(tmp_path: Path, mode: int) -> None:
    """With what to run; the key is still taken."""
    file = tmp_path / "key"
    file.write_text("inner\n")
    file.chmod(mode)
    notes: list[str] = []
    assert module.read_key(ServeConfig(api_key_file=file), notes.append) == "inner"
    assert notes == [f"other users of this machine can open {file}: run `chmod 600 {file}`"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"one\ntwo\n", "expected one line, found 2 lines"),
        (b"one\r\ntwo", "expected one line, found 2 lines"),
        (b"one two", "expected a key of printable characters, found a space or a control character"),
        (b"one\x1b[2J", "expected a key of printable characters, found a space or a control character"),
        (b"k" * 5000, "expected a key of at most 4,096 characters, found more"),
        (b"\xff\xfe", "expected a readable file, found no UTF-8"),
    ],
)
def test_row_73_what_is_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, said: str
) -> None:
    """Neither from a file nor from the environment, and never repeated."""
    file = tmp_path / "key"
    file.write_bytes(text)
    with pytest.raises(UsageError) as caught:
        module.read_key(ServeConfig(api_key_file=file), print)
    assert str(caught.value).startswith(f"--api-key-file: {said}; ")
    if text.isascii():
        monkeypatch.setenv(KEY_VARIABLE, text.decode())
        with pytest.raises(UsageError) as caught:
            module.read_key(ServeConfig(), print)
        assert str(caught.value).startswith(f"{KEY_VARIABLE}: {said}; ")


def test_row_73_a_key_file_is_a_file(tmp_path: Path) -> None:
    """Neither a folder nor a pipe that nobody writes to."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe):
        with pytest.raises(UsageError, match="--api-key-file: expected a file, found something else"):
            module.read_key(ServeConfig(api_key_file=path), print)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(ResourceError) as caught:
        module.require_packages()
    assert str(caught.value) == (
        "serve: expected the packages of the extra `serve`, found no uvicorn; pip install 'sparserm[serve]'"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"port": 65536}, "--port: expected a number from 0 to 65535, found 65536"),
        ({"max_body": 0}, "--max-body: expected a number above 0, found 0"),
        ({"drain_seconds": -1.0}, "--drain-seconds: expected a number above 0, found -1.0"),
        ({"clip": 0.0}, "--clip: expected a number above 0, found 0.0"),
    ],
)
def test_limits_that_are_none(options: dict[str, Any], said: str) -> None:
    """Named like the option."""
    with pytest.raises(UsageError) as caught:
        ServeConfig(**options)
    assert str(caught.value).startswith(said)


def test_without_a_reward_model(tmp_path: Path) -> None:
    """Exit code 4, in one line, before anybody is told that something listens."""
    command = [sys.executable, "-m", "sparserm_cli", "serve", "--reward", str(tmp_path / "none"), "--port=0"]
    place = {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **place}
    )
    assert (done.returncode, done.stdout) == (4, "")
    said = "expected a fitted reward model, found no folder; run `sparserm fit` first"
    assert done.stderr == f"sparserm: {tmp_path}/none: {said}\n"
