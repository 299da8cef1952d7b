"""The README.md of a reward model: a card as model hubs show it, made from its config alone."""

from collections.abc import Mapping, Sequence
from typing import Any

_CARD = """---
library_name: sparserm
base_model: {model}
pipeline_tag: text-classification
tags:
- reward-model
- sparse-autoencoder
- sparserm
---
# A reward model made of sparse-autoencoder directions

Scores how well a response answers a prompt; higher is better, and only differences mean something.
It is {count} directions in the residual stream of `{model}` (revision `{model_revision}`) after
{blocks}, pooled over the response by `{pool}`, and a head (`{head}`, loss `{loss}`).

```python
from sparserm_cli import RewardModel

scores = RewardModel.load("PATH/TO/THIS/FOLDER").score(["Why is the sky blue?"], ["Rayleigh scattering."])
```
or `sparserm score responses.jsonl --reward PATH/TO/THIS/FOLDER`. The language model is fetched or found by
its name; no sparse autoencoder is needed any more.

## Accuracy
Share of pairs whose chosen response scores strictly higher, with 95 % intervals over prompts. `reward` is
this model; the others were fitted on the same pairs for comparison. On the validation pairs each is measured
as it was before it was fitted on them too; they chose the regularisation, so test it on data of your own.

{table}

## What it was made from
{facts}
"""


def card(config: Mapping[str, Any]) -> str:
    """Return the card of a reward model.

    Args:
        config: `reward` of its config.json.

    """
    layers = list(config["layers"])
    blocks = f"block {layers[0]}" if len(layers) == 1 else f"blocks {', '.join(map(str, layers))}"
    selection, training = config["selection"], config["training"]
    count = sum(len(latents) for latents in selection.get("latents", {}).values())
    facts = {
        "directions chosen by": selection.get("by"),
        "a side and layer": selection.get("top_k"),
        "sparse autoencoder": selection.get("sae"),
        "training pairs": training.get("train_pairs"),
        "validation pairs": training.get("validation_pairs"),
        "data": training.get("inputs"),
        "seed": config["seed"],
    }
    lines = [f"- {name}: {_shown(value)}" for name, value in facts.items() if value is not None]
    named = {name: config[name] for name in ("model", "model_revision", "pool", "head", "loss")}
    return _CARD.format(
        **named, count=count, blocks=blocks, table=_table(config["metrics"]), facts="\n".join(lines)
    )


def _table(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Return the accuracies as a Markdown table."""
    rows = ["| scorer | pairs | accuracy | 95 % interval | n |", "|---|---|---|---|---|"]
    for one in metrics:
        interval = f"{one['low']:.3f} to {one['high']:.3f}"
        rows.append(
            f"| {one['scorer']} | {one['split']} | {one['accuracy']:.3f} | {interval} | {one['pairs']:,} |"
        )
    return "\n".join(rows)


def _shown(value: Any) -> str:
    """Return a value as text on one line."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
