"""Sources of the activations for SAE training: text that runs through the model, or a run's captured tokens.

Documents (conversations, or pieces of plain text) are split into training and held-out ones as wholes. What
every conversation of a file begins with (BOS, system turn) is computed but not learned from: it holds the
sink tokens, and would otherwise be the same few rows thousands of times.
Axes: rows (tokens), d_in (width of the residual stream).
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt32, UInt64
from torch import Tensor

from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.example import InputFile, RowError
from sparserm_cli.data.reader import Reader
from sparserm_cli.data.shapes.table import recognise
from sparserm_cli.data.sources.open import input_file, open_source
from sparserm_cli.data.splits import group_key, validation_mask
from sparserm_cli.errors import BadInputError
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.residuals import iter_residuals
from sparserm_cli.models.lm.trie import Tree

TREES_AT_ONCE = 256
"""Number of documents given to the model together, so that it can batch those of similar length."""
BLOCK_ROWS = 8192
"""Approximate number of rows of a yielded block."""
EXAMPLES_AT_ONCE = 512
"""Number of rows of a file that are tokenised together."""


@runtime_checkable
class TokenSource(Protocol):
    """Activations that an SAE is trained on and measured with."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Facts for the SAE's metadata: model, revision, hook and data."""

    def blocks(self, *, held_out: bool) -> Iterator[Float[Tensor, "_ d_in"]]:
        """Start one pass over the training part or the held-out part."""


class Document(NamedTuple):
    """One conversation or piece of text.

    Fields:
        group: equal for documents that must stay on one side of the split.
        tree: its tokens; those of the tree's prompt are computed and left out.
    """

    group: int
    tree: Tree


@dataclass(frozen=True)
class TextSource:
    """Documents run through the model whenever a pass is started."""

    lm: LanguageModel
    documents: Sequence[Document]
    held_out: Bool[np.ndarray, " documents"]
    facts: Mapping[str, Any]

    def blocks(self, *, held_out: bool) -> Iterator[Float[Tensor, "_ d_in"]]:
        """Run the documents of one part through the model, in their order."""
        layer = self.lm.layers[0]
        wanted = [
            document.tree
            for document, out in zip(self.documents, self.held_out, strict=True)
            if out == held_out
        ]
        pending: list[Tensor] = []
        for start in range(0, len(wanted), TREES_AT_ONCE):
            for _, _, taken in iter_residuals(self.lm, wanted[start : start + TREES_AT_ONCE]):
                pending.append(taken[layer])
                if sum(map(len, pending)) >= BLOCK_ROWS:
                    yield torch.cat(pending)
                    pending = []
        if pending:
            yield torch.cat(pending)


@dataclass(frozen=True)
class TextReading:
    """Options that turn text into documents, the same for training and test data."""

    lm: LanguageModel
    """The model, loaded up to the layer that the SAE is for."""
    tokenizer: Any
    """Tokenizer of the model."""
    context_size: int
    """Longest sequence in tokens."""
    template: str | None = None
    """Chat template, as `PromptTemplate` takes it."""
    split: str = "train"
    """Split of a Hugging Face data set."""
    offline: bool = False
    """Never call the hub."""


def text_source(
    reading: TextReading,
    names: Sequence[str],
    *,
    held_out_fraction: float,
    seed: int = 0,
    limit: int | None = None,
) -> TextSource:
    """Read documents and tokenise them; their ids are held in memory, 4 bytes per token.

    Args:
        reading: model, tokenizer and how text is cut.
        names: files or data set names: preferences, responses, rows with a `text`, or `.txt` files.
        held_out_fraction: share of the documents held out; 0 holds out none, 1 all.
        seed: seed of the split and of the order of prompts.
        limit: most rows read of each source.

    Raises:
        BadInputError: a source cannot be read or has no rows.

    """
    lm, prompts = (
        reading.lm,
        PromptTemplate(reading.tokenizer, reading.template, model=reading.lm.identity.name),
    )
    documents: list[Document] = []
    inputs: list[InputFile] = []
    for name in names:
        read, of = _documents(reading, prompts, name, limit)
        documents += read
        inputs += of
    # In random order, but those of one prompt together, since the model computes what they share only once.
    groups = np.array([document.group for document in documents], dtype=np.uint64)
    _, numbers = np.unique(groups, return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(documents))
    order = np.argsort(place[numbers], kind="stable")
    documents, groups = [documents[index] for index in order], groups[order]
    facts = {
        "model_name": lm.identity.name,
        "hook_name": lm.hook_names[0],
        "prepend_bos": bool(len(_bos(reading.tokenizer))),
        "model_revision": lm.identity.revision,
        "model_dtype": lm.dtype,
        "template_digest": prompts.digest,
        "documents": len(documents),
        "inputs": [
            {"name": Path(item.path).name, "bytes": item.bytes, "sha256": item.sha256} for item in inputs
        ],
    }
    return TextSource(lm, documents, _held_out(groups, held_out_fraction, seed), facts)


