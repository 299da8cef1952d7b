"""Tiny random models with a tokenizer, saved to a folder: stand-ins for real ones in every test."""

from pathlib import Path
from typing import Any

ARCHITECTURES = ("llama", "gemma2", "gemma3", "qwen3", "gpt2", "gpt_neox", "mistral", "phi")
VOCABULARY = 256
"""One token a byte, then the special tokens."""
SPECIAL = ("<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY + len(SPECIAL),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": VOCABULARY + 1,
    "pad_token_id": None,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}


def tiny_config(arch: str, **changes: Any) -> Any:
    """Build the configuration of a tiny model: 4 blocks, width 32."""
    from transformers import AutoConfig

    options = BASE | {
        "gemma2": {"sliding_window": 512, "query_pre_attn_scalar": 8},
        "gemma3": {"sliding_window": 512, "query_pre_attn_scalar": 8},
        "gpt2": {"n_inner": 64},
        "mistral": {"sliding_window": None},
    }.get(arch, {})
    if arch in {"gpt2", "gpt_neox"}:
        options = {
            key: value for key, value in options.items() if key not in {"num_key_value_heads", "head_dim"}
        }
    if arch == "phi":
        options = {key: value for key, value in options.items() if key != "head_dim"}
    return AutoConfig.for_model({"gemma3": "gemma3_text"}.get(arch, arch), **(options | changes))


def tiny_tokenizer() -> Any:
    """Build a byte-level fast tokenizer with a chat template, without any training."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=SPECIAL[1], chat_template=CHAT_TEMPLATE)


def save_tiny(folder: Path, arch: str = "llama", *, seed: int = 0, **changes: Any) -> Path:
    """Save a tiny random causal model of this architecture, with its tokenizer, and return the folder.

    Args:
        folder: where to.
        arch: one of `ARCHITECTURES`, or another model type of transformers.
        seed: of the random weights.
        changes: fields of the configuration that differ from the usual tiny one.

    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(arch, **changes))
    for (
        parameter
    ) in model.parameters():  # norms start at one or zero, biases at zero: hide nothing behind that
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean().round()), std=0.1)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
