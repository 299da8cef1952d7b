"""Find the training pairs and the counted responses of each unit without holding all of them in memory.

Reads: the rows of `activations.zarr`. Memory of `UnitResponses`: one unit and some blocks of rows (see
`store.arrays.external_sort`); intermediate tables are kept on the disk. A tree is a prompt with those of its
responses that are in one unit.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt64

from sparserm_cli.data.splits import validation_mask
from sparserm_cli.stages.frequency.counted_responses import FOLDS, CountedResponses, classed, length_cuts
from sparserm_cli.store.arrays.external_sort import DiskTable, ScratchFolder, fields, groups
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.capture.rows import Rows


class Rule(NamedTuple):
    """The rule that decides which pairs train: no validation prompt, and both responses have vectors.

    `frequency` and `fit` split by the same rule, so that no validation pair takes part in the selection.
    """

    rejected: tuple[int, ...]
    """Numbers of the responses that have no vectors."""
    val_fraction: float
    """Share of the prompts that are for validation."""
    seed: int
    """Seed of the choice of the validation prompts."""

    def keeps(
        self,
        chosen: Integer[np.ndarray, " pairs"],
        rejected: Integer[np.ndarray, " pairs"],
        group: UInt64[np.ndarray, " pairs"],
    ) -> Bool[np.ndarray, " pairs"]:
        """Return a mask of the pairs that train, given the responses and the prompt group of each pair."""
        missing = np.array(self.rejected, np.int64)
        usable = ~np.isin(chosen, missing) & ~np.isin(rejected, missing)
        return np.asarray(usable & ~validation_mask(group, self.val_fraction, self.seed))


def counted_pairs(capture: ActivationsReader, val_fraction: float, seed: int) -> Bool[np.ndarray, " pairs"]:
    """Return a mask of the training pairs of a complete capture, for all pairs at once."""
    pairs, groups_of = capture.pairs(), capture.response_group()
    rule = Rule(capture.rejected, val_fraction, seed)
    return rule.keeps(pairs.chosen, pairs.rejected, groups_of[pairs.chosen])


class _ByUnit:
    """A table sorted by its first field, a response, with the position at which each unit begins."""

    def __init__(self, table: DiskTable, unit_start: Int64[np.ndarray, " starts"]) -> None:
        self._table = table
        counts, (response, *_) = np.zeros(len(unit_start) - 1, np.int64), table.kind.names or ()
        for block in table.blocks():
            units = np.searchsorted(unit_start[1:], block[response], side="right")
            counts += np.bincount(units, minlength=len(counts))
        self._start = np.concatenate([[0], np.cumsum(counts)]).tolist()

    def of(self, unit: int) -> Int64[np.ndarray, "records fields"]:
        """Return the records of a unit, one column per field."""
        block = self._table.read(self._start[unit], self._start[unit + 1])
        return np.stack([block[name].astype(np.int64) for name in block.dtype.names or ()], axis=1)


class UnitResponses:
    """The counted responses of every unit of a capture.

    Prompts are assigned to folds by the rank of their group key, which is a hash. The folds are random, of
    equal size, and independent of the order of the data.

    Args:
        rows: the rows of the capture.
        rule: decides which pairs are counted.
        scratch: folder for temporary tables.

    """

    def __init__(self, rows: Rows, rule: Rule, scratch: ScratchFolder) -> None:
        self._rows, self._scratch = rows, scratch
        self._tree_start = [0]
        kept, trees = self._kept(rule)
        self.pairs = len(kept)
        """Number of pairs that are counted."""
        self._trees = self._classed_trees(trees)
        self._chosen, self._rejected = self._sides(self._by_unit(kept))
        counts = self._length_counts()
        self.longest = len(counts) - 1
        """Number of tokens of the longest response that is counted."""
        self._cuts = length_cuts(counts)

    def of(self, unit: int) -> CountedResponses:
        """Return the counted responses of a unit."""
        fold = self._of_trees(unit)["fold"][self._tree(unit)]
        pairs = self._pairs(unit)
        start, lengths = self._rows.span(unit).start, self._rows.lengths(unit)
        return classed(start, lengths, fold, self._cuts, pairs[:, :2], pairs[:, 2])

    def _by_unit(self, table: DiskTable) -> _ByUnit:
        """Return a sorted table with the position at which each unit begins."""
        return _ByUnit(table, self._rows.unit_response_start)

    def _tree(self, unit: int) -> Int64[np.ndarray, " unit_responses"]:
        """Return the tree of each response, numbered within the unit."""
        prompts = self._rows.prompts(unit)
        return np.cumsum(np.diff(prompts, prepend=prompts[0]) > 0)

    def _of_trees(self, unit: int) -> np.ndarray:
        """Return the fold and the number of pairs of each tree of a unit."""
        return self._trees.read(self._tree_start[unit], self._tree_start[unit + 1])

    def _kept(self, rule: Rule) -> tuple[DiskTable, DiskTable]:
        """Return the counted pairs, sorted by chosen response, and the group and pair count of each tree."""
        rows = self._rows
        # Sort all pairs by chosen response, so that each unit can be read alone.
        every, kept = (self._scratch.table(fields("chosen", "rejected")) for _ in range(2))
        for chosen, rejected in zip(rows.blocks("pair_chosen"), rows.blocks("pair_rejected"), strict=True):
            every.add(chosen, rejected)
        by_chosen = self._by_unit(self._scratch.sorted(every))
        trees = self._scratch.table(fields("group", "tree", "pairs"))
        for unit in range(rows.layout.units):
            # Keep the training pairs of the unit, and count them per tree.
            pairs, prompts, tree = by_chosen.of(unit), rows.prompts(unit), self._tree(unit)
            low = int(prompts[0])
            group = rows.part("prompt_group", low, int(prompts[-1]) + 1)[prompts - low]
            place = pairs[:, 0] - rows.span(unit).start
            counted = rule.keeps(pairs[:, 0], pairs[:, 1], group[place])
            kept.add(*pairs[counted].T)
            first = np.unique(tree, return_index=True)[1]
            start = self._tree_start[-1]
            self._tree_start.append(start + len(first))
            pairs_of = np.bincount(tree[place[counted]], minlength=len(first))
            trees.add(group[first], np.arange(start, start + len(first)), pairs_of)
        return kept, trees

    def _classed_trees(self, trees: DiskTable) -> DiskTable:
        """Return the fold of each tree and the number of counted pairs of its group.

        The first pass records how many pairs precede each group; the second takes the differences.
        """
        by_group = self._scratch.sorted(trees)
        pairs_before, done = self._scratch.table("<i8"), 0
        for block, begins in groups(by_group.blocks(), "group"):
            ends = done + np.cumsum(block["pairs"].astype(np.int64))
            pairs_before.extend([(ends - block["pairs"].astype(np.int64))[begins]])
            done = int(ends[-1])
        pairs_before.extend([np.array([done])])
        by_tree, last = self._scratch.table(fields("tree", "fold", "pairs")), -1
        for block, begins in groups(by_group.blocks(), "group"):
            rank = last + np.cumsum(begins)
            pairs = pairs_before.at(rank + 1) - pairs_before.at(rank)
            by_tree.add(block["tree"], rank % FOLDS, pairs)
            last = int(rank[-1])
        return self._scratch.sorted(by_tree)

    def _sides(self, kept: _ByUnit) -> tuple[_ByUnit, _ByUnit]:
        """Return the counted pairs, sorted by either response, with the pair count of the prompt."""
        by_chosen = self._scratch.table(fields("chosen", "rejected", "pairs"))
        by_rejected = self._scratch.table(fields("rejected", "chosen", "pairs"))
        for unit in range(self._rows.layout.units):
            chosen, rejected = kept.of(unit).T
            tree = self._tree(unit)[chosen - self._rows.span(unit).start]
            pairs = self._of_trees(unit)["pairs"][tree]
            by_chosen.add(chosen, rejected, pairs)
            by_rejected.add(rejected, chosen, pairs)
        return self._by_unit(by_chosen), self._by_unit(self._scratch.sorted(by_rejected))

    def _pairs(self, unit: int) -> Int64[np.ndarray, "pairs 3"]:
        """Return the counted pairs with a response in the unit: chosen, rejected, the prompt's pair count."""
        span = self._rows.span(unit)
        rejected = self._rejected.of(unit)[:, [1, 0, 2]]
        elsewhere = (rejected[:, 0] < span.start) | (rejected[:, 0] >= span.stop)
        return np.concatenate([self._chosen.of(unit), rejected[elsewhere]])

    def _length_counts(self) -> Int64[np.ndarray, " lengths"]:
        """Return how many counted responses have each length."""
        counts = np.zeros(0, np.int64)
        for unit in range(self._rows.layout.units):
            span = self._rows.span(unit)
            used = np.unique(self._pairs(unit)[:, :2])
            used = used[(used >= span.start) & (used < span.stop)]
            with_unit = np.bincount(self._rows.lengths(unit)[used - span.start], minlength=len(counts))
            with_unit[: len(counts)] += counts
            counts = with_unit
        return counts
