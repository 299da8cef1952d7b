"""Loading: blocks up to a layer and no more, on the device and in the type that fit this machine."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch

from sparserm_cli.errors import IncompatibleError, ResourceError, UsageError
from sparserm_cli.models.checkpoints.resolve import ModelIdentity, resolve_model
from sparserm_cli.models.lm import devices
from sparserm_cli.models.lm import trie_attention as attention
from sparserm_cli.models.lm.allocator import KERNELS, keep_freed_memory, return_freed_memory
from sparserm_cli.models.lm.devices import choose_device, choose_dtype
from sparserm_cli.models.lm.language_model import LanguageModel

Make = Callable[..., Path]


def load(folder: Path, **options: Any) -> LanguageModel:
    options = {"layers": [1], "dtype": "float32", "device": "cpu"} | options
    return LanguageModel.load(resolve_model(str(folder)), **options)


def test_what_a_model_says_of_itself(tiny_model: Make) -> None:
    """Width, layers, type, device and hook names are those of the model."""
    lm = load(tiny_model(), layers=[2, 0, 2])
    assert (lm.d_in, lm.layers, lm.dtype, lm.device) == (32, (0, 2), "float32", "cpu")
    assert (lm.model_type, lm.max_positions) == ("llama", 512)
    assert lm.hook_names == ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post")
    assert lm.dtype_reason == "asked for"
    assert lm.tree_reason == "its attention takes tries, and a trial gave what plain rows give"


@pytest.mark.parametrize("device", ["cpu", "balanced"])
def test_blocks_above_the_layer_are_not_read(
    device: str, tiny_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the checkpoint, only embeddings, blocks up to the layer and the final norm are read."""
    import transformers.modeling_utils

    folder, read = tiny_model(), []

    class Recorder:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.file = safe_open(*args, **kwargs)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Self:
            self.file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

        def get_slice(self, name: str) -> Any:
            return Slice(name, self.file.get_slice(name))

    class Slice:
        def __init__(self, name: str, inner: Any) -> None:
            self.name, self.inner = name, inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def __getitem__(self, index: Any) -> Any:
            read.append(self.name)
            return self.inner[index]

    safe_open = transformers.modeling_utils.safe_open
    monkeypatch.setattr(transformers.modeling_utils, "safe_open", Recorder)
    lm = load(folder, layers=[1], device=device)
    assert len(lm.blocks) == 2
    assert {name for name in read if "layers." not in name} == {
        "model.embed_tokens.weight",
        "model.norm.weight",
    }
    assert {name.split(".")[2] for name in read if "layers." in name} == {"0", "1"}


def test_the_last_block_is_taken_before_the_final_norm(tiny_model: Make) -> None:
    """The residual after the last block is the block's own output, which `hidden_states[-1]` is not."""
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32).eval()
    outputs = []
    whole.model.layers[3].register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    ids = torch.arange(7)[None]
    with torch.inference_mode():
        normed = whole(ids, output_hidden_states=True).hidden_states[-1]
    taken = load(tiny_model(), layers=[3]).forward_rows(ids, torch.ones_like(ids))[3]
    torch.testing.assert_close(taken, outputs[0])
    assert not torch.allclose(taken, normed, atol=0.1)


def test_a_vision_model_gives_its_language_model(tmp_path: Path, tiny_model: Make) -> None:
    """Of a model that also sees, the text part is used."""
    from transformers import AutoConfig, Gemma3Config, Gemma3ForConditionalGeneration

    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=AutoConfig.from_pretrained(tiny_model("gemma3")).to_dict(),
        vision_config=vision | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=1,
    )
    whole = Gemma3ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path)
    lm = load(tmp_path, layers=[0, 2])
    assert (lm.model_type, lm.d_in, len(lm.blocks), lm.supports_tree) == ("gemma3_text", 32, 3, True)
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        expected = whole(ids, output_hidden_states=True).hidden_states[3]
    torch.testing.assert_close(lm.forward_rows(ids, torch.ones_like(ids))[2], expected)


@pytest.mark.parametrize("layers", [[4], [-1], [0, 7]])
def test_a_layer_the_model_does_not_have(layers: list[int], tiny_model: Make) -> None:
    """Layers count from 0 to the number of blocks less one."""
    with pytest.raises(UsageError) as caught:
        load(tiny_model(), layers=layers)
    shown = ", ".join(map(str, layers))
    expected = f"--layer: expected layers from 0 to 3 for {tiny_model()}, found {shown}; correct the option"
    assert str(caught.value) == expected


def test_no_causal_language_model(tmp_path: Path, tiny_model: Make) -> None:
    """An encoder-decoder is refused, and so is a model whose upper blocks live on the lower ones' keys."""
    from transformers import AutoConfig, T5Config

    for config, reason in (
        (T5Config(), "expected a causal language model, found t5; choose another model"),
        (
            AutoConfig.for_model("gemma3n_text", num_kv_shared_layers=15),
            (
                "expected blocks with keys of their own, found 15 blocks that use those of others; "
                "choose another model"
            ),
        ),
    ):
        config.save_pretrained(tmp_path)
        with pytest.raises(IncompatibleError) as caught:
            LanguageModel.load(ModelIdentity("some/model", "", tmp_path), layers=[0])
        assert str(caught.value) == f"some/model: {reason}"


