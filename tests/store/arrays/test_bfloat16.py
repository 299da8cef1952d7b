"""bfloat16 bits: exact widening, rounding to nearest even, finiteness."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparserm_cli.store.arrays import bfloat16 as bits


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, 0x3F80),
        (-2.0, 0xC000),
        (0.0, 0x0000),
        (3.140625, 0x4049),
        (1.00390625, 0x3F80),  # half way between 0x3f80 and 0x3f81: to even
        (1.01171875, 0x3F82),  # half way between 0x3f81 and 0x3f82: to even
        (float("inf"), 0x7F80),
        (float("nan"), 0x7FC0),
        (3.4e38, 0x7F80),  # above the largest bfloat16, 3.39e38
    ],
)
def test_known_bits(value: float, expected: int):
    """Bits worked out by hand."""
    assert bits.from_float32(np.array([value], np.float32))[0] == expected


def test_all_bits_round_trip():
    """All 65,536 patterns widen and narrow to themselves, but NaNs, which become one."""
    every = np.arange(2**16, dtype=np.uint16)
    back = bits.from_float32(bits.to_float32(every))
    nan = ((every & 0x7F80) == 0x7F80) & ((every & 0x7F) != 0)
    assert np.array_equal(back[~nan], every[~nan])
    assert set(back[nan].tolist()) == {0x7FC0}
    assert np.array_equal(bits.is_finite(every), np.isfinite(bits.to_float32(every)))


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32)))
def test_narrowing_is_torchs(values: np.ndarray):
    """The same numbers as torch gives, which the store itself never imports."""
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16)
    ours = bits.to_float32(bits.from_float32(values))
    assert np.array_equal(ours, expected.float().numpy(), equal_nan=True)


def test_absmax_leaves_out_what_is_not_finite():
    """The largest finite magnitude of either kind; 0 if there is none."""
    values = np.array([[1.0, -3.0], [np.nan, np.inf]], np.float32)
    assert bits.absmax(values) == 3.0
    assert bits.absmax(bits.from_float32(values)) == 3.0
    assert bits.absmax(values[1:]) == 0.0
    assert bits.absmax(np.empty((0, 2), np.float32)) == 0.0
