"""Load the files, the language model and the template of a reward model, and check that they belong together.

Reads: a `reward/` folder and the language model that it names.
"""

from pathlib import Path, PurePath
from typing import TYPE_CHECKING, cast

from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.rendering.row_tokenizer import tokenizer_digest
from sparserm_cli.errors import IncompatibleError
from sparserm_cli.hub_errors import HubRequest
from sparserm_cli.locations import parse_location
from sparserm_cli.models.checkpoints.hub_snapshot import hub_folder
from sparserm_cli.models.checkpoints.resolve import HUB_NAME, load_tokenizer, resolve_model
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.store.artifacts.reward import RewardFiles, read_reward, reward_folder

if TYPE_CHECKING:
    from sparserm_cli.models.lm.devices import DType

_PUBLISHED = ("config.json", "*.safetensors", "README.md")
"""Files of a reward model that are fetched from the hub."""


def load_parts(
    path: PurePath, *, model: str | None, device: str, offline: bool
) -> tuple[RewardFiles, LanguageModel, PromptTemplate]:
    """Load a reward model's files and the language model and template that it was fitted with.

    Args:
        path: a `reward/` folder.
        model: location of the language model, if it is not where the reward model says.
        device: torch device; auto is cuda where there is one, else cpu.
        offline: never call the hub.

    Raises:
        IncompatibleError: model, tokenizer or template are not those of the fit; the error names both values.
        CorruptStoreError: a file of the folder is missing, cut or changed.
        ResourceError: the device is missing.

    """
    files = read_reward(path)
    config = files.config
    identity = resolve_model(model or config.model, offline=offline)
    hint = "give --model with the model of the fit, or fit again"
    refuse_other(path, "model revision", config.model_revision, identity.revision, hint)
    tokenizer = load_tokenizer(identity)
    hint = "restore the tokenizer of the fit"
    refuse_other(path, "tokenizer", config.tokenizer, tokenizer_digest(tokenizer), hint)
    source = "raw" if config.template == "raw" else None
    template = PromptTemplate(tokenizer, source, model=identity.name, text=config.template_text)
    hint = "restore the template of the fit"
    refuse_other(path, "template", config.template_digest, template.digest, hint)
    lm = LanguageModel.load(identity, layers=config.layers, dtype=cast("DType", config.dtype), device=device)
    return files, lm, template


def published_folder(name: str | PurePath, *, offline: bool) -> PurePath:
    """Return the `reward/` folder that a path, a URL or a hub id means, fetching it from the hub if needed.

    Raises:
        IncompatibleError: there is no such reward model, or no access to it.
        TemporaryError: the hub does not answer and the cache has no copy.

    """
    path = parse_location(name)
    hub = HUB_NAME.fullmatch(str(name)) if isinstance(path, Path) and not path.exists() else None
    if hub is not None and "/" in hub[1]:
        revision = hub[2] or "main"
        request = HubRequest(f"{hub[1]}@{revision}", hub[1], "model", "a local folder", offline)
        path = hub_folder(request, revision, _PUBLISHED)
    return reward_folder(path)


def refuse_other(path: object, field: str, expected: str, found: str, hint: str) -> None:
    """Raise IncompatibleError unless a value is that of the fit."""
    if expected != found:
        raise IncompatibleError(f"{path}: {field}", expected, found, hint)
