"""Which model a name means: hub commits, folders and `.gguf` files, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from sparserm_cli.errors import IncompatibleError, TemporaryError, UsageError
from sparserm_cli.models.checkpoints.resolve import folder_digest, load_tokenizer, resolve_model
from sparserm_cli.models.lm.language_model import LanguageModel

Make = Callable[..., Path]
OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Make) -> Path:
    """Lay out a hub cache with two commits of org/tiny; main points to the older one."""
    folder = tmp_path / "models--org--tiny"
    for commit in (OLD, NEW):
        shutil.copytree(tiny_model(), folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(OLD)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return folder


def no_hub(*_args: object, **options: Any) -> str:
    """Stand in for a hub that is called although it must not be."""
    if not options.get("local_files_only"):
        pytest.fail("the hub was called")
    return "unused"


def refuse(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every call of the hub end in `error`."""

    def answer(**_options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)


def hub_error(kind: type[Exception], text: str) -> Exception:
    """Build one of huggingface_hub's errors without an HTTP response."""
    error = kind.__new__(kind)
    error.args = (text,)
    return error


def test_a_folder_is_known_by_its_contents(tmp_path: Path, tiny_model: Make) -> None:
    """The revision is a digest of config, tokenizer and weights: one byte changes it, a README does not."""
    folder = shutil.copytree(tiny_model(), tmp_path / "model")
    identity = resolve_model(str(folder))
    assert (identity.name, identity.folder) == (str(folder), folder)
    assert identity.revision == folder_digest(tiny_model())
    assert identity.revision.startswith("xxh3:")
    assert len(identity.revision) == len("xxh3:") + 32
    (folder / "README.md").write_text("new")
    assert resolve_model(str(folder)).revision == identity.revision
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        if name != "config.json":
            assert resolve_model(str(folder)).revision != identity.revision
        (folder / name).write_bytes(before)


@pytest.mark.parametrize(
    "name", ["./nothing", "/nothing/here", "a/b/c", "model.gguf", "org/name@", "", "a b"]
)
def test_a_name_that_is_none(name: str) -> None:
    """What is no file and cannot be a hub id is a usage error."""
    with pytest.raises(UsageError) as caught:
        resolve_model(name)
    assert str(caught.value) == (
        "--model: expected smollm2-135m, qwen2.5-coder-1.5b, gemma-3-270m, "
        "a hub id like org/name@revision, a directory or a .gguf file, "
        f"found {name!r}, which is none of these; correct the name or path"
    )


