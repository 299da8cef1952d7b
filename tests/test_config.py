"""Options that are words with a meaning, and the checks of ranges."""

import pytest

from sparserm_cli.cli.parsing import parse_layers, parse_worker
from sparserm_cli.config import EncodeConfig, ExtractConfig, FitConfig, HeadSetting, column_map
from sparserm_cli.errors import UsageError


def message(function, *words):
    """Return the text of the usage error."""
    with pytest.raises(UsageError) as caught:
        function(*words)
    return str(caught.value)


def test_layers_are_sorted_numbers():
    """One layer or several, ascending whatever the order typed."""
    assert parse_layers("14") == (14,)
    assert parse_layers("20, 8,14") == (8, 14, 20)
    assert parse_layers(None) is None


@pytest.mark.parametrize("text", ["", "x", "-1", "3,3", "1.5"])
def test_other_layers_are_refused(text):
    """What is no list of different whole numbers is named."""
    expected = "a layer or several with commas, like 14 or 8,14,20"
    assert message(parse_layers, text) == f"--layer: expected {expected}, found {text!r}; correct the option"


def test_worker_is_rank_of_world():
    """Nothing said is the only worker."""
    assert parse_worker("2/4") == (2, 4)
    assert parse_worker(None) == (0, 1)


@pytest.mark.parametrize("text", ["4/4", "1", "a/b", "-1/2", "0/0"])
def test_other_workers_are_refused(text):
    """The rank is below the world size."""
    expected = "RANK/WORLD with RANK from 0 to WORLD - 1, like 0/4"
    assert message(parse_worker, text) == f"--worker: expected {expected}, found {text!r}; correct the option"


def test_columns_map_our_names_to_theirs():
    """Equals signs after the first belong to their name."""
    assert column_map(("prompt=question", "chosen=a=b")) == {"prompt": "question", "chosen": "a=b"}


@pytest.mark.parametrize("text", ["x", "=x", "x="])
def test_half_a_column_is_refused(text):
    """Both sides are needed."""
    expected = "--column: expected OURS=THEIRS, like prompt=question"
    assert message(column_map, (text,)) == f"{expected}, found {text!r}; correct the option"


@pytest.mark.parametrize(
    ("kind", "given", "text"),
    [
        (EncodeConfig, {"chunk_rows": 0}, "--chunk-rows: expected a whole number of at least 1, found 0"),
        (
            FitConfig,
            {"val_fraction": 1.0},
            "--val-fraction: expected a share from 0 up to, but not, 1, found 1.0",
        ),
        (FitConfig, {"head": "tree"}, "--head: expected one of linear, mlp, found 'tree'"),
        (ExtractConfig, {"dtype": None}, "--dtype: expected one of auto, float32, bfloat16, found None"),
    ],
)
def test_ranges_are_checked_by_option(kind, given, text):
    """A value out of range is refused before any work."""
    assert message(lambda: kind(**given)) == f"{text}; correct the option"


def test_what_is_not_told_of_the_head_is_the_default():
    """One option changes one thing."""
    assert FitConfig().setting == HeadSetting("mean", "mlp", "margin")
    assert FitConfig(head="linear").setting == HeadSetting("mean", "linear", "margin")


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"pool": "mean"}, "--pool"),
        ({"loss": "bt", "pool": "last", "head": "mlp"}, "--pool, --head, --loss"),
    ],
)
def test_what_is_chosen_cannot_be_told(given, options):
    """Even an option that says what the default is."""
    expected = "--choose: expected no --pool, --head, --loss or --plain beside it, nor in sparserm.toml"
    text = message(lambda: FitConfig(choose=True, **given))
    assert text == f"{expected}, found {options}; leave --choose out, or what it chooses"
