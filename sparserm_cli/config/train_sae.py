"""What an SAE is trained with: one frozen dataclass, light enough to be read by the command line."""

from dataclasses import dataclass, fields
from typing import Literal

from sparserm_cli.errors import UsageError

_POSITIVE = (
    "d_sae",
    "k",
    "steps",
    "batch_rows",
    "lr",
    "warm_up_steps",
    "buffer_rows",
    "context_size",
    "l0_coefficient",
)


@dataclass(frozen=True)
class SAERecipe:
    """Settings of one training, which stand in the SAE's metadata."""

    architecture: Literal["topk", "batchtopk", "jumprelu"] = "topk"
    """SAELens' training class. BatchTopK is saved as JumpReLU, as SAELens does it."""
    d_sae: int | None = None
    """Number of latents; None is 8 times the width of the residual stream."""
    k: int = 64
    """Latents active on a token: exactly at most (topk), on average (batchtopk), aimed at (jumprelu)."""
    steps: int = 4000
    """Optimiser steps."""
    batch_rows: int = 1024
    """Tokens in one step."""
    lr: float = 2e-3
    """Highest learning rate of Adam, which decays linearly to zero over the last fifth of the steps.

    At d_in 576 it beat 8e-4 (explained variance 0.855 against 0.842 after 800 steps); wide models need less.
    """
    warm_up_steps: int = 100
    """Steps over which the learning rate rises from zero."""
    l0_coefficient: float = 1.0
    """Weight of the sparsity loss (jumprelu only)."""
    buffer_rows: int = 1_000_000
    """Most tokens whose activations are held in memory, in bfloat16: 2 * d_in bytes each."""
    context_size: int = 1024
    """Longest sequence in tokens; longer texts are cut into pieces, conversations are cut at their end."""
    held_out_fraction: float = 0.05
    """Share of the documents that is kept out of training and measured at the end."""
    autocast: bool | None = None
    """Multiply in bfloat16; None does so where the machine is faster that way."""
    weights_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the saved weights. Whatever is saved is what is measured."""
    seed: int = 0
    """Seed of the first weights and of the order of tokens."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UsageError: a number out of range, named with its option.

        """
        for item in fields(self):
            value = getattr(self, item.name)
            option = "--" + item.name.replace("_", "-")
            if item.name in _POSITIVE and value is not None and value <= 0:
                raise UsageError(option, "more than 0", str(value), "correct the option")
        if not 0 < self.held_out_fraction < 1:
            found = str(self.held_out_fraction)
            raise UsageError("--held-out-fraction", "a share between 0 and 1", found, "correct the option")
        if self.architecture not in {"topk", "batchtopk", "jumprelu"}:
            raise UsageError(
                "--architecture", "topk, batchtopk or jumprelu", self.architecture, "correct the option"
            )
