"""Computing the units of a planned capture: trees in, pooled vectors and tokens out.

A unit is on the disk before the next one is begun. Writing takes about a hundredth of the time
(`examples/benchmarks/store.py`), and doing both at once would let a crash cost two units instead of one.

Axes: rows (response tokens of a unit), responses (of a unit), d_in (width of the residual stream).
"""

import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sparserm_cli.config import Note, Progress
from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.lm.allocator import return_freed_memory
from sparserm_cli.stages.engine.engine import UnitWorker
from sparserm_cli.stages.extract.request import Request
from sparserm_cli.store.arrays.bfloat16 import NAN_BITS
from sparserm_cli.store.capture.writer import ActivationsWriter
from sparserm_cli.store.units.records import UnitFacts
from sparserm_cli.store.units.unit_store import UnitStore

if TYPE_CHECKING:
    from sparserm_cli.models.lm.devices import DType
    from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.stages.engine.progress import tokens_done


class CaptureWorker(UnitWorker):
    """Computes units of a capture; the model is loaded for the first.

    Args:
        request: what is captured.
        root: the planned capture.
        run_id: of the run, for receipts.
        progress: called with response tokens computed and response tokens in all.
        note: told which type and device were chosen, and why.

    Attributes:
        writer: the planned capture.

    """

    def __init__(
        self, request: Request, root: PurePath, run_id: str, *, progress: Progress, note: Note
    ) -> None:
        self._request, self._progress, self._note = request, progress, note
        self.writer = ActivationsWriter(root, run_id)

    @property
    def store(self) -> UnitStore:
        """The units of the capture."""
        return self.writer.store

    @cached_property
    def model(self) -> "LanguageModel":
        """The language model."""
        self._done = tokens_done(self.store, self.writer.rows, self._request.config.worker)
        return load_model(self._request, self.writer, self._note)

    def compute(self, unit: int) -> None:
        """Compute and write one unit.

        Raises:
            NonFiniteError: a response has NaN or infinite residuals.
            ResourceError: the disk is full.

        """
        lm = self.model
        begun = time.monotonic()
        layers, facts = self._captured(lm, unit)
        trees = self.writer.trees(unit)
        rejected = tuple(sorted(trees[tree].first + response for tree, response, _ in facts["rejected"]))
        self.take_tokens(unit, layers, rejected)
        told = UnitFacts(
            rows=0,
            rejected=rejected,
            device=lm.device,
            dtype=lm.dtype,
            batch_sizes=tuple(facts["batch_sizes"]),
            halvings=facts["halvings"],
            seconds=round(time.monotonic() - begun, 3),
        )
        self.writer.write_unit(unit, layers, told)
        return_freed_memory()

    def take_tokens(
        self, unit: int, layers: Mapping[int, dict[str, np.ndarray]], rejected: tuple[int, ...]
    ) -> None:
        """Leave the tokens of a unit where they are, to be stored.

        Args:
            unit: its number.
            layers: its arrays.
            rejected: numbers of the responses that could not be computed.

        """

    def _captured(
        self, lm: "LanguageModel", unit: int
    ) -> tuple[dict[int, dict[str, np.ndarray]], dict[str, Any]]:
        """Run the unit's trees through the model and lay their vectors out in store order."""
        from sparserm_cli.models.lm.residuals import capture, pool
        from sparserm_cli.models.lm.trie import Tree

        settings, rows, span = self.writer.plan.settings, self.writer.rows, self.writer.rows.span(unit)
        trees = self.writer.trees(unit)
        starts = np.concatenate([[0], np.cumsum(rows.lengths(unit))])
        layers = {layer: self._empty(len(span), int(starts[-1])) for layer in settings.layers}
        facts: dict[str, Any] = {}
        parts = [Tree(tree.prompt_ids, tree.responses) for tree in trees]
        for number, response, taken in capture(
            lm,
            parts,
            batch_tokens=settings.batch_tokens,
            on_nonfinite=self._request.config.on_nonfinite,
            facts=facts,
        ):
            place = trees[number].first - span.start + response
            for layer, residuals in taken.items():
                arrays = layers[layer]
                arrays["last"][place], arrays["mean"][place] = (one.numpy() for one in pool(residuals))
                if "tokens" in arrays:
                    arrays["tokens"][starts[place] : starts[place + 1]] = stored(residuals)
            self._done += int(starts[place + 1] - starts[place])
            self._progress(self._done, self.writer.plan.layout.response_tokens)
        return layers, facts

    def _empty(self, responses: int, tokens: int) -> dict[str, np.ndarray]:
        """Return the arrays of one layer of a unit, to be filled."""
        settings = self.writer.plan.settings
        arrays = {name: np.full((responses, settings.d_in), np.nan, np.float32) for name in ("last", "mean")}
        if settings.positions != "pooled":
            kind, fill = (np.uint16, NAN_BITS) if settings.dtype == "bfloat16" else (np.float32, np.nan)
            arrays["tokens"] = np.full((tokens, settings.d_in), fill, kind)
        return arrays


def load_model(request: Request, writer: ActivationsWriter, note: Note) -> "LanguageModel":
    """Load the blocks that the plan needs, in the type that the plan says.

    Raises:
        IncompatibleError: the model's width is not the plan's.
        ResourceError: the device is not there.

    """
    from sparserm_cli.models.lm.devices import choose_dtype
    from sparserm_cli.models.lm.language_model import LanguageModel

    settings = writer.plan.settings
    lm = LanguageModel.load(
        request.identity,
        layers=settings.layers,
        dtype=cast("DType", settings.dtype),
        device=request.config.device,
    )
    if lm.d_in != settings.d_in:
        raise IncompatibleError(
            request.identity.name, f"d_in {settings.d_in}", str(lm.d_in), "extract --force"
        )
    shared = (
        "each prompt once for all its responses"
        if lm.supports_tree
        else f"each response alone ({lm.tree_reason})"
    )
    chosen, reason = choose_dtype(request.config.dtype, lm.device)
    if str(chosen) != f"torch.{lm.dtype}":
        reason = "as planned"
    if lm.names_note:
        note(lm.names_note)
    note(f"computing in {lm.dtype} on {lm.device}: {reason}; {shared}")
    return lm


def stored(residuals: Any) -> np.ndarray:
    """Return residuals as the store keeps them: float32, or the bits of bfloat16 as uint16."""
    import torch

    if residuals.dtype == torch.bfloat16:
        return np.asarray(residuals.contiguous().view(torch.int16).numpy().view(np.uint16))
    return np.asarray(residuals.numpy())
