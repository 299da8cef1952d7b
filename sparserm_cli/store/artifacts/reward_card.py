"""The README.md of a reward model: a card as model hubs show it, made from what is recorded alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparserm_cli.store.artifacts.penalties import penalties_of, penalty_text

_TITLE = "# A reward model made of sparse-autoencoder directions"
_TAGS = ["reward-model", "sparse-autoencoder", "sparserm"]
_TASK = "text-classification"

_CARD = """---
library_name: sparserm
base_model: {model}
pipeline_tag: {task}
tags:
{tags}
---
{title}

{summary}

```python
from sparserm_cli import RewardModel

scores = RewardModel.load("PATH/TO/THIS/FOLDER").score(["Why is the sky blue?"], ["Rayleigh scattering."])
```
or `sparserm score responses.jsonl --reward PATH/TO/THIS/FOLDER`. The language model is fetched or found by
its name; no sparse autoencoder is needed any more.

{origin}
"""

_HUB_CARD = """---
{metadata}
---
{title}

{summary}

The blocks of the language model up to there are in this repository. {goes_in}
go in, `logits` of shape (conversations, 1) come out, whatever the padding side:

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

place = "PATH/TO/THIS/FOLDER"
tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=True)
model = AutoModelForSequenceClassification.from_pretrained(place, trust_remote_code=True)
{usage}
```
The code that runs is `modeling_sparserm.py` here. The folder `sparserm` holds the same reward model for
`sparserm score --reward`, which needs the language model besides.

{origin}
"""

_CONVERSATIONS = "Whole conversations in the chat template"
_CONVERSATIONS_USE = """turns = [
    {"role": "user", "content": "Why is the sky blue?"},
    {"role": "assistant", "content": "Rayleigh scattering."},
]
text = tokenizer.apply_chat_template(turns, tokenize=False)
score = model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits[0, 0]"""

_MASKED = "Texts with a mask that tells where the responses are, since no chat template does,"
_MASKED_USE = """inputs = model.encode(tokenizer, ["Why is the sky blue? "], ["Rayleigh scattering."])
score = model(**inputs).logits[0, 0]"""

_SUMMARY = """Scores how well a response answers a prompt; higher is better, and only differences mean
something. It is {count} directions in the residual stream of `{model}` (revision `{model_revision}`) after
{blocks}, pooled over the response by `{pool}`, and a head (`{head}`, loss `{loss}`)."""

_ORIGIN = """## Accuracy
Share of pairs whose chosen response scores strictly higher, with 95 % intervals over prompts. `reward` is
this model; the others were fitted on the same pairs for comparison. On the validation pairs each is measured
as it was before it was fitted on them too; they chose the regularisation, so test it on data of your own.

{table}
{choice}
## What it was made from
{facts}"""

_CHOICE = """
## How the head was chosen
Each setting was fitted {folds} times without one of {folds} parts of the training prompts and tested on
that part; `{chosen}` did best. The directions had been selected on all of these prompts, so the figures rank
the settings and do not tell how accurate the model is.

{table}
"""


def card(config: Mapping[str, Any]) -> str:
    """Return the card that lies in every reward model.

    Args:
        config: `reward` of its config.json.

    """
    return _CARD.format(
        model=config["model"],
        task=_TASK,
        tags="\n".join(f"- {tag}" for tag in _TAGS),
        title=_TITLE,
        summary=_summary(config),
        origin=_origin(config),
    )


def hub_card(
    config: Mapping[str, Any],
    *,
    base_model: str,
    licence: str,
    datasets: Sequence[str] = (),
    evaluation: Mapping[str, Any] | None = None,
    masked: bool = False,
) -> str:
    """Return the card of a reward model that goes to a model hub.

    Args:
        config: `reward` of its config.json.
        base_model: the hub's id of the language model.
        licence: as the hub spells it, such as `apache-2.0`.
        datasets: the hub's ids of the training data.
        evaluation: what `evaluate` measured on held-out pairs with this reward model.
        masked: whether the model has to be told where responses begin.

    """
    from huggingface_hub import EvalResult, ModelCardData

    measured = [("validation", metric["split"], metric["accuracy"]) for metric in _validation(config)]
    scorers = evaluation["scorers"] if evaluation and evaluation["benchmark"] == "pairs" else {}
    if evaluation and scorers:
        measured.append(("held out", evaluation["file"], scorers["reward"]["accuracy"]))
    results = [
        EvalResult("preference_evaluation", name, name, "accuracy", accuracy, dataset_args={"file": file})
        for name, file, accuracy in measured
    ]
    metadata = ModelCardData(
        base_model=base_model,
        datasets=list(datasets) or None,
        eval_results=results or None,
        library_name="transformers",
        license=licence,
        model_name="sparserm",
        pipeline_tag=_TASK,
        tags=_TAGS,
    )
    held_out = [{**metric, "scorer": name, "split": "held out"} for name, metric in scorers.items()]
    return _HUB_CARD.format(
        metadata=metadata.to_yaml(),
        title=_TITLE,
        summary=_summary(config),
        goes_in=_MASKED if masked else _CONVERSATIONS,
        usage=_MASKED_USE if masked else _CONVERSATIONS_USE,
        origin=_origin(config, held_out),
    )


def _summary(config: Mapping[str, Any]) -> str:
    """Describe the model in two sentences."""
    layers = list(config["layers"])
    blocks = f"block {layers[0]}" if len(layers) == 1 else f"blocks {', '.join(map(str, layers))}"
    count = sum(len(latents) for latents in config["selection"].get("latents", {}).values())
    return _SUMMARY.format(**{"count": count, "blocks": blocks, **config})


def _origin(config: Mapping[str, Any], held_out: Sequence[Mapping[str, Any]] = ()) -> str:
    """Describe the accuracy of the model and the data that it was made from."""
    selection, training = config["selection"], config["training"]
    facts = {
        "directions chosen by": selection.get("by"),
        "a side and layer": selection.get("top_k"),
        "sparse autoencoder": selection.get("sae"),
        "training pairs": training.get("train_pairs"),
        "validation pairs": training.get("validation_pairs"),
        "data": training.get("inputs"),
        "penalty": penalty_text(penalties_of(training)) or None,
        "seed": config["seed"],
    }
    lines = [f"- {name}: {_shown(value)}" for name, value in facts.items() if value is not None]
    choice = _choice(training["choice"]) if "choice" in training else ""
    table = _table([*config["metrics"], *held_out])
    changes = _changes(config.get("derivation", ()))
    return _ORIGIN.format(table=table, choice=choice, facts="\n".join([*lines, *changes]))


def _changes(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Tell what was changed since the fit, step by step; nothing for a reward model as it was fitted."""
    lines = ["", "## How it was changed since the fit"] if steps else []
    for step in steps:
        settings = "; ".join(
            f"{name.replace('_', ' ')}: {_shown(value)}"
            for name, value in step.items()
            if name not in {"by", "parent"}
        )
        lines.append(f"- `{step['by']}` of `{step['parent']}`: {settings}")
    return lines


def _choice(choice: Mapping[str, Any]) -> str:
    """Describe the settings among which the head was chosen, and how."""
    rows = ["| setting | pooling | head | loss | accuracy | n |", "|---|---|---|---|---|---|"]
    for tried in choice["tried"]:
        setting = f"{tried['name']} | {tried['pool']} | {tried['head']} | {tried['loss']}"
        rows.append(f"| {setting} | {tried['accuracy']:.3f} | {tried['pairs']:,} |")
    return _CHOICE.format(chosen=choice["chosen"], folds=choice["folds"], table="\n".join(rows))


def _validation(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what was measured of the reward model itself on the validation pairs."""
    return [
        metric
        for metric in config["metrics"]
        if (metric["scorer"], metric["split"]) == ("reward", "validation")
    ]


def _table(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Return the accuracies as a Markdown table."""
    rows = ["| scorer | pairs | accuracy | 95 % interval | n |", "|---|---|---|---|---|"]
    for metric in metrics:
        interval = f"{metric['low']:.3f} to {metric['high']:.3f}"
        rows.append(
            f"| {metric['scorer']} | {metric['split']} | {metric['accuracy']:.3f} | {interval} "
            f"| {metric['pairs']:,} |"
        )
    return "\n".join(rows)


def _shown(value: Any) -> str:
    """Return a value as text on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {_shown(item)}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
