"""`doctor` measures how far a model's vectors and a reward model's scores drift under a perturbation.

Reads: the language model; a reward model and rows if they are given. Writes: nothing.
Memory: the model's lower blocks and one batch of all responses measured.
Axes: n (responses measured), w (sum of the widths of all layers).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from sparserm_cli.alignment.doctor.probes import Probe, Trial, edited, pooled_probes, probe_rows, probes_of
from sparserm_cli.alignment.doctor.rounding import ROWS, TRIE, Rounding, rounding_table
from sparserm_cli.config import DoctorConfig, Note
from sparserm_cli.data.chat_template import RAW, PromptTemplate
from sparserm_cli.models.checkpoints.config_shape import check_layers, read_shape
from sparserm_cli.models.checkpoints.resolve import ModelIdentity, load_tokenizer, resolve_model
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.pooling import Pooled, pooled_vectors
from sparserm_cli.models.reward_model import RewardModel

if TYPE_CHECKING:
    from sparserm_cli.models.lm.devices import DType

NEGLIGIBLE = 1e-3
"""Drifts up to this value count as rounding."""

FLOAT16_MOST = 65504.0


class Check(NamedTuple):
    """The effect of one perturbation of the computation.

    Fields:
        name: the perturbation.
        drift: largest distance of a response's mean vector from its reference, in units of the reference
            vectors'
            spread (root mean square distance from their centre); 1 is as much as responses differ. None
            if the perturbation cannot happen with this model.
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


class Diagnosis(NamedTuple):
    """The results of `doctor`.

    Fields:
        model: name of the language model.
        revision: exact revision of the language model.
        layers: blocks, from 0, after which the residual stream was taken.
        responses: number of responses measured.
        bos: the token with which texts begin; empty if there is none.
        eos: the token that ends a response; empty if there is none.
        pad: the padding token; empty if there is none.
        absmax: largest absolute residual of all tokens measured.
        tree: whether a prompt is computed once for all its responses, and the reason.
        checks: the effect of each perturbation.
        rounding: the rounding error per number type and way of computing.
    """

    model: str
    revision: str
    layers: tuple[int, ...]
    responses: int
    bos: str
    eos: str
    pad: str
    absmax: float
    tree: str
    checks: tuple[Check, ...]
    rounding: tuple[Rounding, ...]


class Subject(NamedTuple):
    """The model that is examined at some layers, with a reward head and the spread of its scores if given."""

    identity: ModelIdentity
    layers: tuple[int, ...]
    template: PromptTemplate
    head: RewardHead | None = None
    score_std: float = 1.0


def doctor(config: DoctorConfig, *, note: Note) -> Diagnosis:
    """Measure what changes when a model is run as trainers and scripts often run it.

    The reference is what `sparserm` does: each response alone, no padding, one BOS, float32.

    Args:
        config: the options.
        note: called with messages for the user.

    Raises:
        UsageError: the model or the layer does not exist.
        BadInputError: the rows cannot be read.
        IncompatibleError: the reward model was fitted on another language model.
        ResourceError: the device is not available.

    """
    subject = _subject(config, note)
    tokenizer = load_tokenizer(subject.identity)
    rows = probe_rows(config, subject.template)
    probes = probes_of(rows)
    lm = _load(subject, config, "float32")
    note(f"trying {len(probes)} responses on {lm.identity.name} after blocks {subject.layers}")
    trial = pooled_probes(lm, probes, together=False)
    scale = _Scale(
        subject, trial.pooled, [row for row, example in enumerate(rows) for _ in example.responses]
    )
    as_trie = pooled_vectors(lm, rows)
    checks = [
        *_pass_checks(scale, lm, probes, as_trie),
        *_token_checks(scale, lm, probes, tokenizer),
        _template_check(scale, subject, config, lm),
    ]
    coarse = _load(subject, config, "bfloat16")
    checks += _type_checks(scale, coarse, probes, trial)
    vectors = {
        (lm.dtype, TRIE): as_trie,
        (coarse.dtype, ROWS): pooled_probes(coarse, probes, together=False).pooled,
        (coarse.dtype, TRIE): pooled_vectors(coarse, rows),
    }
    return Diagnosis(
        lm.identity.name,
        lm.identity.revision,
        lm.layers,
        len(probes),
        str(tokenizer.bos_token or ""),
        str(tokenizer.eos_token or ""),
        str(tokenizer.pad_token or ""),
        trial.absmax,
        coarse.tree_reason,
        tuple(checks),
        rounding_table(trial.pooled, vectors),
    )


class _Scale:
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


def _subject(config: DoctorConfig, note: Note) -> Subject:
    """Load the model, and the reward model if one is named."""
    if config.reward is not None:
        model = RewardModel.load(
            config.reward, model=config.model, device=config.device, offline=config.offline, check=False
        )
        return Subject(model.lm.identity, model.lm.layers, model.template, model.head, model.config.score_std)
    identity = resolve_model(config.model, offline=config.offline, note=note)
    layers = config.layer or ((read_shape(identity).blocks - 1) // 2,)
    check_layers(identity, layers)
    tokenizer = load_tokenizer(identity)
    template = config.template or (None if tokenizer.chat_template else RAW)
    return Subject(identity, layers, PromptTemplate(tokenizer, template, model=config.model))


def _load(subject: Subject, config: DoctorConfig, dtype: "DType") -> LanguageModel:
    return LanguageModel.load(subject.identity, layers=subject.layers, dtype=dtype, device=config.device)


def _template_check(scale: _Scale, subject: Subject, config: DoctorConfig, lm: LanguageModel) -> Check:
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


def _pass_checks(scale: _Scale, lm: LanguageModel, probes: Sequence[Probe], as_trie: Pooled) -> list[Check]:
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


def _token_checks(scale: _Scale, lm: LanguageModel, probes: Sequence[Probe], tokenizer: Any) -> list[Check]:
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


def _type_checks(scale: _Scale, coarse: LanguageModel, probes: Sequence[Probe], trial: Trial) -> list[Check]:
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
