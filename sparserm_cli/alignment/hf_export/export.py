"""`export --to hf` and `--to hub-folder` write the reward model as a transformers model.

Reads: `reward/`, the language model; for a hub's card `evaluation.json`. Writes: a folder that transformers
loads by itself, by rename when whole. Memory: the model's lower blocks, twice.
"""

import json
import shutil
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

from sparserm_cli.alignment.hf_export import modeling_sparserm as modeling
from sparserm_cli.config import ExportConfig, Note
from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.example import UNLABELLED, Example
from sparserm_cli.data.rendering.templated_text import ConversationText
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.checkpoints.named_models import NAMED_MODELS
from sparserm_cli.models.checkpoints.resolve import HUB_NAME, load_tokenizer
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.store.artifacts.results import EVALUATION
from sparserm_cli.store.artifacts.reward import reward_folder, reward_path, write_reward
from sparserm_cli.store.artifacts.reward_card import hub_card
from sparserm_cli.store.artifacts.reward_checks import POOLINGS
from sparserm_cli.store.io.atomic import atomic_folder
from sparserm_cli.store.io.storage import storage_of

_CODE = Path(modeling.__file__)
_QUESTION, _ANSWER = "Where?", "Everywhere!"


class ExportSummary(NamedTuple):
    """The exported folder, its size in bytes, and the number of parameters of its blocks."""

    path: Path
    bytes: int
    parameters: int


def export_hf(config: ExportConfig, *, note: Note) -> ExportSummary:
    """Write a reward model as a folder that `AutoModelForSequenceClassification` loads.

    Args:
        config: the options.
        note: called with messages for the user.

    Raises:
        UsageError: the folder exists and is not an earlier export that --force may replace.
        IncompatibleError: the reward model was fitted on another model, or with its tokenizer conversations
            cannot be cut as `score` does.
        CorruptStoreError: the reward model is damaged.
        ResourceError: the disk is full.

    """
    _check_target(config.target, force=config.force)
    source = reward_folder(config.reward or reward_path(config.run))
    model = RewardModel.load(
        source, model=config.model, group=config.group, device="cpu", offline=config.offline
    )
    tokenizer = load_tokenizer(model.lm.identity)
    exported = build(model, tokenizer)
    card = _card(model, config, masked=not exported.config.header) if config.to == "hub-folder" else None
    if exported.config.header:
        settle_boundaries(exported, model.template, tokenizer)
        note(f"responses begin after {exported.config.header}, checked on the vocabulary")
    else:
        note("nothing before a response tells where it begins: the export wants a response_mask")
    tensors = {name: values.contiguous() for name, values in exported.state_dict().items()}
    size = sum(values.nbytes for values in tensors.values())
    with atomic_folder(config.target, size) as part:
        save_file(tensors, part / "model.safetensors", {"format": "pt"})
        exported.config.save_pretrained(part)
        _write_tokenizer(part, tokenizer, model.template)
        shutil.copyfile(_CODE, part / _CODE.name)
        if card is not None:
            write_reward(part / "sparserm", model.files)
            (part / "README.md").write_text(card, encoding="utf-8")
    count = sum(values.numel() for values in model.lm.backbone.state_dict().values())
    return ExportSummary(config.target, size, count)


