"""`export --to control-vector` writes the steering vector of a reward model for llama.cpp.

Reads: `reward/`, the language model. Writes: one `.gguf` file, by rename when whole.
Memory: the model's lower blocks.
"""

from pathlib import Path, PurePath
from typing import NamedTuple

from sparserm_cli.alignment.steering.vector import check_steers, steering_vector
from sparserm_cli.config import ExportConfig
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.store.artifacts.reward import read_reward, reward_folder, reward_path
from sparserm_cli.store.exchange.control_vector import (
    ControlVector,
    read_control_vector,
    write_control_vector,
)

STRENGTH = 0.1
"""Length of the vector in multiples of the mean norm of the residual stream, where none is given."""

_LLAMA_CPP = {"mistral": "llama", "gpt_neox": "gptneox", "phi": "phi2"}
"""Architectures that llama.cpp calls otherwise than transformers."""


class ControlVectorSummary(NamedTuple):
    """The exported vector.

    Fields:
        path: the file.
        bytes: its size.
        model: the language model that it steers.
        strength: length of each vector in multiples of the mean norm at its layer.
        layers: blocks, from 0, after which a vector is added.
        norms: mean norm of the residual stream at each layer.
        gains: what each vector adds to a score by way of its layer alone, in standard deviations of the
            training responses' scores.
    """

    path: Path
    bytes: int
    model: str
    strength: float
    layers: tuple[int, ...]
    norms: tuple[float, ...]
    gains: tuple[float, ...]


def export_control_vector(config: ExportConfig) -> ControlVectorSummary:
    """Write the steering vector of a reward model as a control vector of llama.cpp.

    Raises:
        UsageError: the file exists and is not an earlier export that --force may replace.
        IncompatibleError: the head is not linear, block 0 is among its layers, or the model is not its own.
        CorruptStoreError: the reward model is damaged.
        ResourceError: the disk is full.

    """
    strength = STRENGTH if config.strength is None else config.strength
    source = reward_folder(config.reward or reward_path(config.run))
    _check_target(config.target, force=config.force)
    _check_reward(source)
    model = RewardModel.load(source, model=config.model, device="cpu", offline=config.offline)
    steering = steering_vector(model)
    layers = tuple(steering.directions)
    facts: dict[str, str | float] = {
        "model": model.config.model,
        "model_revision": model.config.model_revision,
        "reward": model.config.lineage.digest,
        "strength": strength,
        **{f"norm.{layer}": norm for layer, norm in steering.norms.items()},
    }
    kind = model.lm.model_type.removesuffix("_text")
    control = ControlVector(steering.scaled(strength), _LLAMA_CPP.get(kind, kind), facts)
    write_control_vector(config.target, control)
    return ControlVectorSummary(
        config.target,
        config.target.stat().st_size,
        model.config.model,
        strength,
        layers,
        tuple(steering.norms[layer] for layer in layers),
        tuple(strength * steering.gains[layer] for layer in layers),
    )


def _check_reward(source: PurePath) -> None:
    """Refuse a reward model that makes no control vector, before its language model is loaded."""
    files = read_reward(source)
    check_steers(source, files.head)
    if 0 in files.config.layers:
        expected = "layers from 1 on, since llama.cpp adds nothing after block 0"
        hint = "capture another layer, or steer with the hook for transformers"
        raise IncompatibleError(f"{source}: layers", expected, "0", hint)


def _check_target(target: Path, *, force: bool) -> None:
    """Refuse to replace anything but an earlier export."""
    if target.suffix.lower() != ".gguf":
        raise UsageError(
            str(target), "a name that ends with .gguf", target.suffix or "no ending", "name a file"
        )
    if not target.exists():
        return
    try:
        read_control_vector(target)
    except IncompatibleError:
        raise UsageError(str(target), "a new file", "something else", "name another one") from None
    if not force:
        raise UsageError(str(target), "a new file", "an earlier export", "use --force")
