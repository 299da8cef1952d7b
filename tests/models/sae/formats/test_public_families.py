"""One SAE with numbers that are worked out by hand, in the files of every public family.

x = (3, 2) and W_enc = ((1, 0, 2), (0, 1, -1)), b_enc = (0.5, -1, 0): x @ W_enc + b_enc = (3.5, 1, 4).
b_dec = (1, 0): (x - b_dec) @ W_enc + b_enc = (2.5, 1, 2). W_dec has the rows (1, 0), (0, 1) and (1, 1).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sparserm_cli.models.sae.load import load_sae, read_sae_metadata

X = torch.tensor([[3.0, 2.0]])
W_ENC = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]])
B_ENC = torch.tensor([0.5, -1.0, 0.0])
W_DEC = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
B_DEC = torch.tensor([1.0, 0.0])
THRESHOLD = torch.full((3,), 1.5)
UPPER = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
GEMMA = UPPER | {"threshold": THRESHOLD}
LINEAR = {
    "encoder.weight": W_ENC.T.contiguous(),
    "encoder.bias": B_ENC,
    "decoder.weight": W_DEC.T.contiguous(),
    "decoder.bias": B_DEC,
}
HALF = 2.0**0.5 / 0.5
"""Average norm that makes Llama Scope's scale sqrt(2) / HALF = 0.5."""


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a configuration."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def saelens(folder: Path, tensors: Mapping[str, Tensor], **changes: Any) -> Path:
    """SAELens: `cfg.json` and `sae_weights.safetensors`."""
    metadata = {"sae_lens_version": "6.54.12", "hook_name": "blocks.3.hook_resid_post"}
    write_json(folder / "cfg.json", {"d_in": 2, "d_sae": 3, "metadata": metadata, **changes})
    save_file(dict(tensors), folder / "sae_weights.safetensors")
    return folder


def topk(root: Path) -> Path:
    """SAELens' TopK, which subtracts b_dec unless told not to."""
    return saelens(root / "sae", UPPER, architecture="topk", k=2)


def training_batchtopk(root: Path) -> Path:
    """Write a checkpoint of a BatchTopK training: one threshold, weighed by decoder norms."""
    tensors = UPPER | {"topk_threshold": torch.tensor(2.6, dtype=torch.float64)}
    options = {"architecture": "batchtopk", "k": 2.0, "rescale_acts_by_decoder_norm": True}
    return saelens(root / "sae", tensors, **options)


def training_jumprelu(root: Path) -> Path:
    """Write a checkpoint of an older JumpReLU training, which keeps logarithms of thresholds."""
    return saelens(root / "sae", UPPER | {"log_threshold": THRESHOLD.log()}, architecture="jumprelu")


def gemma_scope(rename: Callable[[str], str]) -> Callable[[Path], Path]:
    """Gemma Scope 1: `params.npz` under a path that says model and layer."""

    def write(root: Path) -> Path:
        folder = root / "gemma-scope-9b-it-res" / "layer_31" / "width_16k" / "average_l0_76"
        folder.mkdir(parents=True)
        np.savez(folder / "params.npz", **{rename(name): value.numpy() for name, value in GEMMA.items()})
        return folder

    return write


def gemma_scope_2(**points: Any) -> Callable[[Path], Path]:
    """Gemma Scope 2: `params.safetensors` and `config.json`."""

    def write(root: Path) -> Path:
        folder = root / "resid_post" / "layer_31_width_16k_l0_small"
        config = {"architecture": "jump_relu", "hf_hook_point_in": "model.layers.3.output", "width": 3}
        write_json(folder / "config.json", {**config, "model_name": "gemma-9b-it", "l0": 20, **points})
        save_file({name.lower(): value for name, value in GEMMA.items()}, folder / "params.safetensors")
        return folder

    return write


def llama_scope(root: Path) -> Path:
    """Llama Scope: activations are scaled to norm sqrt(d_in), and the threshold with them."""
    folder = root / "Llama3_1-8B-Base-L3R-8x"
    settings = {
        "d_model": 2,
        "d_sae": 3,
        "jump_relu_threshold": 3.0,
        "hook_point_in": "blocks.3.hook_resid_post",
    }
    write_json(folder / "hyperparams.json", {**settings, "dataset_average_activation_norm": {"in": HALF}})
    (folder / "checkpoints").mkdir()
    save_file(LINEAR, folder / "checkpoints" / "final.safetensors")
    return folder


def llama_scope_r1(root: Path) -> Path:
    """Llama Scope R1-Distill: a log threshold for each latent, in the scaled space."""
    folder = root / "L3R"
    settings = {"d_model": 2, "hook_point_in": "blocks.3.hook_resid_post"}
    write_json(folder / "config.json", {**settings, "dataset_average_activation_norm": {"in": HALF}})
    tensors = LINEAR | {"log_jumprelu_threshold": THRESHOLD.log()}
    save_file(tensors, folder / "sae_weights.safetensors")
    return folder


