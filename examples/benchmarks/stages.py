"""Time the stages that read no model, on synthetic data of the size they are meant for.

- frequency: 2 million tokens x 16,384 latents, 64 active per token, against one numpy.bincount over all
  indices, and against one bincount per unit, which stays in the cache and counts no sides, classes or pairs;
- select: 131,072 latents, by the difference and by forward selection (2,304 numbers per row);
- fit: 100,000 pairs x 256 projections, the default head.

    python examples/benchmarks/stages.py --runs 3 --output stages.json
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

RESPONSE_TOKENS, UNIT_TOKENS, D_SAE, L0 = 50, 16_000, 16_384, 64


def seconds(work: Callable[[], Any]) -> float:
    """Return the seconds that one call takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def frequency(tokens: int, runs: int) -> dict[str, Any]:
    """Count `tokens` rows in units; their indices are drawn once and used again, so memory stays flat."""
    from sparserm_cli.stages.frequency.counted_responses import FOLDS, class_responses
    from sparserm_cli.stages.frequency.firing_counts import FiringCounter

    rng = np.random.default_rng(0)
    units = [rng.integers(0, D_SAE, UNIT_TOKENS * L0, dtype=np.uint16) for _ in range(8)]
    bounds = np.arange(0, UNIT_TOKENS * L0 + 1, RESPONSE_TOKENS * L0, dtype=np.int64)
    count = UNIT_TOKENS // RESPONSE_TOKENS
    pairs = np.arange(count, dtype=np.int64).reshape(-1, 2)
    groups = np.repeat(np.arange(count // 2), 2)
    lengths = np.full(count, RESPONSE_TOKENS, np.int32)

    def ours() -> None:
        tally = FiringCounter(D_SAE, "token", RESPONSE_TOKENS)
        for number in range(tokens // UNIT_TOKENS):
            counted = class_responses(lengths, groups, groups % FOLDS, pairs)
            tally.add(counted, bounds, units[number % len(units)])
        tally.result()

    def by_units() -> None:
        for number in range(tokens // UNIT_TOKENS):
            np.bincount(units[number % len(units)], minlength=D_SAE)

    figures = ratio(ours, by_units, runs)
    figures["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    whole = np.concatenate([units[number % len(units)] for number in range(tokens // UNIT_TOKENS)])
    one_call = seconds(lambda: np.bincount(whole, minlength=D_SAE))
    return figures | {"one call seconds": one_call, "one call ratio": figures["seconds"] / one_call}


def ratio(ours: Callable[[], Any], bare: Callable[[], Any], runs: int) -> dict[str, Any]:
    """Time both in turn."""
    times = [(seconds(ours), seconds(bare)) for _ in range(runs)]
    ratios = [a / b for a, b in times]
    return {
        "seconds": statistics.median(a for a, _ in times),
        "bare seconds": statistics.median(b for _, b in times),
        "ratio": statistics.median(ratios),
        "ratios": [min(ratios), max(ratios)],
    }


def select(runs: int) -> dict[str, Any]:
    """Choose 64 directions per side among 131,072 latents; return the seconds of each ranking."""
    from sparserm_cli.stages.frequency.counted_responses import FOLDS, class_responses
    from sparserm_cli.stages.frequency.firing_counts import FiringCounter
    from sparserm_cli.stages.frequency.latent_statistics import statistics_of
    from sparserm_cli.stages.select.rankings import Candidates, choose
    from sparserm_cli.statistics.pair_moments import moments

    rng, latents, responses = np.random.default_rng(0), 131_072, 200
    lengths, groups = np.full(responses, 20, np.int32), np.repeat(np.arange(responses // 2), 2)
    pairs = np.arange(responses, dtype=np.int64).reshape(-1, 2)
    tally = FiringCounter(latents, "token", 20)
    bounds = np.arange(0, responses * 20 * L0 + 1, 20 * L0)
    counted = class_responses(lengths, groups, groups % FOLDS, pairs)
    tally.add(counted, bounds, rng.integers(0, latents, int(bounds[-1])))
    measures, totals = statistics_of(tally.result()), np.full((FOLDS, 2), 200)
    decoder = rng.standard_normal((latents // 64, 2304), np.float32)
    of_pairs = moments(rng.standard_normal((8_000, 2304), np.float32), np.arange(8_000).reshape(-1, 2))
    medians = {}
    candidates = Candidates(
        measures, totals, 64, lambda ids: decoder[ids // 64], lambda: of_pairs, seed=0, where="layer 0"
    )
    for by in ("difference", "forward"):
        times = [seconds(partial(choose, candidates, by)) for _ in range(runs)]
        medians[by] = statistics.median(times)
    return medians


def fit(runs: int) -> dict[str, Any]:
    """Fit the default head on 100,000 pairs of 256 projections."""
    from sparserm_cli.models.head.fits.linear import fit_linear
    from sparserm_cli.models.head.pair_data import PairData

    rng, count, width = np.random.default_rng(0), 100_000, 256
    x = rng.standard_normal((2 * count, width)).astype(np.float32)
    quality = x @ rng.standard_normal(width).astype(np.float32)
    pairs = np.arange(2 * count).reshape(-1, 2)
    better = quality[pairs[:, 0]] + rng.standard_normal(count) > quality[pairs[:, 1]]
    pairs = np.where(better[:, None], pairs, pairs[:, ::-1])
    data = PairData(x, pairs, np.arange(count) % 10 == 0, np.ones(count, np.float32))
    return {"seconds": statistics.median(seconds(lambda: fit_linear(data, "bt")) for _ in range(runs))}


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2_000_000, help="rows of the frequency count")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    figures = {"frequency": frequency(options.tokens, options.runs)}
    figures |= {"select": select(options.runs), "fit": fit(1)}
    counted = figures["frequency"]
    print(
        f"frequency  {counted['seconds']:7.2f} s, {counted['one call ratio']:.2f} times one numpy.bincount,",
        end=" ",
    )
    print(f"{counted['ratio']:.2f} times one a unit, peak {counted['peak MiB']:.0f} MiB")
    for by, taken in figures["select"].items():
        print(f"select     {taken:7.2f} s for 131,072 latents by {by}")
    print(f"fit        {figures['fit']['seconds']:7.2f} s for 100,000 pairs x 256 projections")
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
