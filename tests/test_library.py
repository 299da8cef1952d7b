"""The stages as functions: the same run as by configs, without any config."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import fitted_run, sae_files

import sparserm_cli
from sparserm_cli import encode, evaluate, extract, fit, frequency, select
from sparserm_cli.config import EncodeConfig, FitConfig, SelectConfig
from sparserm_cli.errors import UsageError
from sparserm_cli.library import _config, _named

ONE, NAME = "one argument without a name", "name the others"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """Fit a reward model by keyword arguments alone."""
    folder = tmp_path_factory.mktemp("library")
    run, data = folder / "run", folder / "pairs.jsonl"
    fitted_run.write_rows(data, fitted_run.ROWS[:30])
    (folder / "tiny").symlink_to(tiny_model())
    sae = sae_files.save_sae(folder / "sae", sae_files.perfect_sae(32, hook="blocks.1.hook_resid_post"))
    done = extract(data, model=folder / "tiny", layer=1, dtype="float32", run=str(run))
    assert done.plan.layout.pairs == 30
    encode(run, sae=Path(sae))
    frequency(run, val_fraction=0.2)
    select(run, top_k=6)
    fit(run, val_fraction=0.2)
    return run


def test_the_functions_make_what_the_configs_make(run: Path, fitted_run: Path):
    """Tensor by tensor."""
    made, expected = (sparserm_cli.RewardModel.load(folder / "reward") for folder in (run, fitted_run))
    assert made.config.lineage.digest == expected.config.lineage.digest


def test_progress_and_notes_are_heard_if_asked_for(run: Path, tmp_path: Path):
    """And a config may be given instead of keywords."""
    notes: list[str] = []
    steps: list[tuple[int, int]] = []
    again = fit(
        config=FitConfig(run=run, val_fraction=0.2),
        note=notes.append,
        progress=lambda *step: steps.append(step),
    )
    assert again.fresh
    assert notes == ["reward is up to date"]
    select(SelectConfig(run=run, top_k=6), progress=lambda *step: steps.append(step))
    assert steps == [(0, 1), (1, 1)]
    rows = fitted_run.write_rows(tmp_path / "test.jsonl", fitted_run.ROWS[30:])
    summary = evaluate(rows, run=run, output=tmp_path / "evaluation.json")
    assert summary.metrics["rows_read"] == 10


@pytest.mark.parametrize("name", ["extract", "encode", "frequency", "select", "fit", "evaluate"])
def test_help_shows_every_argument(name: str):
    """With the defaults of the config and its sentences."""
    function = getattr(sparserm_cli, name)
    parameters = inspect.signature(function).parameters
    assert next(iter(parameters)) in {"data", "run", "file"}
    assert list(parameters)[-3:] == ["config", "progress", "note"]
    assert all(parameter.default is not inspect.Parameter.empty for parameter in parameters.values())
    for argument in parameters:
        assert f"        {argument}: " in inspect.getdoc(function).replace("\n    ", "\n        ")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: select(top_kk=3),
            "select(): expected an argument that it has, found top_kk; did you mean top_k?",
        ),
        (
            lambda: select(elephant=3),
            "select(): expected an argument that it has, found elephant; see help(select)",
        ),
        (lambda: select(top_k="8"), "--top-k: expected a whole number, found '8' (str); correct the option"),
        (
            lambda: extract("a", "b"),
            "extract(): expected one argument without a name, data, found 2 arguments without a name; "
            + NAME,
        ),
        (
            lambda: fit("a", run="b"),
            f"fit(): expected {ONE}, run, found run twice; {NAME}",
        ),
        (
            lambda: fit(SelectConfig()),
            "fit(config): expected a FitConfig alone, found SelectConfig; give one of them",
        ),
        (
            lambda: select(config=SelectConfig(), top_k=3),
            "select(config): expected a SelectConfig alone, found top_k beside it; give one of them",
        ),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(call: Callable[[], Any], message: str):
    """In the words of the command line."""
    with pytest.raises(UsageError) as error:
        call()
    assert str(error.value) == message


def test_values_become_those_of_the_config():
    """One of several alone, columns as a mapping, paths as text."""
    made = _config("encode", EncodeConfig, None, _named("encode", "run", ("r",), {"sae": Path("a/b")}))
    assert made == EncodeConfig(run=Path("r"), sae=("a/b",))
    kind = sparserm_cli.library.ExtractConfig
    given = {
        "data": Path("p.jsonl"),
        "layer": range(2),
        "columns": {"prompt": "question"},
        "sae": ["x", Path("y")],
    }
    made = _config("extract", kind, None, {"data": Path("p.jsonl"), **given})
    assert made == kind(data="p.jsonl", layer=(0, 1), columns=("prompt=question",), sae=("x", "y"))
