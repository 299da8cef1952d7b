"""The command that trains a sparse autoencoder: train-sae."""

from sparserm_cli.cli.builder import command
from sparserm_cli.cli.output import sae as show
from sparserm_cli.cli.panels import PIPELINE
from sparserm_cli.config import TrainSAEConfig
from sparserm_cli.console import Output


@command(TrainSAEConfig, PIPELINE)
def train_sae(settings: TrainSAEConfig, out: Output) -> None:
    """Train an SAE with SAELens' own trainer.

    With `--from` the training of an SAE that is there is continued, such as a base model's for the model
    tuned from it.

    Example: sparserm train-sae pairs.jsonl --layer 14 --output sae/mine --steps 4000
    """
    from sparserm_cli.stages.train_sae.train_sae import train_sae as stage

    same = (
        "layer",
        "model",
        "recipe",
        "tests",
        "test_limit",
        "limit",
        "split",
        "template",
        "start",
        "allow_pickle",
    )
    given = {name: getattr(settings, name) for name in (*same, "device", "offline", "run")}
    with out.phases("tokens") as progress:
        result = stage(settings.data, settings.output, **given, progress=progress)
    show.train_sae(out, result)