def test_weights_that_do_not_fit(tmp_path: Path, tiny_model: Make) -> None:
    """A checkpoint of other sizes than its config says is one line, not a traceback."""
    import json
    import shutil

    shutil.copytree(tiny_model(), tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    expected = r"found embed_tokens.weight of \(258, 32\), not \(258, 64\), .* and 17 more; give a checkpoint"
    with pytest.raises(IncompatibleError, match=expected):
        load(tmp_path)


def test_row_54_cuda_asked_for_and_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--device cuda` without one is exit 6; `auto` takes the CPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError) as caught:
        choose_device("cuda")
    assert caught.value.exit_code == 6
    assert str(caught.value) == (
        "--device cuda: expected that device, found 0 CUDA devices on this machine; use --device auto or cpu"
    )
    assert choose_device("auto") == "cpu"
    with pytest.raises(
        UsageError,
        match=r"--device: expected auto, cpu, cuda, cuda:N, balanced or a \.json file, found 'tpu9'",
    ):
        choose_device("tpu9")


def test_auto_device_takes_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU, `auto` is cuda, and a number too high is refused."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == "cuda"
    assert choose_device("cuda:1") == "cuda:1"
    with pytest.raises(ResourceError, match="found 2 CUDA devices"):
        choose_device("cuda:2")


def test_products_are_timed_once_per_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The ratio is a positive number; a second process reads it, and a damaged file is measured again."""
    monkeypatch.setenv("SPARSERM_CACHE", str(tmp_path))
    fresh = devices.bfloat16_gain.__wrapped__
    measured = fresh()
    assert measured > 0
    [kept] = (tmp_path / "processors").iterdir()
    monkeypatch.setattr(devices, "_measure_gain", lambda: 7.0)
    assert fresh() == measured
    kept.write_text("{")
    assert fresh() == 7.0
    assert fresh() == json.loads(kept.read_text())["bfloat16_gain"] == 7.0


def test_row_55_bfloat16_only_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is bfloat16 where the processor multiplies it faster, else float32, and says which and why."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": True})
    assert choose_dtype("auto", "cpu") == (
        torch.bfloat16,
        "this processor multiplies bfloat16 faster than float32 (amx_bf16)",
    )
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": False})
    for gain, dtype in ((1.9, torch.bfloat16), (1.1, torch.float32)):
        monkeypatch.setattr(devices, "bfloat16_gain", lambda gain=gain: gain)
        reason = f"products in bfloat16 are {gain} times as fast as in float32 on this processor"
        assert choose_dtype("auto", "cpu") == (dtype, reason)
    assert choose_dtype("bfloat16", "cpu") == (torch.bfloat16, "asked for")
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda _answer=supported, **_options: _answer)
        assert choose_dtype("auto", "cuda")[0] == dtype


def test_a_failed_trial_takes_the_plain_path(tiny_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that computes tries wrong, here through a mask that hides too much, is found out."""
    monkeypatch.setattr(attention, "visible", lambda _trie, q, k, _window: q[:, None] == k)
    lm = load(tiny_model())
    assert (lm.supports_tree, lm.tree_reason) == (False, "llama does not compute a trie as it computes rows")


def test_the_fused_kernel_gives_the_same(tiny_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The branch that GPUs take equals the one for CPUs."""
    from sparserm_cli.models.lm.trie import Row, build_trie, sort_rows

    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 256, 9, dtype=np.uint32)
    responses = [rng.integers(0, 256, size, dtype=np.uint32) for size in (4, 7, 1)]
    trie = build_trie(
        *sort_rows([Row(0, n, np.concatenate([prompt, r]), len(r)) for n, r in enumerate(responses)])
    )
    lm = load(tiny_model(), layers=[1, 2])
    plain = lm.forward_trie(trie)

    monkeypatch.setattr(attention.Layout, "fused", property(lambda _layout: True))
    fused = lm.forward_trie(trie)
    for layer in (1, 2):
        torch.testing.assert_close(fused[layer], plain[layer], rtol=1e-4, atol=1e-5)


def test_a_model_on_the_processor_limits_the_kernel_cache(
    tiny_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OneDNN is told before its first kernel; what the environment says already stays."""
    for said, expected in ((None, KERNELS), ("7", "7")):
        monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
        if said is not None:
            monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", said)
        LanguageModel.load(resolve_model(str(tiny_model("llama"))), layers=[0], device="cpu")
        assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == expected


def test_freed_memory_is_returned() -> None:
    """What a unit has left behind is gone from the process, where glibc is the C library."""
    if not keep_freed_memory():
        pytest.skip("this C library is not glibc")
    blocks = [torch.ones(1 << 20) for _ in range(64)]
    full = resident()
    del blocks
    return_freed_memory()
    assert full - resident() > 200 << 20


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_freed_memory_is_kept(tiny_model: Make) -> None:
    """A second forward pass takes hardly any new pages from the kernel where glibc is the C library."""
    import platform
    import resource

    kept = keep_freed_memory()
    assert kept == (platform.libc_ver()[0] == "glibc")
    if not kept:
        pytest.skip("this C library is not glibc")
    for _ in range(8):  # the heap may give another place at first
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = torch.ones(4 << 20)
        del block
    pages = 16 * 2**20 // resource.getpagesize()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < pages // 10
