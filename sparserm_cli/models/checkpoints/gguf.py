"""A `.gguf` file becomes safetensors once: dequantised to float32, kept in the cache by its content.

Reads: one `.gguf` file. Writes: `models/gguf-<sha256>/` in the cache folder (config, tokenizer, weights).
Memory: the whole dequantised model, once.
"""

import hashlib
import io
import struct
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from sparserm_cli.config import Progress
from sparserm_cli.errors import IncompatibleError
from sparserm_cli.locations import cache_folder
from sparserm_cli.models.checkpoints.cached_folder import building, is_whole
from sparserm_cli.models.checkpoints.quiet import first_line, quiet_transformers

CONVERTER = 1
"""Version of the conversion; a new one converts again."""
# The counts and lengths in a file are whatever its maker wrote.
_UNREADABLE = (
    ValueError, LookupError, NotImplementedError, ImportError, OSError, TypeError, AttributeError,
    OverflowError, MemoryError, RecursionError,
)  # fmt: skip


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def converted_folder(digest: str) -> Path:
    """Name the cache folder of the `.gguf` file with this sha256."""
    return cache_folder() / "models" / f"gguf-{digest[:32]}"


def is_converted(digest: str) -> bool:
    """Tell whether the `.gguf` file with this sha256 stands in the cache already."""
    return is_whole(converted_folder(digest), _origin(digest))


def convert_gguf(path: Path, digest: str, progress: Progress | None = None) -> Path:
    """Convert a `.gguf` file to a folder that transformers loads, unless the cache has it.

    Args:
        path: the file.
        digest: its sha256 in hex.
        progress: called with (bytes read and written, bytes in all, which grow once all is read).

    Raises:
        IncompatibleError: transformers cannot read this file or architecture.

    """
    report = progress or _silent
    if is_converted(digest):
        return converted_folder(digest)
    size = path.stat().st_size
    report(0, size)
    tokenizer, model = _read(path)
    total = size + sum(one.nbytes for one in model.parameters())
    report(size, total)
    with building(converted_folder(digest), _origin(digest)) as folder, quiet_transformers():
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    report(total, total)
    return converted_folder(digest)


def _read(path: Path) -> tuple[Any, Any]:
    """Read tokenizer and float32 model, without the progress bar that transformers would draw on stderr."""
    with quiet_transformers(), redirect_stderr(io.StringIO()):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
        try:
            tokenizer = AutoTokenizer.from_pretrained(**source)
            model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        except struct.error as error:
            raise _unread(path, "one that is cut short or claims more than it holds") from error
        except _UNREADABLE as error:
            raise _unread(path, first_line(error)) from error
    # The weights are plain float32 now, but transformers still calls them quantised and would not save.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return tokenizer, model


def _unread(path: Path, reason: str) -> IncompatibleError:
    hint = "use the model's safetensors instead"
    return IncompatibleError(str(path), "a .gguf file that transformers reads", reason, hint)


def _origin(digest: str) -> dict[str, str | int]:
    return {"gguf_sha256": digest, "converter": CONVERTER}


def _silent(done: int, total: int) -> None:
    """Report nothing."""
