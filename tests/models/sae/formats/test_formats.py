"""Every format of SAE, latent by latent against the formula that its makers' own code computes."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.sae.autoencoder import SparseAutoencoder
from sparserm_cli.models.sae.load import load_sae, read_sae_metadata

D_IN, D_SAE, K = 6, 20, 4
HOOK = "blocks.3.hook_resid_post"


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Return random weights in SAELens' names and shapes."""
    g = torch.Generator().manual_seed(seed)
    return {
        "W_enc": torch.randn(D_IN, D_SAE, generator=g),
        "b_enc": torch.randn(D_SAE, generator=g) * 0.3,
        "W_dec": torch.randn(D_SAE, D_IN, generator=g) * 0.7,
        "b_dec": torch.randn(D_IN, generator=g),
        "threshold": torch.rand(D_SAE, generator=g),
        "b_gate": torch.randn(D_SAE, generator=g) * 0.3,
        "b_mag": torch.randn(D_SAE, generator=g) * 0.3,
        "r_mag": torch.randn(D_SAE, generator=g) * 0.3,
    }


def rows() -> Tensor:
    """Return activations, not centred."""
    return torch.randn(50, D_IN, generator=torch.Generator().manual_seed(9)) * 2 + 0.5


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a configuration."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def jumped(pre: Tensor, threshold: Tensor | float) -> Tensor:
    """JumpReLU: relu of what is above the threshold."""
    return pre.relu() * (pre > threshold)


def top(pre: Tensor, k: int = K) -> Tensor:
    """TopK: the k largest, negative ones as zero."""
    best = pre.topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, best.indices, best.values.relu())


def check_agreement(sae: SparseAutoencoder, latents: Tensor, out: Tensor) -> None:
    """Compare latents and reconstructions of `rows()`; some fire, not all."""
    encoded, x = sae.encode(rows()), rows()
    assert 0 < int((latents > 0).sum()) < latents.numel()
    assert torch.equal(encoded > 0, latents > 0)
    torch.testing.assert_close(encoded, latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae.reconstruct(x)[0], out, rtol=1e-4, atol=1e-4)


# --- SAELens ---

SAELENS: dict[str, dict[str, Any]] = {
    "standard": {"architecture": "standard"},
    "standard, b_dec not applied": {"architecture": "standard", "apply_b_dec_to_input": False},
    "topk": {"architecture": "topk", "k": K},
    "topk weighed by decoder norms": {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True},
    "jumprelu": {"architecture": "jumprelu", "apply_b_dec_to_input": False},
    "gated": {"architecture": "gated"},
    "constant norm": {"architecture": "jumprelu", "normalize_activations": "constant_norm_rescale"},
    "layer norm": {"architecture": "standard", "normalize_activations": "layer_norm"},
}
TENSORS = {
    "standard": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "topk": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "jumprelu": ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"),
    "gated": ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"),
}


