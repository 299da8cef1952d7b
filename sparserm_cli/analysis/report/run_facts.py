"""What of a run directory there is to be shown: each artifact opened, or the reason why it is not.

An artifact that is absent, incomplete or stale leaves a gap that the page names; a damaged one is an error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, NamedTuple, TypeVar

from sparserm_cli.config import ReportConfig
from sparserm_cli.data.rendering.row_tokenizer import tokenizer_digest
from sparserm_cli.errors import IncompatibleError, TemporaryError, UsageError
from sparserm_cli.models.checkpoints.resolve import load_tokenizer, resolve_model
from sparserm_cli.store.artifacts.descriptions import Descriptions, descriptions_path, read_descriptions
from sparserm_cli.store.artifacts.directions import Directions, read_directions
from sparserm_cli.store.artifacts.frequency import Frequency, read_frequency
from sparserm_cli.store.artifacts.results import COMPARISON, EVALUATION
from sparserm_cli.store.artifacts.reward import CONFIG, RewardFiles, read_reward, reward_folder, reward_path
from sparserm_cli.store.capture.artifact import capture_path
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.features.artifact import features_path
from sparserm_cli.store.features.reader import FeaturesReader
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.provenance import check_parent
from sparserm_cli.store.run.artifacts import ABSENT, COMPLETE, Artifact
from sparserm_cli.store.run.status import status

T = TypeVar("T")


class Missing(NamedTuple):
    """Something that cannot be shown.

    Fields:
        reason: why, and what to run.
    """

    reason: str


@dataclass(frozen=True)
class RunFacts:
    """A run directory, opened as far as it can be."""

    artifacts: tuple[Artifact, ...]
    """The chain of artifacts, in the order of the stages."""
    capture: ActivationsReader | Missing
    """The residual activations and all rows."""
    features: FeaturesReader | Missing
    """The latents, if they are those of the capture."""
    frequency: Frequency | Missing
    """How often each latent fires."""
    directions: Directions | Missing
    """The selected directions."""
    descriptions: Descriptions | None
    """What `describe` says of these directions; None without it."""
    reward: RewardFiles | Missing
    """The reward model."""
    scored: RewardFiles | Missing
    """The reward model, if it was fitted on the capture."""
    evaluation: Any | Missing
    """What `evaluate` measured with this reward model, a JSON object."""
    comparison: Any | Missing
    """What `compare` measured, a JSON object; none was is no gap."""
    tokenizer: Any | Missing
    """The tokenizer of the capture."""

    @property
    def made_of_directions(self) -> RewardFiles | None:
        """The reward model, if it was made of the directions that are there."""
        if isinstance(self.directions, Missing) or isinstance(self.reward, Missing):
            return None
        recorded = self.reward.config.lineage.parents.get(self.directions.lineage.type)
        same = recorded is not None and recorded.digest == self.directions.lineage.digest
        return self.reward if same else None


def open_run(config: ReportConfig) -> RunFacts:
    """Open everything that a report can show.

    Raises:
        IncompatibleError: the run directory holds no artifact at all.
        UsageError: --evaluation or --comparison names no file.
        CorruptStoreError: an artifact is damaged.

    """
    run = config.run
    artifacts = status(run).artifacts
    folder = reward_folder(config.reward or reward_path(run))
    if all(artifact.state == ABSENT for artifact in artifacts) and not storage_of(folder).is_there(CONFIG):
        hint = "run `sparserm extract` first, or name the run directory with --run"
        raise IncompatibleError(str(run), "a run directory", "none of its artifacts", hint)
    for name in ("evaluation", "comparison"):
        path = getattr(config, name)
        if path is not None and storage_of(path).size() < 0:
            command = {"evaluation": "evaluate", "comparison": "compare"}[name]
            raise UsageError(
                f"--{name}", f"a file that `sparserm {command}` wrote", "none", "correct the path"
            )
    capture = _opened(lambda: ActivationsReader(capture_path(run)))
    reward = _opened(lambda: read_reward(folder))
    directions = _opened(lambda: read_directions(run))
    if folder != reward_path(run) and not isinstance(reward, Missing):
        given = Artifact("reward", folder, "", COMPLETE, lineage=reward.config.lineage)
        artifacts = tuple(given if artifact.name == given.name else artifact for artifact in artifacts)
    return RunFacts(
        artifacts=artifacts,
        capture=capture,
        features=_opened(lambda: _features(run, capture)),
        frequency=_opened(lambda: read_frequency(run)),
        directions=directions,
        descriptions=_descriptions(run, directions),
        reward=reward,
        scored=_opened(lambda: _fitted_here(folder, reward, capture)),
        evaluation=_opened(lambda: _evaluation(config, reward)),
        comparison=_opened(lambda: _comparison(config)),
        tokenizer=_opened(lambda: _tokenizer(config, capture)),
    )


def _opened(opener: Callable[[], T | Missing]) -> T | Missing:
    """Return what the opener gives, or why it is not to be had."""
    try:
        return opener()
    except (IncompatibleError, TemporaryError, UsageError) as error:
        return Missing(str(error))


def _features(run: PurePath, capture: ActivationsReader | Missing) -> FeaturesReader | Missing:
    """Open the features, which must be those of the capture."""
    features = FeaturesReader(features_path(run))
    if isinstance(capture, Missing):
        return capture
    features.check_parent(capture.lineage.as_parent())
    return features


def _descriptions(run: PurePath, directions: Directions | Missing) -> Descriptions | None:
    """Read the descriptions if they are of these directions; a stale file is among the stale artifacts."""
    if isinstance(directions, Missing) or storage_of(descriptions_path(run)).size() < 0:
        return None
    descriptions = read_descriptions(run)
    recorded = descriptions.lineage.parents.get(directions.lineage.type)
    same = recorded is not None and recorded.digest == directions.lineage.digest
    return descriptions if same else None


def _fitted_here(
    folder: PurePath, reward: RewardFiles | Missing, capture: ActivationsReader | Missing
) -> RewardFiles | Missing:
    """Return the reward model if the stored pairs are those it was fitted on."""
    if isinstance(reward, Missing):
        return reward
    if isinstance(capture, Missing):
        return capture
    recorded = reward.config.lineage.parents.get(capture.lineage.type)
    if recorded is None:
        return Missing(f"{folder}: it does not say which pairs it was fitted on")
    check_parent(f"{folder} (fitted on {capture.root})", recorded, capture.lineage.as_parent())
    return reward


def _evaluation(config: ReportConfig, reward: RewardFiles | Missing) -> Any | Missing:
    """Read the evaluation, which must be of this reward model."""
    path = config.evaluation or EVALUATION.path(config.run)
    if storage_of(path).size() < 0:
        return Missing("no held-out evaluation: run `sparserm evaluate FILE` first")
    evaluation = EVALUATION.read(path)
    if isinstance(reward, Missing):
        return reward
    if evaluation.get("reward") != reward.config.lineage.digest:
        return Missing(f"{path} is of another reward model: run `sparserm evaluate FILE` again")
    return evaluation


def _comparison(config: ReportConfig) -> Any | Missing:
    """Read the comparison, if there is one."""
    path = config.comparison or COMPARISON.path(config.run)
    return COMPARISON.read(path) if storage_of(path).size() >= 0 else Missing("no comparison")


def _tokenizer(config: ReportConfig, capture: ActivationsReader | Missing) -> Any | Missing:
    """Load the tokenizer that the capture was made with.

    Raises:
        IncompatibleError: the model's tokenizer is another one.

    """
    if isinstance(capture, Missing):
        return capture
    settings = capture.plan.settings
    tokenizer = load_tokenizer(resolve_model(config.model or settings.model, offline=config.offline))
    found = tokenizer_digest(tokenizer)
    if found != settings.tokenizer:
        hint = "give --model with the model of the capture"
        raise IncompatibleError(f"{capture.root}: tokenizer", settings.tokenizer, found, hint)
    return tokenizer
