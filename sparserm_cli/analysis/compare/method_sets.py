"""The methods that `compare` measures: SparseRM, controls with the same head, and other baselines."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sparserm_cli.analysis.compare.methods import Method
from sparserm_cli.config import CompareConfig, FrequencyConfig, HeadSetting, SelectConfig
from sparserm_cli.models.head.baselines import BASELINES
from sparserm_cli.stages.fit.model_selection import SETTINGS

DEFAULTS = Method(
    "SparseRM, defaults",
    top_k=SelectConfig.top_k,
    by=SelectConfig.by,
    unit=FrequencyConfig.unit,
    **vars(HeadSetting()),
)
"""SparseRM with the default options of `frequency`, `select` and `fit`."""
PAPER = (
    replace(DEFAULTS, name="as in the paper, last token", unit="last", pool="last", plain=True),
    replace(DEFAULTS, name="as in the paper, mean", unit="mean", pool="mean", plain=True),
)
"""The method as the paper describes it, for either reading of its one hidden state per response."""
CONTROLS = {
    "random latents' rows": "random-latents",
    **{name: baseline.kind for name, baseline in BASELINES.items()},
}
"""The kind of each control, which has other directions than SparseRM."""
FORWARD_SELECTED = {
    "components of pairs, in turn": "components-in-turn",
    "random directions, in turn": "random-in-turn",
}
"""The kind of each control whose directions are chosen by forward selection, as `forward` chooses latents."""
DENSE = Method("dense, linear", kind="dense", top_k=None)
"""A linear probe on the mean vectors."""
LATENTS = (
    Method("SAE latents, mean", kind="latent-means"),
    Method("SAE latents, maximum", kind="latent-maxima"),
)
"""Heads on the latents' own values, with twice as many latents as directions per side."""
WHOLE = (
    DENSE,
    replace(DENSE, name="dense, linear, mean and last", pool="both"),
    replace(DENSE, name="dense, MLP", head="mlp", loss="margin"),
    replace(DENSE, name="difference of means", kind="means"),
    Method("length only", kind="length", top_k=None),
    Method("chance", kind="chance", top_k=None),
)
"""Baselines without a number of directions."""
CHANGES: dict[str, dict[str, Any]] = {
    **{f"by {by}": {"by": by} for by in ("standardised", "z", "mcnemar", "mutual-information")},
    **{
        f"by {by}": {"by": by} for by in ("difference", "stability", "greedy", "forward", "length-controlled")
    },
    "response frequency": {"unit": "response"},
    "mean": {"pool": "mean"},
    "last token": {"pool": "last"},
    "mean and last": {"pool": "both"},
    "linear, Bradley-Terry": {"head": "linear", "loss": "bt"},
    "linear, margin": {"head": "linear", "loss": "margin"},
    "linear, bce": {"head": "linear", "loss": "bce"},
    "MLP, margin": {"head": "mlp", "loss": "margin"},
    "MLP, margin, mean and last": {"head": "mlp", "loss": "margin", "pool": "both"},
}
"""The changed options of each variant of SparseRM."""
LORA = Method("LoRA, all of the model", kind="lora", top_k=None)
"""The whole language model, fitted to the pairs with adapters."""
FEW = 16
"""Directions per side where labels are few or wrong, so that the selection matters."""


def usual_top_k(config: CompareConfig) -> int:
    """Return the directions per side outside their sweep: the default of `select` if the sweep has it."""
    return SelectConfig.top_k if SelectConfig.top_k in config.top_k else max(config.top_k)


def sparserm(config: CompareConfig, top_k: int) -> Method:
    """Return SparseRM with the options of the comparison."""
    options = {name: getattr(config, name) for name in ("by", "unit", "pool", "head", "loss")}
    return Method("SparseRM", top_k=top_k, **options)


def with_controls(own: Method, suffix: str = "") -> list[Method]:
    """Return a method and its controls, with the same number of directions and the same head."""
    in_turn = own.by == "forward"
    plain = [replace(own, name=f"{own.name}, by difference", by="difference")] if in_turn else []
    controls = CONTROLS | (FORWARD_SELECTED if in_turn else {})
    return [own, *plain, *(replace(own, name=name + suffix, kind=kind) for name, kind in controls.items())]


def all_methods(config: CompareConfig, *, encodes_means: bool = True) -> list[Method]:
    """Return SparseRM and its controls, the defaults and theirs, the paper's method, and all other baselines.

    Args:
        config: the options.
        encodes_means: the mean vectors are encoded, so that what fires on them can be counted.

    """
    top_k = usual_top_k(config)
    own = with_controls(sparserm(config, top_k))
    usual = with_controls(replace(DEFAULTS, top_k=top_k), ", defaults")
    paper = (replace(method, top_k=top_k) for method in PAPER if encodes_means or method.unit != "mean")
    latents = (replace(method, top_k=2 * top_k) for method in LATENTS)
    return [*own, *usual, *paper, *latents, *WHOLE]


def variants(config: CompareConfig) -> list[Method]:
    """Return SparseRM and its variants with changed options."""
    own = sparserm(config, usual_top_k(config))
    changed = [replace(own, name=f"SparseRM, {name}", **options) for name, options in CHANGES.items()]
    return [own, *(method for method in changed if replace(method, name=own.name) != own)]


def layered(config: CompareConfig) -> list[Method]:
    """Return the methods by which layers are compared: SparseRM, its defaults and the dense probe."""
    top_k = usual_top_k(config)
    return [sparserm(config, top_k), replace(DEFAULTS, top_k=top_k), DENSE]


def layer_choices(layers: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return each layer alone, then all together."""
    alone: list[tuple[int, ...]] = [(layer,) for layer in layers]
    return [*alone, layers] if len(layers) > 1 else alone


def chosen(config: CompareConfig, layers: tuple[int, ...]) -> list[Method]:
    """Return SparseRM, its strongest control and the dense probe, each with the best of the same settings.

    The last method is SparseRM with default options and all layers.
    """
    top_k = usual_top_k(config)
    own = sparserm(config, top_k)
    pairs = replace(own, name="components of pairs", kind="pair-components")
    dense = replace(DENSE, name="dense")
    of_choice = [
        replace(method, name=f"{method.name}, best setting", among=tuple(_settings(method, layers)))
        for method in (own, pairs, dense)
    ]
    return [*of_choice, replace(DEFAULTS, top_k=top_k)]


def _settings(method: Method, layers: tuple[int, ...]) -> Iterator[Method]:
    """Yield a method with every setting on every choice of layers.

    Forward selection already fits a linear head, and a hidden layer gains nothing, so it keeps the default.
    """
    for taken in layer_choices(layers):
        for known, setting in SETTINGS.items():
            name = f"{known}, layers {', '.join(map(str, taken))}"
            by = method.by if setting.head == "linear" else DEFAULTS.by
            yield replace(method, name=name, layers=taken, by=by, **vars(setting))


def transferred(config: CompareConfig) -> list[Method]:
    """Return the dense probe as the reference for transfer, then SparseRM and its controls."""
    *own, dense = few_directions(config)
    return [dense, replace(DEFAULTS, top_k=usual_top_k(config)), *own]


def few_directions(config: CompareConfig) -> list[Method]:
    """Return SparseRM and its controls with a small number of directions, and the dense probe."""
    return [*with_controls(sparserm(config, min(FEW, usual_top_k(config)))), DENSE]