def saelens_folder(folder: Path, changes: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> Path:
    """Write a folder in SAELens' format."""
    config = {
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.0", "hook_name": HOOK, "model_name": "tiny"},
        **changes,
    }
    write_json(folder / "cfg.json", config)
    names = TENSORS[config.get("architecture", "standard")]
    save_file({name: weights()[name].to(dtype) for name in names}, folder / "sae_weights.safetensors")
    return folder


@pytest.fixture(scope="module")
def theirs() -> Callable[[Path], Any]:
    """Give SAELens' own loader."""
    from sparserm_cli.models.sae.training.sae_lens_noise import silence_sae_lens

    with silence_sae_lens():
        from sae_lens import SAE
    return SAE.load_from_disk


@pytest.mark.parametrize("name", SAELENS)
def test_saelens_folder_equals_saelens(name: str, tmp_path: Path, theirs: Callable[[Path], Any]) -> None:
    """Latents and reconstructions are those of `SAE.load_from_disk(...).encode` and `.decode`."""
    folder = saelens_folder(tmp_path / "sae", SAELENS[name])
    other = theirs(folder)
    with torch.no_grad():
        latents = other.encode(rows())
        check_agreement(load_sae(folder), latents, other.decode(latents))


def test_bfloat16_weights_equal_saelens_in_float32(tmp_path: Path, theirs: Callable[[Path], Any]) -> None:
    """A configuration that says float32 over bfloat16 tensors is read by both sides as float32."""
    folder = saelens_folder(tmp_path / "sae", {"architecture": "topk", "k": K}, torch.bfloat16)
    with torch.no_grad():
        other = theirs(folder)
        latents = other.encode(rows())
        check_agreement(load_sae(folder), latents, other.decode(latents))


TRAININGS = ("standard", "topk", "gated", "jumprelu", "batchtopk", "matryoshka_batchtopk")


@pytest.mark.parametrize("kind", TRAININGS)
def test_training_folder_is_read_as_its_inference_model(
    kind: str, tmp_path: Path, theirs: Callable[[Path], Any]
) -> None:
    """What `save_model` leaves, with the scale beside it, encodes like `save_inference_model`."""
    from sparserm_cli.models.sae.training.sae_lens_noise import silence_sae_lens

    with silence_sae_lens():
        from sae_lens.registry import get_sae_training_class
    make, options = get_sae_training_class(kind)
    more = {"k": K} if "topk" in kind else {}
    if kind.startswith("matryoshka"):
        more["matryoshka_widths"] = [8, D_SAE]
    sae = make(options(d_in=D_IN, d_sae=D_SAE, normalize_activations="expected_average_only_in", **more))
    with torch.no_grad():
        t = weights()
        for name, parameter in sae.named_parameters():
            parameter.copy_(t[name])
        if "batchtopk" in kind:
            sae.topk_threshold.fill_(1.0)
    sae.save_model(tmp_path / "training")
    write_json(tmp_path / "training" / "activation_scaler.json", {"scaling_factor": 0.4})
    sae.fold_activation_norm_scaling_factor(0.4)
    sae.save_inference_model(tmp_path / "inference")
    with torch.no_grad():
        other = theirs(tmp_path / "inference")
        latents = other.encode(rows())
        check_agreement(load_sae(tmp_path / "training"), latents, other.decode(latents))
    (tmp_path / "training" / "activation_scaler.json").unlink()
    with pytest.raises(IncompatibleError, match="expected none, or a norm_scaling_factor"):
        load_sae(tmp_path / "training")


@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_old_saelens_configuration(kind: str, tmp_path: Path, theirs: Callable[[Path], Any]) -> None:
    """A configuration of before version 6 has other names, and b_dec is applied unless it says otherwise."""
    folder = saelens_folder(tmp_path / "sae", {})
    old: dict[str, Any] = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "torch.float32", "device": "cpu"}
    old |= {"hook_point": HOOK, "model_name": "tiny", "normalize_activations": False}
    if kind == "topk":
        old |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    write_json(folder / "cfg.json", old)
    metadata = read_sae_metadata(folder)
    assert (metadata.hook_name, metadata.layer, metadata.model_name) == (HOOK, 3, "tiny")
    with torch.no_grad():
        other = theirs(folder)
        latents = other.encode(rows())
        check_agreement(load_sae(folder), latents, other.decode(latents))


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.7.hook_resid_post", 7),
        ("blocks.8.hook_resid_pre", 7),
        ("blocks.0.hook_resid_pre", None),
        ("blocks.7.hook_mlp_out", None),
        (None, None),
    ],
)
def test_layer_of_a_hook(hook: str | None, layer: int | None, tmp_path: Path) -> None:
    """What enters block 8 is what leaves block 7; the embedding and other places have no layer."""
    metadata = {"sae_lens_version": "6.0.0", "hook_name": hook}
    assert read_sae_metadata(saelens_folder(tmp_path / "sae", {"metadata": metadata})).layer == layer


