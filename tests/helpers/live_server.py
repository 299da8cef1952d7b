"""A live server in this process, on a free port of the loopback interface."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sparserm_cli.config import ServeConfig
from sparserm_cli.models.reward_model import RewardModel


class Live:
    """A running server.

    Args:
        service: what works behind it.
        url: where it listens.
        key: what it wants.

    """

    def __init__(self, service: Any, url: str, key: str) -> None:
        self.service, self.url, self.key = service, url, key

    def ask(
        self, path: str, body: Any = None, *, key: str | None = None, raw: bytes | None = None
    ) -> tuple[int, Any]:
        """Get, or post JSON or raw bytes; return status and answer."""
        status, answer, _ = self.ask_fully(path, body, key=key, raw=raw)
        return status, answer

    def ask_fully(
        self, path: str, body: Any = None, *, key: str | None = None, raw: bytes | None = None
    ) -> tuple[int, Any, Any]:
        """Return the headers as well."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        token = self.key if key is None else key
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        request = urllib.request.Request(self.url + path, data, headers)  # noqa: S310 - http alone
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return answer.status, _json(answer.read()), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _json(error.read()), error.headers


def _json(data: bytes) -> Any:
    """Return JSON as what it says, else as text."""
    try:
        return json.loads(data)
    except ValueError:
        return data.decode()


@contextmanager
def live(reward: Path, *, key: str = "", started: bool = True, **options: Any) -> Iterator[Live]:
    """Serve a reward model.

    Args:
        reward: its folder.
        key: bearer key; "" lets everybody in.
        started: whether the model is loaded; else the server says that it is loading.
        options: fields of the config.

    """
    for name in ("fastapi", "uvicorn", "prometheus_client"):
        if find_spec(name) is None:
            pytest.skip(f"the extra `serve` is not installed: no {name}")
    from sparserm_cli.alignment.server.app import make_app
    from sparserm_cli.alignment.server.connections import http_server
    from sparserm_cli.alignment.server.serve import address, take_port
    from sparserm_cli.alignment.server.service import Service

    config = ServeConfig(reward=reward, port=0, **options)
    service = Service(config)
    with take_port(config) as listener:
        server = http_server(make_app(service, key), config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        if started:
            service.start(RewardModel.load(reward))
        while not server.started:
            time.sleep(0.01)
        try:
            yield Live(service, address(listener), key)
        finally:
            server.should_exit = True
            thread.join(timeout=10)
            server.force_exit = True  # requests that a test has left behind would be waited for
            thread.join(timeout=10)
            assert not thread.is_alive()
