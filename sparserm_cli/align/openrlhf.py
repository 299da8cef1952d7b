"""Old path of `sparserm_cli.alignment.trainers.openrlhf`, kept for one release."""

from sparserm_cli.alignment.trainers.openrlhf import reward_func

__all__ = ["reward_func"]
