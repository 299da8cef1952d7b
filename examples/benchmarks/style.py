"""Whether a reward model that is made invariant to style keeps its accuracy when one side is restyled.

    python style.py RUN STYLED TWINS [--output style.json]

RUN is a captured and encoded run of preference pairs, STYLED the capture of the same pairs in the same
order with every response restyled (`disturb.py restyled-both`), and TWINS the capture of twins by other rules
on other prompts (`examples/data/make_twins.py`). Five folds are grouped by prompt. In each, the number of
style directions is chosen on the training prompts and on the twins, as `fit --invariant-to` does it; every
method is fitted with and without them, and tested on the held-out pairs as they are, with the rejected
responses restyled, and with the chosen ones restyled. It prints one Markdown table; the last column is the
worst of the three after taking style out less the worst before, with a 95 % interval over prompts.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sparserm_cli.analysis.compare.cross_validation import Protocol, training_of
from sparserm_cli.analysis.compare.fit_method import fit_method
from sparserm_cli.analysis.compare.method_sets import DEFAULTS, DENSE
from sparserm_cli.analysis.compare.run_sample import Sample, load_sample
from sparserm_cli.data.splits import grouped_folds
from sparserm_cli.errors import SparseRMError
from sparserm_cli.stages.fit.split import split_pairs
from sparserm_cli.stages.fit.style_size import Twins, best_size, style_basis, try_sizes
from sparserm_cli.statistics.pair_accuracy import difference, pair_accuracy
from sparserm_cli.store.capture.artifact import open_capture

METHODS = (
    DEFAULTS,
    replace(DEFAULTS, name="SparseRM in turn, linear", by="forward", head="linear", loss="bt"),
    replace(DENSE, name="dense, linear"),
)
TARGETS = ("as they are", "rejected restyled", "chosen restyled")


def restyled(sample: Sample, styled: Path, side: int) -> Sample:
    """Return the pairs with the vectors of one side, 0 for chosen, taken from the restyled capture.

    Raises:
        SystemExit: the restyled capture has other pairs.

    """
    capture = open_capture(styled)
    pairs = split_pairs(capture, 0.0, 0)
    if not np.array_equal(pairs.pairs, sample.pairs):
        raise SystemExit(f"{styled}: expected the pairs of {sample.name} in the same order, found others")
    rows = np.unique(sample.pairs[:, side])
    pooled: dict[int, dict[str, np.ndarray]] = {}
    for layer, vectors in sample.pooled.items():
        pooled[layer] = {}
        for name, values in vectors.items():
            pooled[layer][name] = values.copy()
            pooled[layer][name][rows] = capture.pooled(layer, name)[pairs.rows][rows]
    return replace(sample, pooled=pooled)


def read_twins(run: Path, layers: tuple[int, ...]) -> Twins:
    """Read the differences of captured twins."""
    capture = open_capture(run)
    pairs = split_pairs(capture, 0.0, 0)
    differences = {}
    for layer in layers:
        vectors = capture.pooled(layer, "mean")[pairs.rows]
        differences[layer] = vectors[pairs.pairs[:, 0]] - vectors[pairs.pairs[:, 1]]
    return Twins(differences, pairs.groups)


def without(sample: Sample, bases: Mapping[int, np.ndarray]) -> Sample:
    """Return the sample with all vectors outside the subspace of style."""
    pooled = {
        layer: {name: values - values @ bases[layer].T @ bases[layer] for name, values in vectors.items()}
        for layer, vectors in sample.pooled.items()
    }
    return replace(sample, pooled=pooled)


def measure(
    sample: Sample, targets: list[Sample], twins: Twins, note: Callable[[str], None]
) -> dict[str, Any]:
    """Return for each method, with style and without, the margins (targets, pairs) of held-out pairs."""
    protocol = Protocol()
    fold = grouped_folds(sample.groups, protocol.folds, protocol.seed)
    margins = {
        (method.name, free): np.zeros((len(targets), len(sample.pairs)))
        for method in METHODS
        for free in (False, True)
    }
    sizes = []
    for number in range(protocol.folds):
        training, test = training_of(sample, np.flatnonzero(fold != number), protocol), fold == number
        learned = ~training.validation
        means = {layer: vectors["mean"] for layer, vectors in sample.pooled.items()}
        tried = try_sizes(means, training.pairs[learned], training.groups[learned], twins, protocol.seed)
        sizes.append(best_size(tried))
        note(f"fold {number + 1}: {sizes[-1]} directions of style")
        bases = {layer: style_basis(values, sizes[-1]) for layer, values in twins.differences.items()}
        for free in (False, True):
            learn = training._replace(sample=without(sample, bases)) if free else training
            for method in METHODS:
                scorer = fit_method(method, learn)
                for place, target in enumerate(targets):
                    scores = scorer.score(without(target, bases) if free else target)[sample.pairs[test]]
                    margins[method.name, free][place, test] = scores[:, 0] - scores[:, 1]
    return {"margins": margins, "sizes": sizes}


def table(sample: Sample, margins: Mapping[tuple[str, bool], np.ndarray]) -> list[dict[str, Any]]:
    """Print the rows of the table and return them as JSON."""
    rows: list[dict[str, Any]] = []
    print(f"| method | style | {' | '.join(TARGETS)} | worst | worst, without less with |")
    print("|---" * (len(TARGETS) + 4) + "|")
    for method in METHODS:
        worst = {}
        for free in (False, True):
            tested = margins[method.name, free]
            parts = [pair_accuracy(values, sample.groups) for values in tested]
            place = int(np.argmin([part.accuracy for part in parts]))
            worst[free] = tested[place]
            cells = [f"{part.accuracy:.3f} ({part.low:.3f} to {part.high:.3f})" for part in parts]
            gain = difference(worst[True], worst[False], sample.groups) if free else None
            last = f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})" if gain else ""
            how = "taken out" if free else "left"
            print(f"| {method.name} | {how} | {' | '.join(cells)} | {parts[place].accuracy:.3f} | {last} |")
            rows.append(
                {
                    "method": method.name,
                    "style": how,
                    "targets": dict(zip(TARGETS, (part._asdict() for part in parts), strict=True)),
                    "worst_gain": gain._asdict() if gain else None,
                }
            )
    return rows


def main() -> int:
    """Measure, print the table, write the figures; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("run", "styled", "twins"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--output", type=Path, help="file for the figures as JSON")
    options = parser.parse_args()
    try:
        sample = load_sample(options.run.name, options.run)
        targets = [sample, restyled(sample, options.styled, 1), restyled(sample, options.styled, 0)]
        twins = read_twins(options.twins, sample.layers)
        found = measure(sample, targets, twins, lambda text: print(text, file=sys.stderr))
    except SparseRMError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    prompts = len(np.unique(sample.groups))
    print(f"{len(sample.pairs):,} pairs of {prompts:,} prompts, {len(twins.groups):,} twins")
    print(f"directions of style in the folds: {', '.join(map(str, found['sizes']))}\n")
    rows = table(sample, found["margins"])
    if options.output:
        options.output.write_text(json.dumps({"sizes": found["sizes"], "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
