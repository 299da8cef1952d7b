"""The policy: answers by sampling, and training with TRL's DPO on LoRA adapters."""

import argparse
import json
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import DPOConfig, DPOTrainer

from sparserm_cli.models.lm.devices import choose_device, choose_dtype

DEVICE = choose_device("auto")
DTYPE = choose_dtype("auto", DEVICE)[0]
"""The type in which this machine multiplies fastest; adapters and the judge stay in float32."""

BATCH = 64
"""Number of answers that are sampled at a time."""


@torch.inference_mode()
def answer(folder: str, questions: list[str], count: int, tokens: int, seed: int) -> list[list[str]]:
    """Sample answers to each question; empty answers are left out."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPE).to(DEVICE).eval()
    set_seed(seed)
    answers: list[list[str]] = []
    step = max(1, BATCH // count)
    for start in range(0, len(questions), step):
        batch = questions[start : start + step]
        turns = [[{"role": "user", "content": question}] for question in batch]
        texts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(DEVICE)
        made = model.generate(
            **inputs,
            do_sample=True,
            top_p=0.95,
            temperature=1.0,
            num_return_sequences=count,
            max_new_tokens=tokens,
        )
        words = tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        groups = (words[place * count : (place + 1) * count] for place in range(len(batch)))
        answers += [[text.strip() for text in group if text.strip()] for group in groups]
        print(f"answered {len(answers)} of {len(questions)} questions", flush=True)
    return answers


def train(folder: str, pairs: Path, target: Path, options: argparse.Namespace) -> None:
    """Train adapters by DPO and write the policy with them merged; the target appears when it is whole."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    part = target.with_suffix(".part")
    config = DPOConfig(
        output_dir=str(part),
        beta=options.beta,
        learning_rate=options.learning_rate,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=4,
        precompute_ref_log_probs=True,
        gradient_checkpointing=False,
        bf16=DTYPE is torch.bfloat16,
        use_cpu=DEVICE == "cpu",
        max_length=256,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        seed=options.seed,
    )
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list(rows).select_columns(["prompt", "chosen", "rejected"]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.model.merge_and_unload().save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(target)
