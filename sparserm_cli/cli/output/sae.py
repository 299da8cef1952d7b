"""The output of train-sae, as text for people and as JSON."""

from typing import TYPE_CHECKING

from sparserm_cli.console import Output
from sparserm_cli.formatting import duration

if TYPE_CHECKING:
    from sparserm_cli.stages.train_sae.train_sae import TrainSAEResult


def train_sae(out: Output, result: "TrainSAEResult") -> None:
    """Print how well the new SAE fits tokens that it has not seen."""
    measured = {"held out": result.held_out, **result.tests}
    data = {
        "path": str(result.folder),
        "training_tokens": result.rows,
        "epochs": round(result.epochs, 2),
        "seconds": round(result.seconds, 1),
        "measured": {name: quality._asdict() for name, quality in measured.items()},
    }
    rows = [
        [
            name,
            f"{quality.explained_variance:.4f}",
            f"{quality.l0:.1f}",
            f"{quality.dead:,}",
            f"{quality.tokens:,}",
        ]
        for name, quality in measured.items()
    ]
    title = f"{result.folder}: trained on {result.rows:,} tokens in {duration(result.seconds)}"
    out.table(data, title, ["tokens", "explained variance", "L0", "dead latents", "n"], rows)
    out.note(f"next: {out.command('encode', sae=str(result.folder))}")
