"""Match SAEs to captured layers, and collect what the features record of them, without their weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sparserm_cli.config import Note
from sparserm_cli.errors import UsageError
from sparserm_cli.models.sae.compatibility import Captured, check_metadata, check_normalization, check_pickle
from sparserm_cli.models.sae.load import find_sae, read_metadata
from sparserm_cli.models.sae.metadata import SAEMetadata
from sparserm_cli.store.capture.plan import ExtractSettings
from sparserm_cli.store.features.plan import SAEFacts

if TYPE_CHECKING:
    from sparserm_cli.models.sae.quality import SAEQuality


class SAETrial(NamedTuple):
    """An SAE that is to encode a capture, and how strictly it is checked.

    Fields:
        name: name of the SAE as the user gave it.
        layer: captured layer that the SAE encodes.
        allow_pickle: whether pickled weights are read.
        allow_mismatch: whether an SAE of another model, hook or scale is accepted.
    """

    name: str
    layer: int
    allow_pickle: bool
    allow_mismatch: bool


def check_saes(
    saes: Sequence[str],
    captured: Captured,
    note: Note,
    *,
    allow_pickle: bool,
    allow_mismatch: bool,
    offline: bool = False,
) -> list[SAETrial]:
    """Check the metadata of SAEs against what is captured, before anything is computed.

    Args:
        saes: names of the SAEs.
        captured: model and layers that the SAEs are to encode.
        note: called with what makes an SAE fit worse than its makers measured.
        allow_pickle: accept pickled weights.
        allow_mismatch: accept SAEs of another model, hook or scale.
        offline: take a release from the hub's cache only.

    Raises:
        UsageError: there is no such SAE.
        IncompatibleError: an SAE does not fit, is broken, or is pickled without the flag.

    """
    trials = []
    for name in saes:
        files = find_sae(name, offline=offline)
        metadata = read_metadata(files)
        layer = check_metadata(metadata, captured, allow_mismatch=allow_mismatch)
        check_normalization(metadata, allow_mismatch=allow_mismatch)
        check_pickle(files, allow_pickle=allow_pickle)
        if metadata.caution is not None:
            note(metadata.caution)
        trials.append(SAETrial(name, layer, allow_pickle, allow_mismatch))
    return trials


def captured_by(settings: ExtractSettings) -> Captured:
    """Return the model and the layers that a capture's plan records."""
    return Captured(settings.model, settings.model_revision, settings.layers, settings.d_in)


def name_by_layer(trials: Sequence[SAETrial]) -> dict[int, str]:
    """Return layer to SAE name, in the order of the layers.

    Raises:
        UsageError: no SAE is given, or two for one layer.

    """
    names: dict[int, str] = {}
    for trial in trials:
        if trial.layer in names:
            both = f"{names[trial.layer]} and {trial.name} for layer {trial.layer}"
            raise UsageError("--sae", "one SAE per layer", both, "encode with them in two run directories")
        names[trial.layer] = trial.name
    if not names:
        raise UsageError("--sae", "an SAE for a captured layer", "none", "give a directory or RELEASE/SAE_ID")
    return dict(sorted(names.items()))


def fit_line(layer: int, architecture: str, d_sae: int, sample: "SAEQuality") -> str:
    """Return a sentence about how well an SAE fits a sample of the activations."""
    return (
        f"layer {layer}: {architecture} SAE, {d_sae:,} latents; on {sample.tokens:,}"
        f" tokens it explains {sample.explained_variance:.3f} of the variance, L0 {sample.l0:.1f}"
    )


def sae_facts(metadata: SAEMetadata, digest: str, layer: int) -> SAEFacts:
    """Return what the features record about an SAE whose widths are known."""
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