def qwen_scope(root: Path) -> Path:
    """Qwen Scope: k and width stand in the repository's name, both matrices lie transposed."""
    folder = root / "SAE-Res-Qwen3-1.7B-Base-W1K-L0_2"
    folder.mkdir()
    w_enc, w_dec, b_enc = torch.zeros(1024, 2), torch.zeros(2, 1024), torch.full((1024,), -9.0)
    w_enc[:3], w_dec[:, :3], b_enc[:3] = W_ENC.T, W_DEC.T, B_ENC
    torch.save({"W_enc": w_enc, "W_dec": w_dec, "b_enc": b_enc, "b_dec": B_DEC}, folder / "layer3.sae.pt")
    return folder / "layer3.sae.pt"


def goodfire(root: Path) -> Path:
    """Goodfire: one file with two linear layers, in bfloat16."""
    names = {name.replace(".", "_linear."): value.bfloat16() for name, value in LINEAR.items()}
    torch.save(names, root / "Llama-3.1-8B-Instruct-SAE-l3.pth")
    return root


def qresearch(root: Path) -> Path:
    """Write the SAE of a DeepSeek distillation: the same with plain names, given as a file."""
    torch.save(LINEAR, root / "DeepSeek-R1-Distill-Llama-8B-SAE-l3.pt")
    return root / "DeepSeek-R1-Distill-Llama-8B-SAE-l3.pt"


def sparsify(root: Path) -> Path:
    """EleutherAI's sparsify, the folder named after the module."""
    folder = root / "model.layers.3"
    write_json(folder / "cfg.json", {"d_in": 2, "num_latents": 3, "k": 1, "normalize_decoder": True})
    tensors = {name: LINEAR[name] for name in ("encoder.weight", "encoder.bias")}
    save_file(tensors | {"W_dec": W_DEC, "b_dec": B_DEC}, folder / "sae.safetensors")
    return folder


def dictionary(kind: str, tensors: Mapping[str, Tensor], **more: Any) -> Callable[[Path], Path]:
    """dictionary_learning: `ae.pt` beside the trainer's settings."""

    def write(root: Path) -> Path:
        sizes = {"activation_dim": 2, "dict_size": 3, "layer": 3}
        write_json(root / "config.json", {"trainer": {"dict_class": kind, **sizes, **more}})
        names = {name: LINEAR[name] for name in ("encoder.weight", "encoder.bias", "decoder.weight")}
        torch.save({**names, **tensors}, root / "ae.pt")
        return root

    return write


