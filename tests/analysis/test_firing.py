"""Where latents fire: the right stretches of the right responses, in any units."""

from pathlib import Path

import numpy as np
import pytest
from helpers import planted_run as planted

from sparserm_cli.analysis import firing
from sparserm_cli.analysis.contexts import Firing, bin_edges, over_quantiles
from sparserm_cli.analysis.firing import STRONGEST, firing_of
from sparserm_cli.data.splits import validation_mask

WANTED = (planted.GOOD, planted.BAD, 20)


def quiet(_done: int, _total: int) -> None:
    """No progress."""


def found_in(run: Path, **options: int) -> tuple[planted.Planted, list[Firing]]:
    """Plant a run and find where three latents fire."""
    made = planted.plant(run, prompts=40, **options)
    return made, firing_of(made.features, made.capture, 3, WANTED, quiet, others=True)


def by_response(made: planted.Planted, feature: int) -> dict[int, np.ndarray]:
    """Return a latent's value on every token of every response, densely."""
    parts_by_number = {}
    for block in made.features.iter_blocks(3):
        rows = np.repeat(np.arange(len(block.csr.indptr) - 1), np.diff(block.csr.indptr))
        values = np.zeros(len(block.csr.indptr) - 1, np.float32)
        mine = block.csr.indices == feature
        values[rows[mine]] = block.csr.data[mine]
        parts = np.split(values, np.cumsum(block.lengths)[:-1])
        parts_by_number |= dict(zip(block.responses, parts, strict=True))
    return parts_by_number


def test_strongest_and_histogram_against_all_values(tmp_path: Path) -> None:
    """One context per response, by its peak; every firing token is counted once."""
    made, all_latents = found_in(tmp_path)
    for feature, latent in zip(WANTED, all_latents, strict=True):
        values = by_response(made, feature)
        peaks = {number: part.max() for number, part in values.items() if part.any()}
        order = sorted(peaks, key=lambda number: -peaks[number])
        assert latent.responses == len(peaks)
        assert [context.response for context in latent.strongest] == order[:STRONGEST]
        assert [context.value for context in latent.strongest] == [
            peaks[number] for number in order[:STRONGEST]
        ]
        everything = np.concatenate(list(values.values()))
        expected, _ = np.histogram(everything[everything > 0], bin_edges())
        np.testing.assert_array_equal(latent.histogram, expected)


def test_a_context_shows_values_and_token_ids_around_its_peak(tmp_path: Path) -> None:
    """Most of the planted responses are so short that all of one is shown."""
    made, all_latents = found_in(tmp_path)
    for feature, latent in zip(WANTED, all_latents, strict=True):
        values = by_response(made, feature)
        for context in (*latent.strongest, *latent.firing.naming, *latent.firing.scoring):
            whole, end = values[context.response], context.peak + firing.AFTER + 1
            assert (context.start, context.last) == (0, end >= len(whole))
            np.testing.assert_array_equal(np.float32(context.values), whole[:end])
            assert context.peak == int(whole.argmax())
            np.testing.assert_array_equal(context.ids, made.capture.token_ids(context.response)[:end])


def test_long_responses_are_cut_around_the_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one token before and none after; other contexts hold no firing, though the response may."""
    monkeypatch.setattr(firing, "BEFORE", 1)
    monkeypatch.setattr(firing, "AFTER", 0)
    made, all_latents = found_in(tmp_path)
    mixed = 0
    for feature, latent in zip(WANTED, all_latents, strict=True):
        values = by_response(made, feature)
        for context in (*latent.firing.naming, *latent.others.naming):
            whole = values[context.response]
            low, high = max(0, context.peak - 1), context.peak + 1
            assert (context.start, context.last) == (low, high == len(whole))
            np.testing.assert_array_equal(np.float32(context.values), whole[low:high])
            np.testing.assert_array_equal(context.ids, made.capture.token_ids(context.response)[low:high])
        for context in (*latent.others.naming, *latent.others.scoring):
            assert not any(context.values)
            assert context.value == 0
            mixed += values[context.response].any()
    assert mixed


def test_halves_share_no_prompt_and_have_one_context_of_each(tmp_path: Path) -> None:
    """Forty prompts with two responses each."""
    made, all_latents = found_in(tmp_path)
    prompts, groups = made.capture.rows.response_prompt, made.capture.response_group()
    for latent in all_latents:
        for sample in (latent.firing, latent.others):
            for half, scoring in ((sample.naming, False), (sample.scoring, True)):
                numbers = [context.response for context in half]
                assert len({int(prompts[number]) for number in numbers}) == len(numbers)
                np.testing.assert_array_equal(validation_mask(groups[numbers], 0.5, 0), scoring)
    assert all_latents[0].firing.naming
    assert all_latents[0].firing.scoring


def test_nothing_depends_on_the_units_or_on_the_other_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many small units or one large one, with fewer contexts kept than there are."""
    monkeypatch.setattr(firing, "KEPT", 6)
    few, whole = found_in(tmp_path / "few", unit_tokens=10_000)
    many, other = found_in(tmp_path / "many", unit_tokens=40)
    assert len(few.features.units) < len(many.features.units)
    (alone,) = firing_of(few.features, few.capture, 3, WANTED[1:2], quiet, others=True)
    assert len(whole[0].firing.naming) == 6
    for first, second in zip([*whole, whole[1]], [*other, alone], strict=True):
        assert first._replace(histogram=None) == second._replace(histogram=None)
        np.testing.assert_array_equal(first.histogram, second.histogram)


def test_another_seed_draws_other_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample is random, not the first prompts."""
    monkeypatch.setattr(firing, "KEPT", 6)
    made, all_latents = found_in(tmp_path)
    again = firing_of(made.features, made.capture, 3, WANTED, quiet, seed=1)
    drawn = [{context.response for context in drawing[0].firing.naming} for drawing in (all_latents, again)]
    assert drawn[0] != drawn[1]
    assert again[0].others.naming == ()


def test_quantiles_run_from_the_strongest_to_the_weakest(tmp_path: Path) -> None:
    """Three of a sample: its ends and its middle."""
    _, all_latents = found_in(tmp_path)
    sample = all_latents[0].firing.naming
    values = sorted((context.value for context in sample), reverse=True)
    shown = [context.value for context in over_quantiles(sample, 3)]
    assert shown == [values[0], values[round((len(values) - 1) / 2)], values[-1]]
    assert over_quantiles((), 3) == []
    assert len(over_quantiles(sample[:2], 5)) == 2


def test_a_dead_latent_has_no_context(tmp_path: Path) -> None:
    """Latent 0 never fires, so every prompt gives a context without firing."""
    made = planted.plant(tmp_path, prompts=40)
    (dead,) = firing_of(made.features, made.capture, 3, [0], quiet, others=True)
    assert (dead.responses, dead.strongest, dead.firing) == (0, (), firing.Halves())
    assert len(dead.others.naming) + len(dead.others.scoring) == 40
    assert dead.histogram.sum() == 0


def test_progress_counts_units(tmp_path: Path) -> None:
    """Once a unit, to the end."""
    made = planted.plant(tmp_path, prompts=40, unit_tokens=100)
    calls: list[tuple[int, int]] = []
    firing_of(made.features, made.capture, 3, WANTED, lambda done, total: calls.append((done, total)))
    units = len(made.features.units)
    assert calls == [(number, units) for number in range(1, units + 1)]
