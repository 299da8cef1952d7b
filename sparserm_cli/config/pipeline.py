"""Configs of the pipeline, in its order: extract, encode, frequency, select, fit."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from sparserm_cli.config import option, shared
from sparserm_cli.config.base import DEFAULT_MODEL, StageConfig, UnitsConfig
from sparserm_cli.config.option import ABOVE_0, AT_LEAST_1, DATA, LIMITS, MODEL, PRICE, Option
from sparserm_cli.errors import UsageError

MEASURES = (
    "difference",
    "standardised",
    "z",
    "mcnemar",
    "mutual-information",
    "stability",
    "greedy",
    "forward",
    "length-controlled",
    "random-latents",
    "random-directions",
)
"""Names that the shell offers for `--by`; `stages.selection` knows what each means and refuses others."""


@dataclass(frozen=True)
class ExtractConfig(UnitsConfig):
    """`extract`: residual activations of preference pairs."""

    data: Annotated[
        str,
        Option(
            "Preference pairs: a .jsonl, .jsonl.gz, .json, .csv or .parquet file, or a Hugging Face data "
            "set.",
            DATA,
            argument=True,
            required=True,
            path="perhaps",
        ),
    ] = ""
    model: shared.Model = DEFAULT_MODEL
    layer: shared.Layers = None
    sae: Annotated[
        tuple[str, ...],
        Option(
            "Encode with this SAE in the same pass and keep its latents instead of the tokens; repeat the "
            "option for further layers.",
            MODEL,
            metavar="SAE",
            path="perhaps",
        ),
    ] = ()
    positions: Annotated[
        Literal["auto", "response", "pooled", "latents"],
        Option(
            "Keep response tokens and pooled vectors (response), pooled vectors only (pooled), or pooled "
            "vectors and the latents of --sae (latents).",
            DATA,
            metavar="response|pooled|latents",
            shown="latents with --sae, else response",
        ),
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Option("Number type the model computes in; auto takes bfloat16 where it is faster.", MODEL),
    ] = "auto"
    device: shared.Device = "auto"
    batch_tokens: shared.BatchTokens = None
    max_length: Annotated[
        int | None,
        Option(
            "Longest prompt plus response, in tokens.",
            LIMITS,
            check=AT_LEAST_1,
            shown="the model's limit",
        ),
    ] = None
    too_long: Annotated[
        Literal["error", "reject", "truncate-left"],
        Option(
            "Stop at a longer one (error), leave its row out (reject), or drop its oldest prompt tokens "
            "(truncate-left).",
            LIMITS,
        ),
    ] = "error"
    template: shared.Template = None
    columns: shared.Columns = ()
    split: shared.Split = "train"
    limit: shared.Limit = None
    on_bad_row: Annotated[
        Literal["error", "reject"],
        Option("Stop at a bad row (error), or write it to rejects.jsonl and go on (reject).", DATA),
    ] = "error"
    on_nonfinite: Annotated[
        Literal["error", "reject"],
        Option(
            "Stop at NaN or infinite residuals (error), or leave the response out and count it (reject).",
            DATA,
        ),
    ] = "error"
    dedupe: Annotated[bool, Option("Keep only the first of several equal pairs.", DATA)] = False
    unit_tokens: Annotated[
        int,
        Option(
            "Number of response tokens in one unit of work, which is the most that a crash can lose.",
            LIMITS,
            check=AT_LEAST_1,
        ),
    ] = 65536
    dry_run: Annotated[bool, Option("Stop after the plan, and print what it will take and cost.", PRICE)] = (
        False
    )
    calibrate: Annotated[
        bool, Option("Let a dry run measure the rate of this machine for 20 seconds instead of 3.", PRICE)
    ] = False
    tokens_per_second: Annotated[
        float | None,
        Option(
            "Rate of one device in tokens per second, for a dry run.",
            PRICE,
            check=ABOVE_0,
            shown="measured here",
        ),
    ] = None
    gpu: Annotated[
        str | None,
        Option("Name of the device a dry run computes for.", PRICE, shown="this machine's"),
    ] = None
    gpus: Annotated[
        int, Option("Number of devices that would share the work of a dry run.", PRICE, check=AT_LEAST_1)
    ] = 1
    price_per_hour: Annotated[
        float | None,
        Option("Price of one device per hour, in any currency.", PRICE, check=ABOVE_0, shown="none"),
    ] = None
    force: shared.Force = False
    offline: shared.Offline = False
    remote_code: Annotated[
        bool,
        Option(
            "Let the model run code of its own; use it only for a model that you trust.",
            MODEL,
            aliases=("--trust-remote-code",),
        ),
    ] = False
    allow_pickle: Annotated[
        bool, Option("Read a model's .bin weights or an SAE's .pt file, with weights_only.", MODEL)
    ] = False
    allow_mismatch: shared.AllowMismatch = False

    def __post_init__(self) -> None:
        """Check that there is something to encode with.

        Raises:
            UsageError: latents are wanted without an SAE, or a value is out of range.

        """
        super().__post_init__()
        if self.positions == "latents" and not self.sae:
            hint = "give --sae, or leave --positions out"
            raise UsageError("--positions latents", "an SAE for each layer to encode", "none", hint)


@dataclass(frozen=True)
class EncodeConfig(UnitsConfig):
    """`encode`: SAE latents of the captured tokens."""

    sae: Annotated[
        tuple[str, ...],
        Option(
            "SAE: a directory, or a SAELens release and id like RELEASE/SAE_ID; repeat the option for "
            "further layers.",
            MODEL,
            metavar="SAE",
            required=True,
            path="perhaps",
        ),
    ] = ()
    chunk_rows: Annotated[
        int, Option("Number of tokens that go through the SAE at a time.", LIMITS, check=AT_LEAST_1)
    ] = 8192
    allow_mismatch: shared.AllowMismatch = False
    allow_pickle: Annotated[bool, Option("Read an SAE's .pt file, with weights_only.", MODEL)] = False
    force: shared.Force = False


@dataclass(frozen=True)
class FrequencyConfig(StageConfig):
    """`frequency`: how often each latent fires on chosen and on rejected responses."""

    unit: shared.Unit = "token"
    val_fraction: Annotated[
        float,
        Option(
            "Share of the prompts that is left out of the counts, so that the validation split of the head "
            "stays unseen.",
            DATA,
            check=option.SHARE,
        ),
    ] = 0.1
    seed: Annotated[int, Option("Seed of the validation split.")] = 0


@dataclass(frozen=True)
class SelectConfig(StageConfig):
    """`select`: preference directions."""

    top_k: Annotated[
        int,
        Option(
            "Number of directions per side: this many preferred and this many dispreferred.",
            check=AT_LEAST_1,
        ),
    ] = 64
    by: Annotated[
        str, Option("Measure that ranks the latents; a wrong name lists them all.", complete=lambda: MEASURES)
    ] = "difference"
    seed: Annotated[int, Option("Seed of the random controls and of the bootstrap.")] = 0


@dataclass(frozen=True)
class HeadSetting:
    """Inputs and loss of a head; the defaults are those of `fit`."""

    pool: shared.Pool = "mean"
    head: shared.Head = "mlp"
    loss: shared.Loss = "margin"
    plain: bool = False
    """Whether the hidden layer is trained from random weights, as in the paper; see `FitConfig.plain`."""

    def recorded(self) -> dict[str, Any]:
        """Return the setting as JSON; `plain` only where it is so, as earlier releases recorded it."""
        return {name: value for name, value in vars(self).items() if name != "plain" or value}


@dataclass(frozen=True)
class FitConfig(StageConfig):
    """`fit`: the reward head on projections. None of pool, head and loss is the default, or chosen."""

    choose: Annotated[
        bool,
        Option("Choose pool, head and loss by folds of the training prompts; the layers stay as selected."),
    ] = False
    pool: Annotated[
        Literal["mean", "last", "both"] | None,
        Option("Vector of a response that is projected on the directions.", shown=HeadSetting.pool),
    ] = None
    head: Annotated[
        Literal["linear", "mlp"] | None,
        Option(
            "Reward head: one weight per direction (linear), or one hidden layer (mlp).",
            shown=HeadSetting.head,
        ),
    ] = None
    loss: Annotated[
        Literal["margin", "bt", "bce"] | None,
        Option(
            "Loss of the head: margin, Bradley-Terry (bt) or binary cross-entropy (bce).",
            shown=HeadSetting.loss,
        ),
    ] = None
    plain: Annotated[
        bool,
        Option(
            "Train the hidden layer as the paper describes it: from random weights, without whitening and "
            "without the linear head to start from."
        ),
    ] = False
    weights: Annotated[
        Literal["margin"] | None,
        Option(
            "Let each pair count by its margin: how much better the data say that the chosen response is.",
            shown="all pairs count alike",
        ),
    ] = None
    by: Annotated[
        str | None,
        Option(
            "Column of the data, such as annotator or domain, each value of which gets a head of its own "
            "over the same directions.",
            metavar="COLUMN",
            shown="one head for all pairs",
        ),
    ] = None
    invariant_to: Annotated[
        str | None,
        Option(
            "Run directory of captured twins, the same response in two styles: what moves with style is "
            "taken out of the directions and the controls.",
            DATA,
            metavar="RUN",
            shown="nothing is taken out",
        ),
    ] = None
    val_fraction: Annotated[
        float,
        Option(
            "Share of the prompts that chooses the regularisation and stops the training.",
            DATA,
            check=option.SHARE,
        ),
    ] = 0.1
    seed: Annotated[
        int, Option("Seed of the split, the first weights, the order of the pairs and the folds.")
    ] = 0

    def __post_init__(self) -> None:
        """Check that what is to be chosen is not given as well, and that a plain head has a hidden layer.

        Raises:
            UsageError: one of these does not hold, or a value is out of range.

        """
        super().__post_init__()
        if self.choose and self._given:
            expected = "no --pool, --head, --loss or --plain beside it, nor in sparserm.toml"
            found = ", ".join(f"--{name}" for name in self._given)
            raise UsageError("--choose", expected, found, "leave --choose out, or what it chooses")
        if self.plain and self.head == "linear":
            raise UsageError(
                "--plain", "a hidden layer (--head mlp)", "--head linear", "leave one of them out"
            )

    @property
    def setting(self) -> HeadSetting:
        """The setting of the head; what was not given is the default."""
        return HeadSetting(**self._given)

    @property
    def _given(self) -> dict[str, Any]:
        """The options of the setting that were given."""
        values = {item.name: getattr(self, item.name) for item in fields(HeadSetting)}
        return {name: value for name, value in values.items() if value is not None and value is not False}
