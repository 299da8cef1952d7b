"""A SparseRM reward model for transformers: the lower blocks of a language model, directions and a head.

This file goes into every export beside the weights, so it stands by itself: transformers 4.51 and newer, and
torch. It takes whole conversations in the model's chat template, scores the last assistant turn, and gives
the score of `sparserm score` whatever the padding side and however many tokens are masked. Where the response
begins is found by what the template writes before it, or told by a `response_mask`, without which a model
that knows no chat template scores nothing.
"""

from typing import Any

import torch
from tokenizers import Tokenizer, processors
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class SparseRMConfig(PretrainedConfig):
    """The configuration of a reward model.

    Args:
        backbone: configuration of the truncated language model, with its `model_type`.
        layers: blocks, from 0, after which the residual stream is taken.
        poolings: the poolings of each layer in order, each `mean` or `last`.
        directions: number of directions per layer.
        hidden: width of the head's hidden layer; 0 for a linear head.
        header: token ids that the chat template writes before a response; empty if a mask is needed.
        header_fixed: number of header tokens that are always there; later ones may merge with the response.
        lead: token ids that it writes between the header and a finished response, such as empty thoughts,
            which are no part of the conversation that is scored.
        lead_fixed: number of lead tokens that are always there; later ones may merge with the response.
        unclear: token ids at or after the end of the lead that may belong to the lead or to a response.
        endings: lists of token ids that may end a response, the longest list first.
        leading_bos: whether a conversation must begin with the BOS token.
        runs_alone: whether the longest conversation of a batch changes the others, so that each is computed
            by itself.
        buffers: names of the backbone's constant tensors that lie in the weights file of this export,
            although transformers would compute them: it leaves some of them unset in a model with own code.

    """

    model_type = "sparserm"

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        layers: tuple[int, ...] = (),
        poolings: tuple[str, ...] = ("mean",),
        directions: int = 0,
        hidden: int = 0,
        header: tuple[int, ...] = (),
        header_fixed: int = 0,
        lead: tuple[int, ...] = (),
        lead_fixed: int = 0,
        unclear: tuple[int, ...] = (),
        endings: tuple[tuple[int, ...], ...] = (),
        leading_bos: bool = False,
        runs_alone: bool = False,
        buffers: tuple[str, ...] = (),
        **others: Any,
    ) -> None:
        self.backbone, self.layers, self.poolings = backbone or {}, list(layers), list(poolings)
        self.directions, self.hidden = directions, hidden
        self.header, self.header_fixed = list(header), header_fixed
        self.lead, self.lead_fixed, self.unclear = list(lead), lead_fixed, list(unclear)
        self.endings = [list(ending) for ending in endings]
        self.leading_bos, self.runs_alone = leading_bos, runs_alone
        self.buffers = list(buffers)
        super().__init__(**{"num_labels": 1, **others})


