"""Preference pairs in the formats of trainers, and the audit that records the outcome of every row.

| format | file | a pair |
|---|---|---|
| trl | .jsonl | `prompt`, `chosen`, `rejected`: lists of messages, text where no template is used; `score_chosen`, `score_rejected` |
| openrlhf | .jsonl | the same, and `margin`; use `prompt_key`, `chosen_key`, `rejected_key` and `apply_chat_template` |
| verl | .parquet | `prompt`: messages, `chosen`, `rejected`: text, and the fields that its RL data need: `data_source`, `ability`, `reward_model`, and `extra_info` with the prompt, which its reward functions do not get otherwise |

Each pair has the `id` of its row, if that has one, and `row`, the number of the row in the input. Beside the pairs is NAME.audit.jsonl:

| field | | |
|---|---|---|
| row | MUST | number in the input, from 1; every row that was read has one line |
| id | MUST where the row has one | |
| kept | MUST | whether the row has given a pair |
| chosen, rejected | MUST where two were compared | numbers of the responses, from 0 |
| margin | MUST where two were compared | score of the chosen response minus that of the rejected one |
| reason, detail | MUST where nothing was kept | one of `REASONS`, and the values behind it |
"""  # noqa: E501  # a table's row is one line

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

from sparserm_cli.store.io.atomic import atomic_file
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.outputs.json_lines import Writer, writing_lines

Format = Literal["trl", "openrlhf", "verl"]
Messages = Sequence[Mapping[str, str]]

REASONS: dict[str, str] = {
    "bad row": "cannot be read, or is too long",
    "one response": "fewer than two different responses",
    "ood": "no two responses like the training data",
    "length": "no two responses of matching length",
    "order": "the reward model prefers the rejected response",
    "tie": "all scores are equal",
    "margin": "scores too close",
}
"""Reasons why a row gives no pair, in the order in which they are checked."""

_ROW_GROUP = 1024


class Pair(NamedTuple):
    """A preference pair.

    Fields:
        row: number of the row in the input, from 1.
        id: the row's own id, if it has one.
        prompt: messages, or text where no template is used.
        chosen: the better response.
        rejected: the worse response.
        scores: rewards of the two responses.
    """

    row: int
    id: str | None
    prompt: Messages | str
    chosen: str
    rejected: str
    scores: tuple[float, float]


def pairs_path(run: PurePath, to: Format) -> PurePath:
    """Return the path of the pairs of a run directory."""
    return run / ("pairs.parquet" if to == "verl" else "pairs.jsonl")


def audit_path(pairs: PurePath) -> PurePath:
    """Return the path of the audit of a file of pairs."""
    return pairs.with_name(f"{pairs.stem}.audit.jsonl")


@contextmanager
def writing_pairs(path: PurePath, to: Format) -> Iterator[Callable[[Pair], object]]:
    """Yield a function that writes one pair; the file appears when it is whole.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.

    """
    if to != "verl":
        with writing_lines(path) as write:
            yield lambda pair: write(_jsonl(pair, margin=to == "openrlhf"))
        return
    storage_of(path.parent).make_folder()
    with atomic_file(path) as part, _parquet_writer(part) as write:
        yield lambda pair: write(_verl(pair))


def audit_line(
    row: int,
    name: str | None = None,
    *,
    chosen: int = -1,
    rejected: int = -1,
    margin: float = 0.0,
    reason: str = "",
    detail: str = "",
) -> dict[str, Any]:
    """Return the line of one row in the audit.

    Args:
        row: number of the row in the input, from 1.
        name: the row's own id, if it has one.
        chosen: number of the better response, from 0; -1 if no two were compared.
        rejected: number of the worse response.
        margin: score of the better response minus that of the worse one.
        reason: the reason why there is no pair, one of `REASONS`; empty if there is one.
        detail: the values behind the reason.

    """
    line: dict[str, Any] = {"row": row, **({} if name is None else {"id": name}), "kept": not reason}
    if chosen >= 0:
        line |= {"chosen": chosen, "rejected": rejected, "margin": margin}
    return line | ({"reason": reason, "detail": detail} if reason else {})


def _jsonl(pair: Pair, *, margin: bool) -> dict[str, Any]:
    """Return a pair as TRL and OpenRLHF read it."""
    sides: dict[str, Any] = {"chosen": pair.chosen, "rejected": pair.rejected}
    if not isinstance(pair.prompt, str):
        sides = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
    line = {"prompt": pair.prompt, **sides, **_scores(pair)}
    return line | ({"margin": pair.scores[0] - pair.scores[1]} if margin else {})


def _verl(pair: Pair) -> dict[str, Any]:
    """Return a pair as verl reads it."""
    prompt = [{"role": "user", "content": pair.prompt}] if isinstance(pair.prompt, str) else pair.prompt
    return {
        "data_source": "sparserm",
        "ability": "alignment",
        "prompt": prompt,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "reward_model": {"style": "model", "ground_truth": pair.chosen},
        "extra_info": {"index": pair.row, "prompt": prompt, **_scores(pair)},
    }


def _scores(pair: Pair) -> dict[str, Any]:
    """Return the origin of a pair and its rewards."""
    name = {} if pair.id is None else {"id": pair.id}
    return {"row": pair.row, **name, "score_chosen": pair.scores[0], "score_rejected": pair.scores[1]}


@contextmanager
def _parquet_writer(part: Path) -> Iterator[Writer]:
    import pyarrow as pa
    from pyarrow import parquet

    text, number = pa.string(), pa.float64()
    messages = pa.list_(pa.struct({"role": text, "content": text}))
    origin = {"row": pa.int64(), "id": text, "score_chosen": number, "score_rejected": number}
    columns = dict.fromkeys(("data_source", "ability", "chosen", "rejected"), text) | {
        "prompt": messages,
        "reward_model": pa.struct({"style": text, "ground_truth": text}),
        "extra_info": pa.struct({"index": pa.int64(), "prompt": messages, **origin}),
    }
    schema, rows = pa.schema(columns), []

    def write(row: Mapping[str, Any]) -> None:
        rows.append(row)
        if len(rows) == _ROW_GROUP:
            flush()

    def flush() -> None:
        file.write_table(pa.Table.from_pylist(rows, schema))
        rows.clear()

    with parquet.ParquetWriter(part, schema) as file:
        yield write
        flush()
