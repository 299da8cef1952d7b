"""Which SAE encodes which captured layer, and what the features record of it; no weights are read."""

from collections.abc import Sequence
from pathlib import Path

from sparserm_cli.errors import UsageError
from sparserm_cli.models.sae_files import SAEMetadata
from sparserm_cli.models.sae_match import Captured, check_metadata
from sparserm_cli.models.sae_metadata import read_sae_metadata
from sparserm_cli.store.capture.plan import ExtractSettings
from sparserm_cli.store.features.plan import SAEFacts


def name_by_layer(saes: Sequence[str], settings: ExtractSettings, *, allow_mismatch: bool) -> dict[int, str]:
    """Return which SAE encodes which layer, in the order of layers.

    Args:
        saes: their names.
        settings: of the capture that they encode.
        allow_mismatch: accept SAEs of another model, hook or scale.

    Raises:
        UsageError: no SAE is given, or two for one layer.
        IncompatibleError: an SAE does not fit the capture.

    """
    captured = Captured(settings.model, settings.model_revision, settings.layers, settings.d_in)
    names: dict[int, str] = {}
    for name in saes:
        layer = check_metadata(read_sae_metadata(name), captured, allow_mismatch=allow_mismatch)
        if layer in names:
            found = f"{names[layer]} and {name} for layer {layer}"
            raise UsageError("--sae", "one SAE a layer", found, "encode with them in two run directories")
        names[layer] = name
    if not names:
        raise UsageError("--sae", "an SAE for a captured layer", "none", "give a directory or RELEASE/SAE_ID")
    return dict(sorted(names.items()))


def sae_facts(metadata: SAEMetadata, digest: str, layer: int) -> SAEFacts:
    """Return what the features record of an SAE whose widths are known."""
    local = Path(metadata.name).expanduser()
    return SAEFacts(
        name=str(local.resolve()) if local.exists() else metadata.name,  # later stages may run elsewhere
        digest=digest,
        architecture=metadata.architecture,
        hook_name=metadata.hook_name or "",
        layer=layer,
        d_in=metadata.d_in or 0,
        d_sae=metadata.d_sae or 0,
        dtype=metadata.dtype,
        model_name=metadata.model_name or "",
    )