def build(model: RewardModel, tokenizer: Any) -> modeling.SparseRMForSequenceClassification:
    """Return a reward model as a transformers module, in the number type in which it was fitted."""
    kind = modeling.SparseRMForSequenceClassification
    fitted, arrays, text = model.config, model.head.arrays, ConversationText(model.template)
    header, lead = _header(model.template, tokenizer)
    config = modeling.SparseRMConfig(
        backbone=_backbone_config(model.lm.backbone.config),
        layers=fitted.layers,
        poolings=POOLINGS[fitted.pool],
        directions=len(arrays.directions[fitted.layers[0]]),
        hidden=arrays.weights["weight_1"].shape[1] if "weight_1" in arrays.weights else 0,
        header=tuple(header),
        # Ordinary text may merge with the text after it into one token; a control token never does.
        header_fixed=len(header) - any(token not in tokenizer.added_tokens_decoder for token in header[-1:]),
        lead=tuple(lead),
        endings=tuple(
            sorted((tuple(_ids(tokenizer, ending)) for ending in text.endings), key=len, reverse=True)
        ),
        leading_bos=model.template.rows.adds_bos,
        runs_alone=model.lm.runs_alone,
        buffers=tuple(_computed_buffers(model.lm.backbone)),
        architectures=[kind.__name__],
        auto_map={
            "AutoConfig": f"{_CODE.stem}.{modeling.SparseRMConfig.__name__}",
            "AutoModelForSequenceClassification": f"{_CODE.stem}.{kind.__name__}",
        },
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        torch_dtype=fitted.dtype,
    )
    exported = kind(config)
    exported.backbone.to(getattr(torch, fitted.dtype))
    tensors = model.lm.backbone.state_dict() | _computed_buffers(model.lm.backbone)
    blocks = {f"backbone.{name}": values for name, values in tensors.items()}
    head = {name: torch.from_numpy(values) for name, values in _head_tensors(arrays, fitted.layers).items()}
    exported.load_state_dict(blocks | head)
    return exported.eval()


def settle_boundaries(
    exported: modeling.SparseRMForSequenceClassification, template: PromptTemplate, tokenizer: Any
) -> None:
    """Check that the exported model splits conversations into prompt and response exactly as `score` does.

    A response is tried for every token of the vocabulary that covers the end of what stands before it and
    more, and for every printable character and white space as its begin and end. After the template's lead
    `score` reads it as if there were none: white space that merges with the lead is noted as unclear, and
    the exported model refuses it.

    Raises:
        IncompatibleError: the exported model splits one of them differently.

    """
    text, config = ConversationText(template), exported.config
    ending = next(iter(text.endings), "")
    lasts = {tokenizer.decode(ids[-1:]) for ids in (config.header, config.lead) if ids}
    vocabulary = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    begins = {token.removeprefix(last) for token in vocabulary for last in lasts if token.startswith(last)}
    begins |= set(map(chr, range(9, 127)))
    responses = [response for begin in sorted(begins - {""}) for response in (f"{begin}a", f"a{begin}")]
    sides = (UNLABELLED,) * len(responses)
    tokenized = template.tokenize([Example(1, None, _QUESTION, tuple(responses), sides, None, {})])[0]
    start, unclear = len(_ids(tokenizer, tokenized.prompt_text)), set()
    for lead in dict.fromkeys(("", text.lead if config.lead else "")):
        rows = [_ids(tokenizer, tokenized.prompt_text + lead + response + ending) for response in responses]
        if lead:
            config.lead_fixed = min(_alike(config.lead, ids[start:]) for ids in rows)
        for response, tokens, ids in zip(responses, tokenized.responses, rows, strict=True):
            parts, expected = exported.split(ids), (tokens.prompt_ids.tolist(), tokens.response_ids.tolist())
            if parts == expected:
                continue
            if not lead or not response[0].isspace():
                raise IncompatibleError(
                    "the exported model",
                    f"the response {expected[1]} for {response!r}",
                    str(parts[1]),
                    "report this tokenizer; it cannot be exported",
                )
            whole = _alike(config.lead, ids[start:]) == len(config.lead)
            unclear.add(ids[start + (len(config.lead) if whole else config.lead_fixed)])
    config.unclear = sorted(unclear)


