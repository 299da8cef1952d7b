"""A LoRA reward model as a method of the comparison: TRL's RewardTrainer on the whole language model.

Reads: token ids of the capture, the language model. Axes: `n` responses of a run.
Memory: the language model in float32, its adapters, and one batch.
"""

import importlib.util
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt32

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.backbone import choose_device
from sparserm_cli.models.identity import load_tokenizer, resolve_model
from sparserm_cli.models.quiet import quiet_transformers
from sparserm_cli.study.methods import Scorer, Training
from sparserm_cli.study.report_contexts import ids_of
from sparserm_cli.study.sample import Sample

RANK = 16
"""Of the adapters of every linear layer; they are scaled by 2, as is usual."""
LEARNING_RATE = 2e-4
"""Of AdamW, falling to 0 along a line."""
EPOCHS = 2
"""Passes over the training pairs."""
BATCH_PAIRS = 8
"""Pairs in one step."""
SCORED_TOGETHER = 16
"""Responses in one forward pass, of similar length."""

Texts = Sequence[UInt32[np.ndarray, " _"]]


def missing_packages() -> str | None:
    """Return what to do if the packages are not there; None if they are."""
    absent = [name for name in ("trl", "peft") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} not found; run pip install 'sparserm[align]'" if absent else None


def fit_lora(training: Training) -> Scorer:
    """Train adapters and a score on the training pairs, with the stored prompts and responses as they are.

    There is no early stopping: the pairs that stop other heads train here as well.
    """
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model_state_dict
    from transformers import PrinterCallback, set_seed
    from trl import RewardConfig, RewardTrainer

    sample = training.sample
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
    with quiet_transformers(), tempfile.TemporaryDirectory() as scratch:
        options = RewardConfig(
            output_dir=scratch,
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH_PAIRS,
            learning_rate=LEARNING_RATE,
            max_length=None,
            seed=training.seed,
            use_cpu=choose_device("auto") == "cpu",
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        set_seed(training.seed)  # the weights of the new score are drawn before the trainer sets it
        model, tokenizer = _model(sample)
        trainer = RewardTrainer(
            model=model,
            args=options,
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer,
            peft_config=adapters,
        )
        trainer.remove_callback(PrinterCallback)  # stdout is for results
        trainer.train()
    fitted = trainer.model.eval()
    count = sum(one.numel() for one in get_peft_model_state_dict(fitted).values())
    return Scorer(lambda target: _scores(fitted, _texts(target)), count)


def _model(sample: Sample) -> tuple[Any, Any]:
    """Load the language model of the capture with a score instead of its words, and its tokenizer.

    Raises:
        IncompatibleError: the model has changed since.

    """
    from transformers import AutoModelForSequenceClassification

    captured = sample.capture.plan.settings
    identity = resolve_model(captured.model)
    if identity.revision != captured.model_revision:
        expected, found = f"revision {captured.model_revision}", identity.revision
        raise IncompatibleError(f"model {captured.model}", expected, found, "capture again")
    tokenizer = load_tokenizer(identity)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForSequenceClassification.from_pretrained(
        identity.folder, num_labels=1, dtype="float32", pad_token_id=tokenizer.pad_token_id
    )
    return model, tokenizer


def _texts(sample: Sample) -> Texts:
    """Return the token ids of every prompt with its response."""
    found = ids_of(sample.capture, sample.rows.tolist())
    return [np.concatenate([found[row].prompt, found[row].response]) for row in sample.rows.tolist()]


def _scores(model: Any, texts: Texts) -> Float64[np.ndarray, " n"]:
    """Score every response, the longest ones first."""
    import torch

    scores = np.zeros(len(texts))
    order = np.argsort([-len(one) for one in texts], kind="stable")
    for start in range(0, len(order), SCORED_TOGETHER):
        taken = order[start : start + SCORED_TOGETHER]
        rows = [torch.from_numpy(texts[row].astype(np.int64)) for row in taken]
        pad = model.config.pad_token_id
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        with torch.inference_mode():
            found = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
        scores[taken] = found.logits[:, 0].double().cpu().numpy()
    return scores
