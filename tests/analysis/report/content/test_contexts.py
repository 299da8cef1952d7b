"""Where latents fire: the right stretches of the right responses, in any units."""

from pathlib import Path

import numpy as np
import pytest
from helpers import planted_run as planted

from sparserm_cli.analysis.report.content import contexts as report_contexts
from sparserm_cli.analysis.report.content.contexts import TOP, Contexts, feature_contexts
from sparserm_cli.store.capture.token_ids import ids_of

WANTED = (planted.GOOD, planted.BAD, 20)


def quiet(_done: int, _total: int) -> None:
    """No progress."""


def contexts(run: Path, **options: int) -> tuple[planted.Planted, list[Contexts]]:
    """Plant a run and find the contexts of three latents."""
    made = planted.plant(run, prompts=40, **options)
    return made, feature_contexts(made.features, 3, WANTED, quiet)


def by_response(made: planted.Planted, feature: int) -> dict[int, np.ndarray]:
    """Return a latent's value on every token of every response, densely."""
    by_number = {}
    for block in made.features.iter_blocks(3):
        rows = np.repeat(np.arange(len(block.csr.indptr) - 1), np.diff(block.csr.indptr))
        values = np.zeros(len(block.csr.indptr) - 1, np.float32)
        mine = block.csr.indices == feature
        values[rows[mine]] = block.csr.data[mine]
        parts = np.split(values, np.cumsum(block.lengths)[:-1])
        by_number |= dict(zip(block.responses, parts, strict=True))
    return by_number


def test_strongest_and_weakest_against_all_values(tmp_path: Path) -> None:
    """One context a response, by its peak; responses on which the latent is silent are none."""
    made, all_contexts = contexts(tmp_path)
    for feature, of_feature in zip(WANTED, all_contexts, strict=True):
        peaks = {number: part.max() for number, part in by_response(made, feature).items() if part.any()}
        order = sorted(peaks, key=lambda number: -peaks[number])
        assert [context.response for context in of_feature.strongest] == order[:TOP]
        assert [context.response for context in of_feature.weakest] == order[::-1][:TOP]
        assert [context.value for context in of_feature.strongest] == [
            peaks[number] for number in order[:TOP]
        ]


def test_a_context_shows_the_values_around_its_peak(tmp_path: Path) -> None:
    """The planted responses are short, so all of one is shown."""
    made, all_contexts = contexts(tmp_path)
    for feature, of_feature in zip(WANTED, all_contexts, strict=True):
        values = by_response(made, feature)
        for context in (*of_feature.strongest, *of_feature.weakest):
            whole = values[context.response]
            assert context.start == 0
            np.testing.assert_array_equal(context.values, whole)
            assert context.peak == int(whole.argmax())


def test_long_responses_are_cut_around_the_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two tokens before and one after."""
    monkeypatch.setattr(report_contexts, "BEFORE", 2)
    monkeypatch.setattr(report_contexts, "AFTER", 1)
    made, all_contexts = contexts(tmp_path)
    for feature, of_feature in zip(WANTED, all_contexts, strict=True):
        for context in of_feature.strongest:
            whole = by_response(made, feature)[context.response]
            low, high = max(0, context.peak - 2), min(len(whole), context.peak + 2)
            assert context.start == low
            np.testing.assert_array_equal(context.values, whole[low:high])


def test_contexts_do_not_depend_on_the_units(tmp_path: Path) -> None:
    """Many small units or one large one."""
    few, whole = contexts(tmp_path / "few", unit_tokens=10_000)
    many, other = contexts(tmp_path / "many", unit_tokens=40)
    assert len(few.features.units) < len(many.features.units)
    assert whole == other


def test_a_dead_latent_has_no_context(tmp_path: Path) -> None:
    """Latent 0 never fires."""
    made = planted.plant(tmp_path, prompts=5)
    assert feature_contexts(made.features, 3, [0], quiet) == [Contexts()]


def test_progress_counts_units(tmp_path: Path) -> None:
    """Every unit once."""
    made = planted.plant(tmp_path, prompts=40, unit_tokens=100)
    seen: list[tuple[int, int]] = []
    feature_contexts(made.features, 3, [1], lambda done, total: seen.append((done, total)))
    units = len(made.features.units)
    assert seen == [(number, units) for number in range(1, units + 1)]


def test_token_ids_of_some_responses(tmp_path: Path) -> None:
    """Across units, each with its prompt; the same as read one by one."""
    capture = planted.plant(tmp_path, prompts=40, unit_tokens=100).capture
    wanted = [3, 0, 70, 71, 3]
    ids_by_response = ids_of(capture, wanted)
    assert sorted(ids_by_response) == [0, 3, 70, 71]
    for number, ids in ids_by_response.items():
        np.testing.assert_array_equal(ids.response, capture.token_ids(number))
        prompt = int(capture.rows.response_prompt[number])
        np.testing.assert_array_equal(ids.prompt, capture.rows.prompt_ids(prompt))
    assert ids_of(capture, []) == {}
