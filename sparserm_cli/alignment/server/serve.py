"""`serve` answers requests for rewards over HTTP.

Reads: `reward/`, its language model. Writes: nothing.
Memory: the model's lower blocks, one batch, and `max_requests` requests of `max_body` bytes.
"""

import ipaddress
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import FrameType

from sparserm_cli.config import KEY_VARIABLE, Note, ServeConfig
from sparserm_cli.errors import ResourceError, StoppedError, UsageError
from sparserm_cli.store.artifacts.reward import read_reward, reward_folder, reward_path

LONGEST_KEY = 4096
"""Most characters of a key."""
QUEUED = 2048
"""Most connections that may wait to be accepted."""


def serve(config: ServeConfig, *, listening: Callable[[str], None], note: Note) -> None:
    """Answer requests until a signal arrives; then finish the open requests and return.

    Args:
        config: the options.
        listening: called with the address once the port is open, before the language model is loaded.
        note: called with messages for the user.

    Raises:
        UsageError: other machines can reach the address, and no key is set.
        ResourceError: the port is in use, the device is not available, or a package is not installed.
        IncompatibleError: there is no reward model, or it scores its probe differently than at the fit.
        CorruptStoreError: the reward model is damaged.
        StoppedError: Ctrl-C.

    """
    # 1. Check everything that can be checked before heavy imports and before the model is loaded.
    key = read_key(config, note)
    require_private(config, has_key=bool(key))
    require_packages()
    path = reward_folder(config.reward or reward_path(config.run))
    read_reward(path)
    with take_port(config) as listener:
        listening(address(listener))
        from sparserm_cli.alignment.server.app import make_app
        from sparserm_cli.alignment.server.connections import http_server, log_sparingly, room_for
        from sparserm_cli.alignment.server.service import Service
        from sparserm_cli.models.reward_model import RewardModel

        # 2. Answer /health while the model loads; requests for scores get 503 until it is ready.
        service = Service(config)
        server = http_server(make_app(service, key), config)
        log_sparingly()
        if (room := room_for(config)) < config.max_connections:
            note(f"at most {room:,} connections, since this process may open few files (ulimit -n)")
        thread = threading.Thread(target=server.run, args=([listener],), name="http", daemon=True)
        thread.start()
        service.start(
            RewardModel.load(
                path,
                model=config.model,
                group=config.group,
                device=config.device,
                offline=config.offline,
                check=False,
            )
        )
        listener.listen(QUEUED)  # uvicorn has made the queue as short as what it accepts at once
        note(f"ready: {service.name} in {service.model.lm.dtype} on {service.model.lm.device}")
        # 3. After a signal, accept no new requests and finish the open ones.
        with signals() as received:
            while thread.is_alive() and not received:
                thread.join(0.2)
            note("draining")
            if not service.drain():
                note(f"gave up {service.working} requests after {config.drain_seconds:g} s")
        server.should_exit = True
        thread.join(timeout=5)
    if received == [signal.SIGINT]:
        raise StoppedError(signal.SIGINT, "every request was answered")


def read_key(config: ServeConfig, note: Note) -> str:
    """Return the bearer key; "" if there is none.

    Raises:
        UsageError: the file cannot be read or does not hold exactly one line.

    """
    if config.api_key_file is None:
        return _one_line(KEY_VARIABLE, os.environ.get(KEY_VARIABLE, ""))
    file = config.api_key_file
    try:
        if not stat.S_ISREG(mode := file.stat().st_mode):
            raise UsageError("--api-key-file", "a file", "something else", "correct the path")
        with file.open(encoding="utf-8") as stream:
            key = _one_line("--api-key-file", stream.read(LONGEST_KEY + 1))
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or "no UTF-8"
        raise UsageError("--api-key-file", "a readable file", found, "correct the path") from None
    if not key:
        raise UsageError("--api-key-file", "a key in the file", "nothing", "write one into it")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        note(f"other users of this machine can open {file}: run `chmod 600 {file}`")
    return key


def _one_line(where: str, text: str) -> str:
    """Return a key without surrounding white space.

    Raises:
        UsageError: the key cannot be sent in a header.

    """
    key = text.strip()
    if len(key) > LONGEST_KEY:
        expected, found = f"a key of at most {LONGEST_KEY:,} characters", "more"
    elif len(lines := key.split("\n")) > 1:
        expected, found = "one line", f"{len(lines)} lines"
    elif not key.isprintable() or " " in key:
        expected, found = "a key of printable characters", "a space or a control character"
    else:
        return key
    raise UsageError(where, expected, found, "write the key alone")


def require_packages() -> None:
    """Refuse to start without the packages of the extra `serve`.

    Raises:
        ResourceError: a package is not installed.

    """
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        hint = "pip install 'sparserm[serve]'"
        raise ResourceError("serve", "the packages of the extra `serve`", f"no {missing[0]}", hint)


def require_private(config: ServeConfig, *, has_key: bool) -> None:
    """Refuse to listen on an address that other machines can reach without a key.

    Raises:
        UsageError: the address is reachable and there is no key.

    """
    try:
        private = ipaddress.ip_address(config.host).is_loopback
    except ValueError:
        private = config.host == "localhost"
    if not private and not has_key:
        hint = f"set {KEY_VARIABLE} or --api-key-file, or stay on 127.0.0.1"
        raise UsageError(f"--host {config.host}", "a key, since others reach this address", "none", hint)


def take_port(config: ServeConfig) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ResourceError: the address or the port is not available.

    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=QUEUED)
    except OSError as error:
        where = f"--host {config.host} --port {config.port}"
        # The text of the error itself names the address again.
        number = error.errno or 0
        found = os.strerror(number) if number > 0 else str(error)
        raise ResourceError(where, "a free port", found, "choose another, 0 takes a free one") from None


def address(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in a list; a second signal ends the server at once.

    Raises:
        StoppedError: the signal is the second one.

    """
    received: list[int] = []

    def receive(number: int, _frame: FrameType | None) -> None:
        if received:
            raise StoppedError(number, "requests in the making were given up")
        received.append(number)

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
