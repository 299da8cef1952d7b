"""Compute the units of a planned capture: from prompts with responses to pooled vectors and tokens.

A unit is on the disk before the next one begins. Writing takes about a hundredth of the time
(`examples/benchmarks/store.py`), and with both at once a crash would cost two units instead of one.

Axes: rows (response tokens of a unit), responses (of a unit), d_in (width of the residual stream).
"""

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sparserm_cli.config import Note, Progress
from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.lm.allocator import return_freed_memory
from sparserm_cli.stages.encode.sae_layers import SAETrial, fit_line
from sparserm_cli.stages.engine.engine import UnitWorker
from sparserm_cli.stages.engine.progress import tokens_done
from sparserm_cli.stages.extract.request import Request
from sparserm_cli.store.arrays.bfloat16 import NAN_BITS
from sparserm_cli.store.capture.writer import ActivationsWriter
from sparserm_cli.store.units.records import UnitFacts
from sparserm_cli.store.units.unit_store import UnitStore

if TYPE_CHECKING:
    from torch import Tensor

    from sparserm_cli.models.lm.devices import DType
    from sparserm_cli.models.lm.language_model import LanguageModel


TRIAL_ROWS = 1024
"""Number of tokens that an SAE is checked on before a capture that it will encode later."""


class CaptureWorker(UnitWorker):
    """Computes units of a capture; the model is loaded for the first unit.

    Args:
        request: request that is captured.
        root: folder of the planned capture.
        run_id: id of the run, for the unit records.
        progress: called with response tokens computed and response tokens in all.
        note: called with the chosen number type and device, and the reason.
        trials: SAEs that will encode the capture later.

    Attributes:
        writer: writer of the planned capture.

    """

    def __init__(
        self,
        request: Request,
        root: PurePath,
        run_id: str,
        *,
        progress: Progress,
        note: Note,
        trials: Sequence[SAETrial] = (),
    ) -> None:
        self._request, self._progress, self._note, self._trials = request, progress, note, trials
        self.writer = ActivationsWriter(root, run_id)

    @property
    def store(self) -> UnitStore:
        """Store of the units of the capture."""
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
        record = UnitFacts(
            rows=0,
            rejected=rejected,
            device=lm.device,
            dtype=lm.dtype,
            batch_sizes=tuple(facts["batch_sizes"]),
            halvings=facts["halvings"],
            seconds=round(time.monotonic() - begun, 3),
        )
        self.writer.write_unit(unit, layers, record)
        return_freed_memory()

    def take_tokens(
        self, unit: int, layers: Mapping[int, dict[str, np.ndarray]], rejected: tuple[int, ...]
    ) -> None:
        """Keep the tokens of a unit in its arrays, so that they are stored; a subclass may take them out.

        Args:
            unit: number of the unit.
            layers: layer to the arrays of the unit.
            rejected: numbers of the responses that could not be computed.

        """

    def try_saes(self) -> list[str]:
        """Measure the SAEs that will encode later on a sample of activations, and return a sentence for each.

        Raises:
            IncompatibleError: an SAE's weights are broken, or do not fit the activations.

        """
        from sparserm_cli.models.sae.load import load_sae
        from sparserm_cli.models.sae.quality import check_sample

        sampled, lines = self.sample(TRIAL_ROWS), []
        for name, layer, pickles, mismatch in self._trials:
            sae = load_sae(name, allow_pickle=pickles, allow_mismatch=mismatch)
            quality = check_sample(sae, sampled[layer][:TRIAL_ROWS].cpu())
            lines.append(fit_line(layer, sae.metadata.architecture, sae.d_sae, quality))
        return lines

    def sample(self, rows: int) -> "dict[int, Tensor]":
        """Return residual vectors of each layer, shape (rows, d_in), on the first responses of the plan.

        Args:
            rows: least number of vectors, if the first unit has as many.

        """
        import torch

        from sparserm_cli.models.lm.residuals import iter_residuals
        from sparserm_cli.models.lm.trie import Tree

        trees, tokens = [], 0
        for tree in self.writer.trees(0):
            trees.append(Tree(tree.prompt_ids, tree.responses))
            tokens += sum(map(len, tree.responses))
            if tokens >= rows:
                break
        taken = [residuals for _, _, residuals in iter_residuals(self.model, trees, on_nonfinite="reject")]
        return {
            layer: torch.cat([residuals[layer] for residuals in taken])
            for layer in self.writer.plan.settings.layers
        }

    def _captured(
        self, lm: "LanguageModel", unit: int
    ) -> tuple[dict[int, dict[str, np.ndarray]], dict[str, Any]]:
        """Run the unit's prompts with responses through the model, and arrange the vectors in store order."""
        from sparserm_cli.models.lm.residuals import iter_residuals, pool
        from sparserm_cli.models.lm.trie import Tree

        settings, rows, span = self.writer.plan.settings, self.writer.rows, self.writer.rows.span(unit)
        trees = self.writer.trees(unit)
        starts = np.concatenate([[0], np.cumsum(rows.lengths(unit))])
        layers = {layer: self._empty(len(span), int(starts[-1])) for layer in settings.layers}
        facts: dict[str, Any] = {}
        parts = [Tree(tree.prompt_ids, tree.responses) for tree in trees]
        for number, response, taken in iter_residuals(
            lm,
            parts,
            batch_tokens=settings.batch_tokens,
            on_nonfinite=self._request.config.on_nonfinite,
            facts=facts,
        ):
            place = trees[number].first - span.start + response
            for layer, residuals in taken.items():
                arrays = layers[layer]
                arrays["last"][place], arrays["mean"][place] = (vector.numpy() for vector in pool(residuals))
                if "tokens" in arrays:
                    arrays["tokens"][starts[place] : starts[place + 1]] = stored(residuals)
            self._done += int(starts[place + 1] - starts[place])
            self._progress(self._done, self.writer.plan.layout.response_tokens)
        return layers, facts

    def _empty(self, responses: int, tokens: int) -> dict[str, np.ndarray]:
        """Return the empty arrays of one layer of a unit."""
        settings = self.writer.plan.settings
        arrays = {name: np.full((responses, settings.d_in), np.nan, np.float32) for name in ("last", "mean")}
        if settings.positions != "pooled":
            kind, fill = (np.uint16, NAN_BITS) if settings.dtype == "bfloat16" else (np.float32, np.nan)
            arrays["tokens"] = np.full((tokens, settings.d_in), fill, kind)
        return arrays


def load_model(request: Request, writer: ActivationsWriter, note: Note) -> "LanguageModel":
    """Load the blocks that the plan needs, in the number type of the plan.

    Raises:
        IncompatibleError: the model's width is not the plan's.
        ResourceError: the device is missing.

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
