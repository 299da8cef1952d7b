"""Run tiny random models of many architectures through the whole chain, and break each in ten ways.

    python examples/benchmarks/architectures.py --output architectures.json [--only llama,gpt2]

For each architecture: the vectors of the capture against those of transformers' own model (relative to their
length, float32), every stage up to `export --to hf`, the exported model's scores against `score`'s, and for
each way of breaking the checkpoint whether it is refused in one line. It prints a table and
ends with code 1 if any of this fails.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from helpers import fitted_run, tiny_models
from helpers.broken_checkpoints import WAYS

from sparserm_cli import RewardModel
from sparserm_cli.alignment.hf_export.export import export_hf
from sparserm_cli.config import ExportConfig
from sparserm_cli.errors import SparseRMError
from sparserm_cli.models.checkpoints.resolve import load_tokenizer, resolve_model
from sparserm_cli.models.lm.backbone import blocks_of
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.residuals import iter_residuals
from sparserm_cli.models.lm.trie import Tree

BOUND = 1e-5
"""Largest difference of vectors from a plain forward pass, relative to the vector's length, in float32."""
LAYER = 2
BLOCKS = 4

EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
ROUTED = {**LATENT, "n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 16}
GROUPED = {
    "num_key_value_heads": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "ministral": {"sliding_window": 16},
    "mixtral": EXPERTS,
    "qwen2": {},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3": {},
    "qwen3_moe": EXPERTS,
    "qwen3_next": {
        **EXPERTS,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "shared_expert_intermediate_size": 16,
    },
    "gemma": {},
    "gemma2": {"sliding_window": 16, "query_pre_attn_scalar": 8},
    "gemma3_text": {"sliding_window": 16, "query_pre_attn_scalar": 8},
    "gpt2": {},
    "gptj": {"rotary_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gpt_neox": {},
    "gpt_bigcode": {},
    "gpt_oss": {**EXPERTS, "sliding_window": 16},
    "phi": {},
    "phi3": {},
    "phimoe": {**EXPERTS, "sliding_window": None},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": 16},
    "olmoe": EXPERTS,
    "falcon": {},
    "falcon_h1": {
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "ssm_multipliers": [0.5, 2.0, 0.25, 3.0, 0.75],
    },
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {},
    "mpt": {},
    "stablelm": {},
    "granite": {},
    "granitemoe": EXPERTS,
    "cohere": {},
    "cohere2": {"sliding_window": 16},
    "deepseek_v2": {**ROUTED, **GROUPED},
    "deepseek_v3": {**ROUTED, **GROUPED},
    "glm": {"head_dim": 8},
    "glm4": {"head_dim": 8},
    "glm4_moe": {**ROUTED, **GROUPED},
    "starcoder2": {},
    "smollm3": {"no_rope_layers": [1, 1, 1, 0]},
    "llama4_text": {**EXPERTS, "intermediate_size_mlp": 64, "no_rope_layers": [1, 1, 1, 0]},
    "nemotron": {},
    "exaone4": {"sliding_window": 16, "sliding_window_pattern": 4},
    "ernie4_5": {},
    "seed_oss": {},
    "helium": {},
    "biogpt": {},
    "codegen": {"rotary_dim": 8},
    "xglm": {"ffn_dim": 64, "attention_heads": 4, "num_layers": 4, "d_model": 32},
    "jamba": {**EXPERTS, "mamba_d_state": 8},
    "mamba": {"state_size": 8},
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8},
    "minimax": EXPERTS,
    "dots1": {**ROUTED, **GROUPED},
    "hunyuan_v1_dense": {},
    "arcee": {},
    "apertus": {},
}
"""Mapping from transformers' model type to the fields of its tiny configuration."""

PLAIN = (
    "gpt2",
    "gpt_neox",
    "gptj",
    "gpt_neo",
    "bloom",
    "mpt",
    "opt",
    "gpt_bigcode",
    "biogpt",
    "codegen",
    "xglm",
)
"""Types without grouped keys, whose configurations lack the fields for them."""


def text_config(kind: str) -> Any:
    """Build the configuration of a tiny model of this type."""
    from transformers import AutoConfig

    options = tiny_models.BASE | {"pad_token_id": 0, "bos_token_id": 0}
    if kind in PLAIN or kind == "xglm":
        options = {
            key: value for key, value in options.items() if key not in {"num_key_value_heads", "head_dim"}
        }
    if kind in {"phi", "stablelm", "falcon", "nemotron", "phimoe"}:
        options.pop("head_dim", None)
    return AutoConfig.for_model(kind, **(options | ARCHITECTURES[kind]))


def save(model: Any, folder: Path) -> None:
    """Save a model with norms and biases that are neither one nor zero, and its tokenizer."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().float().mean().round()), std=0.1)
    model.save_pretrained(folder)
    tiny_models.tiny_tokenizer().save_pretrained(folder)


def save_text(kind: str, folder: Path) -> Any:
    """Make a causal language model."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(text_config(kind), dtype=torch.float32)
    save(model, folder)
    return model


def save_reward(folder: Path) -> Any:
    """Make a reward model: blocks with a score head in place of the LM head."""
    from transformers import AutoModelForSequenceClassification

    config = text_config("llama")
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config)
    save(model, folder)
    return model


