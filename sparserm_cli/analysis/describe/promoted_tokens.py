"""The tokens that a direction promotes and suppresses, by the model's final norm and unembedding.

A direction is put through the final norm and multiplied with each row of the LM head (the "logit lens",
nostalgebraist 2020; of SAE decoder rows: Bloom and Lin 2024). Logits are given less their mean over the
vocabulary, since softmax knows differences only.

Reads: the final norm and the LM head (or the embedding, where they are tied) of the model's safetensors
files, the latter in slices. Memory: `ROWS` rows of it, and the best tokens so far.

Axes: directions, d_in (width of the residual stream), rows (tokens of a slice), top (tokens that are kept).
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.checkpoints.config_shape import read_config
from sparserm_cli.models.checkpoints.library_noise import silence_transformers
from sparserm_cli.models.checkpoints.resolve import ModelIdentity
from sparserm_cli.models.checkpoints.safetensors_header import read_header
from sparserm_cli.models.lm.backbone import truncate
from sparserm_cli.models.token_text import printable

TOP = 10
"""Number of tokens at either end that are kept."""
ROWS = 4096
"""Rows of the LM head that are read at a time."""
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output)\.weight$")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|embed_in|word_embeddings|tok_embeddings)\.weight$")


class TokenLogit(NamedTuple):
    """One token at an end of a direction.

    Fields:
        text: text of the token, with control characters as pictures.
        id: id of the token.
        logit: logit that the direction gives it, less the mean over the vocabulary.
    """

    text: str
    id: int
    logit: float


class Ends(NamedTuple):
    """The tokens at both ends of a direction.

    Fields:
        promoted: the highest logits, the highest first.
        suppressed: the lowest logits, the lowest first.
    """

    promoted: tuple[TokenLogit, ...]
    suppressed: tuple[TokenLogit, ...]


class Unembedding:
    """The final norm and the LM head of a model, of which no more than a slice is in memory.

    Args:
        identity: the model.

    Raises:
        IncompatibleError: the files hold no LM head, embedding or final norm under a name that is known.
        CorruptStoreError: a file of weights is broken.

    """

    def __init__(self, identity: ModelIdentity) -> None:
        self._files = {
            name: path for path in sorted(identity.folder.glob("*.safetensors")) for name in read_header(path)
        }
        self._where = identity.name
        config = read_config(identity).get_text_config(decoder=True)
        tied = bool(getattr(config, "tie_word_embeddings", False))
        heads = [name for name in self._files if _HEAD.search(name)]
        self._head = heads[0] if heads and not tied else self._one(_EMBEDDING, "an embedding", heads)
        self._norm = self._final_norm(config, identity)

    def ends(self, rows: Float32[np.ndarray, "directions d_in"], tokenizer: Any) -> list[Ends]:
        """Return the tokens that some directions promote and suppress.

        Args:
            rows: directions in the residual stream.
            tokenizer: tokenizer of the model; ids beyond its vocabulary and special tokens are left out.

        """
        with torch.inference_mode():
            directions = self._norm(torch.from_numpy(np.ascontiguousarray(rows)))
        best = [_Best(len(rows)) for _ in range(2)]
        total, count = torch.zeros(len(rows), dtype=torch.float64), 0
        added = tokenizer.added_tokens_decoder
        special = {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}
        known = len(tokenizer)
        for start, matrix in self._slices():
            ids = torch.tensor(
                [number for number in range(start, min(start + len(matrix), known)) if number not in special],
                dtype=torch.int64,
            )
            if not len(ids):
                continue
            logits = directions @ matrix[ids - start].T
            total += logits.double().sum(dim=1)
            count += len(ids)
            best[0].add(logits, ids)
            best[1].add(-logits, ids)
        mean = (total / max(count, 1)).float()[:, None]
        high, low = best[0].values - mean, -best[1].values - mean
        return [
            Ends(
                _tokens(tokenizer, best[0].ids[number], high[number]),
                _tokens(tokenizer, best[1].ids[number], low[number]),
            )
            for number in range(len(rows))
        ]

    def _slices(self) -> Iterator[tuple[int, Float[Tensor, "rows d_in"]]]:
        """Yield the first token and the rows of each slice of the LM head."""
        from safetensors import safe_open

        with safe_open(str(self._files[self._head]), framework="pt") as file:
            tensor = file.get_slice(self._head)
            height = tensor.get_shape()[0]
            for start in range(0, height, ROWS):
                yield start, tensor[start : min(start + ROWS, height)].float()

    def _final_norm(self, config: Any, identity: ModelIdentity) -> nn.Module:
        """Return the module between the last block and the LM head, with its weights."""
        with silence_transformers(), torch.device("meta"):
            from transformers import AutoModel

            truncate(config, 1)
            decoder: Any = AutoModel.from_config(config, trust_remote_code=identity.remote_code)
        norms = [
            (name, part)
            for name, part in decoder.named_children()
            if "norm" in type(part).__name__.lower() and getattr(part, "weight", None) is not None
        ]
        if not norms:
            found = ", ".join(name for name, _ in decoder.named_children())
            raise self._unknown("a final norm", found)
        name, norm = norms[-1]
        norm = norm.to_empty(device="cpu")
        for key, parameter in norm.named_parameters():
            stored = self._one(re.compile(rf"^(?:\w+\.)*{re.escape(name)}\.{key}$"), f"{name}.{key}", [])
            parameter.data = self._tensor(stored).float()
        return norm.eval().requires_grad_(requires_grad=False)

    def _tensor(self, name: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(str(self._files[name]), framework="pt") as file:
            return file.get_tensor(name)

    def _one(self, pattern: re.Pattern[str], what: str, others: list[str]) -> str:
        """Return the tensor with the shortest name that fits; blocks have longer ones."""
        names = sorted((name for name in self._files if pattern.search(name)), key=len) or others
        if not names:
            raise self._unknown(what, f"{len(self._files):,} other tensors")
        return names[0]

    def _unknown(self, what: str, found: str) -> IncompatibleError:
        hint = "give --model with safetensors of that model"
        return IncompatibleError(self._where, f"{what} among its weights", found, hint)


class _Best:
    """The largest values of each direction so far."""

    def __init__(self, directions: int) -> None:
        self.values = torch.full((directions, 0), -torch.inf)
        self.ids = torch.zeros((directions, 0), dtype=torch.int64)

    def add(self, values: Float[Tensor, "directions rows"], ids: Tensor) -> None:
        """Take in the values of some tokens."""
        joined = torch.cat([self.values, values], dim=1)
        numbers = torch.cat([self.ids, ids.expand(len(values), -1)], dim=1)
        top = joined.topk(min(TOP, joined.shape[1]), dim=1)
        self.values, self.ids = top.values, numbers.gather(1, top.indices)


def _tokens(tokenizer: Any, ids: Tensor, logits: Tensor) -> tuple[TokenLogit, ...]:
    """Return tokens with their texts."""
    return tuple(
        TokenLogit(printable(str(tokenizer.decode([number]))), number, logit)
        for number, logit in zip(ids.tolist(), logits.tolist(), strict=True)
    )
