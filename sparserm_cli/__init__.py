"""sparserm: a frozen language model becomes a reward model through sparse-autoencoder directions.

The command line lives in `sparserm_cli.cli`, the six stages in `sparserm_cli.stages`. Importing this package
loads neither torch nor transformers; `RewardModel` is fetched when first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparserm_cli.models.reward_model import RewardModel

__version__ = "0.1.0"
__all__ = ["RewardModel", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `RewardModel` on first use, so that `import sparserm_cli` stays cheap."""
    if name == "RewardModel":
        from sparserm_cli.models.reward_model import RewardModel

        return RewardModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