def test_row_38_offline_uses_the_cache_only(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--offline` finds what the cache has and never calls; what is missing is exit 75 with the exact id."""
    identity = resolve_model("org/tiny", offline=True)
    assert (identity.name, identity.revision) == ("org/tiny", OLD)
    assert identity.folder == hub_cache / "snapshots" / OLD
    with pytest.raises(TemporaryError) as caught:
        resolve_model("org/other@v1.0", offline=True)
    assert caught.value.exit_code == 75
    assert str(caught.value) == (
        "org/other@v1.0: expected the model's files, found nothing in the cache, and --offline; "
        "run once without it"
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_hub)
    with pytest.raises(IncompatibleError):  # the stand-in's folder holds no config
        resolve_model("org/tiny", offline=True)


def test_row_38_the_hub_does_not_answer(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an answer the cache serves; without either it is exit 75."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # as if the network were down
    assert resolve_model("org/tiny").revision == OLD
    refuse(OSError("Connection refused\nand much more"), monkeypatch)
    with pytest.raises(TemporaryError) as caught:
        resolve_model("org/tiny")
    assert str(caught.value) == (
        "org/tiny@main: expected the model's files, found nothing in the cache, and from the hub: "
        "Connection refused; try again later, or give --model a local directory"
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "expected access to the model, found a gated repository; ask for access at "),
        ("RepositoryNotFoundError", "expected a model on the hub, found no such repository or revision; "),
        ("RevisionNotFoundError", "expected a model on the hub, found no such repository or revision; "),
    ],
)
def test_row_38_gated_or_unknown(kind: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No access and no such model are exit 4, since trying again will not help."""
    refuse(hub_error(getattr(huggingface_hub.errors, kind), "401"), monkeypatch)
    with pytest.raises(IncompatibleError) as caught:
        resolve_model("org/tiny@v2")
    assert caught.value.exit_code == 4
    assert str(caught.value).startswith(f"org/tiny@v2: {message}")


def test_row_38_rate_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other answer of the hub is temporary."""
    refuse(hub_error(huggingface_hub.errors.HfHubHTTPError, "429 Too Many Requests"), monkeypatch)
    with pytest.raises(TemporaryError, match=r"org/tiny@main: .* from the hub: 429 Too Many Requests"):
        resolve_model("org/tiny")


def test_row_39_a_revision_that_moves(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name resolves to a commit; the commit itself goes on meaning the same files, without a call."""
    before = resolve_model("org/tiny", offline=True)
    (hub_cache / "refs" / "main").write_text(NEW)
    assert resolve_model("org/tiny", offline=True).revision == NEW
    real = huggingface_hub.snapshot_download

    def cached(**options: Any) -> str:
        no_hub(**options)
        return real(**options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert resolve_model(f"org/tiny@{OLD}") == before


def test_row_40_pickle_weights(tmp_path: Path, tiny_model: Make) -> None:
    """`.bin` weights alone are refused unless allowed; then torch's weights-only loader reads them."""
    folder = shutil.copytree(tiny_model(), tmp_path / "model")
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    safe = LanguageModel.load(resolve_model(str(folder)), layers=[1], dtype="float32", device="cpu")
    (folder / "model.safetensors").unlink()
    with pytest.raises(IncompatibleError) as caught:
        resolve_model(str(folder))
    assert str(caught.value) == (
        f"{folder}: expected safetensors weights, found pickle weights only; "
        "convert them to safetensors, or give --allow-pickle"
    )
    identity = resolve_model(str(folder), pickles=True)
    pickled = LanguageModel.load(identity, layers=[1], dtype="float32", device="cpu")
    ids = torch.arange(6)[None]
    mask = torch.ones_like(ids)
    assert torch.equal(safe.forward_rows(ids, mask)[1], pickled.forward_rows(ids, mask)[1])


def test_row_41_a_model_with_code_of_its_own(tmp_path: Path, tiny_model: Make) -> None:
    """Foreign code is refused unless trusted; code that transformers has itself is not foreign."""
    folder = shutil.copytree(tiny_model(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    own = config | {"auto_map": {"AutoModel": "modeling.Mine"}}
    (folder / "config.json").write_text(json.dumps(own))
    assert resolve_model(str(folder)).remote_code is False
    (folder / "config.json").write_text(json.dumps(own | {"model_type": "mine"}))
    with pytest.raises(IncompatibleError) as caught:
        resolve_model(str(folder))
    assert str(caught.value) == (
        f"{folder}: expected a model that transformers knows, found one that runs code of its own; "
        "give --remote-code if you trust it"
    )
    assert resolve_model(str(folder), remote_code=True).remote_code is True


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "config.json").unlink(),
            "/config.json: expected a transformers model, found no such file",
        ),
        (
            lambda folder: (folder / "config.json").write_text("{"),
            "/config.json: expected a transformers model, found a file that is not JSON",
        ),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            ": expected safetensors weights, found no weights; download the model again",
        ),
    ],
)
def test_a_folder_that_is_no_model(
    spoil: Callable[[Path], None], message: str, tmp_path: Path, tiny_model: Make
) -> None:
    """A missing or broken part is named."""
    folder = shutil.copytree(tiny_model(), tmp_path / "model")
    spoil(folder)
    with pytest.raises(IncompatibleError) as caught:
        resolve_model(str(folder))
    assert str(caught.value).startswith(f"{folder}{message}")


def test_the_tokenizer(tmp_path: Path, tiny_model: Make) -> None:
    """The tokenizer beside the model is loaded; without one the error names the model."""
    tokenizer = load_tokenizer(resolve_model(str(tiny_model())))
    assert tokenizer("<|im_start|>A").input_ids[0] == 256
    folder = shutil.copytree(tiny_model(), tmp_path / "model")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(IncompatibleError, match=f"{folder}: expected a tokenizer beside the model, found"):
        load_tokenizer(resolve_model(str(folder)))


def test_progress_of_a_download(monkeypatch: pytest.MonkeyPatch, tiny_model: Make, capfd: Any) -> None:
    """Bytes from the hub are reported to the caller, and nothing is drawn."""

    def fetch(*, tqdm_class: Any, **_options: Any) -> str:
        with tqdm_class(total=2, unit="it") as files, tqdm_class(total=10, unit="B") as data:
            files.update(1)
            data.update(4)
            data.update(6)
        return str(tiny_model())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    said: list[tuple[int, int]] = []
    resolve_model("org/tiny", progress=lambda done, total: said.append((done, total)))
    assert said == [(4, 10), (10, 10)]
    assert capfd.readouterr() == ("", "")
