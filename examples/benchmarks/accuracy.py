"""Accuracy of SparseRM and of everything it must beat, on runs made by `sparserm extract` and `encode`.

    python accuracy.py --run TruthfulQA=DIR --run HH-RLHF=DIR --output accuracy

prints Markdown tables and writes OUTPUT.json and OUTPUT.md. The language model is not run.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from sparserm_cli.errors import SparseRMError
from sparserm_cli.study.compare import Sweeps, compare, markdown
from sparserm_cli.study.sample import load_sample


def main() -> int:
    """Compare on every run that is given; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="append", required=True, metavar="NAME=DIR", help="a run; repeatable")
    parser.add_argument("--top-k", type=int, nargs="+", default=Sweeps.top_ks, help="directions a side")
    parser.add_argument("--folds", type=int, default=Sweeps.folds)
    parser.add_argument("--seed", type=int, default=Sweeps.seed)
    parser.add_argument(
        "--quick", action="store_true", help="only the sweep over directions and the controls"
    )
    parser.add_argument("--output", type=Path, help="file name without ending for the JSON and the Markdown")
    options = parser.parse_args()
    sweeps = Sweeps(tuple(options.top_k), folds=options.folds, seed=options.seed)
    if options.quick:
        sweeps = Sweeps(sweeps.top_ks, (), (), variants=False, folds=options.folds, seed=options.seed)
    begun = time.monotonic()
    try:
        named = [item.partition("=") for item in options.run]
        samples = [load_sample(name, Path(folder)) for name, _, folder in named]
        found = compare(samples, sweeps, progress=_tell, note=_note)
    except SparseRMError as error:
        _note(f"error: {error}")
        return error.exit_code
    found["seconds"] = round(time.monotonic() - begun, 1)
    text = markdown(found)
    print(text)
    if options.output:
        options.output.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="ascii")
        options.output.with_suffix(".md").write_text(text, encoding="utf-8")
    return 0


def _tell(what: str, done: int, total: int) -> None:
    """Show progress where someone looks."""
    if sys.stderr.isatty():
        print(f"\r{what}: {done} of {total} fits\x1b[K", end="\n" if done == total else "", file=sys.stderr)
    elif done == total:
        _note(f"{what}: {total} fits")


def _note(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
