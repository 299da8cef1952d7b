"""Counting latents by side: by hand, against the plain definition, and in any cut of the data."""

import itertools

import numpy as np
import pytest
from helpers import planted_run as planted
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserm_cli.stages.frequency import firing_counts as tally
from sparserm_cli.stages.frequency.counted_responses import FOLDS, STRATA, class_responses, length_cuts
from sparserm_cli.stages.frequency.firing_counts import Counts, FiringCounter

TOKENS = [  # four responses, the latents that fire on each of their tokens
    [[0, 2], [0]],
    [[1], [1, 2], [1]],
    [[0]],
    [[2], []],
]
PAIRS = np.array([[0, 1], [2, 1], [3, 0]])
GROUPS = np.array([7, 7, 7, 9])


def flat(responses: list[list[list[int]]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the responses and the latents of all their non-zeros."""
    per_response = [[latent for token in tokens for latent in token] for tokens in responses]
    bounds = np.cumsum([0, *map(len, per_response)])
    return bounds, np.array([latent for tokens in per_response for latent in tokens], np.uint16)


def count(
    responses: list[list[list[int]]],
    pairs: np.ndarray,
    groups: np.ndarray,
    d_sae: int = 3,
    unit: str = "token",
    cuts: tuple[int, ...] = (),
) -> Counts:
    """Count responses that are handed over in pieces cut at `cuts`."""
    lengths = np.array([len(tokens) for tokens in responses])
    counted = class_responses(lengths, groups, np.unique(groups, return_inverse=True)[1] % FOLDS, pairs)
    counter = FiringCounter(d_sae, unit, int(lengths.max()))
    edges = [0, *cuts, len(responses)]
    for start, stop in itertools.pairwise(edges):
        counter.add(planted.part_of(counted, start, stop), *flat(responses[start:stop]))
    return counter.result()


def plain(responses, pairs, groups, d_sae):
    """Count as the definition says, one response and one pair at a time."""
    tokens, fired = np.zeros((2, d_sae)), np.zeros((2, d_sae))
    discordant = np.zeros((2, d_sae))
    fires = [{latent for token in tokens for latent in token} for tokens in responses]
    for side in (0, 1):
        for number in set(pairs[:, side].tolist()):
            for token in responses[number]:
                tokens[side, token] += 1
            fired[side, list(fires[number])] += 1
    for chosen, rejected in pairs.tolist():
        weight = 1 / np.sum(groups[pairs[:, 0]] == groups[chosen])
        discordant[0, list(fires[chosen] - fires[rejected])] += weight
        discordant[1, list(fires[rejected] - fires[chosen])] += weight
    return tokens, fired, discordant


def test_counts_by_hand():
    """Response 0 stands on both sides; pairs (0,1) and (2,1) share a prompt and weigh a half each."""
    counts = count(TOKENS, PAIRS, GROUPS)
    assert counts.tokens.tolist() == [[3, 0, 2], [2, 3, 2]]
    assert counts.tokens_total.tolist() == [5, 5]
    assert counts.responses.tolist() == [[2, 0, 2], [1, 1, 2]]
    assert counts.responses_total.tolist() == [3, 2]
    assert counts.discordant.tolist() == [[1.0, 0.0, 0.0], [1.0, 1.0, 0.5]]
    assert counts.prompts == 2.0
    assert counts.classed.sum(axis=(0, 1)).tolist() == counts.tokens.tolist()
    assert counts.classed_total.sum(axis=(0, 1)).tolist() == [5, 5]


def test_unit_response_counts_responses():
    """Only what is kept by class depends on the unit."""
    by_token, by_response = (count(TOKENS, PAIRS, GROUPS, unit=unit) for unit in ("token", "response"))
    assert by_response.classed.sum(axis=(0, 1)).tolist() == [[2, 0, 2], [1, 1, 2]]
    assert by_response.classed_total.sum(axis=(0, 1)).tolist() == [3, 2]
    assert by_response.tokens.tolist() == by_token.tokens.tolist()
    assert by_response.responses.tolist() == by_token.responses.tolist()


def test_responses_in_no_counted_pair_are_left_out():
    """A validation pair's responses, and unlabelled ones, change nothing."""
    counts = count(TOKENS, PAIRS[:1], GROUPS)
    assert counts.tokens.tolist() == [[2, 0, 1], [0, 3, 1]]
    assert counts.responses_total.tolist() == [1, 1]


def test_strata_are_quartiles_of_length_and_folds_those_given():
    """Lengths 1, 2, 3, 4 fall into one stratum each; the fold is the one that was handed in."""
    responses = [[[0]] * length for length in (1, 2, 3, 4)]
    lengths = np.array([1, 2, 3, 4])
    counted = class_responses(lengths, np.arange(4), np.array([5, 5, 6, 6]), np.array([[0, 1], [2, 3]]))
    assert counted.stratum.tolist() == [0, 1, 2, 3]
    counter = FiringCounter(1, "token", 4)
    counter.add(counted, *flat(responses))
    classed = counter.result().classed[..., 0]
    assert classed.shape == (FOLDS, STRATA, 2)
    assert {tuple(place): int(classed[tuple(place)]) for place in np.argwhere(classed)} == {
        (5, 0, 0): 1,
        (5, 1, 1): 2,
        (6, 2, 0): 3,
        (6, 3, 1): 4,
    }


@given(st.lists(st.integers(1, 12), min_size=1, max_size=60))
def test_length_cuts_are_the_quartiles(lengths: list[int]):
    """From counts of lengths, to the bit what numpy says of the lengths."""
    assert length_cuts(np.bincount(lengths)).tolist() == np.quantile(lengths, [0.25, 0.5, 0.75]).tolist()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_cut_gives_the_plain_counts(data: st.DataObject):
    """Whatever the data, the units and the size of a block, the counts are those of the definition."""
    d_sae = data.draw(st.integers(1, 6))
    token = st.lists(st.integers(0, d_sae - 1), unique=True, max_size=d_sae)
    responses = data.draw(st.lists(st.lists(token, min_size=1, max_size=4), min_size=2, max_size=12))
    n = len(responses)
    pairs = data.draw(
        st.lists(
            st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda pair: pair[0] != pair[1]),
            unique=True,
            min_size=1,
            max_size=10,
        )
    )
    groups = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    cuts = tuple(sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=3))))
    cells = data.draw(st.sampled_from([1, 1 << 20]))
    before, tally._BLOCK_CELLS = tally._BLOCK_CELLS, cells
    try:
        counts = count(
            responses, np.array(pairs), groups, d_sae, data.draw(st.sampled_from(["token", "response"])), cuts
        )
    finally:
        tally._BLOCK_CELLS = before
    tokens, fired, discordant = plain(responses, np.array(pairs), groups, d_sae)
    assert np.array_equal(counts.tokens, tokens)
    assert np.array_equal(counts.responses, fired)
    np.testing.assert_allclose(counts.discordant, discordant, atol=1e-8)