class SparseRMForSequenceClassification(PreTrainedModel):
    """Scores the last assistant turn of conversations; `logits` has one column, and higher is better."""

    config_class = SparseRMConfig
    base_model_prefix = "backbone"
    _no_split_modules: list[str] = []  # noqa: RUF012  # transformers reads a plain list
    # The head has only a few hundred numbers, so a smaller type than float32 would gain nothing.
    _keep_in_fp32_modules = _keep_in_fp32_modules_strict = ("directions", "mean", "std", "reward_head")

    def __init__(self, config: SparseRMConfig) -> None:
        super().__init__(config)
        backbone = AutoConfig.for_model(**config.backbone)
        capped = getattr(backbone, "attn_logit_softcapping", None)  # which only the eager attention applies
        self.backbone = AutoModel.from_config(
            backbone, **({"attn_implementation": "eager"} if capped else {})
        )
        for name in config.buffers:
            owner, _, buffer = name.rpartition(".")
            self.backbone.get_submodule(owner).register_buffer(buffer, self.backbone.get_buffer(name))
        count = config.directions * len(config.layers) * len(config.poolings)
        self.directions = nn.ModuleList(
            nn.Linear(backbone.hidden_size, config.directions, bias=False) for _ in config.layers
        )
        self.mean = nn.Parameter(torch.zeros(count))
        self.std = nn.Parameter(torch.ones(count))
        self.reward_head = (
            nn.Sequential(nn.Linear(count, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 1))
            if config.hidden
            else nn.Linear(count, 1)
        )
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        response_mask: Tensor | None = None,
        return_dict: bool | None = None,
        **_others: Any,
    ) -> SequenceClassifierOutput | tuple[Tensor]:
        """Score conversations.

        Args:
            input_ids: token ids (rows, tokens), padded on either side.
            attention_mask: 1 for tokens, 0 for padding and for all other tokens to ignore.
            response_mask: 1 for the tokens of the response, which must be adjacent; later tokens are left
                out. Without it responses begin after the header. `encode` gives it.
            return_dict: whether to return a ModelOutput instead of a tuple.

        Returns:
            `logits` (rows, 1) in float32; NaN for an empty response, which has no score.

        Raises:
            ValueError: the begin of a response is unknown, or several rows come without a mask.

        """
        if attention_mask is None:
            if len(input_ids) > 1:
                raise ValueError(
                    "several conversations need an attention_mask: padding cannot be told from text"
                )
            attention_mask = torch.ones_like(input_ids)
        kept = attention_mask.bool()
        conversations = [ids[mask].tolist() for ids, mask in zip(input_ids, kept, strict=True)]
        if response_mask is None:
            rows = [self.split(ids) for ids in conversations]
        else:
            marks = [marked[mask].tolist() for marked, mask in zip(response_mask, kept, strict=True)]
            rows = [self.cut(ids, marked) for ids, marked in zip(conversations, marks, strict=True)]
        answered = [place for place, (_, response) in enumerate(rows) if response]
        logits = torch.full((len(rows), 1), torch.nan, device=self.mean.device)
        if answered:
            features = self.features([rows[place] for place in answered])
            logits[answered] = self.reward_head((features - self.mean) / self.std).float()
        return SequenceClassifierOutput(logits=logits) if return_dict is not False else (logits,)

    def split(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """Return a conversation's token ids up to the last response, and those of that response.

        A token that covers characters of both the header's end and the response belongs to the response, as
        in `sparserm`; the end of the turn belongs to neither.

        Raises:
            ValueError: there is no header, or the response's first token may also belong to the template.

        """
        header, fixed = self.config.header, self.config.header_fixed
        if not header:
            raise ValueError("no response_mask: expected one, since the model knows no chat template")
        ids = self._with_one_bos(ids)
        place = len(ids) - fixed
        while place >= 0 and ids[place : place + fixed] != header[:fixed]:
            place -= 1
        if place < 0:
            expected = f"the tokens {header} of the chat template before it"
            raise ValueError(f"no response: expected {expected}, found none; give whole conversations")
        start = place + fixed
        for token in header[fixed:]:
            if ids[start : start + 1] != [token]:
                break
            start += 1
        prompt, response = ids[:start], self._without_lead(ids[start:])
        endings = (len(ending) for ending in self.config.endings if response[-len(ending) :] == ending)
        return prompt, response[: len(response) - next(endings, 0)]

    def cut(self, ids: list[int], marked: list[int]) -> tuple[list[int], list[int]]:
        """Return the token ids before the marked ones, and the marked token ids.

        Raises:
            ValueError: the marked tokens are not adjacent.

        """
        places = [place for place, mark in enumerate(marked) if mark]
        start, stop = (places[0], places[-1] + 1) if places else (len(ids), len(ids))
        if len(places) != stop - start:
            raise ValueError("expected a response_mask of tokens one after the other, found a gap")
        return self._with_one_bos(ids[:start]), ids[start:stop]

    @staticmethod
    def encode(tokenizer: Any, prompts: list[str], responses: list[str]) -> dict[str, Tensor]:
        """Tokenise prompts with their responses as `sparserm score` does, for a call of the model.

        Args:
            tokenizer: the tokenizer of this folder.
            prompts: texts up to where the responses begin, rendered if there is a chat template.
            responses: one response per prompt.

        Returns:
            `input_ids`, `attention_mask` and `response_mask`, each (rows, tokens), padded on the right.

        """
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.post_processor = processors.ByteLevel(
            trim_offsets=False
        )  # offsets then cover the text without gaps
        backend.no_truncation()
        backend.enable_padding()
        texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        encodings = backend.encode_batch(texts, add_special_tokens=False)
        ends = torch.tensor([[end for _, end in encoding.offsets] for encoding in encodings])
        # A token that also covers the prompt's end belongs to the response; padding has the offset 0.
        begun = ends > torch.tensor([[len(prompt)] for prompt in prompts])
        return {
            "input_ids": torch.tensor([encoding.ids for encoding in encodings]),
            "attention_mask": torch.tensor([encoding.attention_mask for encoding in encodings]),
            "response_mask": begun.long(),
        }

    def features(self, rows: list[tuple[list[int], list[int]]]) -> Tensor:
        """Return the projections (rows, layers x poolings x directions) of prompts with responses."""
        if self.config.runs_alone and len(rows) > 1:
            return torch.cat([self.features([row]) for row in rows])
        lengths = [len(prompt) + len(response) for prompt, response in rows]
        ids = torch.zeros(len(rows), max(lengths), dtype=torch.long, device=self.mean.device)
        mask = torch.zeros_like(ids)
        for row, (prompt, response) in enumerate(rows):
            ids[row, : lengths[row]] = torch.tensor(prompt + response)
            mask[row, : lengths[row]] = 1
        residuals = self._residuals(ids, mask)
        parts = []
        for directions, taken in zip(self.directions, residuals, strict=True):
            spans = [taken[row, len(prompt) : lengths[row]].float() for row, (prompt, _) in enumerate(rows)]
            for pooling in self.config.poolings:
                pooled = [span[-1] if pooling == "last" else span.mean(dim=0) for span in spans]
                parts.append(directions(torch.stack(pooled)))
        return torch.cat(parts, dim=1)

    def _residuals(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Return the residual stream (rows, tokens, d_in) after each layer, before any final norm."""
        count = self.backbone.config.num_hidden_layers
        blocks = next(
            part for part in self.backbone.modules() if isinstance(part, nn.ModuleList) and len(part) == count
        )
        taken: dict[int, Tensor] = {}

        def keep(layer: int, output: Any) -> None:
            taken[layer] = output[0] if isinstance(output, tuple) else output

        handles = [
            blocks[layer].register_forward_hook(lambda _module, _inputs, output, at=layer: keep(at, output))
            for layer in self.config.layers
        ]
        try:
            self.backbone(input_ids=ids, attention_mask=mask, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return [taken[layer] for layer in self.config.layers]

    def _without_lead(self, ids: list[int]) -> list[int]:
        """Return the tokens after the header without those that only the template has written.

        Raises:
            ValueError: a token may belong to either.

        """
        lead, fixed = self.config.lead, self.config.lead_fixed
        if not lead or ids[:fixed] != lead[:fixed]:
            return ids
        whole = ids[: len(lead)] == lead
        after = ids[len(lead) if whole else fixed :]
        if after and after[0] in self.config.unclear:
            raise ValueError(
                f"expected a response apart from the tokens {lead} that the chat template writes before it, "
                f"found the token {after[0]}, which may be of both; give a response_mask"
            )
        return after if whole else ids

    def _with_one_bos(self, ids: list[int]) -> list[int]:
        """Return ids that begin with exactly one BOS if the model uses it, whatever a tokenizer added."""
        bos = self.config.bos_token_id
        while ids[:2] == [bos, bos]:
            ids = ids[1:]
        return [bos, *ids] if self.config.leading_bos and ids[:1] != [bos] else ids
