"""Read and tokenise the responses of a file, and load the reward model that scores them.

Reads: any shape of rows, `reward/`, the language model. Writes: nothing.
Memory: the model's lower blocks and a window of rows.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from sparserm_cli.config import Progress, ResponsesConfig, column_map
from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.reader import Reader
from sparserm_cli.data.rendering.row_tokenizer import TokenizedExample
from sparserm_cli.data.shapes.table import Purpose
from sparserm_cli.data.tokenized_rows import tokenized_rows
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.store.artifacts.reward import reward_folder, reward_path

WINDOW_ROWS = 512
"""Number of rows scored together; within a window each prompt is computed once for all its responses."""


def responses_reader(config: ResponsesConfig, *, purpose: Purpose, **options: Any) -> Reader:
    """Open the file to score; further options are passed to the reader.

    Raises:
        BadInputError: there is no such file, or it is of no known type.

    """
    return Reader(
        config.file,
        purpose=purpose,
        columns=column_map(config.columns),
        split=config.split,
        limit=config.limit,
        on_bad_row=config.on_bad_row,
        offline=config.offline,
        **options,
    )


def load_reward(config: ResponsesConfig) -> RewardModel:
    """Load the reward model that the options name."""
    path = reward_folder(config.reward or reward_path(config.run))
    return RewardModel.load(
        path, model=config.model, group=config.group, device=config.device, offline=config.offline
    )


def windows(
    model: RewardModel, reader: Reader, config: ResponsesConfig, progress: Progress
) -> Iterator[list[TokenizedExample]]:
    """Yield tokenised rows, one window at a time; progress counts a window once the next is requested.

    Args:
        model: reward model, whose template turns rows into tokens.
        reader: reader of the rows.
        config: the options.
        progress: called with rows done and rows read so far.

    """
    done = 0
    for window in text_windows(model.template, model.max_length, reader, config):
        yield window
        done += len(window)
        progress(done, reader.read)


def text_windows(
    template: PromptTemplate, max_length: int, reader: Reader, config: ResponsesConfig
) -> Iterator[list[TokenizedExample]]:
    """Yield tokenised rows, one window at a time.

    Args:
        template: template that turns rows into tokens.
        max_length: most tokens of a prompt together with one response.
        reader: reader of the rows.
        config: the options.

    """
    # The end of a response matters, so nothing is truncated: a row that is too long is a bad row.
    rows = tokenized_rows(reader, template, max_length=max_length, too_long=config.on_bad_row)
    while window := list(islice(rows, WINDOW_ROWS)):
        yield window
