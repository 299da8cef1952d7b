"""Read a capture in a notebook: one row per response, whatever the files look like.

    capture = open_capture("sparserm-run")
    vectors = capture.pooled(14, "mean")          # row i belongs to response i
    capture.pairs.to_pandas()                     # numbers of the chosen and the rejected response

Memory: `tokens` and `iter_tokens` hold one unit; the tables and `pooled` hold a row per response.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import PurePath
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, UInt32

from sparserm_cli.locations import parse_location
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.capture.row_arrays import STRADDLED, TRUNCATED
from sparserm_cli.store.public.table import Table, arrow_column, ragged_column

Pooling = Literal["mean", "last"]


class PairVectors(NamedTuple):
    """The pooled vectors of both sides of all pairs: row i of either belongs to pair i."""

    chosen: Float32[np.ndarray, "pairs d_in"]
    """Vectors of the preferred responses."""
    rejected: Float32[np.ndarray, "pairs d_in"]
    """Vectors of the other responses."""


def open_capture(run: str | PurePath, *, allow_partial: bool = False) -> "Capture":
    """Open the activations of a run directory for reading.

    Args:
        run: the run directory, or its URL on an object store.
        allow_partial: also open an unfinished capture; its missing responses are not `present`.

    Raises:
        IncompatibleError: there is no capture, it is not complete, or it is newer than this program.
        CorruptStoreError: a file is missing, empty, truncated, or of another plan; the error names the unit.

    """
    return Capture(ActivationsReader(capture_path(parse_location(run)), allow_partial=allow_partial))


class Capture:
    """The residual activations of preference pairs.

    Responses are numbered from 0 in the order of every array and table here. Equal responses to one prompt
    are stored once, so that a response may belong to several pairs.

    Args:
        reader: reader of the opened capture.

    """

    def __init__(self, reader: ActivationsReader) -> None:
        self._reader, settings = reader, reader.plan.settings
        self.layers: tuple[int, ...] = settings.layers
        """Blocks, counted from 0, after which the residual stream was taken."""
        self.d_in: int = settings.d_in
        """Width of the residual stream."""
        self.model: str = settings.model
        """Name of the language model, whose tokenizer decodes the token ids."""
        self.model_revision: str = settings.model_revision
        """Commit of the model, or the digest of its files."""
        self.has_tokens: bool = settings.positions == "response"
        """Whether every response token was kept, or pooled vectors alone."""

    def __len__(self) -> int:
        """Return the number of responses."""
        return self._reader.plan.layout.responses

    def __repr__(self) -> str:
        layout, layers = self._reader.plan.layout, ", ".join(map(str, self.layers))
        kept = "tokens and pooled vectors" if self.has_tokens else "pooled vectors"
        return (
            f"Capture of {self.model}, layer {layers}: {layout.responses:,} responses to {layout.prompts:,} "
            f"prompts in {layout.pairs:,} pairs, {kept} of width {self.d_in}"
        )

    # --- tables of the rows ---

    @cached_property
    def pairs(self) -> Table:
        """One row per pair, in the order of the data.

        Columns: `row` of the data from 1, number of the `chosen` and of the `rejected` response, number of
        their `prompt`, and `group`, which is equal for equal prompts: a split must not separate it. Where the
        data say how much better the chosen response is, there is a column `margin`, NaN for other pairs.
        """
        pairs, rows = self._reader.pairs(), self._reader.rows
        prompt = rows.response_prompt[pairs.chosen]
        columns = {"row": pairs.row, "chosen": pairs.chosen, "rejected": pairs.rejected, "prompt": prompt}
        margin = {"margin": rows.pair_margin} if rows.layout.margins else {}
        return Table.of({**columns, "group": rows.prompt_group[prompt], **margin})

    @cached_property
    def prompts(self) -> Table:
        """One row per prompt: its number, its `group` (see `pairs`), its number of tokens, its token ids."""
        rows = self._reader.rows
        columns = {
            "prompt": np.arange(self._reader.plan.layout.prompts),
            "group": rows.prompt_group,
            "tokens": rows.prompt_length,
        }
        ids = ragged_column(rows.prompt_offset, rows.read("prompt_ids"))
        return Table(Table.of(columns).arrow.append_column("token_ids", ids))

    @cached_property
    def responses(self) -> Table:
        """One row per response.

        Columns: its number, number of its `prompt`, its number of `tokens` and of `characters`, whether its
        first token `straddled` the prompt's end, whether its prompt was `truncated`, whether its vectors are
        `present` (else they are NaN), and its `token_ids`.
        """
        rows = self._reader.rows
        columns = {
            "response": np.arange(len(self)),
            "prompt": rows.response_prompt,
            "tokens": rows.response_length,
            "characters": rows.response_characters,
            "straddled": (rows.response_flags & STRADDLED) > 0,
            "truncated": (rows.response_flags & TRUNCATED) > 0,
            "present": self._reader.present(),
        }
        ids = ragged_column(rows.response_offset, rows.read("response_ids"))
        return Table(Table.of(columns).arrow.append_column("token_ids", ids))

    def token_ids(self, response: int) -> UInt32[np.ndarray, " r"]:
        """Return the token ids of one response, for the tokenizer of `model`.

        Raises:
            UsageError: there is no such response.

        """
        self._reader.check_response(response)
        return self._reader.token_ids(response)

    # --- vectors ---

    def pooled(self, layer: int, pooling: str = "mean") -> Float32[np.ndarray, "responses d_in"]:
        """Return one vector per response: row i belongs to response i.

        Args:
            layer: one of `layers`.
            pooling: `mean` over the response's tokens, or its `last` token.

        Raises:
            UsageError: the layer was not captured, or there is no such pooling.
            CorruptStoreError: a chunk is damaged; names the unit.

        """
        return self._reader.pooled(layer, pooling)

    def pooled_table(self, layer: int, pooling: str = "mean") -> Table:
        """Return `responses` with the added column `vector`; arguments and errors are as for `pooled`."""
        vectors = arrow_column(self.pooled(layer, pooling))
        return Table(self.responses.arrow.append_column("vector", vectors))

    def pair_vectors(self, layer: int, pooling: str = "mean") -> PairVectors:
        """Return the pooled vectors of both sides of all pairs; arguments and errors are as for `pooled`."""
        vectors, pairs = self.pooled(layer, pooling), self._reader.pairs()
        return PairVectors(vectors[pairs.chosen], vectors[pairs.rejected])

    def tokens(self, layer: int, response: int) -> Float32[np.ndarray, "r d_in"]:
        """Return the residual stream on the tokens of one response, one row per token.

        Responses in increasing order read every unit once. In any other order each may read a whole unit.

        Args:
            layer: one of `layers`.
            response: number of the response.

        Raises:
            UsageError: the layer or the tokens were not captured, or there is no such response.
            CorruptStoreError: a chunk is damaged; names the unit.

        """
        return self._reader.tokens(layer, response)

    def tokens_table(self, layer: int, response: int) -> Table:
        """Return one row per token of a response: position, id and vector; errors are those of `tokens`."""
        vectors, ids = self.tokens(layer, response), self.token_ids(response)
        return Table(
            pa.table(
                {
                    "token": pa.array(np.arange(len(ids))),
                    "token_id": pa.array(ids),
                    "vector": arrow_column(vectors),
                }
            )
        )

    def iter_tokens(self, layer: int) -> Iterator[tuple[int, Float32[np.ndarray, "r d_in"]]]:
        """Yield the number and the tokens of each response that is present; errors are those of `tokens`.

        The arrays are copies, so that keeping one does not keep its unit.
        """
        self._reader.require(layer, "response")
        for response in np.flatnonzero(self._reader.present()).tolist():
            yield response, self._reader.tokens(layer, response)
