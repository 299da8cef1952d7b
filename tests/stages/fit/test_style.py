"""`fit --invariant-to`: no direction and no control sees what differs between twins."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import fitted_run as shared

from sparserm_cli.config import ExtractConfig, FitConfig
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.stages.extract.extract import extract
from sparserm_cli.stages.fit import style as styles
from sparserm_cli.stages.fit.fit import FitSummary, fit
from sparserm_cli.stages.fit.style_size import style_basis
from sparserm_cli.store.artifacts.reward import read_reward, reward_path
from sparserm_cli.store.capture.artifact import open_capture

LAYER = 1
TWINS = [
    {"prompt": f"Other {number}?", "chosen": f"{word}, please!", "rejected": word}
    for number, word in enumerate(["one", "two", "three", "four", "five", "six", "seven", "eight"] * 2)
]


def fitted(run: Path, notes: list[str] | None = None, **options: object) -> FitSummary:
    """Run the stage and keep its notes."""
    kept = [] if notes is None else notes
    config = FitConfig(run=run, val_fraction=0.2, head="linear", loss="bt", **options)
    return fit(config, progress=lambda _done, _total: None, note=kept.append)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """Give a folder with a fitted run, and with captured twins of the same and of another layer."""
    folder = tmp_path_factory.mktemp("style")
    shared.fit_tiny(folder, tiny_model("llama"))
    data = shared.write_rows(folder / "twins.jsonl", TWINS)
    for name, layer in (("twins", LAYER), ("elsewhere", 0)):
        options = {
            "model": str(folder / "tiny"),
            "layer": (layer,),
            "dtype": "float32",
            "positions": "pooled",
        }
        extract(ExtractConfig(data=data, run=folder / name, **options), **shared.QUIET)
    return folder


def basis(place: Path, size: int) -> np.ndarray:
    """Return the directions of style by hand."""
    twins = open_capture(place / "twins")
    vectors, pairs = twins.pooled(LAYER, "mean"), twins.pairs()
    return style_basis(vectors[pairs.chosen] - vectors[pairs.rejected], size)


def test_nothing_fitted_sees_style(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vector that moves within the subspace keeps its score, by the reward and by every control."""
    monkeypatch.setattr(styles, "best_size", lambda _tried: 4)
    notes: list[str] = []
    summary = fitted(place / "run", notes, invariant_to=str(place / "twins"))
    facts = summary.config.training["style"]
    assert (facts["twins"], facts["directions"]) == (len(TWINS), 4)
    assert facts["digest"] == open_capture(place / "twins").lineage.digest
    assert [trial["directions"] for trial in facts["tried"]] == [0, 1, 2, 4, 8]
    assert any(
        note.startswith("4 directions of style per layer are taken out, by 16 twins: ") for note in notes
    )
    files, moved = read_reward(reward_path(place / "run")), basis(place, 4)
    vectors = open_capture(place / "run").pooled(LAYER, "mean")
    for arrays in (files.head, *files.controls.values()):
        head = RewardHead(arrays, (LAYER,), "mean")
        shifted = vectors + 10 * np.random.default_rng(0).standard_normal((len(vectors), 4)) @ moved
        expected = head({LAYER: {"mean": vectors}})
        np.testing.assert_allclose(
            head({LAYER: {"mean": shifted.astype(np.float32)}}), expected, atol=2e-3 * np.abs(expected).max()
        )


def test_a_reward_with_style_is_another_one(place: Path) -> None:
    """The option is part of what the reward model was made from."""
    assert not fitted(place / "run").fresh
    assert "style" not in read_reward(reward_path(place / "run")).config.training
    assert not fitted(place / "run", invariant_to=str(place / "twins")).fresh
    assert fitted(place / "run", invariant_to=str(place / "twins")).fresh


def test_twins_that_do_not_fit_are_refused(place: Path) -> None:
    """A file is no capture, and the layers must be there."""
    file = str(place / "twins.jsonl")
    with pytest.raises(UsageError) as caught:
        fitted(place / "run", invariant_to=file)
    assert str(caught.value) == (
        f"--invariant-to: expected the run directory of captured twins, found the file {file}; "
        "capture it with --positions pooled into a run directory of its own, and give that"
    )
    with pytest.raises(IncompatibleError) as incompatible:
        fitted(place / "run", invariant_to=str(place / "elsewhere"))
    assert str(incompatible.value).endswith(
        "layers: expected 1, found 0; capture the twins with the options of the preference pairs"
    )
