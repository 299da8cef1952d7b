"""Measure the cost of the store's safety: syncs, digests and receipts, and opening a capture of 5,000 units.

    python examples/benchmarks/store.py --data pairs.jsonl --limit 300 --output store.json

- A capture of `--limit` rows by `sparserm extract` is timed. Then its arrays are written again in turn by the
  store (checksums, syncs, reading back, receipts, manifest) and by plain zarr (none of these). The difference
  is the cost of a capture that can be trusted.
- A made-up capture of `--units` units: opened in this process, and `sparserm status` on it in a process of
  its own, beside a process that only starts Python and imports what the command imports.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import captures
import numpy as np

STATUS = [sys.executable, "-m", "sparserm_cli", "status", "--quiet", "--run"]
START = [sys.executable, "-c", "import typer, zarr, pyarrow.parquet, safetensors.numpy"]
BOUNDS = {"share": 0.05, "seconds": 1.0}
D_IN = 8


def seconds(work: Callable[[], Any]) -> float:
    """Return the seconds that one call takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def integrity(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Capture once, then write the arrays with and without the safety measures, in turn."""
    from sparserm_cli.config import ExtractConfig
    from sparserm_cli.stages.extract.extract import extract
    from sparserm_cli.store.capture.artifact import capture_path
    from sparserm_cli.store.capture.reader import ActivationsReader

    settings = {
        "model": options.model,
        "layer": (options.layer,),
        "limit": options.limit,
        "on_bad_row": "reject",
    }
    config = ExtractConfig(
        run=folder / "run", data=str(options.data), unit_tokens=options.unit_tokens, **settings
    )
    begun = time.perf_counter()
    done = extract(config, progress=lambda _done, _all: None, note=lambda _text: None)
    took = time.perf_counter() - begun
    units = list(captured(ActivationsReader(done.path), options.layer))
    planned = emptied(done.path, folder / "planned")
    careful, bare = [], []
    for number in range(options.rounds):
        copy = shutil.copytree(planned, capture_path(folder / f"careful-{number}"))
        careful.append(seconds(lambda copy=copy: write_carefully(copy, options.layer, units)))
        os.sync()  # the writes that the bare way leaves to the system must not fall on the next round
        bare.append(seconds(lambda number=number: write_barely(folder / f"bare-{number}", units)))
        os.sync()
    price = statistics.median(taken - other for taken, other in zip(careful, bare, strict=True))
    return {
        "rows": done.plan.counts["rows_read"],
        "units": len(units),
        "bytes": done.plan.bytes,
        "capture_seconds": took,
        "unit_seconds": done.seconds,
        "careful_seconds": careful,
        "bare_seconds": bare,
        "share": price / took,
    }


def captured(reader: Any, layer: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield the arrays of each unit."""
    pooled = {name: reader.pooled(layer, name) for name in ("last", "mean")}
    for block in reader.iter_tokens(layer, raw=True):
        span = slice(block.responses.start, block.responses.stop)
        yield {"last": pooled["last"][span], "mean": pooled["mean"][span], "tokens": block.rows}


def emptied(capture: Path, planned: Path) -> Path:
    """Copy a capture as it was before its first unit."""
    shutil.copytree(capture, planned, ignore=shutil.ignore_patterns("receipts", "MANIFEST.json"))
    for path in (planned / "layers").rglob("c.*"):
        path.unlink()
    return planned


def write_carefully(root: Path, layer: int, units: list[dict[str, np.ndarray]]) -> None:
    """Write all units as `extract` does."""
    from sparserm_cli.store.capture.writer import ActivationsWriter
    from sparserm_cli.store.units.records import UnitFacts

    writer = ActivationsWriter(root)
    for unit, arrays in enumerate(units):
        writer.store.start(unit)
        writer.write_unit(unit, {layer: arrays}, UnitFacts(rows=0))
    writer.store.finalize()


def write_barely(root: Path, units: list[dict[str, np.ndarray]]) -> None:
    """Write all units by plain zarr: neither checksums nor syncs nor receipts."""
    import zarr

    group = zarr.create_group(root)
    for name in units[0]:
        height = max(len(arrays[name]) for arrays in units)
        shape = (height * len(units), units[0][name].shape[1])
        array = group.create_array(
            name, shape=shape, chunks=(height, shape[1]), dtype=units[0][name].dtype, compressors=None
        )
        for unit, arrays in enumerate(units):
            array[unit * height : unit * height + len(arrays[name])] = arrays[name]


def opening(units: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Time opening a capture of many units, and `status` on it."""
    from sparserm_cli.store.capture.artifact import capture_path
    from sparserm_cli.store.capture.reader import ActivationsReader

    run = folder / "many"
    with unsynced():
        make_many(capture_path(run), units)
    ActivationsReader(capture_path(run))
    opened, status, start = [], [], []
    for _ in range(rounds):
        opened.append(seconds(lambda: ActivationsReader(capture_path(run))))
        start.append(seconds(lambda: subprocess.run(START, check=True)))
        status.append(seconds(lambda: subprocess.run([*STATUS, str(run)], check=True, capture_output=True)))
    return {"units": units, "open_seconds": opened, "status_seconds": status, "start_seconds": start}


def make_many(root: Path, units: int) -> None:
    """Make a complete capture of `units` units with one response of one token each."""
    from sparserm_cli.store.capture.plan import ExtractSettings
    from sparserm_cli.store.capture.plan_writer import PlanWriter
    from sparserm_cli.store.capture.writer import ActivationsWriter
    from sparserm_cli.store.units.records import UnitFacts

    identity = {"model": "made up", "model_revision": "0", "tokenizer": "0", "template": "raw"}
    layer = {"layers": (0,), "hook_names": ("blocks.0.hook_resid_post",), "d_in": D_IN, "dtype": "float32"}
    with PlanWriter(root, ExtractSettings(**identity, **layer, inputs=(), unit_tokens=1)) as plan:
        handles = [plan.add(np.zeros(1, np.uint32), np.full(1, n, np.uint32), group=0) for n in range(units)]
        plan.add_pair(handles[0], handles[-1], 1)
        plan.freeze({})
    writer, row = ActivationsWriter(root), np.ones((1, D_IN), np.float32)
    for unit in range(units):
        writer.write_unit(unit, {0: {"last": row, "mean": row, "tokens": row}}, UnitFacts(rows=0))
    writer.store.finalize()


@contextmanager
def unsynced() -> Iterator[None]:
    """Skip all syncs while a store is made that is only to be read."""
    sync, os.fsync = os.fsync, lambda _handle: None
    try:
        yield
    finally:
        os.fsync = sync


def show(figures: dict[str, Any]) -> None:
    """Print both tables."""
    whole, many = figures["integrity"], figures["opening"]
    print(f"{whole['rows']} rows in {whole['units']} units, {whole['bytes'] / 2**20:.1f} MiB")
    print(f"{'capture, all of it':<42}{whole['capture_seconds']:>9.2f} s")
    for name, way in (("written with care", "careful"), ("written by plain zarr", "bare")):
        times = whole[f"{way}_seconds"]
        spread = f"({min(times):.3f} to {max(times):.3f})"
        print(f"{name:<42}{statistics.median(times):>9.3f} s  {spread}")
    print(f"{'care, of the capture':<42}{whole['share']:>9.2%}    bound {BOUNDS['share']:.0%}")
    print(f"\n{many['units']:,} units")
    for name, way in (
        ("opened", "open"),
        ("sparserm status", "status"),
        ("start and imports alone", "start"),
    ):
        times = many[f"{way}_seconds"]
        spread = f"({min(times):.3f} to {max(times):.3f})"
        bound = "" if way == "start" else f"  bound {BOUNDS['seconds']:.0f} s"
        print(f"{name:<42}{statistics.median(times):>9.3f} s  {spread}{bound}")


def main() -> None:
    """Measure, print two tables and write JSON."""
    parser = captures.parser(__doc__, limit=300, unit_tokens=4096)
    parser.add_argument("--units", type=int, default=5000, help="units of the made-up capture")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each way, taken in turn")
    parser.add_argument("--folder", type=Path, help="where to write, to measure that disk")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = {
            "integrity": integrity(options, Path(folder)),
            "opening": opening(options.units, options.rounds, Path(folder)),
        }
    show(figures)
    captures.write(figures, options.output)


if __name__ == "__main__":
    main()