def save_adapter(folder: Path) -> Any:
    """Make an adapter in PEFT's form, with its base beside it."""
    import peft

    save_text("llama", folder.with_name("base"))
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder.with_name("base"))
    config = peft.LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config)
    model.save_pretrained(folder)
    return model.base_model.model


def save_seeing(kind: str, folder: Path) -> Any:
    """Make a model with a vision tower."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    text = {"llava": "llama", "gemma3": "gemma3_text", "mistral3": "mistral", "aya_vision": "cohere2"}[kind]
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "projection_dim": 16,
        "head_dim": 8,
    }
    model_type = {"llava": "clip_vision_model", "mistral3": "pixtral"}.get(kind, "siglip_vision_model")
    config = AutoConfig.for_model(
        kind,
        text_config=text_config(text).to_dict(),
        vision_config=vision | {"model_type": model_type},
        **({"mm_tokens_per_image": 1} if kind == "gemma3" else {}),
    )
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    save(model, folder)
    return model


MAKERS: dict[str, Callable[[Path], Any]] = {
    **{kind: (lambda folder, kind=kind: save_text(kind, folder)) for kind in ARCHITECTURES},
    "reward model": save_reward,
    "adapter": save_adapter,
    **{
        f"{kind} (sees)": (lambda folder, kind=kind: save_seeing(kind, folder))
        for kind in ("llava", "gemma3", "mistral3", "aya_vision")
    },
}
"""Mapping from the name of a kind of checkpoint to the function that makes it."""


def difference(model: Any, folder: Path) -> tuple[float, bool]:
    """Return the difference between captured vectors and the model's own, and whether prompts are shared."""
    rng = np.random.default_rng(0)
    tree = Tree(
        rng.integers(1, 256, 40, dtype=np.uint32),
        tuple(rng.integers(1, 256, size, dtype=np.uint32) for size in (9, 5, 9)),
    )
    lm = LanguageModel.load(resolve_model(str(folder)), layers=[LAYER], dtype="float32", device="cpu")
    worst = 0.0
    text = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    for _, number, residuals in iter_residuals(lm, [tree]):
        ids = torch.from_numpy(np.concatenate([tree.prompt_ids, tree.responses[number]]).astype(np.int64))[
            None
        ]
        expected = plain(model, text, ids)[0, len(tree.prompt_ids) :]
        far = (residuals[LAYER] - expected).norm(dim=-1) / expected.norm(dim=-1)
        worst = max(worst, float(far.max()))
    return worst, lm.supports_tree


