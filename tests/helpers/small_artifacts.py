"""The artifacts above the encoding, made up without counting, selecting or fitting anything."""

from pathlib import Path

import numpy as np

from sparserm_cli.store.artifacts.directions import (
    Directions,
    LayerDirections,
    read_directions,
    write_directions,
)
from sparserm_cli.store.artifacts.frequency import (
    Frequency,
    LatentStatistics,
    Totals,
    read_frequency,
    write_frequency,
)
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.artifacts.reward import (
    RewardConfig,
    RewardFiles,
    reward_path,
    write_reward,
)
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.features.reader import FeaturesReader
from sparserm_cli.store.provenance import Lineage

SIDED = ("rate", "low", "high", "responses")


def frequency(run: Path, seed: int = 0) -> None:
    """Make frequency.parquet from the encoding that is there."""
    numbers = {name: np.zeros((2, 6)) for name in SIDED} | {
        name: np.zeros(6) for name in LatentStatistics._fields if name not in (*SIDED, "fold_rate")
    }
    numbers["responses"] = np.zeros((2, 6), np.int64)
    measures = LatentStatistics(**numbers, fold_rate=np.full((2, 6, 3), seed, np.float32))
    parents = {"features": FeaturesReader(run / "features.zarr").lineage.as_parent()}
    lineage = Lineage("frequency", 1, {"seed": seed}, parents)
    totals = Totals((1, 1), (1, 1), 1, 1, ((1, 1),))
    write_frequency(run, Frequency(lineage, "token", totals, {1: measures}))


def directions(run: Path, row: float = 1.0) -> None:
    """Make directions/ from the frequencies that are there."""
    numbers = [np.zeros(2) for _ in range(4)]
    layer = LayerDirections(
        np.full((2, 3), row, np.float32), np.array([3, 4]), np.array([1, -1], np.int8), *numbers
    )
    parents = {"frequency": read_frequency(run).lineage.as_parent()}
    write_directions(run, Directions(Lineage("directions", 1, {"top_k": 1}, parents), {1: layer}))


def reward(run: Path, weight: float = 1.0) -> None:
    """Make reward/ from the capture and the directions that are there."""
    parents = {
        "activations": ActivationsReader(run / "activations.zarr").lineage.as_parent(),
        "directions": read_directions(run).lineage.as_parent(),
    }
    ones = np.ones(2, np.float32)
    weights = {"weight": ones * np.float32(weight), "bias": ones[:1]}
    head = HeadArrays(ones, ones, weights, {1: np.ones((2, 3), np.float32)})
    config = RewardConfig(
        lineage=Lineage("reward", 1, {"pool": "mean"}, parents),
        model="tiny",
        model_revision="sha256:0",
        tokenizer="t0",
        template_digest="raw",
        layers=(1,),
        hook_names=("blocks.1.hook_resid_post",),
        d_in=3,
        dtype="bfloat16",
        pool="mean",
        head="linear",
        loss="bt",
        distance={"0.99": 1.0},
    )
    write_reward(reward_path(run), RewardFiles(config, head, {}))
