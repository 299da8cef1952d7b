"""The perturbations that `doctor` tries, and the drift that each of them causes.

Axes: n (responses measured), w (sum of the widths of all layers).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from sparserm_cli.alignment.doctor.probes import Probe, Trial, edited, pooled_probes, probe_rows
from sparserm_cli.alignment.doctor.rounding import TRIE
from sparserm_cli.config import DoctorConfig
from sparserm_cli.data.chat_template import RAW, PromptTemplate
from sparserm_cli.models.checkpoints.resolve import ModelIdentity, load_tokenizer
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.pooling import Pooled, pooled_vectors

NEGLIGIBLE = 1e-3
"""Drifts up to this value count as rounding."""

FLOAT16_MOST = 65504.0


class Check(NamedTuple):
    """The effect of one perturbation of the computation.

    Fields:
        name: the perturbation.
        drift: largest distance of a response's mean vector from its reference, in units of the spread
            of the reference vectors (their root mean square distance from their centre). Two responses differ
            by about 1. None if the perturbation cannot happen with this model.
        mean: mean of these distances over the responses.
        score_drift: largest change of a score, in standard deviations of the training responses' scores;
            None without a reward model.
        flips: number of pairs of responses to one prompt whose order changes; None without a reward model.
        advice: the setting that avoids the drift.
    """

    name: str
    drift: float | None
    mean: float | None
    score_drift: float | None
    flips: int | None
    advice: str


class Subject(NamedTuple):
    """The model that is examined at some layers, with a reward head and the spread of its scores if given."""

    identity: ModelIdentity
    layers: tuple[int, ...]
    template: PromptTemplate
    head: RewardHead | None = None
    score_std: float = 1.0


class Scale:
    """Measures how far vectors are from the reference vectors.

    Args:
        subject: the model that is examined.
        right: the reference vectors.
        prompts: the number of the prompt of each response.

    """

    def __init__(self, subject: Subject, right: Pooled, prompts: Sequence[int]) -> None:
        self._subject, self._prompts = subject, np.array(prompts)
        self._right, self._scores = _mean_vectors(right), self._scored(right)
        centred = self._right - self._right.mean(axis=0)
        self._spread = float(np.sqrt(np.square(centred).sum(axis=1).mean()))

    def check(self, name: str, pooled: Pooled, fine: str, else_set: str) -> Check:
        """Measure the effect of one perturbation.

        Args:
            name: the perturbation.
            pooled: the vectors under the perturbation.
            fine: the advice if the vectors are the same.
            else_set: the advice if they differ.

        """
        distances = np.linalg.norm(_mean_vectors(pooled) - self._right, axis=1) / self._spread
        distances = np.nan_to_num(distances, nan=np.inf)
        advice = fine if distances.max() <= NEGLIGIBLE else else_set
        score_drift, flips = self._score_drift(pooled)
        return Check(name, float(distances.max()), float(distances.mean()), score_drift, flips, advice)

    def _score_drift(self, pooled: Pooled) -> tuple[float | None, int | None]:
        scores = self._scored(pooled)
        if scores is None or self._scores is None:
            return None, None
        drift = float(np.abs(scores - self._scores).max()) / self._subject.score_std
        before, after = (np.sign(np.subtract.outer(values, values)) for values in (self._scores, scores))
        same = np.equal.outer(self._prompts, self._prompts)
        return drift, int((same & (before * after < 0)).sum()) // 2

    def _scored(self, pooled: Pooled) -> Float64[np.ndarray, " n"] | None:
        head = self._subject.head
        return None if head is None else head(pooled).astype(np.float64)


def template_check(scale: Scale, subject: Subject, config: DoctorConfig, lm: LanguageModel) -> Check:
    """Measure conversations without the chat template."""
    name = "without the chat template"
    if subject.template.text is None:
        return Check(name, None, None, None, None, "the model has no chat template: give --template raw")
    raw = PromptTemplate(load_tokenizer(subject.identity), RAW, model=subject.identity.name)
    return scale.check(
        name,
        pooled_vectors(lm, probe_rows(config, raw)),
        "the template makes no difference",
        "render every prompt with the template of the fit",
    )


def pass_checks(scale: Scale, lm: LanguageModel, probes: Sequence[Probe], as_trie: Pooled) -> list[Check]:
    """Measure other ways to run the same tokens; `as_trie` holds the vectors of prompts computed once."""
    return [
        scale.check(
            "in one padded batch",
            pooled_probes(lm, probes).pooled,
            "any batch size will do",
            "keep --deterministic, or batches of one",
        ),
        scale.check(
            TRIE,
            as_trie,
            "leave it on",
            "report this model; it should not happen",
        ),
        scale.check(
            "padded on the left, positions not told",
            pooled_probes(lm, probes, left=True).pooled,
            "either side will do",
            "pad on the right, or give position_ids that begin at the first token",
        ),
    ]


def token_checks(scale: Scale, lm: LanguageModel, probes: Sequence[Probe], tokenizer: Any) -> list[Check]:
    """Measure the usual mistakes with padding and BOS tokens."""
    pad, eos, bos = tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id
    name = "mask made from ids that are not the padding's"
    if pad is not None and pad != eos:
        padding = Check(name, None, None, None, None, f"fine: {tokenizer.pad_token} stands nowhere else")
    else:
        pooled = pooled_probes(lm, probes, mask_out=eos).pooled
        advice = "pad is the end of a turn: make masks from lengths, or choose another pad token"
        padding = scale.check(name, pooled, "fine for these conversations", advice)
    if bos is None:
        return [padding, Check("two BOS, or none", None, None, None, None, "the model has no BOS")]
    begins = [len(probe.ids) > 0 and int(probe.ids[0]) == bos for probe in probes]
    doubled = [edited(probe, [bos]) for probe in probes]
    checks = [
        padding,
        scale.check(
            "two BOS",
            pooled_probes(lm, doubled).pooled,
            "it makes no difference",
            "tokenise templated text with add_special_tokens=False",
        ),
    ]
    if all(begins):
        bare = [edited(probe, [], skip=1) for probe in probes]
        pooled = pooled_probes(lm, bare).pooled
        checks.append(
            scale.check("no BOS", pooled, "it makes no difference", "let every text begin with one BOS")
        )
    return checks


def type_checks(scale: Scale, coarse: LanguageModel, probes: Sequence[Probe], trial: Trial) -> list[Check]:
    """Measure bfloat16, and check whether float16 could hold the residual stream."""
    pooled = pooled_probes(coarse, probes).pooled
    advice = "fit and score in one type: --dtype, or the one that auto chose for extract"
    share = trial.absmax / FLOAT16_MOST
    holds = f"the largest residual is {100 * share:.0f} % of what float16 holds"
    verdict = "use bfloat16 or float32" if share > 0.5 else "still use bfloat16: other texts have larger ones"
    return [
        scale.check("in bfloat16", pooled, "either type will do", advice),
        Check("in float16", None, None, None, None, f"{holds}: {verdict}"),
    ]


def _mean_vectors(pooled: Pooled) -> Float64[np.ndarray, "n w"]:
    """Return the mean vectors of all layers side by side."""
    return np.concatenate([layer_vectors["mean"] for layer_vectors in pooled.values()], axis=1).astype(
        np.float64
    )
