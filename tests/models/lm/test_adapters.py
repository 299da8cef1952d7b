"""Adapters in PEFT's form: applied to their base as PEFT does it, or refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparserm_cli.errors import CorruptStoreError, IncompatibleError, UsageError
from sparserm_cli.models.checkpoints.resolve import load_tokenizer, resolve_model
from sparserm_cli.models.lm.language_model import LanguageModel

Make = Callable[..., Path]
IDS = torch.arange(6)[None]

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def adapter(tmp_path: Path, tiny_model: Make) -> Callable[..., tuple[Path, torch.Tensor]]:
    """Give a function that saves a random adapter, and gives its folder and PEFT's vectors of block 1."""

    def make(*, head: bool = False, **options: Any) -> tuple[Path, torch.Tensor]:
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        torch.manual_seed(1)
        if head:
            base = AutoModelForSequenceClassification.from_pretrained(tiny_model(), num_labels=1)
        else:
            base = AutoModelForCausalLM.from_pretrained(tiny_model())
        settings = {
            "task_type": "SEQ_CLS" if head else "CAUSAL_LM",
            "target_modules": ["q_proj", "down_proj"],
        }
        config = peft.LoraConfig(r=2, init_lora_weights=False, **(settings | options))
        adapted = peft.get_peft_model(base, config).eval()
        adapted.save_pretrained(tmp_path / "adapter")
        taken: list[torch.Tensor] = []
        blocks = adapted.base_model.model.model.layers
        blocks[1].register_forward_hook(lambda _module, _inputs, output: taken.append(output))
        with torch.inference_mode():
            adapted(IDS)
        return tmp_path / "adapter", taken[0]

    return make


def load(folder: Path, **options: Any) -> LanguageModel:
    options = {"layers": [1], "dtype": "float32", "device": "cpu"} | options
    return LanguageModel.load(resolve_model(str(folder)), **options)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize(
    "options",
    [{}, {"use_dora": True}, {"head": True}, {"target_modules": ["up_proj", "lm_head"]}],
    ids=["lora", "dora", "reward model", "head"],
)
def test_an_adapter_is_added_to_its_base(options: Any, adapter: Any, tiny_model: Make) -> None:
    """The vectors are those that PEFT's own model computes; the tokenizer is the base's."""
    folder, expected = adapter(**options)
    lm = load(folder)
    torch.testing.assert_close(lm.forward_rows(IDS, torch.ones_like(IDS))[1], expected, rtol=1e-5, atol=1e-5)
    plain = load(tiny_model()).forward_rows(IDS, torch.ones_like(IDS))[1]
    assert not torch.allclose(plain, expected, atol=0.01)
    assert lm.names_note == f"{folder}: an adapter, added to {tiny_model()}"
    assert lm.supports_tree
    assert (
        load_tokenizer(lm.identity)("A").input_ids
        == load_tokenizer(load(tiny_model()).identity)("A").input_ids
    )


def test_an_adapter_is_known_by_itself_and_its_base(adapter: Any, tiny_model: Make) -> None:
    """Another adapter of the same base is another model, and so is the same adapter of another base."""
    folder, _ = adapter()
    base = resolve_model(str(tiny_model())).revision
    identity = resolve_model(str(folder))
    assert identity.revision.endswith(f"+{base}")
    assert (identity.folder, identity.adapter) == (tiny_model(), folder)
    weights = folder / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert resolve_model(str(folder)).revision != identity.revision


def test_the_base_is_named_where_it_is_not_there(adapter: Any) -> None:
    """What it needs, what was found where that should be, and what to do."""
    folder, _ = adapter()
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "/nothing/here"}))
    with pytest.raises(IncompatibleError) as caught:
        resolve_model(str(folder))
    assert str(caught.value) == (
        f"{path}: expected its base model /nothing/here, found '/nothing/here', which is none of these "
        "(--model: expected smollm2-135m, qwen2.5-coder-1.5b, gemma-3-270m, a hub id like org/name@revision, "
        "a directory or a .gguf file); "
        "put the base model there, or correct base_model_name_or_path"
    )


def test_an_adapter_beside_a_whole_model(adapter: Any, tiny_model: Make) -> None:
    """Whether its weights hold the adapter already cannot be told."""
    folder, _ = adapter()
    shutil.copytree(tiny_model(), folder, dirs_exist_ok=True)
    with pytest.raises(IncompatibleError) as caught:
        resolve_model(str(folder))
    assert str(caught.value) == (
        f"{folder}: expected a whole model or an adapter, found both, adapter_config.json beside "
        "model.safetensors; move adapter_config.json and adapter_model.safetensors away if they are merged, "
        "else into a folder of their own"
    )


def test_an_adapter_that_does_not_fit(adapter: Any, tiny_model: Make) -> None:
    """One of a wider model, one that lacks a tensor, one that is cut and one without weights."""
    from safetensors.torch import load_file, save_file

    folder, _ = adapter()
    path = folder / "adapter_config.json"
    settings, weights = json.loads(path.read_text()), folder / "adapter_model.safetensors"
    wider = str(tiny_model("llama", hidden_size=64))
    path.write_text(json.dumps(settings | {"base_model_name_or_path": wider}))
    with pytest.raises(
        IncompatibleError, match=r"an adapter that can be merged into its base, found .*: size mismatch for "
    ):
        load(folder)
    path.write_text(json.dumps(settings))
    tensors = load_file(weights)
    lacking = {
        name: tensor for name, tensor in tensors.items() if "layers.1.self_attn.q_proj.lora_B" not in name
    }
    save_file(lacking, weights)
    with pytest.raises(
        IncompatibleError, match=r"fits its base, found no .*layers\.1\.self_attn\.q_proj\.lora_B"
    ):
        load(folder)
    save_file(
        tensors | {"base_model.model.model.layers.0.mlp.gate_proj.lora_A.weight": torch.ones(2, 32)}, weights
    )
    with pytest.raises(IncompatibleError, match=r"fits its base, found unknown .*gate_proj\.lora_A"):
        load(folder)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CorruptStoreError, match=f"{weights}: expected "):
        load(folder)
    weights.unlink()
    with pytest.raises(IncompatibleError, match=r"expected adapter_model\.safetensors of an adapter of "):
        load(folder)


def test_an_adapter_lies_on_one_device(adapter: Any) -> None:
    """Blocks that are shared among devices cannot be merged with anything."""
    folder, _ = adapter()
    with pytest.raises((IncompatibleError, UsageError), match="--device: expected one device, since"):
        load(folder, device="balanced")
