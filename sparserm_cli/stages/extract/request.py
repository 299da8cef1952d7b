"""The request that the options of `extract` make of a model, before tokenizer or weights are loaded."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from sparserm_cli.config import EncodeConfig, ExtractConfig, Note, column_map
from sparserm_cli.data.sources.open import open_source
from sparserm_cli.errors import IncompatibleError, SparseRMError, UsageError
from sparserm_cli.files import hash_file
from sparserm_cli.models.checkpoints.config_shape import check_layers
from sparserm_cli.models.checkpoints.resolve import ModelIdentity
from sparserm_cli.models.sae.compatibility import Captured
from sparserm_cli.models.sae.load import read_sae_metadata
from sparserm_cli.stages.encode.sae_layers import SAETrial, check_saes
from sparserm_cli.store.capture.writer import ActivationsWriter
from sparserm_cli.store.provenance import check_same_plan


@dataclass(frozen=True)
class Request:
    """The requested content of a capture, known before tokenizer, torch or weights are loaded."""

    config: ExtractConfig
    """The options."""
    identity: ModelIdentity
    """Identity of the model that the options name."""
    layers: tuple[int, ...]
    """Numbers of the captured blocks, from 0."""

    @property
    def positions(self) -> str:
        """Positions that are kept, with `auto` resolved."""
        if self.config.positions == "auto":
            return "latents" if self.config.sae else "response"
        return self.config.positions

    def expected(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return the identity that a plan of this request must have.

        Args:
            recorded: identity of the existing plan. Options that are `auto` keep the values that they got
                when that plan was made.

        """
        config = self.config
        inputs = open_source(config.data, split=config.split, offline=config.offline).inputs()
        requested = {
            "model": self.identity.name,
            "model_revision": self.identity.revision,
            "template_source": template_source(config.template),
            "layers": list(self.layers),
            "positions": self.positions,
            "too_long": config.too_long,
            "dedupe": config.dedupe,
            "unit_tokens": config.unit_tokens,
            "limit": config.limit,
            "split": config.split,
            "columns": dict(column_map(config.columns)),
        }
        if inputs:
            requested["inputs"] = [f"{file.sha256} ({file.bytes} bytes)" for file in inputs]
        if config.dtype != "auto":
            requested["dtype"] = config.dtype
        if config.max_length is not None:
            requested["max_length"] = config.max_length
        if config.batch_tokens is not None:
            requested["batch_tokens"] = config.batch_tokens
        return {**recorded, **requested}

    def is_planned(self, root: PurePath) -> bool:
        """Return whether the plan at `root` is that of this request; an unreadable plan is not."""
        try:
            check_request(root, self)
        except SparseRMError:
            return False
        return True


def request_of(config: ExtractConfig, identity: ModelIdentity) -> Request:
    """Return the request that the options make of a model.

    Raises:
        UsageError: neither the options nor the SAEs name a layer.
        IncompatibleError: the layers contradict an SAE.

    """
    return Request(config, identity, wanted_layers(config))


def check_request(root: PurePath, request: Request) -> None:
    """Check that the plan in the run directory is that of the request.

    Raises:
        IncompatibleError: it is not; the error names the first field that differs and both values.
        CorruptStoreError: the plan cannot be read.

    """
    recorded = ActivationsWriter(root).plan.settings.identity()
    check_same_plan(str(root), recorded, request.expected(recorded), "--force")


def tried_saes(request: Request, later: EncodeConfig | None, note: Note) -> list[SAETrial]:
    """Check the metadata of the SAEs that this command or `encode` names, before data and weights are read.

    Args:
        request: requested content.
        later: options of the `encode` that follows, if they are known. With extract's own --allow-mismatch
            its SAEs are not checked, since the capture may not be meant for them.
        note: called with cautions about an SAE.

    Raises:
        UsageError: there is no such SAE, or the model does not have the layer.
        IncompatibleError: an SAE does not fit the model or the layers, is broken, or pickled without a flag.

    """
    config, identity = request.config, request.identity
    later = None if config.allow_mismatch else later
    trials: list[SAETrial] = []
    for wanted in (config, later):
        known = {trial.name for trial in trials}
        if wanted is not None and (names := [name for name in wanted.sae if name not in known]):
            d_in = check_layers(identity, request.layers).d_in
            trials += check_saes(
                names,
                Captured(identity.name, identity.revision, request.layers, d_in),
                note,
                allow_pickle=wanted.allow_pickle,
                allow_mismatch=wanted.allow_mismatch,
                offline=config.offline,
            )
    return trials


def wanted_layers(config: ExtractConfig) -> tuple[int, ...]:
    """Return the layers to capture: those of the options, which must include the SAEs' own, or the latter.

    Raises:
        UsageError: neither the options nor the SAEs name a layer.
        IncompatibleError: an SAE is for a layer that the options do not name.

    """
    theirs = {name: read_sae_metadata(name, offline=config.offline).layer for name in config.sae}
    known = tuple(sorted({layer for layer in theirs.values() if layer is not None}))
    layers = config.layer or known
    if not layers:
        hint = "give --layer, such as the middle one, or --sae with an SAE that knows its layer"
        raise UsageError("--layer", "a layer", "none", hint)
    for name, layer in theirs.items():
        if layer is not None and layer not in layers:
            requested = ",".join(map(str, layers))
            raise IncompatibleError(
                "--layer", f"{layer}, which {name} was trained on", requested, "leave --layer out"
            )
    return layers


def template_source(template: str | None) -> str:
    """Return the origin of the template: the model, none (`raw`), or a file with its digest."""
    if template is None or template == "raw":
        return template or "model"
    try:
        return f"file sha256:{hash_file(Path(template), hashlib.sha256, UsageError)[0]}"
    except OSError as problem:
        raise UsageError(
            "--template", "raw or a readable Jinja file", template, "correct the path"
        ) from problem
