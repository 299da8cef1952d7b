"""A LoRA reward model as a method of the comparison, trained by TRL's RewardTrainer.

Reads: token ids of the capture, the language model. Axes: `n` is the number of responses of a run.
Memory: the language model, its adapters in float32, and the activations of a few pairs.
"""

import importlib.util
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt32
from torch import Tensor

from sparserm_cli.analysis.compare.methods import Scorer, Training
from sparserm_cli.analysis.compare.run_sample import Sample
from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.checkpoints.library_noise import silence_transformers
from sparserm_cli.models.checkpoints.resolve import load_tokenizer, resolve_model
from sparserm_cli.models.lm.allocator import keep_freed_memory
from sparserm_cli.models.lm.devices import choose_device, choose_dtype
from sparserm_cli.store.capture.token_ids import ids_of

RANK = 16
"""Rank of the adapters of every linear layer; they are scaled by 2, as is usual."""
LEARNING_RATE = 2e-4
"""Learning rate of AdamW, which decreases linearly to 0."""
EPOCHS = 2
"""Number of passes over the training pairs."""
BATCH_PAIRS = 8
"""Pairs per optimiser step."""
SCORED_TOGETHER = 16
"""Responses of similar length per forward pass when scoring."""


class _Score(torch.nn.Linear):
    """Computes scores in float32, because scores of close pairs would be equal in bfloat16."""

    def forward(self, states: Float[Tensor, "*n d"]) -> Float32[Tensor, "*n 1"]:
        with torch.autocast(states.device.type, enabled=False):
            return super().forward(states.float())


Texts = Sequence[UInt32[np.ndarray, " _"]]


def missing_packages() -> str | None:
    """Return a sentence that names missing packages and how to install them; None if none is missing."""
    absent = [name for name in ("trl", "peft") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} not found; run pip install 'sparserm[align]'" if absent else None


def fit_lora(training: Training) -> Scorer:
    """Train adapters and a score layer on the stored prompts and responses of the training pairs.

    The frozen weights and the products are bfloat16 where this machine multiplies it faster, the adapters'
    weights float32. There is no early stopping: the pairs that stop other heads are training pairs here.
    """
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model_state_dict
    from transformers import PrinterCallback, set_seed
    from trl import RewardConfig, RewardTrainer

    keep_freed_memory()
    sample = training.sample
    device = choose_device("auto")
    dtype, _ = choose_dtype("auto", device)
    texts = _texts(sample)
    columns = {
        name: [texts[row].tolist() for row in training.pairs[:, side]]
        for side, name in enumerate(("chosen_ids", "rejected_ids"))
    }
    adapters = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        task_type="SEQ_CLS",
        target_modules="all-linear",
        modules_to_save=["score"],
    )
    with silence_transformers(), tempfile.TemporaryDirectory() as scratch:
        options = RewardConfig(
            output_dir=scratch,
            num_train_epochs=EPOCHS,
            # Each pair is run alone, because a batch padded to its longest pair would be mostly padding.
            per_device_train_batch_size=1,
            gradient_accumulation_steps=BATCH_PAIRS,
            learning_rate=LEARNING_RATE,
            max_length=None,
            seed=training.seed,
            use_cpu=device == "cpu",
            bf16=dtype == torch.bfloat16,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        set_seed(
            training.seed
        )  # the weights of the new score layer are drawn before the trainer sets the seed
        model, tokenizer = _model(sample, dtype)
        trainer = RewardTrainer(
            model=model,
            args=options,
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer,
            peft_config=adapters,
        )
        trainer.remove_callback(PrinterCallback)  # stdout holds only results
        trainer.train()
    fitted = trainer.model.eval()
    count = sum(parameter.numel() for parameter in get_peft_model_state_dict(fitted).values())

    def score(target: Sample) -> Float64[np.ndarray, " n"]:
        with torch.inference_mode(), torch.autocast(device, dtype, enabled=dtype == torch.bfloat16):
            return _scores(fitted, _texts(target))

    return Scorer(score, count)


def _model(sample: Sample, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load the tokenizer and the language model of the capture, with a score layer as its output.

    Raises:
        IncompatibleError: the model has changed since the capture.

    """
    from transformers import AutoModelForSequenceClassification

    captured = sample.capture.plan.settings
    identity = resolve_model(captured.model)
    if identity.revision != captured.model_revision:
        expected, found = f"revision {captured.model_revision}", identity.revision
        raise IncompatibleError(f"model {captured.model}", expected, found, "capture again")
    if identity.adapter is not None:
        hint = "merge the adapter into its base, and capture again"
        raise IncompatibleError(captured.model, "a whole model to train an adapter on", "an adapter", hint)
    tokenizer = load_tokenizer(identity)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForSequenceClassification.from_pretrained(
        identity.folder, num_labels=1, dtype=dtype, pad_token_id=tokenizer.pad_token_id
    )
    score = _Score(model.score.in_features, 1, bias=False)
    score.weight.data.copy_(model.score.weight)
    model.score = score
    return model, tokenizer


def _texts(sample: Sample) -> Texts:
    """Return the token ids of every response after its prompt."""
    ids = ids_of(sample.capture, sample.rows.tolist())
    return [np.concatenate([ids[row].prompt, ids[row].response]) for row in sample.rows.tolist()]


def _scores(model: Any, texts: Texts) -> Float64[np.ndarray, " n"]:
    """Score every response, the longest ones first."""
    scores = np.zeros(len(texts))
    order = np.argsort([-len(text) for text in texts], kind="stable")
    for start in range(0, len(order), SCORED_TOGETHER):
        taken = order[start : start + SCORED_TOGETHER]
        rows = [torch.from_numpy(texts[row].astype(np.int64)) for row in taken]
        pad = model.config.pad_token_id
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        output = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
        scores[taken] = output.logits[:, 0].double().numpy(force=True)
    return scores
