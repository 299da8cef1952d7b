"""The response tokens of a run's capture as a source of SAE training: nothing runs through the model again.

Responses are split into training and held-out ones by the prompt they answer.
Axes: rows (tokens), d_in (width of the residual stream).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparserm_cli.data.splits import validation_mask
from sparserm_cli.errors import UsageError
from sparserm_cli.stages.encode.worker import unit_activations
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.reader import ActivationsReader


class RunSource:
    """The captured tokens of one layer.

    Args:
        run: run directory with a complete capture of response tokens.
        layer: one of its layers; None is the only one.
        held_out_fraction: share of the prompts held out.
        seed: seed of the split.

    Raises:
        IncompatibleError: there is no complete capture.
        UsageError: the layer or the tokens were not captured, or several layers are there and none is named.

    """

    def __init__(self, run: PurePath, *, layer: int | None, held_out_fraction: float, seed: int) -> None:
        self._capture = ActivationsReader(capture_path(run))
        settings = self._capture.plan.settings
        if layer is None and len(settings.layers) > 1:
            shown = ", ".join(map(str, settings.layers))
            raise UsageError("--layer", f"one of {shown}", "none", "name the layer the SAE is for")
        self.layer = settings.layers[0] if layer is None else layer
        self.d_in = settings.d_in
        self._capture.require(self.layer, "response")
        self._held_out = validation_mask(self._capture.response_group(), held_out_fraction, seed)
        inputs = [
            {"name": Path(file.path).name, "bytes": file.bytes, "sha256": file.sha256}
            for file in settings.inputs
        ]
        self.facts: Mapping[str, Any] = {
            "model_name": settings.model,
            "hook_name": f"blocks.{self.layer}.hook_resid_post",
            "prepend_bos": True,
            "model_revision": settings.model_revision,
            "model_dtype": settings.dtype,
            "template_digest": settings.template,
            "documents": self._capture.plan.layout.responses,
            "inputs": inputs,
        }

    def blocks(self, *, held_out: bool) -> Iterator[Float[Tensor, "_ d_in"]]:
        """Read one part of the capture, unit by unit."""
        for unit in self._capture.units:
            rows, usable = unit_activations(self._capture, self.layer, unit)
            span = self._capture.rows.span(unit)
            part = self._held_out[span.start : span.stop] == held_out
            kept = torch.from_numpy(np.repeat(part, self._capture.rows.lengths(unit))) & usable
            if kept.any():
                yield rows[kept]
