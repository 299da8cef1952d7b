"""Two runs in one table: what each was made from and how well it does."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sparserm_cli.analysis.report.content.tables import interval
from sparserm_cli.analysis.report.run_facts import Missing, RunFacts
from sparserm_cli.formatting import percent

_ORDER = (
    *("held-out data", "held-out accuracy", "calibration error, held-out", "validation accuracy"),
    *("language model", "SAE", "directions", "named directions", "head", "fitted on"),
)


class SideBySide(NamedTuple):
    """Two runs beside each other.

    Fields:
        names: the run directories.
        rows: what is compared, and its value in either run.
    """

    names: tuple[str, str]
    rows: tuple[tuple[str, str, str], ...]


def side_by_side(names: tuple[str, str], run: RunFacts, other: RunFacts) -> SideBySide:
    """Return what two runs have in common and in what they differ.

    Args:
        names: the run directories, as they were named.
        run: the run of the report.
        other: the run beside it.

    """
    sides = dict(_facts(run)), dict(_facts(other))
    shown = [name for name in _ORDER if name in sides[0] or name in sides[1]]
    rows = [(name, sides[0].get(name, "none"), sides[1].get(name, "none")) for name in shown]
    rows.append(("latents in both", *_shared(run, other)))
    return SideBySide(names, tuple(rows))


def _facts(run: RunFacts) -> Iterator[tuple[str, str]]:
    """Yield what a run says of itself."""
    if not isinstance(run.evaluation, Missing):
        metrics = run.evaluation
        yield "held-out data", f"{metrics['file']}, {metrics['benchmark']}"
        yield "held-out accuracy", _accuracy(metrics["scorers"]["reward"])
        yield "calibration error, held-out", percent(metrics["reliability"]["error"])
    if not isinstance(run.reward, Missing):
        config = run.reward.config
        for metric in config.metrics:
            if metric.scorer == config.metrics[0].scorer and metric.split == "validation":
                yield "validation accuracy", _accuracy(vars(metric))
        yield "language model", f"{config.model}, after block {', '.join(map(str, config.layers))}"
        yield "SAE", ", ".join(map(str, config.selection.get("sae") or ())) or "unknown"
        latents: Mapping[str, Any] = config.selection.get("latents", {})
        yield "directions", f"{sum(map(len, latents.values())):,}"
        yield "head", f"{config.head}, {config.pool} pooling, {config.loss} loss"
        yield "fitted on", f"{config.training.get('train_pairs', 0):,} pairs"
    if run.descriptions is not None:
        yield "named directions", f"{len(run.descriptions.names):,}"


def _accuracy(metric: Mapping[str, Any]) -> str:
    """Write an accuracy with its interval."""
    value = metric.get("accuracy", metric.get("total", metric.get("score", 0.0)))
    pairs = f", {metric['pairs']:,} pairs" if "pairs" in metric else ""
    return f"{percent(value)} ({interval(metric['low'], metric['high'])}{pairs})"


def _shared(run: RunFacts, other: RunFacts) -> tuple[str, str]:
    """Return how many of each run's latents the other run selected too; numbers mean the same in one SAE."""
    sides = []
    for facts in (run, other):
        if isinstance(facts.directions, Missing) or isinstance(facts.features, Missing):
            return "unknown", "unknown"
        digests = {sae.layer: sae.digest for sae in facts.features.plan.saes}
        sides.append(
            {
                (layer, digests.get(layer), int(feature))
                for layer, rows in facts.directions.layers.items()
                for feature in rows.feature
                if feature >= 0
            }
        )
    both = len(sides[0] & sides[1])
    return f"{both:,} of {len(sides[0]):,}", f"{both:,} of {len(sides[1]):,}"
