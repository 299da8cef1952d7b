"""`serve`: rewards over HTTP, for trainers that ask a server.

Reads: `reward/`, its language model. Writes: nothing.
Memory: the model's lower blocks, one batch, and `max_requests` requests of `max_body` bytes.
"""

import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import FrameType

from sparserm_cli.config import KEY_VARIABLE, Note, ServeConfig
from sparserm_cli.errors import ResourceError, StoppedError, UsageError
from sparserm_cli.store.artifacts.reward import read_reward, reward_path


def serve(config: ServeConfig, *, listening: Callable[[str], None], note: Note) -> None:
    """Answer requests until a signal asks for an end; then answer what has been asked, and return.

    Args:
        config: the options.
        listening: told the address once the port is taken, before the language model is loaded.
        note: told what is worth knowing on the way.

    Raises:
        UsageError: an address that others reach, without a key.
        ResourceError: the port is taken, the device is not there, or a package is not installed.
        IncompatibleError: no reward model, or it scores its probe otherwise than at the fit.
        CorruptStoreError: the reward model is damaged.
        StoppedError: Ctrl-C.

    """
    # 1. What can be refused is refused before anything heavy is imported or loaded.
    key = read_key(config)
    require_private(config, has_key=bool(key))
    require_packages()
    path = config.reward or reward_path(config.run)
    read_reward(path)
    with take_port(config) as listener:
        listening(address(listener))
        import uvicorn

        from sparserm_cli.alignment.server.app import make_app
        from sparserm_cli.alignment.server.service import Service
        from sparserm_cli.models.reward_model import RewardModel

        # 2. Health can be asked while the model loads; scores get 503 until it is there.
        service = Service(config)
        app = make_app(service, key)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],), name="http", daemon=True)
        thread.start()
        service.start(
            RewardModel.load(
                path, model=config.model, device=config.device, offline=config.offline, check=False
            )
        )
        note(f"ready: {service.name} in {service.model.lm.dtype} on {service.model.lm.device}")
        # 3. A signal closes the door to new work; what is inside is answered.
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


def read_key(config: ServeConfig) -> str:
    """Return the bearer key; "" for none.

    Raises:
        UsageError: the file cannot be read, or holds nothing.

    """
    if config.api_key_file is None:
        return os.environ.get(KEY_VARIABLE, "").strip()
    try:
        key = config.api_key_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or "no UTF-8"
        raise UsageError("--api-key-file", "a readable file", found, "correct the path") from None
    if not key:
        raise UsageError("--api-key-file", "a key in the file", "nothing", "write one into it")
    return key


def require_packages() -> None:
    """Refuse to start without what the extra `serve` brings.

    Raises:
        ResourceError: a package is not installed.

    """
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        hint = "pip install 'sparserm[serve]'"
        raise ResourceError("serve", "the packages of the extra `serve`", f"no {missing[0]}", hint)


def require_private(config: ServeConfig, *, has_key: bool) -> None:
    """Refuse to listen where others can ask without a key.

    Raises:
        UsageError: so it is.

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
        ResourceError: address or port are not to be had.

    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=2048)
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
    """Collect Ctrl-C and SIGTERM in a list; a second one leaves at once.

    Raises:
        StoppedError: it is the second.

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
