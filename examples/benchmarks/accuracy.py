"""Write one Markdown document of the comparisons of several runs, each made by `sparserm compare`.

    python accuracy.py RUN... --output accuracy

prints it and writes OUTPUT.json and OUTPUT.md.
"""

import argparse
import json
import sys
from pathlib import Path

from sparserm_cli.analysis.compare.markdown import markdown
from sparserm_cli.errors import SparseRMError
from sparserm_cli.store.artifacts.results import COMPARISON


def main() -> int:
    """Join the comparisons, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directory")
    parser.add_argument("--output", type=Path, help="file name without ending for the JSON and the Markdown")
    options = parser.parse_args()
    try:
        comparisons = [COMPARISON.read(COMPARISON.path(run)) for run in options.runs]
    except SparseRMError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    both = {
        **comparisons[0],
        "runs": {name: run for comparison in comparisons for name, run in comparison["runs"].items()},
    }
    text = markdown(both)
    print(text, end="")
    if options.output:
        options.output.with_suffix(".json").write_text(json.dumps(both, indent=1) + "\n", encoding="ascii")
        options.output.with_suffix(".md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
