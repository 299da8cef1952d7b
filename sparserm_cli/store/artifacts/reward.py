"""reward/: a fitted reward model, self-contained and portable.

| file | |
|---|---|
| model.safetensors | MUST; the head, see below |
| controls.safetensors | MUST; what it is compared with: heads of the same form, `NAME/` before each tensor |
| config.json | MUST; the lineage, every field of `RewardConfig`, size and digest of the other files; sealed |
| README.md | SHOULD; a card for people |

A reward model with a head per group lists them as `groups` in config.json; the weights of the first group lie
among the controls, with `groups/0/` before each tensor, and so on.

A head scores `x = (projections - mean) / std`, the projections being, layer by layer, for each pooling, the
products of the pooled vector with the directions; without directions the pooled vector itself. The distance
of a response from those of the fit is the root mean square of `x @ whitening`.

| tensor | shape | |
|---|---|---|
| directions.14 | [directions, d_in] | one per layer; MAY be missing |
| mean, std | [projections] | of the training responses, MUST |
| whitening | [projections, projections] | MUST since format 2; the identity in format 1 |
| weight, bias | [projections], [1] | linear: `x @ weight + bias` |
| weight_1, bias_1, weight_2, bias | [projections, hidden], [hidden], [hidden], [1] | a layer of ReLUs |
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from sparserm_cli.errors import CorruptStoreError, IncompatibleError, UsageError
from sparserm_cli.store.artifacts.head_arrays import (
    HeadArrays,
    head_of_tensors,
    tensors_digest,
    tensors_of_head,
    tensors_under,
)
from sparserm_cli.store.artifacts.reward_card import card
from sparserm_cli.store.artifacts.reward_checks import check_fields, check_head
from sparserm_cli.store.io.atomic import atomic_folder
from sparserm_cli.store.io.file_facts import files_to_json, inventory
from sparserm_cli.store.io.sealed_json import read_sealed, write_sealed
from sparserm_cli.store.io.storage import storage_of
from sparserm_cli.store.provenance import Lineage, check_version, now

FOLDER = "reward"
TYPE, VERSION = "reward", 2
COMMAND = "sparserm fit"

CONFIG = "config.json"
_GROUPS = "groups"
_MODEL, _CONTROLS, _CARD = "model.safetensors", "controls.safetensors", "README.md"


@dataclass(frozen=True)
class Metric:
    """Accuracy of one scorer on one set of pairs."""

    scorer: str
    """`reward` for the head, else the name of a control."""
    split: str
    """`validation`, by the scorer before it was fitted on these pairs too; or `train`, all pairs."""
    accuracy: float
    """Share of pairs whose chosen response scores strictly higher."""
    low: float
    """Lower end of the 95 % interval over prompts."""
    high: float
    """Upper end of the same interval."""
    pairs: int
    """Number of pairs."""
    ties: int = 0
    """Pairs with equal scores, which count as wrong."""


@dataclass(frozen=True)
class RewardConfig:
    """Everything recorded about a reward model besides its tensors."""

    lineage: Lineage
    """The lineage; its digest covers all tensors, and `write_reward` fills it in."""
    model: str
    """Name of the language model."""
    model_revision: str
    """Commit of the language model, or the digest of its files."""
    tokenizer: str
    """Digest of the tokenizer."""
    template_digest: str
    """Digest of the chat template."""
    layers: tuple[int, ...]
    """Blocks, counted from 0, after which the residual stream is taken."""
    hook_names: tuple[str, ...]
    """Names of the same points in sae-lens."""
    d_in: int
    """Width of the residual stream."""
    dtype: str
    """Floating-point type in which the language model computed."""
    pool: str
    """Pooling over the response: mean, last or both."""
    head: str
    """Kind of head: linear or mlp."""
    loss: str
    """Training loss: margin, bt or bce."""
    plain: bool = False
    """Whether the hidden layer was trained from random weights, without the linear head to start from."""
    template: str | None = None
    """None for the model's own template, `raw` for none, else where it came from."""
    template_text: str | None = None
    """The Jinja text of a template that is neither."""
    max_length: int = 0
    """Longest prompt plus response, in tokens; 0 for what the model takes."""
    seed: int = 0
    """Seed of the split and of the training."""
    val_fraction: float = 0.0
    """Share of prompts that chose the regularisation."""
    selection: Mapping[str, Any] = field(default_factory=dict)
    """How the directions were chosen, and the mapping from layer to their latents and sides."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Digests of the data, numbers of pairs, what the fit has chosen."""
    metrics: Sequence[Metric] = ()
    """Accuracies on the training and the validation pairs, of the head and of every control."""
    score_mean: float = 0.0
    """Mean score of the responses of all pairs."""
    score_std: float = 1.0
    """Their standard deviation: (score - mean) / std is comparable between reward models."""
    distance: Mapping[str, float] = field(default_factory=dict)
    """Quantiles over training responses of their distance, each by a whitening made without its prompt."""
    probe: Mapping[str, Any] = field(default_factory=dict)
    """Token ids of a `prompt` and a `response` and their `score` at the fit; empty in format 1."""
    length_preference: int = 0
    """1 if the longer response of a training pair tends to be the chosen one, -1 if the shorter one."""
    derivation: Sequence[Mapping[str, Any]] = ()
    """The changes since the fit, in order: the command, the digest of what it changed, and its settings."""

    def to_json(self) -> dict[str, Any]:
        """Return all but the lineage as a JSON object."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "lineage"}
        metrics = [vars(metric) for metric in self.metrics]
        return {**values, "metrics": metrics, "derivation": [dict(step) for step in self.derivation]}


@dataclass(frozen=True)
class RewardFiles:
    """A reward model as it lies on disk."""

    config: RewardConfig
    """The recorded configuration."""
    head: HeadArrays
    """The head."""
    controls: Mapping[str, HeadArrays]
    """Mapping from name to the head of a control."""
    whitening: Float32[np.ndarray, "projections projections"] | None = None
    """Makes the standardised projections of training responses uncorrelated; None in format 1."""
    groups: Mapping[str, Mapping[str, Float32[np.ndarray, "..."]]] = field(default_factory=dict)
    """Mapping from a group of pairs to the tensors of its head, which shares all else with `head`."""

    def of_group(self, name: str | None) -> "RewardFiles":
        """Return the reward model with the head of one group in the place of the head of all pairs.

        Args:
            name: of the group; None leaves everything as it is.

        Raises:
            UsageError: there is no such group.

        """
        if name is None:
            return self
        if name not in self.groups:
            near = get_close_matches(name, self.groups, n=3, cutoff=0.0)
            expected = "a group of the reward model" if near else "no group, since the reward model has none"
            hint = f"near ones are {', '.join(near)}" if near else "leave it out, or fit with --by"
            raise UsageError("--group", expected, repr(name), hint)
        facts = self.config.training["groups"]["heads"][name]
        probe = {**self.config.probe, "score": facts["probe"]} if self.config.probe else {}
        spread = {key: facts[key] for key in ("score_mean", "score_std")}
        config = replace(self.config, probe=probe, metrics=(), **spread)
        return replace(self, config=config, head=replace(self.head, weights=self.groups[name]), groups={})


def reward_path(run: PurePath) -> PurePath:
    """Return where the reward model of a run directory lies."""
    return run / FOLDER


def reward_folder(path: PurePath) -> PurePath:
    """Return the folder of the reward model that a path means: a run directory's `reward/`, else itself."""
    inside = reward_path(path)
    return inside if storage_of(path / CONFIG).size() < 0 <= storage_of(inside / CONFIG).size() else path


