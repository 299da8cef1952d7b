"""Who holds a lock: the content of a lock file."""

import json
from typing import NamedTuple

from sparserm_cli.store.process import ProcessId


class Holder(NamedTuple):
    """The process that a lock file names."""

    process: ProcessId
    run_id: str

    def told(self) -> str:
        """Return the holder as an error shows it."""
        run = f" (run {self.run_id})" if self.run_id else ""
        return f"one on {self.process.host} with pid {self.process.pid}{run}"


def parse_holder(content: bytes) -> Holder | None:
    """Read the content of a lock file; None if it is empty, cut or something else."""
    try:
        value = json.loads(content)
        process = ProcessId(str(value["host"]), str(value["boot"]), int(value["pid"]), int(value["ticks"]))
        return Holder(process, str(value["run_id"]))
    except (ValueError, KeyError, TypeError):
        return None
