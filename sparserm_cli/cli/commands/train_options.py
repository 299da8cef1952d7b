"""Options of train-sae whose words take more than a line."""

from typing import Annotated

import typer

DataArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Text: .txt, rows with a text, preferences or responses of any shape, or a data set.",
        show_default="the run's captured tokens",
    ),
]
ArchitectureOption = Annotated[
    str, typer.Option("--architecture", metavar="topk|batchtopk|jumprelu", help="Kind of SAE.")
]
WarmUpOption = Annotated[
    int, typer.Option("--warm-up-steps", help="Steps over which the learning rate rises.")
]
HeldOutOption = Annotated[
    float, typer.Option("--held-out-fraction", help="Share of documents that is only measured.")
]
L0Option = Annotated[float, typer.Option("--l0-coefficient", help="Weight of the sparsity loss (jumprelu).")]
WeightsOption = Annotated[
    str, typer.Option("--weights-dtype", metavar="float32|bfloat16", help="Type of the saved weights.")
]
TestOption = Annotated[
    list[str] | None, typer.Option("--test", help="Further text that is only measured. Repeatable.")
]