def write_reward(path: PurePath, files: RewardFiles) -> RewardFiles:
    """Write a reward model whole or not at all, and return it with its digest.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.

    """
    model = tensors_of_head(files.head)
    if files.whitening is not None:
        model["whitening"] = np.ascontiguousarray(files.whitening, np.float32)
    controls = {
        f"{name}/{key}": values
        for name, head in files.controls.items()
        for key, values in tensors_of_head(head).items()
    }
    controls |= {
        f"{_GROUPS}/{number}/{key}": np.ascontiguousarray(values, np.float32)
        for number, weights in enumerate(files.groups.values())
        for key, values in weights.items()
    }
    lineage = replace(files.config.lineage, digest=tensors_digest(model, controls), created=now())
    config = replace(files.config, lineage=lineage)
    size = sum(tensor.nbytes for tensor in [*model.values(), *controls.values()])
    with atomic_folder(path, size, sealed_by=CONFIG) as part:
        save_file(model, part / _MODEL)
        save_file(controls, part / _CONTROLS)
        names = {"controls": list(files.controls), **({"groups": list(files.groups)} if files.groups else {})}
        record = {**config.lineage.to_json(), **names, "reward": config.to_json()}
        storage_of(part / _CARD).write_atomic(card(record["reward"]).encode())
        write_sealed(part / CONFIG, {**record, "files": files_to_json(inventory(part))})
    return replace(files, config=config)


