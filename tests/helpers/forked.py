"""Commands in processes of their own, forked from one that has imported what takes longer than they do."""

import os
import sys
from collections.abc import Mapping
from itertools import count
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

_context = get_context("forkserver")
_context.set_forkserver_preload(
    [
        "sparserm_cli.stages.extract.extract",
        "sparserm_cli.stages.encode.worker",
        "transformers.models.llama.modeling_llama",
    ]
)
_number = count()


class Command(NamedTuple):
    """A `sparserm` command that has been started."""

    process: ForkServerProcess
    out: Path
    error: Path

    def wait(self) -> tuple[int | None, str, str]:
        """Return its exit code, what it wrote to stdout and what to stderr."""
        self.process.join(300)
        return self.process.exitcode, self.out.read_text(), self.error.read_text()


def start(words: list[str], folder: Path, *, cwd: Path | None = None, **environment: str) -> Command:
    """Start a command, whose output goes to a folder, in this process's directory or in `cwd`."""
    number = next(_number)
    out, error = (folder / f"{number}.{stream}" for stream in ("out", "err"))
    settings = {**os.environ, **environment}
    process = _context.Process(target=_run, args=(words, cwd or Path.cwd(), settings, out, error))
    process.start()
    return Command(process, out, error)


def _run(words: list[str], cwd: Path, environment: Mapping[str, str], *streams: Path) -> None:
    """Become the command."""
    os.chdir(cwd)
    os.environ.update(environment)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    from sparserm_cli.cli.main import main

    sys.argv = ["sparserm", *words]
    main()
