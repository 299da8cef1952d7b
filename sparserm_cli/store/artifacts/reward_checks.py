"""Checks of a reward model that somebody else has made; its seal only proves that it was not damaged.

Every check raises ValueError with the field and the value, before anything is computed with it.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sparserm_cli.store.artifacts.head_arrays import HeadArrays
    from sparserm_cli.store.artifacts.reward import RewardConfig

BORDER = "0.99"
"""The quantile of the training distances that counts as 1."""
POOLINGS: dict[str, tuple[str, ...]] = {"mean": ("mean",), "last": ("last",), "both": ("mean", "last")}
"""The poolings that each `pool` projects, in order."""

_MOST_TOKEN = 2**32
_TEXTS = (
    "model", "model_revision", "tokenizer", "template_digest", "dtype", "pool", "head", "loss", "template",
    "template_text",
)  # fmt: skip
_COUNTS = ("d_in", "max_length", "seed")
_NUMBERS = ("val_fraction", "score_mean", "score_std")
_OBJECTS = ("selection", "training", "distance", "probe")
_MAY_BE_NULL = ("template", "template_text")


def check_fields(config: Mapping[str, Any]) -> None:
    """Check the kind and the range of everything that is recorded, field by field.

    Raises:
        KeyError: a field is missing.
        ValueError: a field is of another kind or out of range.

    """
    for name in _TEXTS:
        good = isinstance(config[name], str) or (config[name] is None and name in _MAY_BE_NULL)
        _require(good, name, config[name], "text")
    for name in _COUNTS:
        good = _whole(config[name]) and config[name] >= (name == "d_in")
        _require(good, name, config[name], "a whole number from 0")
    for name in _NUMBERS:
        _require(_finite(config[name]), name, config[name], "a finite number")
    for name in _OBJECTS:
        _require(isinstance(config[name], Mapping), name, config[name], "an object")
    _require(config["pool"] in POOLINGS, "pool", config["pool"], f"one of {', '.join(POOLINGS)}")
    _require(config["score_std"] > 0, "score_std", config["score_std"], "a number above 0")
    preference = config["length_preference"]
    _require(_whole(preference) and abs(preference) <= 1, "length_preference", preference, "-1, 0, 1")
    _check_layers(config["layers"], config["hook_names"])
    _check_distance(config["distance"])
    _check_probe(config["probe"])
    _require(isinstance(config["metrics"], list), "metrics", config["metrics"], "a list")
    for metric in config["metrics"]:
        _check_metric(metric)
    steps = config["derivation"]
    good = isinstance(steps, list) and all(isinstance(step, Mapping) for step in steps)
    _require(good, "derivation", steps, "a list of objects")


def _check_layers(layers: Any, hooks: Any) -> None:
    """Check the layers and their names."""
    good = isinstance(layers, list) and bool(layers) and all(_whole(layer) and layer >= 0 for layer in layers)
    _require(good and len(set(layers)) == len(layers), "layers", layers, "different whole numbers from 0")
    good = isinstance(hooks, list) and all(isinstance(hook, str) for hook in hooks)
    _require(good and len(hooks) == len(layers), "hook_names", hooks, f"{len(layers)} names")


def _check_metric(metric: Any) -> None:
    """Check one accuracy."""
    good = isinstance(metric, Mapping) and all(
        isinstance(metric.get(key), str) for key in ("scorer", "split")
    )
    _require(good, "metrics", metric, "a scorer and a split")
    for name in ("accuracy", "low", "high", "pairs"):
        _require(_finite(metric.get(name)), f"metrics {name}", metric.get(name), "a finite number")


def _check_distance(distance: Mapping[str, Any]) -> None:
    """Check the quantiles of the training distances, one of which divides all others."""
    for name, value in distance.items():
        _require(_finite(value) and value > 0, f"distance {name}", value, "a number above 0")
    _require(BORDER in distance, "distance", sorted(distance), f"a quantile {BORDER}")


def _check_probe(probe: Mapping[str, Any]) -> None:
    """Check the response whose score was recorded, where there is one."""
    if not probe:
        return
    _require(_finite(probe.get("score")), "probe score", probe.get("score"), "a finite number")
    for name in ("prompt", "response"):
        ids = probe.get(name)
        good = isinstance(ids, list) and all(_whole(token) and 0 <= token < _MOST_TOKEN for token in ids)
        _require(good, f"probe {name}", ids, "a list of token ids")
    _require(bool(probe["response"]), "probe response", [], "at least one token id")


def check_head(head: "HeadArrays", config: "RewardConfig", name: str = "") -> None:
    """Check that the tensors of a head are numbers and fit each other and what is recorded.

    Args:
        head: the head.
        config: what is recorded.
        name: of the control; empty for the reward model's own head.

    Raises:
        ValueError: they do not.

    """
    where = f"{name}: " if name else ""
    tensors = {"mean": head.mean, "std": head.std, **head.weights}
    tensors |= {f"directions.{layer}": rows for layer, rows in head.directions.items()}
    for key, values in tensors.items():
        good = np.issubdtype(values.dtype, np.floating) and bool(np.isfinite(values).all())
        _require(good, where + key, str(values.dtype), "finite numbers")
    _require(bool((head.std > 0).all()), f"{where}std", float(head.std.min(initial=0)), "numbers above 0")
    if head.directions:
        _require(set(head.directions) == set(config.layers), f"{where}layers", sorted(head.directions),
                 f"layers {list(config.layers)}")  # fmt: skip
    widths = {rows.shape[1:] for rows in head.directions.values()}
    _require(widths <= {(config.d_in,)}, f"{where}directions", sorted(widths), f"rows of width {config.d_in}")
    rows = sum(map(len, head.directions.values())) * len(POOLINGS[config.pool])
    count = rows if head.directions else config.d_in * len(config.layers)
    for key, shape in _shapes(head, count).items():
        _require(tensors[key].shape == shape, where + key, tensors[key].shape, f"shape {shape}")


def _shapes(head: "HeadArrays", count: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a head's tensors for a number of projections."""
    shapes: dict[str, tuple[int, ...]] = {"mean": (count,), "std": (count,), "bias": (1,)}
    if "weight" in head.weights:
        return {**shapes, "weight": (count,)}
    hidden = head.weights["bias_1"].size
    return {**shapes, "weight_1": (count, hidden), "bias_1": (hidden,), "weight_2": (hidden,)}


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require(good: bool, name: str, found: object, expected: str) -> None:
    """Raise ValueError with name and value unless all is well."""
    if not good:
        raise ValueError(f"{name}: {str(found)[:80]!r} instead of {expected}")
