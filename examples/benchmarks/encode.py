"""Time encoding against the bare matrix product and against SAELens' own encode, in turn within one run.

    python examples/benchmarks/encode.py [--rows 8192] [--rounds 9] [--output encode.json]

Every way gets the same rows: activations of the shipped SAE's width, built from its own decoder so that they
are as sparse in its latents as real ones. `ours` is everything that `sparserm encode` does to a chunk: the
product, the activation function, and the compaction to sparse rows. Its bound is the product alone in
float32. Where activations and weights are bfloat16 numbers, it multiplies them as such and adds in float32,
which takes less time than the bound.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sparserm_cli.models.sae.autoencoder import SparseAutoencoder
from sparserm_cli.models.sae.load import load_sae
from sparserm_cli.models.sae.sparse_encoder import SparseEncoder

SHIPPED = Path(__file__).parents[1] / "sae" / "smollm2-135m"
BOUNDS = {"relu": 1.3, "jumprelu": 1.3, "topk": 1.6}


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=8192, help="tokens in a chunk")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each way, taken in turn")
    parser.add_argument("--sae", default=str(SHIPPED), help="a topk SAE")
    parser.add_argument("--output", type=Path, help="write the figures there")
    options = parser.parse_args()
    shipped = load_sae(options.sae)
    x = made_up_rows(shipped, options.rows)
    result: dict[str, Any] = {
        "rows": options.rows,
        "d_in": shipped.d_in,
        "d_sae": shipped.d_sae,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "ways": {},
    }
    times = alternate(ways(shipped, x), options.rounds)
    bare = times["product float32"]
    for name, seconds in times.items():
        ratios = [taken / base for taken, base in zip(seconds, bare, strict=True)]
        result["ways"][name] = {
            "median_seconds": statistics.median(seconds),
            "fastest_seconds": min(seconds),
            "ratio": statistics.median(ratios),
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
        }
    show(result)
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def made_up_rows(sae: SparseAutoencoder, rows: int) -> torch.Tensor:
    """Return bfloat16 activations that are sums of a few decoder rows, as the SAE sees real ones."""
    generator = torch.Generator().manual_seed(0)
    active = torch.rand(rows, sae.d_sae, generator=generator).topk(sae.k or 64, dim=1).indices
    values = torch.rand(rows, active.shape[1], generator=generator) * 20
    codes = torch.zeros(rows, sae.d_sae).scatter_(1, active, values)
    return sae.decode(codes).bfloat16()


def ways(shipped: SparseAutoencoder, x: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Return the timed functions by name; other kinds of SAE have the same weights and latents per row."""
    wide, out = x.float(), torch.empty(len(x), shipped.d_sae)
    narrow_weights = shipped.W_enc.bfloat16()
    pre = shipped.pre_activations(wide[:1024])
    level = pre.topk(shipped.k or 64, dim=1).values.amin(dim=1).mean()
    threshold = torch.full((shipped.d_sae,), float(level))
    kinds = {
        "topk": shipped,
        "jumprelu": replace(shipped, k=None, threshold=threshold),
        "relu": replace(shipped, k=None, b_enc=shipped.b_enc - level),
    }
    timed: dict[str, Callable[[], Any]] = {
        "product float32": lambda: torch.mm(wide, shipped.W_enc, out=out),
        "product bfloat16": lambda: torch.mm(x, narrow_weights),
    }
    for name, sae in kinds.items():
        encoder = SparseEncoder(sae)
        finer = SparseEncoder(replace(sae, W_enc=sae.W_enc * 1.001))
        timed[f"ours {name}"] = lambda encoder=encoder: encoder.encode(x)
        timed[f"ours {name}, float32 weights"] = lambda finer=finer: finer.encode(x)
    timed["sae_lens topk, dense result"] = saelens_encode(wide)
    return timed


def saelens_encode(x: torch.Tensor) -> Callable[[], Any]:
    """Return SAELens' encode of the shipped SAE, which leaves a dense matrix."""
    from sparserm_cli.models.sae.training.sae_lens_noise import silence_sae_lens

    with silence_sae_lens():
        from sae_lens import SAE

        sae = SAE.load_from_disk(SHIPPED)

    def encode() -> Any:
        with torch.no_grad():
            return sae.encode(x)

    return encode


def alternate(timed: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Run all ways in turn, so that other load falls on all alike; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(rounds + 1):
        for name, way in timed.items():
            begun = time.perf_counter()
            way()
            if turn:
                times[name].append(time.perf_counter() - begun)
    return times


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{result['rows']:,} rows, {result['d_in']} -> {result['d_sae']:,}, {result['threads']} threads")
    print(f"{'way':<34}{'median s':>10}{'x product':>11}   spread     bound")
    for name, way in result["ways"].items():
        bound = next((f"{BOUNDS[kind]:.1f}" for kind in BOUNDS if name.startswith(f"ours {kind}")), "")
        spread = f"{way['ratio_low']:.2f}-{way['ratio_high']:.2f}"
        print(f"{name:<34}{way['median_seconds']:>10.4f}{way['ratio']:>11.2f}   {spread:<10} {bound}")


if __name__ == "__main__":
    sys.exit(main())
