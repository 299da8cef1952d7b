"""Trying methods on folds: planted directions are found, nothing leaks, controls stay near chance."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import planted_run as planted

from sparserm_cli.analysis.compare.cross_validation import Protocol, compared, crossvalidate, training_of
from sparserm_cli.analysis.compare.fit_method import fit_method, inner_accuracy
from sparserm_cli.analysis.compare.methods import KINDS, Method, Training
from sparserm_cli.analysis.compare.run_sample import Sample, count, load_sample
from sparserm_cli.data.splits import grouped_folds
from sparserm_cli.errors import UsageError
from sparserm_cli.stages.frequency.counted_responses import FOLDS, class_responses
from sparserm_cli.stages.frequency.firing_counts import FiringCounter

pytestmark = pytest.mark.slow

SELECTED = Method("sparserm", top_k=2)


@pytest.fixture(autouse=True)
def few_penalties(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every fit one geometry; the choice has tests of its own."""
    monkeypatch.setattr("sparserm_cli.models.head.fits.penalty.WHITENINGS", (0.5,))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Give a run of 200 prompts with three responses each."""
    made = planted.plant(tmp_path_factory.mktemp("run"), prompts=200, responses=3)
    return load_sample("planted", made.run, decoder=made.decoder)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Give a run whose sides do not differ."""
    made = planted.plant(tmp_path_factory.mktemp("noise"), prompts=200, strength=0.0)
    return load_sample("noise", made.run, decoder=made.decoder)


def test_latents_of_responses_by_the_definition(tmp_path: Path):
    """Counts, means and maxima are those of the features' rows, whatever the units."""
    made = planted.plant(tmp_path, prompts=12, unit_tokens=40)
    latents = load_sample("x", made.run, decoder=made.decoder).latents[3]
    for block in made.features.iter_blocks(3):
        ends = np.concatenate([[0], np.cumsum(block.lengths)])
        for place, response in enumerate(block.responses):
            dense = np.zeros((int(block.lengths[place]), planted.D_SAE), np.float32)
            for row in range(len(dense)):
                part = slice(*block.csr.indptr[ends[place] + row : ends[place] + row + 2])
                dense[row, block.csr.indices[part]] = block.csr.data[part]
            assert np.array_equal(latents.tokens[[response]].toarray()[0], (dense > 0).sum(axis=0))
            assert latents.mean[[response]].toarray()[0] == pytest.approx(dense.mean(axis=0), abs=1e-6)
            assert np.array_equal(latents.largest[[response]].toarray()[0], dense.max(axis=0))