ALL, GAPPED = (3.5, 1.0, 4.0), (3.5, 0.0, 4.0)
"""Without b_dec: what a ReLU gives, and what is above 1.5 or among the two largest."""
CENTRED = (2.5, 0.0, 2.0)
"""With b_dec subtracted: what is above 1.5, or among the two largest."""
SCALED = (2.0, 0.0, 2.0)
"""(x / 2) @ W_enc + b_enc = (2, 0, 2)."""
FAMILIES: Mapping[str, tuple[Callable[[Path], Path], Sequence[float], Sequence[float]]] = {
    "SAELens": (topk, CENTRED, (5.5, 2.0)),
    # Norms of the decoder's rows are 1, 1 and sqrt(2): (2.5, 1, 2.83), of which only the last is above 2.6.
    "SAELens, BatchTopK in training": (training_batchtopk, (0.0, 0.0, 8.0**0.5), (3.0, 2.0)),
    "SAELens, JumpReLU in training": (training_jumprelu, CENTRED, (5.5, 2.0)),
    "Gemma Scope": (gemma_scope(str), GAPPED, (8.5, 4.0)),
    "Gemma Scope, lower case": (gemma_scope(str.lower), GAPPED, (8.5, 4.0)),
    "Gemma Scope, with a path": (gemma_scope("params/sae/{}".format), GAPPED, (8.5, 4.0)),
    "Gemma Scope 2": (
        gemma_scope_2(hf_hook_point_out="model.layers.3.output", type="sae", affine_connection=False),
        GAPPED,
        (8.5, 4.0),
    ),
    "Gemma Scope 2, one place": (gemma_scope_2(), GAPPED, (8.5, 4.0)),
    "Llama Scope": (llama_scope, SCALED, (10.0, 4.0)),
    "Llama Scope R1-Distill": (llama_scope_r1, SCALED, (10.0, 4.0)),
    "Qwen Scope": (qwen_scope, GAPPED, (8.5, 4.0)),
    "Goodfire": (goodfire, ALL, (8.5, 5.0)),
    "qresearch": (qresearch, ALL, (8.5, 5.0)),
    "sparsify": (sparsify, (2.5, 0.0, 0.0), (3.5, 0.0)),
    "dictionary_learning, k in the settings": (
        dictionary("AutoEncoderTopK", {"b_dec": B_DEC}, k=2),
        CENTRED,
        (5.5, 2.0),
    ),
    "dictionary_learning, k in the weights": (
        dictionary("AutoEncoderTopK", {"b_dec": B_DEC, "k": torch.tensor(2)}, k=3),
        CENTRED,
        (5.5, 2.0),
    ),
    "dictionary_learning, BatchTopK": (
        dictionary("BatchTopKSAE", {"b_dec": B_DEC, "threshold": torch.tensor(1.5)}, k=2),
        CENTRED,
        (5.5, 2.0),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family: str, tmp_path: Path) -> None:
    """Latents and reconstruction of x are the numbers worked out above, and the layer is known."""
    write, latents, reconstruction = FAMILIES[family]
    path = write(tmp_path)
    sae = load_sae(path, allow_pickle=True)
    assert sae.encode(X)[0, :3].tolist() == pytest.approx(list(latents), abs=1e-6)
    assert sae.reconstruct(X)[0][0].tolist() == pytest.approx(list(reconstruction), abs=1e-6)
    assert sae.metadata.layer == (31 if family.startswith("Gemma Scope") and "2" not in family else 3)


def test_models_of_the_families(tmp_path: Path) -> None:
    """The path or the file's name says the model."""
    assert read_sae_metadata(gemma_scope(str)(tmp_path)).model_name == "gemma-2-9b-it"
    assert read_sae_metadata(goodfire(tmp_path)).model_name == "Llama-3.1-8B-Instruct"


@pytest.mark.parametrize(
    ("repository", "folder", "hook"),
    [
        ("gemma-scope-2b-pt-mlp", "layer_3/width_16k/average_l0_5", "blocks.3.hook_mlp"),
        ("gemma-scope-2b-pt-att", "layer_3/width_16k/average_l0_5", "blocks.3.hook_att"),
        ("gemma-scope-2b-pt-transcoders", "layer_3/width_16k/average_l0_5", "blocks.3.hook_transcoders"),
        ("gemma-scope-2b-pt-res", "embedding/width_4k/average_l0_5", "hook_embed"),
    ],
)
def test_gemma_scope_of_another_place_has_no_layer(
    repository: str, folder: str, hook: str, tmp_path: Path
) -> None:
    """An SAE of an MLP's output is not taken for one of the residual stream: a layer is no place."""
    (tmp_path / repository / folder).mkdir(parents=True)
    np.savez(tmp_path / repository / folder / "params.npz", **{n: v.numpy() for n, v in GEMMA.items()})
    metadata = read_sae_metadata(tmp_path / repository / folder)
    assert (metadata.hook_name, metadata.layer) == (hook, None)


def test_the_last_layer_of_a_path_counts(tmp_path: Path) -> None:
    """Folders above the SAE's own may be named after another layer."""
    path = gemma_scope(str)(tmp_path / "layer_5_experiments")
    assert read_sae_metadata(path).layer == 31


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("model.layers.2", 2),
        ("h.2", 2),
        ("transformer.h.2", 2),
        ("gpt_neox.layers.2", 2),
        ("model.language_model.layers.2", 2),
        ("model.layers.2.output", 2),
        ("model.layers.2.input", 1),
        ("model.layers.0.input", None),
        ("layers.2", 2),
        ("model.layers.2.mlp", None),
        ("vision_tower.encoder.layers.2", None),
        ("blocks.2.hook_resid_mid", None),
    ],
)
def test_hooks_in_the_spelling_of_transformers(hook: str, layer: int | None, tmp_path: Path) -> None:
    """A block's own name means what leaves it; its parts and other towers have no layer."""
    metadata = {"sae_lens_version": "6.0.0", "hook_name": hook}
    folder = saelens(tmp_path / "sae", UPPER, architecture="standard", metadata=metadata)
    assert read_sae_metadata(folder).layer == layer


@pytest.mark.parametrize("version", ["6.0.0", None])
def test_centred_weights_are_told(version: str | None, tmp_path: Path) -> None:
    """Old and new configurations keep the word in different places; other SAEs have no caution."""
    given = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    metadata = {"sae_lens_version": version, **given} if version else None
    more = {} if version else given
    folder = saelens(tmp_path / "sae", UPPER, architecture="standard", metadata=metadata, **more)
    caution = read_sae_metadata(folder).caution
    assert caution is not None
    assert "center_writing_weights" in caution
    assert read_sae_metadata(topk(tmp_path)).caution is None


def test_logarithms_are_those_of_the_thresholds(tmp_path: Path) -> None:
    """exp(log(1.5)) is the threshold that was saved."""
    sae = load_sae(llama_scope_r1(tmp_path))
    assert sae.threshold is not None
    assert sae.threshold.log().tolist() == pytest.approx([log(1.5)] * 3)
