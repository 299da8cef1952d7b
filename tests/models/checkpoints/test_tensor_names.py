"""Weights and names: what fits is loaded exactly, and nothing that is missing is made up."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.checkpoints.resolve import resolve_model
from sparserm_cli.models.lm.language_model import LanguageModel

Make = Callable[..., Path]
Weights = dict[str, torch.Tensor]
Q = "model.layers.0.self_attn.q_proj"


def changed(folder: Path, target: Path, change: Callable[[Weights], Weights], **config: Any) -> Path:
    """Copy a model with other weights, and another configuration."""
    shutil.copytree(folder, target)
    weights = change(load_file(folder / "model.safetensors"))
    save_file({name: tensor.clone() for name, tensor in weights.items()}, target / "model.safetensors")
    said = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(said | config))
    return target


def vectors(folder: Path, layer: int = 1) -> tuple[torch.Tensor, str]:
    """Return a few residual vectors, and what is said of the names."""
    lm = LanguageModel.load(resolve_model(str(folder)), layers=[layer], dtype="float32", device="cpu")
    ids = torch.arange(6)[None]
    return lm.forward_rows(ids, torch.ones_like(ids))[layer], lm.names_note


def prefixed(*prefixes: str) -> Callable[[Weights], Weights]:
    """Put these before every name, the last one innermost."""
    return lambda weights: {"".join(prefixes) + name: tensor for name, tensor in weights.items()}


def without(part: str) -> Callable[[Weights], Weights]:
    """Leave out all names with this part."""
    return lambda weights: {name: tensor for name, tensor in weights.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (prefixed("_orig_mod."), "_orig_mod. taken off the names of its tensors"),
        (prefixed("module."), "module. taken off the names of its tensors"),
        (prefixed("policy."), "policy. taken off the names of its tensors"),
        (prefixed("base_model.model."), "base_model.model. taken off the names of its tensors"),
        (prefixed("pretrained_model."), "pretrained_model. taken off the names of its tensors"),
        (prefixed("module.", "_orig_mod."), "_orig_mod., module. taken off the names of its tensors"),
        (
            lambda weights: {
                name.replace("proj.", "proj.base_layer."): tensor for name, tensor in weights.items()
            },
            "base_layer. taken off the names of its tensors",
        ),
        (
            lambda weights: prefixed("language_model.")(weights) | {"vision.layers.0.q": torch.ones(2)},
            "language_model. taken off the names of its tensors",
        ),
    ],
)
def test_known_prefixes_are_taken_off(
    change: Callable[[Weights], Weights], said: str, tmp_path: Path, tiny_model: Make
) -> None:
    """Under names that a wrapper has changed, the weights are the same to the bit, and it is said."""
    folder = changed(tiny_model(), tmp_path / "model", change)
    residuals, note = vectors(folder)
    assert torch.equal(residuals, vectors(tiny_model())[0])
    assert note == f"{folder}: {said}; every name fits"


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_tied_model_with_its_head_alone(prefix: str, tmp_path: Path, tiny_model: Make) -> None:
    """Where embedding and head are one tensor, the file may have it under the head's name alone."""

    def head_alone(weights: Weights) -> Weights:
        weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
        return prefixed(prefix)(weights)

    folder = changed(tiny_model(), tmp_path / "model", head_alone, tie_word_embeddings=True)
    residuals, note = vectors(folder)
    assert torch.equal(residuals, vectors(tiny_model())[0])
    assert "lm_head.weight read as the embedding, which is tied to it; every name fits" in note
    untied = changed(tiny_model(), tmp_path / "untied", head_alone)
    with pytest.raises(IncompatibleError, match=r"found none for embed_tokens\.weight"):
        vectors(untied)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "gemma2"])
