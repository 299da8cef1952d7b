"""Whether the rows of a file fit the rules of a benchmark, found out before anything is scored.

Reads: the rows. Writes: nothing. Memory: one row, and the ids of RewardBench 2's ties subset.
"""

from sparserm_cli.analysis.evaluate.benchmarks import (
    JUDGE_BENCH_DOMAINS,
    TIES_SUBSET,
    judge_bench_domain,
    rm_bench_domain,
)
from sparserm_cli.config import EvaluateConfig, Note
from sparserm_cli.data.example import CHOSEN, REJECTED, Example
from sparserm_cli.data.reader import Reader
from sparserm_cli.errors import BadInputError
from sparserm_cli.stages.score.responses import responses_reader

PPE_SHAPES = ("ppe-human-preference", "ppe-best-of-k")
"""The shapes of the rows of PPE."""


def check_rows(config: EvaluateConfig, note: Note) -> None:
    """Read the rows once, and refuse those that the rules of the benchmark cannot count.

    Args:
        config: the options.
        note: called with each file that gives its rows their domain by its name.

    Raises:
        BadInputError: the file cannot be read, no row prefers a response, a row of RM-Bench has not three
            responses on each side or no domain, a row of JudgeBench has no source, the rows are not those of
            PPE, or a row of the ties subset lacks its partner.

    """
    reader = responses_reader(config, purpose="pairs")
    named: dict[str, str] = {}
    ties: list[Example] = []
    preferring = 0
    for example in reader:
        preferring += bool(example.pairs)
        if config.benchmark == "pairs" and preferring:
            return
        if config.benchmark == "rm-bench":
            row = rm_bench_row(example, reader)
            if rm_bench_domain(example.subset) is None:
                named[reader.file_of(example.row)] = str(row.subset)
        elif config.benchmark == "judge-bench":
            judge_bench_row(example, reader)
        elif (
            config.benchmark == "reward-bench-2" and (example.subset or "").lower() == TIES_SUBSET
        ):  # of RewardBench 2
            ties.append(example._replace(prompt="", responses=(), extra={}))
    if not preferring:
        raise no_preference(config.file)
    if config.benchmark == "ppe" and reader.shape not in PPE_SHAPES:
        hint = "use --benchmark pairs"
        raise BadInputError(config.file, f"rows of PPE ({' or '.join(PPE_SHAPES)})", reader.shape, hint)
    check_partners(ties)
    for file, domain in named.items():
        note(f"{file}: rows without a domain of RM-Bench count for {domain}, as the file is called")


def no_preference(file: str) -> BadInputError:
    """Return the error for a file without a row that prefers a response."""
    hint = "see what the file becomes with `sparserm data`"
    return BadInputError(file, "rows that prefer a response", "none that does", hint)


def rm_bench_row(example: Example, reader: Reader | None = None) -> Example:
    """Return a row whose subset is the domain of RM-Bench that it counts for.

    Args:
        example: the row.
        reader: reader of the row, whose file's name says the domain where the row does not.

    Raises:
        BadInputError: the row has not three responses on each side, or no domain.

    """
    file = reader.file_of(example.row) if reader else ""
    domain = rm_bench_domain(example.subset) or rm_bench_domain(file)
    if domain is None or [example.sides.count(side) for side in (CHOSEN, REJECTED)] != [3, 3]:
        what = f"{len(example.sides)} answers, domain {example.subset!r}"
        expected = "three chosen and three rejected answers and a domain of RM-Bench"
        raise BadInputError(f"{file} row {example.row}".strip(), expected, what, "use --benchmark pairs")
    return example._replace(subset=domain)


def judge_bench_row(example: Example, reader: Reader | None = None) -> Example:
    """Return a row whose subset is the domain of JudgeBench that it counts for.

    Args:
        example: the row.
        reader: reader of the row, which names its file.

    Raises:
        BadInputError: the row has no source of JudgeBench.

    """
    domain = judge_bench_domain(example.subset)
    if domain is None:
        where = f"{reader.file_of(example.row) if reader else ''} row {example.row}".strip()
        expected = f"a source of JudgeBench, which begins with {', '.join(JUDGE_BENCH_DOMAINS)}"
        raise BadInputError(where, expected, repr(example.subset), "use --benchmark pairs")
    return example._replace(subset=domain)


def check_partners(examples: list[Example]) -> None:
    """Check that each `tied:N` of the ties subset has its `ref:N`, and the other way round.

    Raises:
        BadInputError: a row has no such id, or its partner is missing.

    """
    names = {example.id for example in examples}
    for example in examples:
        kind, _, number = (example.id or "").partition(":")
        partner = {"tied": f"ref:{number}", "ref": f"tied:{number}"}.get(kind)
        if partner is None or partner not in names:
            found = f"no row {partner}" if partner else f"the id {example.id}"
            expected = f"a partner of {example.id}" if partner else "an id like tied:0 or ref:0"
            hint = "evaluate the whole benchmark, or use --benchmark pairs"
            raise BadInputError(f"row {example.row}, subset Ties", expected, found, hint)