def read_reward(path: PurePath) -> RewardFiles:
    """Read and check a reward model.

    Raises:
        IncompatibleError: there is none, it is of another type, or newer than this program.
        CorruptStoreError: a file is missing, cut or changed.

    """
    if not storage_of(path).is_there(CONFIG):
        raise IncompatibleError(str(path), "a fitted reward model", "no folder", f"run `{COMMAND}` first")
    if storage_of(path / CONFIG).size() < 0 and storage_of(path / _MODEL).size() < 0:
        hint = f"name its folder, or run `{COMMAND}` first"
        raise IncompatibleError(str(path), "a fitted reward model", "a folder that holds none", hint)
    again = f"run `{COMMAND}` again"
    head = read_sealed(path / CONFIG, again)
    check_version(str(path), TYPE, head, VERSION)
    lineage = Lineage.from_json(str(path / CONFIG), head)
    model, controls = _load(path / _MODEL, again), _load(path / _CONTROLS, again)
    digest = tensors_digest(model, controls)
    if digest != lineage.digest:
        raise CorruptStoreError(str(path), f"xxh3-128 {lineage.digest}", f"xxh3-128 {digest}", again)
    try:
        config = _config(lineage, head["reward"])
        heads = {name: head_of_tensors(tensors_under(controls, name)) for name in head["controls"]}
        groups = {
            name: tensors_under(controls, f"{_GROUPS}/{number}")
            for number, name in enumerate(head.get("groups", ()))
        }
        files = RewardFiles(config, head_of_tensors(model), heads, _whitening(model), groups)
        own = {name: replace(files.head, weights=weights) for name, weights in groups.items()}
        for name, arrays in {"": files.head, **heads, **own}.items():
            check_head(arrays, config, name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        expected = f"a reward model of format {head['version']}"
        raise CorruptStoreError(str(path), expected, repr(error), again) from None
    return files


def _load(path: PurePath, hint: str) -> dict[str, np.ndarray]:
    """Read a safetensors file."""
    try:
        return dict(load(storage_of(path).read_cached()))
    except (OSError, SafetensorError) as error:
        raise CorruptStoreError(str(path), "a safetensors file", type(error).__name__, hint) from None


def _whitening(tensors: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the whitening, if there is one.

    Raises:
        ValueError: it is not a square of the projections.

    """
    whitening = tensors.get("whitening")
    if whitening is not None and not np.isfinite(whitening).all():
        raise ValueError("a whitening that is not finite")
    if whitening is not None and whitening.shape != (len(tensors["mean"]),) * 2:
        raise ValueError(f"a whitening of shape {whitening.shape} for {len(tensors['mean'])} projections")
    return whitening


def _config(lineage: Lineage, value: Mapping[str, Any]) -> RewardConfig:
    """Read what `to_json` gave.

    Raises:
        ValueError: a field is of another kind or out of range.

    """
    values = {item.name: _default(item) for item in fields(RewardConfig) if item.name != "lineage"}
    values |= {name: item for name, item in value.items() if name in values}
    check_fields(values)
    lists = {name: tuple(values[name]) for name in ("layers", "hook_names")}
    lists |= {"metrics": tuple(Metric(**metric) for metric in values["metrics"])}
    return RewardConfig(**{**values, **lists, "derivation": tuple(values["derivation"]), "lineage": lineage})


def _default(item: Field[Any]) -> Any:
    """Return what a field holds that an older format has not; None for one that each must have."""
    if item.name in {"metrics", "derivation"}:
        return []
    if item.default_factory is not MISSING:
        return item.default_factory()
    return None if item.default is MISSING else item.default