def test_other_names_of_the_head(architecture: str, tmp_path: Path, tiny_model: Make) -> None:
    """The embedding of a tied model is found by whatever its architecture calls it."""

    def head_alone(weights: Weights) -> Weights:
        (into,) = (name for name in weights if re.search(r"(wte|embed_in|embed_tokens)\.weight", name))
        others = [name for name in weights if re.fullmatch(r"(lm_head|embed_out)\.weight", name)]
        weights[next(iter(others), "lm_head.weight")] = weights.pop(into)
        return weights

    folder = changed(tiny_model(architecture), tmp_path / "model", head_alone, tie_word_embeddings=True)
    assert torch.equal(vectors(folder)[0], vectors(tiny_model(architecture))[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layers.1.mlp.up"), "BLOCKS, found none for layers.1.mlp.up_proj.weight; HINT"),
        (
            lambda weights: {
                f"inner.{name}": tensor for name, tensor in weights.items() if "self_attn" in name
            },
            (
                "BLOCKS, found none for embed_tokens.weight, layers.0.input_layernorm.weight, "
                "layers.0.mlp.down_proj.weight and 17 more, and instead "
                "inner.model.layers.0.self_attn.k_proj.weight, inner.model.layers.0.self_attn.o_proj.weight, "
                "inner.model.layers.0.self_attn.q_proj.weight and 13 more; HINT"
            ),
        ),
        (
            lambda weights: weights | {f"{Q}.bias": torch.ones(32)},
            (
                f"BLOCKS and no more, found tensors that LlamaModel has no place for: {Q}.bias; HINT, with "
                "adapters merged into them"
            ),
        ),
        (
            lambda weights: weights | {f"{Q}.weight": torch.ones(0)},
            (
                "BLOCKS in the sizes of its config.json, found layers.0.self_attn.q_proj.weight of (0,), "
                "not (32, 32); HINT"
            ),
        ),
    ],
    ids=["one tensor missing", "an unknown prefix", "a bias too many", "an empty tensor"],
)
def test_what_does_not_fit_is_named(
    change: Callable[[Weights], Weights], message: str, tmp_path: Path, tiny_model: Make
) -> None:
    """The first names that do not fit are named with how many more there are, and what there is instead."""
    folder = changed(tiny_model(), tmp_path / "model", change)
    with pytest.raises(IncompatibleError) as caught:
        vectors(folder)
    blocks, hint = "every weight of its first 2 blocks", "give a checkpoint whose config.json is that of"
    expected = message.replace("BLOCKS", blocks).replace("HINT", f"{hint} its weights")
    assert str(caught.value) == f"{folder}: expected {expected}"


def test_an_adapter_that_was_not_merged(tmp_path: Path, tiny_model: Make) -> None:
    """Weights with an adapter beside them are not those of the model that was trained."""

    def with_adapter(weights: Weights) -> Weights:
        renamed = {name.replace("proj.", "proj.base_layer."): tensor for name, tensor in weights.items()}
        return renamed | {f"{Q}.lora_A.weight": torch.ones(2, 32)}

    folder = changed(tiny_model(), tmp_path / "model", with_adapter)
    with pytest.raises(IncompatibleError, match=rf"no place for: {Q}\.lora_A\.weight"):
        vectors(folder)


def test_two_models_in_one_file(tmp_path: Path, tiny_model: Make) -> None:
    """Where a prefix is not that of every name, nobody knows which model is meant."""

    def both(weights: Weights) -> Weights:
        return prefixed("policy.")(weights) | prefixed("reference.")(weights)

    folder = changed(tiny_model(), tmp_path / "model", both)
    with pytest.raises(IncompatibleError, match=r"found none for embed_tokens\.weight, .* and 17 more"):
        vectors(folder)


def test_more_blocks_than_weights(tmp_path: Path, tiny_model: Make) -> None:
    """Blocks that the file lacks matter only to layers that need them."""
    folder = changed(tiny_model(), tmp_path / "model", dict, num_hidden_layers=6)
    assert torch.equal(vectors(folder, 3)[0], vectors(tiny_model(), 3)[0])
    with pytest.raises(
        IncompatibleError, match=r"found none for layers\.4\.input_layernorm\.weight, .*more;"
    ):
        vectors(folder, 4)


def test_tensors_that_follow_from_the_configuration_are_passed_over(tmp_path: Path, tiny_model: Make) -> None:
    """Older releases saved rotary frequencies and causal masks, which change nothing."""

    def with_buffers(weights: Weights) -> Weights:
        return weights | {
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
            "model.layers.0.self_attn.k_scale": torch.ones(1),
        }

    folder = changed(tiny_model(), tmp_path / "model", with_buffers)
    assert torch.equal(vectors(folder)[0], vectors(tiny_model())[0])


def test_another_attention_in_the_configuration(tmp_path: Path, tiny_model: Make) -> None:
    """Which attention a model was trained with does not matter, and need not be installed."""
    folder = changed(tiny_model(), tmp_path / "model", dict, attn_implementation="flash_attention_2")
    assert torch.equal(vectors(folder)[0], vectors(tiny_model())[0])
