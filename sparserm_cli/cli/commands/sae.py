"""The command that trains a sparse autoencoder: train-sae."""

from sparserm_cli.cli.builder import command
from sparserm_cli.cli.output import sae as show
from sparserm_cli.cli.panels import PIPELINE
from sparserm_cli.config import TrainSAEConfig
from sparserm_cli.console import Output


@command(TrainSAEConfig, PIPELINE)
def train_sae(settings: TrainSAEConfig, out: Output) -> None:
    """Train an SAE with SAELens' own trainer.

    With `--from` the training of an existing SAE is continued, such as that of the base model of a tuned
    model.

    Example: sparserm train-sae pairs.jsonl --layer 14 --output sae/mine --steps 4000
    """
    from sparserm_cli.stages.train_sae.train_sae import train_sae as stage

    with out.phases("tokens") as progress:
        result = stage(settings, progress=progress)
    show.train_sae(out, result)
