"""sparserm: a frozen language model becomes a reward model through sparse-autoencoder directions.

The command line lives in `sparserm_cli.cli`, the six stages in `sparserm_cli.stages`. Importing this package
loads nothing heavy; each public name is fetched from its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparserm_cli.library import encode, evaluate, extract, fit, frequency, select
    from sparserm_cli.models.head.classifier import SparseRewardClassifier
    from sparserm_cli.models.reward_model import RewardModel
    from sparserm_cli.store.public.capture import open_capture
    from sparserm_cli.store.public.directions import open_directions
    from sparserm_cli.store.public.features import open_features
    from sparserm_cli.store.public.frequency import open_frequency

__version__ = "0.1.0"
__all__ = [
    "RewardModel",
    "SparseRewardClassifier",
    "__version__",
    "encode",
    "evaluate",
    "extract",
    "fit",
    "frequency",
    "open_capture",
    "open_directions",
    "open_features",
    "open_frequency",
    "select",
]

_MODULE_OF = {
    "encode": "library",
    "evaluate": "library",
    "extract": "library",
    "fit": "library",
    "frequency": "library",
    "select": "library",
    "RewardModel": "models.reward_model",
    "SparseRewardClassifier": "models.head.classifier",
    "open_capture": "store.public.capture",
    "open_directions": "store.public.directions",
    "open_features": "store.public.features",
    "open_frequency": "store.public.frequency",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import sparserm_cli` stays cheap."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    """Return the public names, those not yet imported too."""
    return sorted({*globals(), *__all__})
