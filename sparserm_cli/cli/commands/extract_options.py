"""Options of extract whose words take more than a line."""

from typing import Annotated

import typer

DataArgument = Annotated[
    str,
    typer.Argument(
        help="Preference pairs: .jsonl, .jsonl.gz, .json, .csv, .parquet, or a Hugging Face data set."
    ),
]
LayerOption = Annotated[
    str | None,
    typer.Option(
        "--layer", metavar="L[,L...]", help="Blocks, from 0, whose output is kept.", show_default="the SAE's"
    ),
]
ModelOption = Annotated[
    str,
    typer.Option("--model", help="smollm2-135m, a hub id (with @revision), a directory, or a .gguf file."),
]
SAEOption = Annotated[
    list[str] | None,
    typer.Option("--sae", help="Encode with this SAE in the same pass; keep latents, no tokens. Repeatable."),
]
PositionsOption = Annotated[
    str,
    typer.Option(
        "--positions",
        metavar="response|pooled|latents",
        help="Keep response tokens, pooled vectors only, or these and the latents of --sae.",
        show_default="latents with --sae, else response",
    ),
]
DtypeOption = Annotated[
    str, typer.Option("--dtype", metavar="auto|float32|bfloat16", help="Type the model computes in.")
]
MaxLengthOption = Annotated[
    int | None,
    typer.Option(
        "--max-length", help="Longest prompt plus response, in tokens.", show_default="the model's limit"
    ),
]
TooLongOption = Annotated[
    str,
    typer.Option("--too-long", metavar="error|reject|truncate-left", help="What to do with a longer one."),
]
NonfiniteOption = Annotated[
    str,
    typer.Option("--on-nonfinite", metavar="error|reject", help="What to do with NaN or infinite residuals."),
]
UnitTokensOption = Annotated[
    int, typer.Option("--unit-tokens", help="Response tokens in a unit, the most a crash can lose.")
]
