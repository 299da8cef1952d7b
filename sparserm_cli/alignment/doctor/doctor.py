"""`doctor` measures how far a model's vectors and a reward model's scores drift under a perturbation.

Reads: the language model; a reward model and rows if they are given. Writes: nothing.
Memory: the model's lower blocks and one batch of all responses measured.
"""

from typing import TYPE_CHECKING, NamedTuple

from sparserm_cli.alignment.doctor.checks import (
    Check,
    Scale,
    Subject,
    pass_checks,
    template_check,
    token_checks,
    type_checks,
)
from sparserm_cli.alignment.doctor.probes import pooled_probes, probe_rows, probes_of
from sparserm_cli.alignment.doctor.rounding import ROWS, TRIE, Rounding, rounding_table
from sparserm_cli.config import DoctorConfig, Note
from sparserm_cli.data.chat_template import RAW, PromptTemplate
from sparserm_cli.models.checkpoints.config_shape import check_layers, read_shape
from sparserm_cli.models.checkpoints.resolve import load_tokenizer, resolve_model
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.pooling import pooled_vectors
from sparserm_cli.models.reward_model import RewardModel

if TYPE_CHECKING:
    from sparserm_cli.models.lm.devices import DType


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
    # 1. The responses are computed as `sparserm` computes them; this is the reference.
    subject = _subject(config, note)
    tokenizer = load_tokenizer(subject.identity)
    rows = probe_rows(config, subject.template)
    probes = probes_of(rows)
    lm = _load(subject, config, "float32")
    note(f"trying {len(probes)} responses on {lm.identity.name} after blocks {subject.layers}")
    trial = pooled_probes(lm, probes, together=False)
    scale = Scale(subject, trial.pooled, [row for row, example in enumerate(rows) for _ in example.responses])
    # 2. The same responses are computed with one thing changed at a time.
    as_trie = pooled_vectors(lm, rows)
    checks = [
        *pass_checks(scale, lm, probes, as_trie),
        *token_checks(scale, lm, probes, tokenizer),
        template_check(scale, subject, config, lm),
    ]
    coarse = _load(subject, config, "bfloat16")
    checks += type_checks(scale, coarse, probes, trial)
    # 3. Rounding is measured per number type and way of computing.
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
