"""Old path of `sparserm_cli.alignment.trainers.verl`, kept for one release."""

from sparserm_cli.alignment.trainers.verl import compute_score, compute_score_async, compute_score_batch

__all__ = ["compute_score", "compute_score_async", "compute_score_batch"]
