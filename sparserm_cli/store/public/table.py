"""Columns of equal length, for notebooks, as numpy, pandas, Arrow or `datasets.Dataset`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa


class Table:
    """Rows with named columns.

    Args:
        arrow: the table as a `pyarrow.Table`.

    """

    def __init__(self, arrow: pa.Table) -> None:
        self.arrow = arrow

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> "Table":
        """Make a table from arrays; a two-dimensional array becomes a column of vectors of one length."""
        return cls(pa.table({name: arrow_column(values) for name, values in columns.items()}))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(self.arrow.column_names)

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    def __repr__(self) -> str:
        return f"Table of {len(self):,} rows: {', '.join(self.columns)}"

    def __getitem__(self, name: str) -> np.ndarray:
        """Return one column as an array.

        Vectors of one length become shape (rows, length). Lists of different lengths become an array of
        objects, each of them an array.

        Raises:
            KeyError: there is no such column.

        """
        if name not in self.columns:
            raise KeyError(f"{name!r} is none of {', '.join(self.columns)}")
        column = self.arrow.column(name).combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            flat = column.flatten().to_numpy(zero_copy_only=False)
            return np.asarray(flat.reshape(len(column), column.type.list_size))
        if pa.types.is_large_list(column.type):
            ends = column.offsets.to_numpy()
            parts = np.split(column.values.to_numpy(zero_copy_only=False), ends[1:-1])
            lists = np.empty(len(column), object)
            lists[:] = parts[: len(column)]
            return lists
        return np.asarray(column.to_numpy(zero_copy_only=False))

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Return the mapping from name to column, each as `table[name]` returns it."""
        return {name: self[name] for name in self.columns}

    def to_pandas(self) -> Any:
        """Return the table as a `pandas.DataFrame`."""
        return self.arrow.to_pandas()

    def to_dataset(self) -> Any:
        """Return the table as a `datasets.Dataset` in memory."""
        from datasets import Dataset

        return Dataset(self.arrow)


def arrow_column(values: Any) -> Any:
    """Return an array as a column of Arrow; rows of a two-dimensional array become lists of one length."""
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.array(values)


def ragged_column(offsets: np.ndarray, values: np.ndarray) -> Any:
    """Return lists of different lengths, which are concatenated in `values`, as a column of Arrow."""
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values))
