"""Old path of `sparserm_cli.alignment.trainers.trl`, kept for one release."""

from sparserm_cli.alignment.trainers.trl import AsyncSparseReward, SparseReward

__all__ = ["AsyncSparseReward", "SparseReward"]
