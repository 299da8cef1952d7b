"""Published SAEs: fetch the files of a release by its name.

SAELens' table of releases gives the repository, folder and loader of an id. It is read as a file, without
importing sae_lens, and the fetched files are read by this package's own readers. A name that is not in the
table means ORG/REPO/FOLDER on the hub, with an optional revision as in ORG/REPO@REVISION/FOLDER.
"""

import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.hub_errors import HubRequest
from sparserm_cli.models.checkpoints.hub_snapshot import hub_folder
from sparserm_cli.models.sae.formats import FORMATS, find_local
from sparserm_cli.models.sae.metadata import LocalSAE

_SHOWN_IDS = 5


class Release(NamedTuple):
    """Location of an SAE on the hub, from the table or from the name itself.

    Fields:
        repo: id of the repository on the hub.
        folder: folder or file in the repository; "." is the whole repository.
        revision: branch, tag or commit; None is the main branch.
        settings: fields that the table adds to the configuration.
    """

    repo: str
    folder: str
    revision: str | None = None
    settings: Mapping[str, Any] = MappingProxyType({})


def fetch_release(name: str, *, offline: bool = False) -> LocalSAE:
    """Fetch the files of a release, or find them in the hub's cache.

    Args:
        name: RELEASE/SAE_ID of SAELens' table, or ORG/REPO/FOLDER.
        offline: use the hub's cache only.

    Raises:
        UsageError: there is no such release or id.
        IncompatibleError: the SAE is gated, absent on the hub, or of a format that is not read here.
        TemporaryError: the hub does not answer and the cache has no copy.

    """
    release = find_release(name)
    kinds = ["*.json", "*.safetensors", "*.npz", "*.pt", "*.pth"]
    # sparsify keeps the model's name in the configuration above the layers' folders.
    files = kinds if release.folder == "." else [release.folder, f"{release.folder}/*", "config.json"]
    request = HubRequest(name, release.repo, "SAE", "a local folder", offline)
    root = hub_folder(request, release.revision or "main", files)
    path = root / release.folder
    if not path.exists():
        found = f"no {release.folder} in {release.repo}"
        raise IncompatibleError(name, "an SAE on the hub", found, "correct the folder")
    return find_local(path, name)._replace(settings=release.settings)


def find_release(name: str) -> Release:
    """Look a name up in SAELens' table, or split it as ORG/REPO/FOLDER.

    Raises:
        UsageError: there is no such release or id.
        IncompatibleError: the release has a format that is not read here.

    """
    release, _, sae_id = name.partition("/")
    table = _table_for(release, sae_id)
    if table is not None:
        return _from_table(name, release, sae_id, table)
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?", name)
    if match is None:
        expected = "a folder, a file, RELEASE/SAE_ID of SAELens or ORG/REPO/FOLDER of the hub"
        raise UsageError(f"--sae {name}", expected, "none of these", "correct the path or name")
    return Release(match[1], match[3] or ".", match[2])


def neuronpedia_page(name: str, latent: int) -> str | None:
    """Return the address of a latent's page on Neuronpedia, if SAELens' table knows the SAE; no network.

    Args:
        name: RELEASE/SAE_ID of SAELens' table; other names have no page.
        latent: number of the latent.

    """
    release, _, sae_id = name.partition("/")
    if not sae_id or Path(name).exists():
        return None
    entries = (_table_for(release, sae_id) or {}).get("saes", ())
    page = next((entry.get("neuronpedia") for entry in entries if str(entry["id"]) == sae_id), None)
    return f"https://www.neuronpedia.org/{page}/{latent}" if page else None


def _table_for(release: str, sae_id: str) -> Mapping[str, Any] | None:
    """Return the release of SAELens' table that has an id; None if it has no such release."""
    table = _table_of(release)
    return (_table_of(f"{release}-canonical") or table) if sae_id.endswith("/canonical") else table


def _from_table(name: str, release: str, sae_id: str, table: Mapping[str, Any]) -> Release:
    """Return the entry of an id in the table."""
    entries = {str(entry["id"]): entry for entry in table["saes"]}
    if sae_id not in entries:
        shown = ", ".join(list(entries)[:_SHOWN_IDS]) + (", ..." if len(entries) > _SHOWN_IDS else "")
        where, expected = f"--sae {name}", f"an id of {release}, such as {shown}"
        raise UsageError(where, expected, sae_id or "no id", "correct the id after the first /")
    loader = table.get("conversion_func") or "sae_lens"
    if not any(loader in kind.sae_lens_loaders for kind in FORMATS.values()):
        hint = "save it with SAELens' save_model, and give the folder"
        raise IncompatibleError(
            name, "an SAE of a format that is read here", f"SAELens' loader {loader}", hint
        )
    settings = dict(table.get("config_overrides") or {})
    settings |= {
        key: entries[sae_id][key] for key in ("norm_scaling_factor", "l0") if entries[sae_id].get(key)
    }
    return Release(table["repo_id"], str(entries[sae_id]["path"]), None, settings)


@cache
def _table_of(release: str) -> dict[str, Any] | None:
    """Return one release of SAELens' table; None if it has no such release.

    The table is a YAML file of 1.5 MB that takes seconds to parse, so only the lines of the release are
    parsed.
    """
    import yaml  # type: ignore[import-untyped]

    spec = importlib.util.find_spec("sae_lens")
    if spec is None or not spec.submodule_search_locations:
        return None
    text = (
        "\n"
        + (Path(spec.submodule_search_locations[0]) / "pretrained_saes.yaml").read_text("utf-8")
        + "\nend:\n"
    )
    match = re.search(rf"\n{re.escape(release)}:\n(.*?)\n(?=\S)", text, re.DOTALL)
    return yaml.safe_load(match[1]) if match else None
