"""Configs of what measures and explains a reward model: evaluate, compare, describe, explain, report."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Literal, get_args

from sparserm_cli.config import shared
from sparserm_cli.config.base import StageConfig
from sparserm_cli.config.option import AT_LEAST_1, DATA, LIMITS, MODEL, OUTPUT, Check, Option
from sparserm_cli.config.pipeline import MEASURES, FrequencyConfig, HeadSetting, SelectConfig
from sparserm_cli.config.scoring import ResponsesConfig
from sparserm_cli.errors import UsageError
from sparserm_cli.locations import parse_location

DESCRIBER_KEY = "SPARSERM_DESCRIBER_KEY"  # the name, not a key


@dataclass(frozen=True)
class EvaluateConfig(ResponsesConfig):
    """`evaluate`: accuracy of the reward model on labelled data."""

    benchmark: Annotated[
        Literal["pairs", "rm-bench", "reward-bench-2", "judge-bench", "ppe"],
        Option(
            "Benchmark whose scoring rules are applied: pairs won (pairs), RM-Bench's matrix (rm-bench), the "
            "best of four of RewardBench 2 (reward-bench-2), pairs won by domain (judge-bench), or pairs won "
            "and the best of K (ppe).",
            DATA,
        ),
    ] = "pairs"
    output: Annotated[
        str | None,
        Option(
            "JSON file the metrics are written to as well.",
            OUTPUT,
            shown="RUN/evaluation.json",
            path="always",
        ),
    ] = None
    allow_overlap: Annotated[bool, Option("Evaluate although prompts were trained on.", DATA)] = False


Sweep = Literal[
    "directions",
    "methods",
    "variants",
    "labels",
    "noise",
    "layers",
    "saes",
    "transfer",
    "choice",
    "lora",
]
SWEEPS: tuple[str, ...] = get_args(Sweep)
"""Sweeps of `compare`; `choice` fits every setting many times, and `lora` trains the whole model."""
USUAL_SWEEPS: tuple[Sweep, ...] = (
    "directions",
    "methods",
    "variants",
    "labels",
    "noise",
    "layers",
    "saes",
    "transfer",
)
"""Sweeps that `compare` runs by default."""


@dataclass(frozen=True)
class CompareConfig(StageConfig):
    """`compare`: SparseRM beside everything it must beat, cross-validated over prompts."""

    name: Annotated[
        str | None, Option("Name of the run in the tables.", OUTPUT, shown="the directory's name")
    ] = None
    other: Annotated[
        tuple[str, ...],
        Option(
            "Another run to test on, by a name of its own; of runs of the same capture the SAEs are compared "
            "instead. The option may be repeated.",
            DATA,
            metavar="NAME=RUN",
        ),
    ] = ()
    sweep: Annotated[
        tuple[Sweep, ...],
        Option("Sweep to run; the option may be repeated.", LIMITS, metavar="|".join(SWEEPS)),
    ] = USUAL_SWEEPS
    quick: Annotated[
        bool,
        Option("Run only two points of the sweep over directions, the methods and the other runs.", LIMITS),
    ] = False
    layer: Annotated[
        tuple[int, ...] | None,
        Option(
            "Layers that are used; the sweeps layers and choice always use all.",
            metavar="L[,L...]",
            shown="all that are encoded",
        ),
    ] = None
    top_k: Annotated[
        tuple[int, ...],
        Option("Numbers of directions per side that are tried.", metavar="K[,K...]", check=AT_LEAST_1),
    ] = (4, 8, 16, 32, 64, 128, 256, 512)
    by: Annotated[
        str,
        Option("Measure that selects SparseRM's latents, as for select.", complete=lambda: MEASURES),
    ] = SelectConfig.by
    unit: shared.Unit = FrequencyConfig.unit
    pool: shared.Pool = HeadSetting.pool
    head: shared.Head = "linear"
    loss: shared.Loss = "bt"
    folds: Annotated[
        int,
        Option(
            "Number of parts of the prompts, each of which is tested once.",
            check=Check("a whole number of at least 2", lambda value: value >= 2),
        ),
    ] = 5
    train_pairs: Annotated[
        int | None,
        Option(
            "Learn from at most this many pairs per fold, drawn at random.",
            LIMITS,
            check=AT_LEAST_1,
            shown="all",
        ),
    ] = None
    seed: Annotated[int, Option("Seed of the folds and of all randomness in a fit.")] = 0

    def __post_init__(self) -> None:
        """Check the names of the other runs.

        Raises:
            UsageError: one of them has none, or a value is out of range.

        """
        super().__post_init__()
        self.named_runs()

    def named_runs(self) -> Mapping[str, PurePath]:
        """Return name to run directory of the other runs.

        Raises:
            UsageError: one does not read NAME=RUN.

        """
        parts = {text: text.partition("=") for text in self.other}
        for text, (name, _, folder) in parts.items():
            if not name or not folder:
                raise UsageError("--other", "NAME=RUN", repr(text), "correct the option")
        return {name: parse_location(folder) for name, _, folder in parts.values()}


@dataclass(frozen=True)
class DescribeConfig(StageConfig):
    """`describe`: what each selected direction stands for, with names that are tested."""

    model: Annotated[
        str | None,
        Option(
            "Directory in which the language model lies now, for its tokenizer and LM head.",
            MODEL,
            shown="as captured",
            path="perhaps",
        ),
    ] = None
    offline: shared.Offline = False
    describer: Annotated[
        str | None,
        Option(
            "Address of an OpenAI-compatible server whose language model makes the names, such as "
            f"http://127.0.0.1:8000/v1; contexts of the data are sent to it. ${DESCRIBER_KEY} holds its key.",
            MODEL,
            metavar="URL",
            shown="names are made by rule",
        ),
    ] = None
    describer_model: Annotated[
        str | None,
        Option("Name of the language model that the server is asked for.", MODEL, shown="its first"),
    ] = None
    judged: Annotated[
        int,
        Option(
            "Number of held-out contexts with and without firing, each, on which the server tests a name.",
            LIMITS,
            check=AT_LEAST_1,
        ),
    ] = 20
    top: Annotated[
        int, Option("Number of directions shown per layer, the strongest.", OUTPUT, check=AT_LEAST_1)
    ] = 32
    seed: Annotated[int, Option("Seed of the sampled prompts and of their two halves.")] = 0


@dataclass(frozen=True)
class ExplainConfig(ResponsesConfig):
    """`explain`: why one response got its score. It is row and response of `file`, or given as text."""

    file: Annotated[
        str,
        Option(
            "File or data set with rows like {prompt, response}, {prompt, responses: [..]}, {messages}, or "
            "preference pairs.",
            DATA,
            argument=True,
            path="always",
        ),
    ] = ""
    row: Annotated[int, Option("Row of the file, counted from 1.", DATA, check=AT_LEAST_1)] = 1
    response: Annotated[
        int,
        Option("Response of the row, counted from 1; chosen ones come first.", DATA, check=AT_LEAST_1),
    ] = 1
    prompt: Annotated[str | None, Option("Prompt of the response, instead of a file.", DATA)] = None
    response_text: Annotated[str | None, Option("Response to --prompt that is explained.", DATA)] = None
    top: Annotated[
        int, Option("Number of directions shown, those with the largest parts.", OUTPUT, check=AT_LEAST_1)
    ] = 10
    part_groups: shared.PartGroups = shared.PART_GROUPS

    def __post_init__(self) -> None:
        """Check that exactly one response is meant.

        Raises:
            UsageError: none or several are, or a value is out of range.

        """
        super().__post_init__()
        texts = {"--prompt": self.prompt, "--response-text": self.response_text}
        given = ["FILE"] * bool(self.file) + [name for name, text in texts.items() if text is not None]
        if given not in (["FILE"], list(texts)):
            expected, found = "FILE, or --prompt and --response-text", " and ".join(given) or "nothing"
            raise UsageError("explain", expected, found, "name one response")


@dataclass(frozen=True)
class ReportConfig(StageConfig):
    """`report`: one page that shows what a run has found."""

    reward: shared.Reward = None
    evaluation: Annotated[
        PurePath | None,
        Option(
            "Metrics that `sparserm evaluate` wrote.",
            DATA,
            metavar="PATH|URL",
            shown="RUN/evaluation.json, if there",
            path="always",
        ),
    ] = None
    comparison: Annotated[
        PurePath | None,
        Option(
            "Comparison that `sparserm compare` wrote.",
            DATA,
            metavar="PATH|URL",
            shown="RUN/comparison.json, if there",
            path="always",
        ),
    ] = None
    against: Annotated[
        PurePath | None,
        Option(
            "Another run directory that is shown beside this one.",
            DATA,
            metavar="DIRECTORY|URL",
            path="always",
        ),
    ] = None
    output: Annotated[
        PurePath | None,
        Option("File of the page.", OUTPUT, metavar="PATH|URL", shown="RUN/report.html", path="always"),
    ] = None
    model: Annotated[
        str | None,
        Option(
            "Directory in which the language model lies now, for its tokenizer.",
            MODEL,
            shown="as captured",
            path="perhaps",
        ),
    ] = None
    offline: shared.Offline = False
