"""Plan, open and verify a capture of millions of made-up pairs, whose chunks are never computed.

    python examples/benchmarks/scale.py --pairs 1000000 --output scale.json

Every pair has a prompt of its own and two responses. The plan is what `extract` would freeze; receipts and
manifest are written over sparse files of the right size, so that opening and the quick `verify` meet as many
files as they would. Peak memory is that of the process so far.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

D_IN, LAYER = 3584, 20
PROMPT_TOKENS, RESPONSE_TOKENS = 12, 4
"""Short, since what is measured is work a response and a unit, and token ids only take disk."""


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """Return seconds, and the peak memory after it in MiB."""
    begun = time.perf_counter()
    work()
    took = time.perf_counter() - begun
    return {"seconds": took, "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def plan(root: Path, pairs: int) -> None:
    """Add all pairs and freeze the plan, pooled vectors only, 4,096 responses a unit."""
    from sparserm_cli.store.plan import ExtractSettings
    from sparserm_cli.store.planner import PlanWriter

    identity = {"model": "made up", "model_revision": "0", "tokenizer": "0", "template": "raw", "inputs": ()}
    layer = {"layers": (LAYER,), "hook_names": (f"blocks.{LAYER}.hook_resid_post",), "d_in": D_IN}
    settings = ExtractSettings(**identity, **layer, dtype="bfloat16", positions="pooled", unit_tokens=65_536)
    prompt, responses = np.arange(PROMPT_TOKENS, dtype=np.uint32), np.zeros((2, RESPONSE_TOKENS), np.uint32)
    with PlanWriter(root, settings) as writer:
        for row in range(pairs):
            prompt[0], responses[0, 0], responses[1, 0] = row, 2 * row, 2 * row + 1
            chosen, rejected = (writer.add(prompt, one, group=row) for one in responses)
            writer.add_pair(chosen, rejected, row + 1)
        writer.freeze({"rows_read": pairs, "rows_accepted": pairs, "rows_rejected": 0})


def fill(root: Path) -> None:
    """Give every unit sparse files of the right size, a receipt, and the store its manifest."""
    from sparserm_cli.store.activations import ActivationsWriter
    from sparserm_cli.store.files import write_sealed
    from sparserm_cli.store.plan import POOLED
    from sparserm_cli.store.receipts import FileFact, Receipt, UnitFacts
    from sparserm_cli.store.zarrs import chunk_path

    writer = ActivationsWriter(root)
    size = writer.plan.bytes // writer.plan.files
    (root / "_sparserm" / "receipts").mkdir()
    for unit in range(writer.plan.layout.units):
        files = []
        for name in POOLED:
            path = chunk_path(f"layers/{LAYER}/{name}", unit)
            with (root / path).open("wb") as file:
                file.truncate(size)
            files.append(FileFact(path, size, "0" * 32))
        facts = UnitFacts(rows=len(writer.rows.span(unit)))
        receipt = Receipt(unit, writer.store.plan_hash, facts, tuple(files), "made up")
        write_sealed(root / "_sparserm" / "receipts" / f"{unit:05d}.json", receipt.to_json())
    writer.store.finalize()


def main() -> None:
    """Measure each step, print a table, write JSON."""
    from sparserm_cli.store.activations import ActivationsReader
    from sparserm_cli.store.checks import check

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, help="write the figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "activations.zarr"
        told: dict[str, Any] = {"pairs": options.pairs}
        told["plan"] = timed(lambda: plan(root, options.pairs))
        told["receipts and manifest"] = timed(lambda: fill(root))
        told["open"] = timed(lambda: ActivationsReader(root))
        told["verify"] = timed(lambda: check(ActivationsReader(root).store, deep=False))
        told["units"] = ActivationsReader(root).plan.layout.units
    print(f"{options.pairs:,} pairs in {told['units']:,} units")
    for name in ("plan", "receipts and manifest", "open", "verify"):
        print(f"{name:<24}{told[name]['seconds']:>9.2f} s{told[name]['peak MiB']:>9,.0f} MiB")
    if options.output:
        options.output.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
