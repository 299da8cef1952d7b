"""Convert a `.gguf` file to dequantised safetensors once; the cache keeps them under the file's digest.

Reads: one `.gguf` file. Writes: `models/gguf-<sha256>/` in the cache folder (config, tokenizer, weights).
Memory: one file of weights (some hundred megabytes) and one tensor. An architecture for which transformers
combines several tensors into one is held whole.

Axes: rows (first axis of a tensor in the file; the other axes differ from tensor to tensor).
"""

import errno
import gc
import io
import json
import struct
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sparserm_cli.config import Progress
from sparserm_cli.errors import IncompatibleError
from sparserm_cli.formatting import first_line
from sparserm_cli.locations import cache_folder
from sparserm_cli.models.checkpoints.cached_folder import building, is_whole
from sparserm_cli.models.checkpoints.library_noise import silence_transformers
from sparserm_cli.models.checkpoints.weight_files import INDEX

CONVERTER = 1
"""Version of the conversion; after a new version, files are converted again."""
# Counts and lengths in a file cannot be trusted.
_UNREADABLE = (
    ValueError, LookupError, NotImplementedError, ImportError, OSError, TypeError, AttributeError,
    OverflowError, MemoryError, RecursionError,
)  # fmt: skip

SHARD = 256 << 20
"""Size in bytes at which a file of weights is written and the next one begun."""

CHUNK = 1 << 22
"""Number of weights that are dequantised at a time."""


def converted_folder(digest: str, *, halved: bool = False) -> Path:
    """Return the cache folder of the `.gguf` file with this sha256."""
    return cache_folder() / "models" / f"gguf-{digest[:32]}{'-float16' if halved else ''}"


def is_converted(digest: str, *, halved: bool = False) -> bool:
    """Return whether the `.gguf` file with this sha256 is in the cache already."""
    return is_whole(converted_folder(digest, halved=halved), _origin(digest))


def convert_gguf(path: Path, digest: str, progress: Progress | None = None, *, halved: bool = False) -> Path:
    """Convert a `.gguf` file to a folder that transformers loads, unless the cache has it.

    Args:
        path: path of the file.
        digest: sha256 of the file in hex.
        progress: called with the bytes of the file that are converted, and all its bytes.
        halved: keep quantised weights as float16, which has 11 significant bits, instead of float32.
            Weights that the file holds unquantised stay float32.

    Raises:
        IncompatibleError: transformers cannot read this file or architecture.

    """
    target = converted_folder(digest, halved=halved)
    if is_converted(digest, halved=halved):
        return target
    # transformers would draw progress bars of its own on stderr
    with building(target, _origin(digest)) as folder, silence_transformers(), redirect_stderr(io.StringIO()):
        try:
            _convert(path, folder, progress or _silent, halved=halved)
        except struct.error as error:
            raise _unread(path, "one that is cut short or claims more than it holds") from error
        except _UNREADABLE as error:
            if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise _unread(path, first_line(error)) from error
    return target


def _convert(path: Path, folder: Path, report: Progress, *, halved: bool) -> None:
    """Write tokenizer, configuration and weights."""
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    size = path.stat().st_size
    report(0, size)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    gc.collect()  # each entry of the vocabulary consists of several objects
    reader = GGUFReader(path)
    if _processor_class(reader) in _plain_processors():
        _write_weights(path, reader, folder, report, halved=halved)
    else:
        dtype = torch.float16 if halved else torch.float32
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=dtype)
        # The weights are plain numbers now, but transformers still takes them for quantised and would not
        # save.
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(folder)
    report(size, size)


def _processor_class(reader: Any) -> Any:
    """Return transformers' converter of the tensors of this architecture."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    return TENSOR_PROCESSORS.get(reader.fields["general.architecture"].contents(), TensorProcessor)


def _plain_processors() -> tuple[Any, ...]:
    """Return the name mappings under which each tensor of the file is one tensor of the model."""
    from transformers import modeling_gguf_pytorch_utils as reading

    return reading.TensorProcessor, reading.LlamaTensorProcessor, reading.Gemma2TensorProcessor


def _write_weights(path: Path, reader: Any, folder: Path, report: Progress, *, halved: bool) -> None:
    """Write the configuration, the tensors one by one into files of about `SHARD` bytes, and their index."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import get_gguf_hf_weights_map, load_gguf_checkpoint

    settings = load_gguf_checkpoint(str(path))["config"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    processor = _processor_class(reader)(config=settings)
    names = get_gguf_hf_weights_map(model, processor)
    places: dict[str, str] = {}
    pending: dict[str, Any] = {}
    done, size = 0, path.stat().st_size

    def flush() -> None:
        file = f"model-{len(set(places.values())) + 1:05}.safetensors"
        save_file(pending, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(pending, file))
        pending.clear()

    for tensor in (entry for entry in reader.tensors if entry.name in names):
        weights = processor.process(weights=_dequantised(tensor, halved=halved), name=tensor.name).weights
        pending[names[tensor.name]] = torch.from_numpy(np.ascontiguousarray(weights))
        done += int(tensor.n_bytes)
        report(done, size)
        if sum(array.nbytes for array in pending.values()) >= SHARD:
            flush()
    flush()
    total = sum((folder / file).stat().st_size for file in set(places.values()))
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")


def _dequantised(tensor: Any, *, halved: bool) -> Float[np.ndarray, "rows ..."]:
    """Dequantise a tensor, some rows at a time.

    Raises:
        ValueError: a weight is too large for float16.

    """
    from gguf import GGMLQuantizationType, dequantize

    plain = tensor.tensor_type in {GGMLQuantizationType.F32, GGMLQuantizationType.F64}
    shape = tuple(int(length) for length in reversed(tensor.shape))
    whole = np.empty(shape, np.float16 if halved and not plain else np.float32)
    rows = max(1, CHUNK * shape[0] // max(1, whole.size))
    for start in range(0, shape[0], rows):
        part = dequantize(tensor.data[start : start + rows], tensor.tensor_type)
        whole[start : start + rows] = part.reshape(-1, *shape[1:])
    if not np.isfinite(whole).all():
        raise ValueError(f"{tensor.name} has weights that are not finite as {whole.dtype}")
    return whole


def _unread(path: Path, reason: str) -> IncompatibleError:
    hint = "use the model's safetensors instead"
    return IncompatibleError(str(path), "a .gguf file that transformers reads", reason, hint)


def _origin(digest: str) -> dict[str, str | int]:
    return {"gguf_sha256": digest, "converter": CONVERTER}


def _silent(done: int, total: int) -> None:
    """Report nothing."""