def test_cuts_do_not_change_a_bit():
    """Pair weights are dyadic, so that thirds add up alike in any order."""
    rng = np.random.default_rng(0)
    responses = [[list(rng.choice(5, 2, replace=False)) for _ in range(3)] for _ in range(40)]
    groups = np.repeat(np.arange(10), 4)
    pairs = np.array([(4 * g, 4 * g + k) for g in range(10) for k in (1, 2, 3)])
    whole = count(responses, pairs, groups, 5)
    pieces = count(responses, pairs, groups, 5, cuts=(1, 2, 7, 11, 30))
    assert np.array_equal(whole.discordant, pieces.discordant)
    assert np.array_equal(whole.classed, pieces.classed)


def test_narrow_counters_do_not_overflow():
    """70,000 tokens of one class are more than 16 bits hold, 2,000 responses more than 8 bits."""
    responses = [[[0]] * 35 for _ in range(4000)]
    pairs = np.stack([np.arange(0, 4000, 2), np.arange(1, 4000, 2)], axis=1)
    counts = count(responses, pairs, np.zeros(4000, int), 1)
    assert counts.tokens.tolist() == [[70_000], [70_000]]
    assert counts.responses.tolist() == [[2_000], [2_000]]


def test_a_response_longer_than_16_bits():
    """A latent that fires on 70,000 tokens of one response."""
    counts = count([[[0]] * 70_000, [[0]]], np.array([[0, 1]]), np.zeros(2, int), 1)
    assert counts.tokens.tolist() == [[70_000], [1]]


def test_waiting_bits_are_forgotten_with_the_last_partner():
    """What waits for a partner in another block does not pile up."""
    lengths = np.ones(6, int)
    pairs = np.array([[0, 3], [0, 4], [1, 5]])
    counted = class_responses(lengths, np.zeros(6, int), np.zeros(6, int), pairs)
    counter = FiringCounter(2, "token", 1)
    for number in range(6):
        counter.add(
            planted.part_of(counted, number, number + 1), np.array([0, 1]), np.array([number % 2], np.uint16)
        )
    assert counter._waiting == {}
    assert counter._awaited == {}
    np.testing.assert_allclose(counter.result().discordant, [[1 / 3, 0], [0, 1 / 3]], atol=1e-9)


def test_no_pairs_give_zeros():
    """Nothing to count is no error here; the stage says so."""
    counts = count(TOKENS, np.zeros((0, 2), int), GROUPS)
    assert not counts.tokens.any()
    assert counts.tokens_total.tolist() == [0, 0]
    assert counts.prompts == 0.0


@pytest.mark.parametrize("unit", ["token", "response"])
def test_dtype_of_the_indices_does_not_matter(unit: str):
    """16-bit and 32-bit column numbers count alike."""
    bounds, indices = flat(TOKENS)
    lengths = np.array([len(tokens) for tokens in TOKENS])
    counted = class_responses(lengths, GROUPS, np.zeros(4, int), PAIRS)
    results = []
    for dtype in (np.uint16, np.uint32):
        counter = FiringCounter(3, unit, 3)
        counter.add(counted, bounds, indices.astype(dtype))
        results.append(counter.result())
    assert np.array_equal(results[0].tokens, results[1].tokens)
    assert np.array_equal(results[0].classed, results[1].classed)