def test_scale_that_nobody_recorded_is_refused(tmp_path: Path) -> None:
    """`expected_average_only_in` without a factor is named; with --allow-mismatch it is read unscaled."""
    folder = saelens_folder(tmp_path / "sae", {"normalize_activations": "expected_average_only_in"})
    with pytest.raises(IncompatibleError) as caught:
        load_sae(folder)
    assert str(caught.value) == (
        f"{folder}: normalize_activations: expected none, or a norm_scaling_factor, found "
        "expected_average_only_in without one; save the SAE with the factor folded into its weights, "
        "or give --allow-mismatch to go without"
    )
    t = weights()
    assert torch.equal(load_sae(folder, allow_mismatch=True).W_enc, t["W_enc"])
    folded = saelens_folder(
        tmp_path / "b", {"normalize_activations": "expected_average_only_in", "norm_scaling_factor": 0.5}
    )
    latents = ((rows() * 0.5 - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    check_agreement(load_sae(folded), latents, (latents @ t["W_dec"] + t["b_dec"]) / 0.5)


@pytest.mark.parametrize("architecture", ["transcoder", "temporal", "matching_pursuit", None])
def test_architectures_that_are_no_sae_of_one_place_are_refused(
    architecture: str | None, tmp_path: Path
) -> None:
    """Transcoders and the like are named."""
    folder = saelens_folder(tmp_path / "sae", {})
    config = json.loads((folder / "cfg.json").read_text()) | {"architecture": architecture}
    write_json(folder / "cfg.json", config)
    with pytest.raises(
        IncompatibleError, match="expected architecture standard, topk, jumprelu or gated, found"
    ):
        read_sae_metadata(folder)


def test_digest_covers_weights_and_configuration(tmp_path: Path) -> None:
    """Another k is another SAE, and so are other weights; the place on the disk is not."""
    first = load_sae(saelens_folder(tmp_path / "a", {"architecture": "topk", "k": 4})).digest
    assert load_sae(saelens_folder(tmp_path / "b", {"architecture": "topk", "k": 4})).digest == first
    assert load_sae(saelens_folder(tmp_path / "c", {"architecture": "topk", "k": 5})).digest != first
    folder = saelens_folder(tmp_path / "d", {"architecture": "topk", "k": 4})
    save_file({name: weights(1)[name] for name in TENSORS["topk"]}, folder / "sae_weights.safetensors")
    assert load_sae(folder).digest != first


def test_batchtopk_as_saelens_saves_it(tmp_path: Path) -> None:
    """BatchTopK and Matryoshka SAEs are saved as jumprelu with one threshold for all latents."""
    folder = saelens_folder(tmp_path / "sae", {"architecture": "jumprelu"})
    tensors = {name: weights()[name] for name in TENSORS["jumprelu"]} | {
        "threshold": torch.full((D_SAE,), 0.8)
    }
    save_file(tensors, folder / "sae_weights.safetensors")
    t = weights()
    latents = jumped((rows() - t["b_dec"]) @ t["W_enc"] + t["b_enc"], 0.8)
    check_agreement(load_sae(folder), latents, latents @ t["W_dec"] + t["b_dec"])


# --- public releases ---


def test_gemma_scope_1(tmp_path: Path) -> None:
    """`params.npz`; layer and model stand in the path; b_dec is not subtracted."""
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_3" / "width_16k" / "average_l0_42"
    folder.mkdir(parents=True)
    t = weights()
    arrays = {"w_enc": t["W_enc"], "w_dec": t["W_dec"], "b_enc": t["b_enc"], "b_dec": t["b_dec"]}
    np.savez(
        folder / "params.npz", threshold=t["threshold"].numpy(), **{n: v.numpy() for n, v in arrays.items()}
    )
    sae = load_sae(folder)
    assert (sae.metadata.hook_name, sae.metadata.model_name) == (HOOK, "gemma-2-2b")
    latents = jumped(rows() @ t["W_enc"] + t["b_enc"], t["threshold"])
    check_agreement(sae, latents, latents @ t["W_dec"] + t["b_dec"])
    assert load_sae(folder / "params.npz").digest == sae.digest


@pytest.mark.parametrize("configured", [True, False])
def test_gemma_scope_2(configured: bool, tmp_path: Path) -> None:
    """`params.safetensors` with lower-case names; `config.json` may be absent."""
    folder = tmp_path / "gemma-scope-2-270m-it" / "resid_post" / "layer_3_width_16k_l0_small"
    t = weights()
    folder.mkdir(parents=True)
    tensors = {name.lower(): t[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
    save_file(tensors, folder / "params.safetensors")
    if configured:
        config = {"architecture": "jump_relu", "hf_hook_point_in": "model.layers.3.output"}
        write_json(folder / "config.json", {**config, "model_name": "gemma-3-270m-it"})
    metadata = read_sae_metadata(folder)
    assert (metadata.hook_name, metadata.model_name) == (HOOK, "gemma-3-270m-it")
    assert (metadata.d_in, metadata.d_sae) == (D_IN, D_SAE)
    latents = jumped(rows() @ t["W_enc"] + t["b_enc"], t["threshold"])
    check_agreement(load_sae(folder), latents, latents @ t["W_dec"] + t["b_dec"])


def test_gemma_scope_2_transcoder_is_refused(tmp_path: Path) -> None:
    """A transcoder reads one place and writes another."""
    folder = tmp_path / "layer_3"
    folder.mkdir()
    save_file({"w_enc": torch.zeros(D_IN, D_SAE)}, folder / "params.safetensors")
    points = {"hf_hook_point_in": "model.layers.3.pre", "hf_hook_point_out": "model.layers.3.post"}
    write_json(folder / "config.json", {"architecture": "jump_relu", **points})
    with pytest.raises(IncompatibleError, match="expected a jump_relu SAE of one place"):
        read_sae_metadata(folder)


def linear(t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in the names and shapes of `torch.nn.Linear`, both matrices transposed."""
    return {
        "encoder.weight": t["W_enc"].T.contiguous(),
        "encoder.bias": t["b_enc"],
        "decoder.weight": t["W_dec"].T.contiguous(),
        "decoder.bias": t["b_dec"],
    }


def test_llama_scope(tmp_path: Path) -> None:
    """Activations are scaled to norm sqrt(d_in) on average; so is the one threshold."""
    folder, t = tmp_path / "Llama3_1-8B-Base-L3R-8x", weights()
    (folder / "checkpoints").mkdir(parents=True)
    hyper = {"d_model": D_IN, "d_sae": D_SAE, "jump_relu_threshold": 0.4, "hook_point_in": HOOK}
    write_json(folder / "hyperparams.json", {**hyper, "dataset_average_activation_norm": {"in": 5.0}})
    save_file(linear(t), folder / "checkpoints" / "final.safetensors")
    scale = D_IN**0.5 / 5.0
    latents = jumped((rows() * scale) @ t["W_enc"] + t["b_enc"], 0.4 * scale)
    sae = load_sae(folder)
    check_agreement(sae, latents, (latents @ t["W_dec"] + t["b_dec"]) / scale)
    assert sae.metadata.layer == 3


def test_llama_scope_r1_distill(tmp_path: Path) -> None:
    """The threshold is stored as a logarithm, one a latent, in the scaled space."""
    folder, t = tmp_path / "L3R", weights()
    config = {"d_model": D_IN, "expansion_factor": 2, "hook_point_in": HOOK}
    write_json(folder / "config.json", {**config, "dataset_average_activation_norm": {"in": 5.0}})
    tensors = linear(t) | {"log_jumprelu_threshold": t["threshold"].log()}
    save_file(tensors, folder / "sae_weights.safetensors")
    scale = D_IN**0.5 / 5.0
    latents = jumped((rows() * scale) @ t["W_enc"] + t["b_enc"], t["threshold"])
    check_agreement(load_sae(folder), latents, (latents @ t["W_dec"] + t["b_dec"]) / scale)


def test_qwen_scope(tmp_path: Path) -> None:
    """`layerN.sae.pt` holds both matrices transposed; k stands in the repository's name."""
    folder, t = tmp_path / f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}", weights()
    folder.mkdir()
    wide = {
        "W_enc": torch.zeros(32768, D_IN),
        "W_dec": torch.zeros(D_IN, 32768),
        "b_enc": torch.full((32768,), -9.0),
    }
    wide["W_enc"][:D_SAE], wide["W_dec"][:, :D_SAE], wide["b_enc"][:D_SAE] = (
        t["W_enc"].T,
        t["W_dec"].T,
        t["b_enc"],
    )
    torch.save(wide | {"b_dec": t["b_dec"]}, folder / "layer3.sae.pt")
    sae = load_sae(folder / "layer3.sae.pt", allow_pickle=True)
    assert (sae.metadata.layer, sae.metadata.model_name, sae.k) == (3, "Qwen3-1.7B-Base", K)
    latents = top(rows() @ t["W_enc"] + t["b_enc"])
    encoded = sae.encode(rows())
    torch.testing.assert_close(encoded[:, :D_SAE], latents, rtol=1e-4, atol=1e-5)
    assert not encoded[:, D_SAE:].any()


def test_sparsify(tmp_path: Path) -> None:
    """b_dec is always subtracted and W_dec is (d_sae, d_in): SAELens' loader has both otherwise."""
    folder, t = tmp_path / "layers.3", weights()
    options = {"normalize_decoder": True, "multi_topk": False, "transcode": False, "skip_connection": False}
    write_json(
        folder / "cfg.json", {"d_in": D_IN, "num_latents": D_SAE, "k": K, "activation": "topk", **options}
    )
    write_json(tmp_path / "config.json", {"model": "EleutherAI/pythia-160m"})
    names = {"encoder.weight": t["W_enc"].T.contiguous(), "encoder.bias": t["b_enc"]}
    save_file(names | {"W_dec": t["W_dec"], "b_dec": t["b_dec"]}, folder / "sae.safetensors")
    sae = load_sae(folder)
    assert (sae.metadata.layer, sae.metadata.model_name) == (3, "EleutherAI/pythia-160m")
    latents = top(((rows() - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu())
    check_agreement(sae, latents, latents @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize("flag", ["transcode", "skip_connection", "signed"])
def test_sparsify_of_another_kind_is_refused(flag: str, tmp_path: Path) -> None:
    """What is no autoencoder of one place is named by its option."""
    folder = tmp_path / "layers.3"
    write_json(folder / "cfg.json", {"d_in": D_IN, "num_latents": D_SAE, "k": K, flag: True})
    save_file({"b_dec": torch.zeros(D_IN)}, folder / "sae.safetensors")
    with pytest.raises(IncompatibleError, match=f"{flag}: expected false, found true"):
        read_sae_metadata(folder)


def dictionary(kind: str, t: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return a dictionary's tensors, and its latents and reconstructions of `rows()`."""
    x = rows()
    centred = (x - t["b_dec"]) @ t["W_enc"]
    ours = {name: t[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    base = {name: value for name, value in linear(t).items() if name != "decoder.bias"}
    threshold = torch.tensor(0.7)
    cases = {
        "AutoEncoder": (base | {"bias": t["b_dec"]}, (centred + t["b_enc"]).relu()),
        "AutoEncoderNew": (linear(t), (x @ t["W_enc"] + t["b_enc"]).relu()),
        "AutoEncoderTopK": (
            base | {"b_dec": t["b_dec"], "k": torch.tensor(K), "threshold": threshold},
            top((centred + t["b_enc"]).relu()),
        ),
        "BatchTopKSAE": (
            base | {"b_dec": t["b_dec"], "k": torch.tensor(K), "threshold": threshold},
            jumped((centred + t["b_enc"]).relu(), 0.7),
        ),
        "MatryoshkaBatchTopKSAE": (
            ours | {"k": torch.tensor(K), "threshold": threshold, "group_sizes": torch.tensor([8, 12])},
            jumped((centred + t["b_enc"]).relu(), 0.7),
        ),
        "JumpReluAutoEncoder": (
            ours | {"threshold": t["threshold"]},
            jumped(x @ t["W_enc"] + t["b_enc"], t["threshold"]),
        ),
        "GatedAutoEncoder": (
            {"encoder.weight": base["encoder.weight"], "decoder.weight": base["decoder.weight"]}
            | {
                "decoder_bias": t["b_dec"],
                "gate_bias": t["b_gate"],
                "mag_bias": t["b_mag"],
                "r_mag": t["r_mag"],
            },
            (centred + t["b_gate"] > 0) * (t["r_mag"].exp() * centred + t["b_mag"]).relu(),
        ),
    }
    tensors, latents = cases[kind]
    return tensors, latents, latents @ t["W_dec"] + t["b_dec"]


DICTIONARIES = (
    "AutoEncoder",
    "AutoEncoderNew",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
    "JumpReluAutoEncoder",
    "GatedAutoEncoder",
)


@pytest.mark.parametrize("kind", DICTIONARIES)
def test_dictionary_learning(kind: str, tmp_path: Path) -> None:
    """Each class encodes as its own `encode` does."""
    tensors, latents, out = dictionary(kind, weights())
    trainer = {"dict_class": kind, "activation_dim": D_IN, "dict_size": D_SAE, "k": K, "layer": 3}
    write_json(
        tmp_path / "config.json", {"trainer": {**trainer, "lm_name": "org/tiny"}, "buffer": {"ctx_len": 128}}
    )
    torch.save(tensors, tmp_path / "ae.pt")
    sae = load_sae(tmp_path, allow_pickle=True)
    assert (sae.metadata.layer, sae.metadata.model_name) == (3, "org/tiny")
    check_agreement(sae, latents, out)


# --- refusals ---


def test_row_40_pickled_weights_need_a_flag_and_hold_tensors_only(tmp_path: Path) -> None:
    """`.pt` is refused without --allow-pickle; with it, a pickle that would run code is refused too."""
    folder = tmp_path / f"SAE-Res-M-W1K-L0_{K}"
    folder.mkdir()
    path = folder / "layer3.sae.pt"
    torch.save({"W_enc": torch.zeros(2, 2)}, path)
    with pytest.raises(IncompatibleError) as caught:
        load_sae(path)
    assert str(caught.value) == (
        f"{path}: expected safetensors weights, found pickled ones; "
        "convert it to safetensors, or give --allow-pickle if you trust its origin"
    )
    assert caught.value.exit_code == 4
    torch.save({"W_enc": _Harmful(str(tmp_path / "ran"))}, path)
    with pytest.raises(IncompatibleError, match="expected a file of tensors and nothing else"):
        load_sae(path, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


class _Harmful:
    """An object whose unpickling would create a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


def test_unknown_folder_and_missing_path_are_usage_errors(tmp_path: Path) -> None:
    """The message lists the formats."""
    with pytest.raises(
        UsageError, match=r"expected a folder in the format of saelens, .* found a folder without"
    ):
        load_sae(tmp_path)
    with pytest.raises(UsageError, match="found no such folder"):
        load_sae(tmp_path / "nothing")


def test_missing_tensor_and_wrong_shape_are_named(tmp_path: Path) -> None:
    """A weight file that is not what the format promises says which tensor, or which shapes."""
    folder = saelens_folder(tmp_path / "sae", {})
    t = {name: weights()[name] for name in TENSORS["standard"]}
    save_file(
        {name: value for name, value in t.items() if name != "b_enc"}, folder / "sae_weights.safetensors"
    )
    with pytest.raises(
        IncompatibleError, match="expected a tensor b_enc, found W_dec, W_enc, b_dec; download"
    ):
        load_sae(folder)
    save_file(t | {"W_dec": t["W_dec"].T.contiguous()}, folder / "sae_weights.safetensors")
    with pytest.raises(IncompatibleError, match=r"expected W_dec of shape \(20, 6\), found \(6, 20\)"):
        load_sae(folder)


def test_broken_configuration_is_named(tmp_path: Path) -> None:
    """No JSON, no object, no width."""
    folder = saelens_folder(tmp_path / "sae", {})
    for text, expected in (("{", "a JSON object"), ("[]", "a JSON object"), ("{}", "a whole number above 0")):
        (folder / "cfg.json").write_text(text)
        with pytest.raises(IncompatibleError, match=expected):
            load_sae(folder)


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    """A type that no SAE is computed in."""
    folder = saelens_folder(tmp_path / "sae", {})
    t = {name: weights()[name] for name in TENSORS["standard"]}
    save_file(t | {"W_enc": t["W_enc"].to(torch.float8_e4m3fn)}, folder / "sae_weights.safetensors")
    with pytest.raises(IncompatibleError, match="W_enc: expected one of float32, bfloat16, float16, float64"):
        load_sae(folder)


@pytest.mark.parametrize(
    "name", ["cfg.json", "sae_weights.safetensors", "activation_scaler.json", "params.npz"]
)
def test_row_94_a_pipe_among_the_files_of_an_sae(tmp_path: Path, name: str) -> None:
    """It is named before anything is read, whether the format needs it or not."""
    write_json(tmp_path / "cfg.json", {"d_in": D_IN})
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    for sae in (tmp_path, tmp_path / name):
        with pytest.raises(IncompatibleError) as caught:
            read_sae_metadata(str(sae))
        message = f"{tmp_path / name}: expected a file, found a pipe or a device; move it away"
        assert str(caught.value) == message
