"""Model files that were made to break or to run something: each is refused in one line, and nothing runs."""

import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sparserm_cli.errors import CorruptStoreError, IncompatibleError
from sparserm_cli.models.checkpoints.resolve import load_tokenizer, resolve_model
from sparserm_cli.models.lm.language_model import LanguageModel

Make = Callable[..., Path]


def gguf(tensors: int = 0, values: int = 1, *rest: bytes) -> bytes:
    """Return a file that begins as version 3 does."""
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, values) + b"".join(rest)


def text(value: str) -> bytes:
    """Return a string of the format."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


ARCHITECTURE = text("general.architecture") + struct.pack("<I", 8)
GGUF = {
    "empty": b"",
    "the magic alone": b"GGUF",
    "another file": b"hello world" * 100,
    "counts without end": gguf(2**62, 2**62),
    "a string without end": gguf(0, 1, struct.pack("<Q", 2**60), b"x"),
    "an array without end": gguf(0, 1, text("a"), struct.pack("<IIQ", 9, 4, 2**50)),
    "arrays in arrays": gguf(0, 1, text("a"), struct.pack("<I", 9), struct.pack("<IQ", 9, 1) * 5000),
    "a path for a name": gguf(0, 1, ARCHITECTURE, text("../../x")),
    "a tensor without end": gguf(
        1, 1, ARCHITECTURE, text("llama"), text("t"), struct.pack("<I4QIQ", 4, 2**40, 2**20, 1, 1, 0, 0)
    ),
}


@pytest.mark.parametrize("content", GGUF.values(), ids=GGUF)
def test_row_92_hostile_gguf(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it claims: the file is named, and nothing stays in the cache."""
    monkeypatch.setenv("SPARSERM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(IncompatibleError) as caught:
        resolve_model(str(path), offline=True)
    assert str(caught.value).startswith(f"{path}: expected a .gguf file that transformers reads, found ")
    assert not list((tmp_path / "cache").rglob("config.json"))


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["pickle", "zip"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_row_93_a_pickle_is_never_read(tmp_path: Path, tiny_model: Make, kind: str, name: str) -> None:
    """Neither under its own name nor under that of a safe format."""
    folder = shutil.copytree(tiny_model(), tmp_path / "model")
    (folder / "model.safetensors").unlink()
    data = pickle.dumps(Evil(tmp_path / "ran"))
    if kind == "zip":
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("archive/data.pkl", data)
    else:
        (folder / name).write_bytes(data)
    with pytest.raises((IncompatibleError, CorruptStoreError)) as caught:
        LanguageModel.load(resolve_model(str(folder)), layers=[1], dtype="float32", device="cpu")
    assert str(folder) in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_row_93_a_tokenizer_with_code_of_its_own(tmp_path: Path, tiny_model: Make) -> None:
    """Is refused unless it is trusted, and does not run."""
    folder = shutil.copytree(tiny_model(), tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}, "tokenizer_class": "Own"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})\nclass Own: pass\n")
    with pytest.raises(IncompatibleError) as caught:
        load_tokenizer(resolve_model(str(folder)))
    assert str(caught.value) == (
        f"{folder}: expected a tokenizer that transformers knows, found one that runs code of its own; "
        "give --remote-code if you trust it"
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_row_94_a_pipe_among_the_files_is_not_waited_for(tmp_path: Path, tiny_model: Make, name: str) -> None:
    """It would never end."""
    folder = shutil.copytree(tiny_model(), tmp_path / "model")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(IncompatibleError) as caught:
        resolve_model(str(folder))
    assert str(caught.value) == f"{folder / name}: expected a file, found a pipe or a device; move it away"
