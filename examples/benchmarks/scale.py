"""Plan, fill, open, verify and count a capture of millions of made-up pairs, and an eighth of it.

    python examples/benchmarks/scale.py --pairs 10000000 --output scale.json
    pip install duckdb && python examples/benchmarks/scale.py --pairs 10000000 --sorts

Every pair has a prompt of its own and two responses. The plan is what `extract` would freeze, from token ids
that are there already. Vectors are sparse files of the right size with receipts; latents are those of one
unit, linked into all others, each with a receipt of its own. So every stage meets the
real numbers of rows, units and files. Each step runs in a process of its own, whose processor time and peak
resident memory, including pages of mapped files, are printed. Memory that does not depend on the amount of
data has a ratio of about 1 between the whole and the eighth.

With `--sorts` only the plan's external sort and join are measured, beside DuckDB and sqlite3: two keys of 16
bytes per pair, a tenth of them seen before, are numbered by their prompt and first occurrence, and each
record gets the number of its key. All ways must give the same numbers.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

D_IN, LAYER, D_SAE, FIRING = 3584, 20, 2048, 8
BLOCK = 1 << 19
PROMPT_TOKENS, RESPONSE_TOKENS = 12, 4
"""Lengths are short, because the work per response and per unit is measured, and token ids only take disk."""


def plan(run: Path, pairs: int) -> None:
    """Add all pairs and freeze the plan: pooled vectors and latents, 4,096 responses per unit."""
    from sparserm_cli.store.capture.artifact import capture_path
    from sparserm_cli.store.capture.plan import ExtractSettings
    from sparserm_cli.store.capture.plan_writer import PlanWriter

    identity = {"model": "made up", "model_revision": "0", "tokenizer": "0", "template": "raw", "inputs": ()}
    layer = {"layers": (LAYER,), "hook_names": (f"blocks.{LAYER}.hook_resid_post",), "d_in": D_IN}
    settings = ExtractSettings(**identity, **layer, dtype="bfloat16", positions="latents")
    prompt, responses = np.arange(PROMPT_TOKENS, dtype=np.uint32), np.zeros((2, RESPONSE_TOKENS), np.uint32)
    with PlanWriter(capture_path(run), settings) as writer:
        for row in range(pairs):
            prompt[0], responses[0, 0], responses[1, 0] = row, 2 * row, 2 * row + 1
            chosen, rejected = (writer.add(prompt, response, group=row) for response in responses)
            writer.add_pair(chosen, rejected, row + 1)
        writer.freeze({"rows_read": pairs, "rows_accepted": pairs, "rows_rejected": 0})


def vectors(run: Path) -> None:
    """Give every unit sparse files of the right size, a receipt, and the capture its manifest."""
    from sparserm_cli.store.arrays.checked_zarr import chunk_path
    from sparserm_cli.store.capture.artifact import capture_path
    from sparserm_cli.store.capture.plan import POOLED
    from sparserm_cli.store.capture.writer import ActivationsWriter
    from sparserm_cli.store.io.file_facts import FileFact
    from sparserm_cli.store.io.sealed_json import write_sealed
    from sparserm_cli.store.units.records import Receipt, UnitFacts
    from sparserm_cli.store.units.unit_store import INNER

    root = capture_path(run)
    writer = ActivationsWriter(root)
    size = writer.plan.bytes // writer.plan.files
    (root / INNER / "receipts").mkdir()
    for unit in range(writer.plan.layout.units):
        files = []
        for name in POOLED:
            path = chunk_path(f"layers/{LAYER}/{name}", unit)
            with (root / path).open("wb") as file:
                file.truncate(size)
            files.append(FileFact(path, size, "0" * 32))
        facts = UnitFacts(rows=len(writer.rows.span(unit)))
        receipt = Receipt(unit, writer.store.plan_hash, facts, tuple(files), "made up")
        write_sealed(root / INNER / "receipts" / f"{unit:05d}.json", receipt.to_json())
    writer.store.finalize()


def latents(run: Path) -> None:
    """Give every unit the same latents, a receipt, and the encoding its manifest."""
    from sparserm_cli.store.arrays.csr import Csr, part_path
    from sparserm_cli.store.capture.artifact import capture_path
    from sparserm_cli.store.capture.layout import ACTIVATIONS
    from sparserm_cli.store.capture.reader import ActivationsReader
    from sparserm_cli.store.capture.writer import ActivationsWriter
    from sparserm_cli.store.features.artifact import features_path
    from sparserm_cli.store.features.plan import SAEFacts, plan_features
    from sparserm_cli.store.features.writer import FeaturesWriter
    from sparserm_cli.store.units.records import UnitFacts

    root = features_path(run)
    sae = SAEFacts("made up", "0", "topk", f"blocks.{LAYER}.hook_resid_post", LAYER, D_IN, D_SAE)
    plan_features(root, ActivationsWriter(capture_path(run)), (sae,))
    writer = FeaturesWriter(root)
    rng = np.random.default_rng(0)
    linked: dict[int, int] = {}
    for unit in range(writer.plan.layout.units):
        tokens = int(writer.rows.lengths(unit).sum())
        if tokens not in linked:
            fires = np.cumsum(rng.integers(1, D_SAE // FIRING, (tokens, FIRING)), axis=1)
            indptr = np.arange(tokens + 1, dtype=np.int64) * FIRING
            csr = Csr(np.ones(fires.size, np.float32), fires.astype(np.uint16).ravel(), indptr)
            receipt = writer.write_unit(unit, {LAYER: csr}, UnitFacts(rows=0))
            linked[tokens] = unit
            continue
        first, here = (root / part_path(LAYER, number) for number in (linked[tokens], unit))
        files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
        for file in files:
            (here / file).parent.mkdir(parents=True, exist_ok=True)
            os.link(first / file, here / file)
        paths = [(here / file).relative_to(root).as_posix() for file in files]
        writer.store.commit(unit, paths, receipt.facts)
    writer.store.finalize({ACTIVATIONS: ActivationsReader(capture_path(run)).digest})


def open_capture(run: Path) -> None:
    """Open the capture as every stage does."""
    from sparserm_cli.store.capture.artifact import capture_path
    from sparserm_cli.store.capture.reader import ActivationsReader

    ActivationsReader(capture_path(run))


def verify(run: Path) -> None:
    """Check every file of both artifacts by its size."""
    from sparserm_cli.store.run.verify import verify as check

    if check(run, deep=False).damaged:
        raise SystemExit("the store is damaged")


def status(run: Path) -> None:
    """Read the status of the whole chain."""
    from sparserm_cli.store.run.status import status as read_status

    read_status(run)


def frequency(run: Path) -> None:
    """Count every latent on both sides."""
    from sparserm_cli.config import FrequencyConfig
    from sparserm_cli.stages.frequency.frequency import frequency as count

    count(FrequencyConfig(run=run), progress=lambda *_: None, note=lambda _: None)


STEPS: dict[str, Callable[..., None]] = {
    "plan": plan,
    "receipts, vectors": vectors,
    "receipts, latents": latents,
    "open": open_capture,
    "verify": verify,
    "status": status,
    "frequency": frequency,
}


SEEN_BEFORE = 0.1
"""Share of the keys that equal an earlier key of the same run."""


def keyed_blocks(pairs: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield both halves of the keys of two responses per pair and their prompts, in blocks."""
    rng = np.random.default_rng(0)
    for start in range(0, 2 * pairs, BLOCK):
        position = np.arange(start, min(start + BLOCK, 2 * pairs), dtype=np.uint64)
        earlier = rng.random(len(position)) < SEEN_BEFORE
        source = np.where(earlier, (position * rng.random(len(position))).astype(np.uint64), position)
        # Multiplication by an odd number permutes all numbers of 64 bits, so that keys are in no order.
        mixed = (source + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        yield mixed, mixed ^ (mixed >> np.uint64(29)), source // np.uint64(2)


def checksum(numbers: Iterable[np.ndarray]) -> int:
    """Return a digest of the numbers of all records in order, so that the ways can be compared."""
    total, start = 0, 0
    for block in numbers:
        weight = np.arange(start + 1, start + len(block) + 1, dtype=np.uint64)
        total += int((block.astype(np.uint64) * weight).sum(dtype=np.uint64))
        start += len(block)
    return (total + start) % 2**64


def own_sort(folder: Path, pairs: int, _mib: int) -> int:
    """Use the external sort of this package, as the plan does; its memory is fixed."""
    from sparserm_cli.store.arrays.external_sort import ScratchFolder
    from sparserm_cli.store.capture.spool import distinct

    with ScratchFolder(folder / "own") as scratch:
        table = scratch.table([("key", "S16"), ("prompt", "<i8")])
        for high, low, prompt in keyed_blocks(pairs):
            key = np.stack([high, low], axis=1).astype(">u8").view("S16")[:, 0]
            table.add(key, prompt)
        _, number = distinct(scratch, table, lambda block: (block["key"], block["prompt"]))
        return checksum(number.blocks())


def duckdb_sort(folder: Path, pairs: int, mib: int) -> int:
    """Use DuckDB with one thread and at most `mib` MiB of memory."""
    import duckdb
    import pyarrow as pa

    limits = {"memory_limit": f"{mib}MiB", "threads": 1, "temp_directory": str(folder / "spilled")}
    with duckdb.connect(str(folder / "duckdb"), config=limits) as base:
        base.execute("create table record (high ubigint, low ubigint, prompt ubigint, position ubigint)")
        start = 0
        for high, low, prompt in keyed_blocks(pairs):
            position = np.arange(start, start + len(high), dtype=np.uint64)
            columns = [high, low, prompt, position]
            base.register("block", pa.table(columns, names=["high", "low", "prompt", "position"]))
            base.execute("insert into record select * from block")
            base.unregister("block")
            start += len(high)
        base.execute(
            "create table first as select high, low, min(prompt) as prompt, min(position) as position "
            "from record group by high, low"
        )
        base.execute("create table sorted as select high, low from first order by prompt, position")
        numbers = base.sql(
            "select s.rowid as number from record r join sorted s on r.high = s.high and r.low = s.low "
            "order by r.position"
        )
        batches = numbers.to_arrow_reader(BLOCK)
        return checksum(batch.column(0).to_numpy() for batch in batches)


def sqlite_sort(folder: Path, pairs: int, mib: int) -> int:
    """Use sqlite3 of the standard library with a cache of `mib` MiB."""
    base = sqlite3.connect(folder / "sqlite", isolation_level=None)
    settings = ("journal_mode=off", "synchronous=off", "temp_store=file", f"cache_size=-{mib * 1024}")
    for setting in settings:
        base.execute(f"pragma {setting}")
    base.execute("begin")
    base.execute("create table record (position integer primary key, key blob, prompt integer)")
    for high, low, prompt in keyed_blocks(pairs):
        keys = np.stack([high, low], axis=1).astype(">u8").tobytes()
        rows = ((keys[16 * i : 16 * i + 16], value) for i, value in enumerate(prompt.tolist()))
        base.executemany("insert into record (key, prompt) values (?, ?)", rows)
    base.execute(
        "create table first as select key, min(prompt) as prompt, min(position) as position "
        "from record group by key"
    )
    base.execute("create table sorted (number integer primary key, key blob)")
    base.execute("insert into sorted (key) select key from first order by prompt, position")
    base.execute("create index by_key on sorted (key)")
    numbers = base.execute("select s.number - 1 from record r join sorted s using (key) order by r.position")
    blocks = takewhile(bool, iter(lambda: numbers.fetchmany(BLOCK), None))
    return checksum(np.array(block, np.int64)[:, 0] for block in blocks)


SORTS: dict[str, Callable[[Path, int, int], int]] = {
    "own sort": own_sort,
    "duckdb": duckdb_sort,
    "sqlite3": sqlite_sort,
}


def timed(name: str, *arguments: Any) -> dict[str, float]:
    """Run a step and return its seconds, its processor seconds and its peak resident memory in MiB."""
    import sparserm_cli.stages.frequency.frequency
    import sparserm_cli.store.capture.artifact
    import sparserm_cli.store.capture.plan_writer
    import sparserm_cli.store.run.verify  # noqa: F401  # what is imported is not the step's time

    begun, used = time.perf_counter(), time.process_time()
    result = (STEPS | SORTS)[name](*arguments)
    took, used = time.perf_counter() - begun, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"seconds": took, "processor seconds": used, "peak MiB": peak}
    return figures | ({"checksum": result} if name in SORTS else {})