def plain(model: Any, text: Any, ids: torch.Tensor) -> torch.Tensor:
    """Run transformers' own model and return the residual stream after the layer."""
    taken: list[torch.Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        taken.append(output[0] if isinstance(output, tuple) else output)

    handle = blocks_of(text)[LAYER].register_forward_hook(keep)
    with torch.inference_mode():
        model.eval()(input_ids=ids, use_cache=False)
    handle.remove()
    return taken[0]


def chain(folder: Path, place: Path) -> float:
    """Run every stage and the export; return the largest difference of the exported model's scores."""
    from transformers import AutoModelForSequenceClassification

    place.mkdir()
    run = fitted_run.run_stages(place, folder, fitted_run.ROWS, layers=(LAYER,))
    export_hf(ExportConfig(run=run, target=place / "hf", to="hf"), note=fitted_run.QUIET["note"])
    ours = RewardModel.load(run / "reward")
    prompts, responses = ["Question 3?", "Why is the sky blue?"], ["good good", "It scatters."]
    scores = ours.score(prompts, responses)
    exported = AutoModelForSequenceClassification.from_pretrained(place / "hf", trust_remote_code=True).eval()
    tokenizer = load_tokenizer(resolve_model(str(folder)))
    tokenizer.pad_token = tokenizer.eos_token
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}], tokenize=False
        )
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    with torch.inference_mode():
        logits = exported(
            **tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        ).logits
    return float(np.abs(logits[:, 0].numpy() - scores).max())


def refusals(folder: Path, place: Path) -> dict[str, str]:
    """Break a checkpoint in every way; return for each way whether it was refused, or the failure."""
    outcomes = {}
    for way, spoil in WAYS.items():
        broken = place / "broken"
        shutil.copytree(folder, broken)
        layer = BLOCKS if way == "more blocks than weights" else LAYER
        try:
            spoil(broken)
            LanguageModel.load(resolve_model(str(broken)), layers=[layer], dtype="float32", device="cpu")
            outcomes[way] = "accepted"
        except SparseRMError as error:
            outcomes[way] = "refused" if "\n" not in str(error) else "more than a line"
        except Exception as error:  # noqa: BLE001  # any other kind is a finding
            outcomes[way] = f"{type(error).__name__}: {error}"
        shutil.rmtree(broken)
    return outcomes


def measure(name: str, place: Path) -> dict[str, Any]:
    """Return the results of one architecture."""
    begun, result = time.perf_counter(), {"name": name}
    torch.manual_seed(0)
    try:
        model = MAKERS[name](place / "model")
    except Exception as error:  # noqa: BLE001  # a configuration that is not possible says nothing about us
        return result | {"made": f"{type(error).__name__}: {error}"}
    try:
        result["difference"], result["shared"] = difference(model, place / "model")
        result["export"] = chain(place / "model", place / "chain")
    except SparseRMError as error:
        result["refused"] = str(error)
    except Exception as error:  # noqa: BLE001  # whatever happens belongs in the table
        result["failed"] = f"{type(error).__name__}: {error}"
    if name != "adapter":
        result["broken"] = refusals(place / "model", place)
    return result | {"seconds": time.perf_counter() - begun}


def line(result: dict[str, Any]) -> str:
    """Return one architecture's row of the table."""
    if "made" in result:
        reason = result["made"].splitlines()[0][:80]
        return f"| {result['name']} | transformers does not make it: {reason} | | | |"
    trouble = result.get("refused") or result.get("failed")
    vectors = f"{result['difference']:.1e}" if "difference" in result else ""
    how = "shared" if result.get("shared") else "alone"
    broken = result.get("broken", {})
    count = (
        f"{sum(outcome == 'refused' for outcome in broken.values())} of {len(broken)}"
        if broken
        else "not tried"
    )
    export = f"{result['export']:.1e}" if "export" in result else f"{trouble}".splitlines()[0][:120]
    return f"| {result['name']} | {vectors} | {how} | {export} | {count} |"


def is_right(result: dict[str, Any]) -> bool:
    """Return whether the results of an architecture are as they should be."""
    fits = result.get("difference", 1.0) <= BOUND and result.get("export", 1.0) <= 1e-3
    return fits and all(outcome == "refused" for outcome in result.get("broken", {}).values())


def main() -> None:
    """Try all architectures, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", default="", help="names with commas between them")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(MAKERS)
    warnings.simplefilter("ignore")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    results = []
    print("| checkpoint | vectors | prompts | export's scores | broken ways refused |")
    print("|---|---|---|---|---|")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(name, Path(folder)))
        print(line(results[-1]), flush=True)
    right = sum(map(is_right, results))
    print(f"\n{right} of {len(results)} as they should be")
    if options.output:
        options.output.write_text(json.dumps(results, indent=1))
    sys.exit(right != len(results))


if __name__ == "__main__":
    main()
