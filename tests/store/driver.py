"""A run in a process of its own, for tests that kill it: `driver.py plan|run RUN`. No torch, no model."""

import sys
from pathlib import Path

import captures

from sparserm_cli.store.files import sweep
from sparserm_cli.store.locks import run_lock


def main(what: str, run: Path) -> None:
    """Plan a capture and, for `run`, compute it, as a stage does: lock, sweep, plan, units, manifest."""
    root = run / "activations.zarr"
    with run_lock(run):
        sweep(run, everything=True)
        if not root.exists():
            captures.plan(root)
        if what == "run":
            captures.fill(root)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