def _documents(
    reading: TextReading, prompts: PromptTemplate, name: str, limit: int | None
) -> tuple[list[Document], list[InputFile]]:
    """Read one source by its kind."""
    tokenizer, size, split, offline = reading.tokenizer, reading.context_size, reading.split, reading.offline
    if Path(name).suffix == ".txt":
        return _text_documents([_read_text(Path(name))], tokenizer, size), [input_file(Path(name))]
    if _has_plain_text(name, split, offline):
        texts, inputs = _text_rows(name, split, limit, offline)
        return _text_documents(texts, tokenizer, size), inputs
    reader = Reader(name, purpose="responses", split=split, limit=limit, on_bad_row="reject", offline=offline)
    return _conversations(reader, prompts, size), list(reader.inputs)


def _held_out(
    groups: UInt64[np.ndarray, " documents"], fraction: float, seed: int
) -> Bool[np.ndarray, " documents"]:
    """Return which documents are held out, whole groups together."""
    if fraction in {0.0, 1.0}:
        return np.full(len(groups), bool(fraction))
    return validation_mask(groups, fraction, seed)


def _conversations(reader: Reader, prompts: PromptTemplate, context_size: int) -> list[Document]:
    """Turn examples into documents: a prompt's first response with the prompt, the others without it."""
    rows: list[tuple[int, UInt32[np.ndarray, " p"], UInt32[np.ndarray, " r"]]] = []
    for examples in _groups_of(reader, EXAMPLES_AT_ONCE):
        for encoded in prompts.tokenize(examples):
            key = group_key(encoded.prompt_text)
            rows += [(key, response.prompt_ids, response.response_ids) for response in encoded.responses]
    shared = _shared_start([prompt for _, prompt, _ in rows])
    documents, seen, texts = [], set(), set()
    for key, prompt, response in rows:
        content = (prompt.tobytes(), response.tobytes())
        if content in texts:
            continue
        texts.add(content)
        ids = np.concatenate([prompt, response])[:context_size]
        start = len(prompt) if prompt.tobytes() in seen else shared
        seen.add(prompt.tobytes())
        if start < len(ids):
            documents.append(Document(key, Tree(ids[:start], (ids[start:],))))
    return documents


def _shared_start(prompts: Sequence[UInt32[np.ndarray, " _"]]) -> int:
    """Return how many tokens all prompts begin with alike; at least 1, since position 0 is a sink."""
    first, shortest = prompts[0], min(map(len, prompts))
    for place in range(1, shortest):
        if any(prompt[place] != first[place] for prompt in prompts):
            return place
    return max(1, shortest)


def _text_documents(texts: Iterable[str], tokenizer: Any, context_size: int) -> list[Document]:
    """Cut texts into pieces of `context_size` tokens, a BOS first where the tokenizer has one."""
    documents, head = [], _bos(tokenizer)
    for text in texts:
        ids = np.array(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.uint32)
        for start in range(0, len(ids), context_size - len(head)):
            piece = np.concatenate([head, ids[start : start + context_size - len(head)]])
            if len(piece) > 1:
                documents.append(Document(group_key(piece.tobytes().hex()), Tree(piece[:1], (piece[1:],))))
    return documents


def _bos(tokenizer: Any) -> UInt32[np.ndarray, " head"]:
    """Return the BOS in an array, or an empty one if the tokenizer puts none before a text."""
    begin = [token for token in tokenizer("a")["input_ids"][:1] if token == tokenizer.bos_token_id]
    return np.array(begin, dtype=np.uint32)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(
            str(path), "a text file in UTF-8", type(error).__name__, "give another file"
        ) from None


def _has_plain_text(name: str, split: str, offline: bool) -> bool:
    """Whether the rows are of no known shape but have a `text`."""
    for row in itertools.islice(open_source(name, split=split, offline=offline).rows(), 1):
        if row.error is None and isinstance(row.value, dict) and isinstance(row.value.get("text"), str):
            try:
                recognise(row.value)
            except RowError:
                return True
    return False


def _text_rows(name: str, split: str, limit: int | None, offline: bool) -> tuple[list[str], list[InputFile]]:
    """Return the `text` of every row; rows without one are left out."""
    source = open_source(name, split=split, offline=offline)
    values = (row.value for row in itertools.islice(source.rows(), limit) if row.error is None)
    texts = [
        value["text"] for value in values if isinstance(value, dict) and isinstance(value.get("text"), str)
    ]
    return texts, list(source.inputs())


def _groups_of(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while group := list(itertools.islice(iterator, size)):
        yield group
