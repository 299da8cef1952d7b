"""Config of the command that shows what a file of rows becomes."""

from dataclasses import dataclass
from typing import Annotated, Literal

from sparserm_cli.config import shared
from sparserm_cli.config.base import StageConfig
from sparserm_cli.config.option import DATA, OUTPUT, Option


@dataclass(frozen=True)
class DataConfig(StageConfig):
    """`data`: what a file of rows becomes, before anything is computed."""

    data: Annotated[
        str,
        Option(
            "File, folder of files, pattern like 'shards/*.parquet', or Hugging Face data set (owner/name).",
            DATA,
            argument=True,
            required=True,
            path="perhaps",
        ),
    ] = ""
    columns: shared.Columns = ()
    split: shared.Split = "train"
    limit: shared.Limit = None
    on_bad_row: Annotated[
        Literal["error", "reject"],
        Option("Stop at a bad row (error), or leave the row out, count it and go on (reject).", DATA),
    ] = "reject"
    offline: shared.Offline = False
    output: Annotated[
        str | None,
        Option(
            "File the pairs are written to as TRL's conversational preference rows, one JSON object per "
            "line; - writes them to stdout.",
            OUTPUT,
            shown="nothing is written",
            path="always",
        ),
    ] = None
