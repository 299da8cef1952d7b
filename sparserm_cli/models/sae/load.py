"""Find the files of an SAE by its name, read its metadata, and load it.

Only `load_sae` needs torch; nothing here needs sae_lens.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from sparserm_cli.locations import bundled_sae
from sparserm_cli.models.sae.formats import FORMATS, find_local
from sparserm_cli.models.sae.metadata import LocalSAE, SAEMetadata

if TYPE_CHECKING:
    from sparserm_cli.models.sae.autoencoder import SparseAutoencoder


def read_sae_metadata(name: str | Path, *, offline: bool = False) -> SAEMetadata:
    """Read the metadata of an SAE.

    Args:
        name: a local folder or file, or RELEASE/SAE_ID of SAELens, or ORG/REPO/FOLDER of the hub.
        offline: take a release from the hub's cache only.

    Raises:
        UsageError: there is no such path or release.
        IncompatibleError: the configuration is broken, or its architecture is no SAE of one point in the
            model.
        TemporaryError: the hub does not answer and the cache has no copy.

    """
    return read_metadata(find_sae(name, offline=offline))


def find_sae(name: str | Path, *, offline: bool = False) -> LocalSAE:
    """Find an SAE's files, fetching those of a release; raises the errors of `read_sae_metadata`."""
    path = Path(name).expanduser()
    if path.exists() or str(name).startswith(("/", "./", "../", "~")):
        return find_local(path, str(name))
    if folder := bundled_sae(str(name)):
        return find_local(folder, str(name))
    from sparserm_cli.models.sae.releases import fetch_release

    return fetch_release(str(name), offline=offline)


def read_metadata(files: LocalSAE) -> SAEMetadata:
    """Read the configuration beside the weights; raises the errors of `read_sae_metadata`."""
    return FORMATS[files.format].read_metadata(files)


def load_sae(
    name: str | Path,
    *,
    device: str = "cpu",
    allow_pickle: bool = False,
    allow_mismatch: bool = False,
    offline: bool = False,
) -> "SparseAutoencoder":
    """Load an SAE of any known format.

    Folders are read here, with the formula of their own format; sae_lens loads only releases whose format
    this package does not read. Weights are widened to float32, in which everything is computed; the numbers
    of a bfloat16 file are exact in it.

    Args:
        name: a local folder or file, or RELEASE/SAE_ID of SAELens, or ORG/REPO/FOLDER of the hub.
        device: torch device.
        allow_pickle: read `.pt` weights, with torch's weights-only loader.
        allow_mismatch: read an SAE whose input needs a factor that is not recorded, and leave the factor out.
        offline: take a release from the hub's cache only.

    Raises:
        UsageError: there is no such path or release.
        IncompatibleError: the SAE is broken, of an unknown architecture, pickled, or lacks its scale.
        TemporaryError: the hub does not answer and the cache has no copy.

    """
    from sparserm_cli.models.sae.formats.weights import read_weights

    files = find_sae(name, offline=offline)
    metadata = read_metadata(files)
    return read_weights(files, metadata, allow_pickle=allow_pickle, allow_mismatch=allow_mismatch).to(device)