@pytest.mark.parametrize("unit", ["token", "response"])
def test_counts_in_memory_are_those_of_the_stream(tmp_path: Path, unit: str):
    """Two ways of counting, one by sparse products and one by blocks, agree in every number."""
    made = planted.plant(tmp_path, prompts=40, responses=4)
    sample = load_sample("x", made.run, decoder=made.decoder)
    groups = np.zeros(len(sample.lengths), np.uint64)
    groups[sample.pairs.reshape(-1)] = np.repeat(sample.groups, 2)
    counted = class_responses(sample.lengths, groups, np.arange(len(groups)) // 4 % FOLDS, sample.pairs[5:-3])
    stream = FiringCounter(planted.D_SAE, unit, int(sample.lengths.max()))
    for block in made.features.iter_blocks(3):
        ends = np.concatenate([[0], np.cumsum(block.lengths)])
        part = planted.part_of(counted, block.responses.start, block.responses.stop)
        stream.add(part, block.csr.indptr[ends], block.csr.indices)
    expected, counts = stream.result(), count(sample.latents[3], counted, unit)
    for name, value in expected._asdict().items():
        if isinstance(value, np.ndarray):
            assert getattr(counts, name) == pytest.approx(value), name
        else:
            assert getattr(counts, name) == value, name


@pytest.mark.parametrize("kind", ["random-in-turn", "components-in-turn"])
def test_directions_chosen_in_turn_beat_unchosen_ones(sample: Sample, kind: str):
    """Looking at the labels is worth much whatever is chosen among; the controls can do it as well."""
    methods = [Method("in turn", kind=kind, top_k=2), Method("unchosen", kind="random-directions", top_k=2)]
    in_turn, other = crossvalidate(sample, methods, Protocol(folds=2))
    assert in_turn.parameters == other.parameters == 5
    assert in_turn.accuracy.accuracy > other.accuracy.accuracy + 0.05


def test_planted_directions_win(sample: Sample):
    """SparseRM beats as many random directions, with an interval that excludes zero, and matches dense."""
    methods = [
        SELECTED,
        Method("random", kind="random-directions", top_k=2),
        Method("random latents", kind="random-latents", top_k=2),
        Method("dense", kind="dense", top_k=None),
        Method("length", kind="length"),
        Method("chance", kind="chance"),
    ]
    results = crossvalidate(sample, methods)
    results = compared(results, results[0], sample)
    by_name = {result.method.name: result for result in results}
    assert by_name["sparserm"].accuracy.accuracy > 0.9
    assert by_name["random"].against.low > 0
    assert by_name["random latents"].against.low > 0
    assert abs(by_name["dense"].accuracy.accuracy - by_name["sparserm"].accuracy.accuracy) < 0.05
    assert by_name["length"].accuracy.accuracy < 0.5  # equal lengths are ties
    assert by_name["chance"].accuracy.accuracy == 0.5
    assert by_name["sparserm"].parameters == 5
    assert by_name["dense"].parameters == planted.D_IN + 1
    assert by_name["sparserm"].accuracy.pairs == 400
    assert by_name["sparserm"].against is None


@pytest.mark.parametrize("kind", [*KINDS, "means"])
def test_every_method_finds_the_signal(sample: Sample, kind: str):
    """Each kind of numbers tells the sides apart once it has enough of them."""
    top_k = None if kind in {"dense", "means"} else 10
    (result,) = crossvalidate(sample, [Method(kind, kind=kind, top_k=top_k)])
    assert result.accuracy.accuracy > 0.65


@pytest.mark.parametrize("kind", [*KINDS, "means"])
def test_nothing_is_found_where_nothing_is(noise: Sample, kind: str):
    """No method beats chance on unseen prompts without a signal: nothing of the test folds leaks."""
    top_k = None if kind in {"dense", "means"} else 10
    (result,) = crossvalidate(noise, [Method(kind, kind=kind, top_k=top_k)])
    assert 0.38 < result.accuracy.accuracy < 0.62


def test_test_pairs_have_no_part_in_the_fit(sample: Sample):
    """Turning the labels of a fold's test pairs around changes nothing of what is learned for it."""
    fold = grouped_folds(sample.groups, 5, 0)
    kept = np.flatnonzero(fold != 0)
    turned = np.where((fold == 0)[:, None], sample.pairs[:, ::-1], sample.pairs)
    other = Sample(**{**vars(sample), "pairs": turned})
    scores = [
        fit_method(SELECTED, training_of(fitted_on, kept, Protocol())).score(sample)
        for fitted_on in (sample, other)
    ]
    assert np.array_equal(scores[0], scores[1])


def test_folds_keep_prompts_together(sample: Sample):
    """Training and validation pairs share no prompt with each other or with the test pairs."""
    fold = grouped_folds(sample.groups, 5, 0)
    training = training_of(sample, np.flatnonzero(fold != 2), Protocol())
    groups = sample.groups[np.flatnonzero(fold != 2)]
    assert not set(groups[training.validation]) & set(groups[~training.validation])
    assert not set(groups) & set(sample.groups[fold == 2])
    assert 0.1 < training.validation.mean() < 0.3


WEAK = Method("weak", kind="random-directions", top_k=1)


def test_the_best_of_several_is_fitted(sample: Sample, monkeypatch: pytest.MonkeyPatch):
    """The better one is chosen in every fold, from few pairs, and fitted on all as if it were alone."""
    monkeypatch.setattr("sparserm_cli.analysis.compare.fit_method.INNER_PAIRS", 150)
    chosen, alone = crossvalidate(sample, [Method("best", among=(WEAK, SELECTED)), SELECTED])
    assert chosen.chosen == ("sparserm",) * 5
    assert alone.chosen == ()
    assert np.array_equal(chosen.margins, alone.margins)


def test_test_pairs_have_no_part_in_the_choice(noise: Sample):
    """Where nothing is to be found the best of several is no better than chance on unseen prompts."""
    among = tuple(Method(str(k), kind="random-directions", top_k=k) for k in range(1, 9))
    (result,) = crossvalidate(noise, [Method("best", among=among)])
    assert 0.38 < result.accuracy.accuracy < 0.62
    training = training_of(noise, np.arange(150), Protocol())
    turned = training._replace(pairs=training.pairs[:, ::-1])
    assert inner_accuracy(WEAK, training) == pytest.approx(inner_accuracy(WEAK, turned), abs=0.02)


def test_a_method_of_some_layers(tmp_path: Path):
    """It is what it would be if there were no others."""
    made = planted.plant(tmp_path, prompts=40, layers=(3, 5))
    sample = load_sample("x", made.run, decoder=made.decoder)
    (some,) = crossvalidate(sample, [replace(SELECTED, layers=(5,))])
    (only,) = crossvalidate(sample.only((5,)), [SELECTED])
    assert np.array_equal(some.margins, only.margins)


def test_flipped_labels(sample: Sample):
    """All labels swapped in training give less than chance; a fifth swapped costs little."""
    straight, some, every = (
        crossvalidate(sample, [SELECTED], Protocol(flipped=share))[0].accuracy.accuracy
        for share in (0.0, 0.2, 1.0)
    )
    assert every == pytest.approx(1 - straight, abs=0.02)
    assert straight - 0.1 < some <= straight + 0.02


def test_fewer_pairs(sample: Sample):
    """A learning curve's point uses so many pairs and no more."""
    training = training_of(sample, np.arange(300), Protocol(train_pairs=50))
    assert len(training.pairs) == 50
    few, many = (
        crossvalidate(sample, [Method("dense", kind="dense", top_k=None)], Protocol(train_pairs=n))[0]
        for n in (20, None)
    )
    assert few.accuracy.accuracy < many.accuracy.accuracy


def test_transfer_to_other_prompts(sample: Sample, noise: Sample):
    """What was learned on one run serves on another with the same latents, and is lost on noise."""
    apart = replace(sample, groups=sample.groups + np.uint64(1))
    strange = replace(noise, groups=noise.groups + np.uint64(1))
    kept, lost = (crossvalidate(sample, [SELECTED], target=target)[0] for target in (apart, strange))
    assert kept.accuracy.accuracy > 0.9
    assert 0.35 < lost.accuracy.accuracy < 0.65
    assert np.isnan(lost.fold_sd)
    assert lost.to_json()["fold_sd"] is None


def test_a_prompt_is_never_tested_by_what_was_trained_on_it(sample: Sample):
    """The same prompts in another run are tested as their folds are; prompts of its own by the first fit."""
    (own,) = crossvalidate(sample, [SELECTED])
    twice = Sample(
        **{
            **vars(sample),
            "pairs": np.concatenate([sample.pairs, sample.pairs[:2]]),
            "groups": np.concatenate([sample.groups, np.array([7, 8], np.uint64)]),
        }
    )
    (result,) = crossvalidate(sample, [SELECTED], target=twice)
    assert result.margins[:-2] == pytest.approx(own.margins, abs=1e-4)  # other batches round otherwise
    assert result.margins[-2:].all()


def test_the_seed_fixes_everything(sample: Sample):
    """The same margins twice, others with another seed."""
    first, again, other = (crossvalidate(sample, [SELECTED], Protocol(seed=s))[0].margins for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_too_few_latents_is_said(sample: Sample):
    """More directions than latents speak for a side."""
    with pytest.raises(UsageError) as caught:
        fit_method(Method("x", top_k=40), Training(sample, sample.pairs, sample.groups, 0))
    assert "layer 3" in str(caught.value)
