"""Few labels: heads whose penalty acts on half whitened components against heads that choose its geometry.

    python penalty.py RUN --pairs 50 100 300 --draws 2

RUN holds a capture with its features. Both are measured on the same five folds of prompts and the same
draws of training pairs. Differences have 95 % intervals over prompts.
"""

import argparse
from pathlib import Path

import numpy as np

from sparserm_cli.analysis.compare.cross_validation import Protocol, crossvalidate
from sparserm_cli.analysis.compare.method_sets import DENSE
from sparserm_cli.analysis.compare.methods import Method
from sparserm_cli.analysis.compare.run_sample import load_sample
from sparserm_cli.models.head.fits import penalty
from sparserm_cli.models.sae.decoder_rows import load_decoder
from sparserm_cli.statistics.pair_accuracy import PairAccuracy, difference

METHODS = (
    DENSE,
    Method("by difference, 64 per side", top_k=64),
    Method("in turn, 64 per side", top_k=64, by="forward"),
    Method("components of pairs, 32", kind="pair-components", top_k=16),
    Method("partial least squares, 32", kind="partial-least-squares", top_k=16),
)
HALF = (0.5,)
"""The only whitening of earlier releases."""


def shown(accuracy: PairAccuracy) -> str:
    """Return an accuracy with its interval."""
    return f"{accuracy.accuracy:.3f} ({accuracy.low:.3f} to {accuracy.high:.3f})"


def main() -> None:
    """Print one row per number of pairs and method, as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--sae", default="smollm2-135m", help="SAE that made the features")
    parser.add_argument("--pairs", type=int, nargs="+", default=[50, 100, 300], help="training pairs")
    parser.add_argument("--draws", type=int, default=5, help="draws of the training pairs")
    options = parser.parse_args()
    sample = load_sample(
        "run", options.run, decoder=lambda _layer, latents: load_decoder(options.sae, latents.tolist())
    )
    groups = np.tile(sample.groups, options.draws)
    chosen_among = penalty.WHITENINGS
    print("| pairs | method | half whitened | chosen | chosen less half whitened | whitenings chosen |")
    print("|---|---|---|---|---|---|")
    for pairs in options.pairs:
        protocol = Protocol(train_pairs=pairs, draws=options.draws)
        results = []
        for penalty.WHITENINGS in (HALF, chosen_among):
            results.append(crossvalidate(sample, METHODS, protocol))
        for half, chosen in zip(*results, strict=True):
            gain = difference(chosen.margins, half.margins, groups)
            taken = [fit["whitening"] for fit in chosen.penalties]
            counts = ", ".join(f"{power:g}: {taken.count(power)}" for power in chosen_among)
            accuracies = f"{shown(half.accuracy)} | {shown(chosen.accuracy)}"
            ahead = f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
            print(f"| {pairs} | {half.method.name} | {accuracies} | {ahead} | {counts} |", flush=True)


if __name__ == "__main__":
    main()