def _alike(first: list[int], second: list[int]) -> int:
    """Count the token ids at the beginning that two lists have in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _header(template: PromptTemplate, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the token ids of the header and of the lead before a response; both may be empty."""
    text = ConversationText(template)
    header = _ids(tokenizer, text.header)
    if template.text is None or not text.header.strip():
        return [], []
    if not text.lead:
        return header, []
    bare, whole = (_ids(tokenizer, text.header + lead + _ANSWER) for lead in ("", text.lead))
    answer = bare[len(header) :]
    if not bare[: len(header)] == whole[: len(header)] == header or whole[-len(answer) :] != answer:
        return [], []
    return header, whole[len(header) : len(whole) - len(answer)]


def _card(model: RewardModel, config: ExportConfig, *, masked: bool) -> str:
    """Return the model card for a hub; `masked` means that the model needs a response mask.

    Raises:
        UsageError: the base model on the hub is not known.

    """
    fitted = model.config
    named = NAMED_MODELS.get(fitted.model)
    base = config.base_model or (named.hub_id if named else fitted.model)
    if not HUB_NAME.fullmatch(base) or "/" not in base:
        raise UsageError("--base-model", "the hub id of the language model", repr(base), "give it")
    path = EVALUATION.path(config.run)
    measured = EVALUATION.read(path) if storage_of(path).size() >= 0 else None
    if measured is not None and measured["reward"] != fitted.lineage.digest:
        measured = None
    return hub_card(
        fitted.to_json(),
        base_model=base,
        licence=str(config.licence),
        datasets=config.dataset,
        evaluation=measured,
        masked=masked,
    )


def _check_target(target: Path, *, force: bool) -> None:
    """Refuse to replace anything but an earlier export."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        kind = json.loads((target / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        kind = None
    if kind != modeling.SparseRMConfig.model_type:
        raise UsageError(str(target), "a new or empty folder", "something else", "name another one")
    if not force:
        raise UsageError(str(target), "a new or empty folder", "an earlier export", "use --force")


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _backbone_config(config: Any) -> dict[str, Any]:
    """Return the truncated model's configuration with keys that old and new releases of transformers read."""
    settings = {
        name: value
        for name, value in config.to_dict().items()
        if not name.startswith("_") and name not in {"architectures", "dtype", "transformers_version"}
    }
    rope = settings.get("rope_parameters") or {}
    whole = rope.get("full_attention", rope)
    if "rope_theta" in whole:
        settings["rope_theta"] = whole["rope_theta"]
        scaled = {name: value for name, value in whole.items() if name != "rope_theta"}
        settings["rope_scaling"] = scaled if scaled.get("rope_type", "default") != "default" else None
    if "sliding_attention" in rope:
        settings["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    return settings


def _computed_buffers(backbone: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the constant tensors that are in no checkpoint, without the frequencies of rotary embeddings.

    Those follow from the configuration, and their names differ between releases of transformers.
    """
    saved = backbone.state_dict().keys()
    return {
        name: values
        for name, values in backbone.named_buffers()
        if name not in saved and not name.endswith("inv_freq")
    }


def _head_tensors(arrays: Any, layers: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the weights of the head under the exported model's parameter names."""
    weights = arrays.weights
    tensors = {f"directions.{place}.weight": arrays.directions[layer] for place, layer in enumerate(layers)}
    tensors |= {"mean": arrays.mean, "std": arrays.std}
    if "weight" in weights:
        return tensors | {"reward_head.weight": weights["weight"][None], "reward_head.bias": weights["bias"]}
    return tensors | {
        "reward_head.0.weight": np.ascontiguousarray(weights["weight_1"].T),
        "reward_head.0.bias": weights["bias_1"],
        "reward_head.2.weight": weights["weight_2"][None],
        "reward_head.2.bias": weights["bias"],
    }


def _write_tokenizer(folder: Path, tokenizer: Any, template: PromptTemplate) -> None:
    """Write the tokenizer with a class name that every release of transformers knows."""
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    special = {
        name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.model_max_length,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **special,
        "pad_token": special.get("pad_token", tokenizer.eos_token),
        **({} if template.jinja is None else {"chat_template": template.jinja}),
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(tokenizer_config, indent=2) + "\n", encoding="utf-8"
    )