def measured(pairs: int, steps: list[str], mib: int) -> dict[str, dict[str, float]]:
    """Run all steps one after another, each in a new process."""
    alone = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        run, figures = Path(folder), {}
        for name in steps:
            arguments = (run, pairs, mib)[: 3 if name in SORTS else 2 if name == "plan" else 1]
            with ProcessPoolExecutor(1, mp_context=alone) as process:
                figures[name] = process.submit(timed, name, *arguments).result()
            print(f"{pairs:>12,} pairs  {name:<18}{figures[name]['seconds']:>9.2f} s", flush=True)
        if len({figure["checksum"] for name, figure in figures.items() if name in SORTS}) > 1:
            raise SystemExit(f"the ways give different numbers: {figures}")
    return figures


def main() -> None:
    """Measure each step, print a table and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--only-plan", action="store_true", help="leave the other steps out")
    parser.add_argument("--sorts", nargs="*", choices=SORTS, help="measure these ways to sort and join alone")
    parser.add_argument("--memory", type=int, default=300, help="MiB for DuckDB and the cache of sqlite3")
    parser.add_argument("--output", type=Path, help="write the figures there")
    options = parser.parse_args()
    steps = list(STEPS)[: 1 if options.only_plan else None]
    if options.sorts is not None:
        steps = options.sorts or list(SORTS)
    figures = {pairs: measured(pairs, steps, options.memory) for pairs in (options.pairs // 8, options.pairs)}
    eighth, whole = figures.values()
    print(f"{'':<18}{'seconds':>10}{'processor':>11}{'peak MiB':>10}{'of an eighth':>14}{'ratio':>7}")
    for name, figure in whole.items():
        before, peak = eighth[name]["peak MiB"], figure["peak MiB"]
        times = f"{figure['seconds']:>10.2f}{figure['processor seconds']:>11.2f}"
        print(f"{name:<18}{times}{peak:>10,.0f}{before:>14,.0f}{peak / before:>7.2f}")
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
