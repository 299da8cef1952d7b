"""`sparserm.toml`: options from a file, the command line wins, mistakes are named."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sparserm_cli.cli.builder import typer_function
from sparserm_cli.config import CompareConfig, EncodeConfig, ExtractConfig, SelectConfig
from sparserm_cli.errors import UsageError

seen = []
probe = typer.Typer()
for kind in (SelectConfig, ExtractConfig, EncodeConfig, CompareConfig):
    name = kind.__name__.removesuffix("Config").lower()
    probe.command(name)(typer_function(kind, lambda settings, out: seen.append(settings)))


def parsed(tmp_path, monkeypatch, toml, *words):
    """Run the probe in `tmp_path` with the given settings file and return the config it built."""
    (tmp_path / "sparserm.toml").write_text(toml)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSERM_RUN", raising=False)
    result = CliRunner().invoke(probe, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen[-1]


def test_file_fills_options_and_command_line_wins(tmp_path, monkeypatch):
    """A table's value is a default; what is typed is stronger."""
    assert parsed(tmp_path, monkeypatch, "[select]\ntop-k = 7\n", "select").top_k == 7
    assert parsed(tmp_path, monkeypatch, "[select]\ntop-k = 7\n", "select", "--top-k", "9").top_k == 9


def test_arguments_lists_and_layers(tmp_path, monkeypatch):
    """The data argument, a list of layers and repeated options can all stand in the file."""
    (tmp_path / "pairs.jsonl").touch()
    toml = '[extract]\ndata = "pairs.jsonl"\nlayer = [20, 8]\ncolumns = ["prompt=q"]\n'
    config = parsed(tmp_path, monkeypatch, toml, "extract")
    assert (config.data, config.layer, config.columns) == ("pairs.jsonl", (8, 20), ("prompt=q",))


def test_runs_with_names_and_several_numbers(tmp_path, monkeypatch):
    """A run behind its name is a path beside the file; numbers may be a list or words."""
    toml = '[compare]\ntop-k = [16, 4]\nother = "HH=runs/hh"\n'
    config = parsed(tmp_path, monkeypatch, toml, "compare")
    assert config.top_k == (4, 16)
    assert config.named_runs() == {"HH": Path("runs/hh")}
    assert parsed(tmp_path, monkeypatch, toml, "compare", "--top-k", "8").top_k == (8,)


def test_one_word_for_a_repeatable_option(tmp_path, monkeypatch):
    """`sae = "name"` is one SAE, not its letters."""
    assert parsed(tmp_path, monkeypatch, '[encode]\nsae = "rel/id"\n', "encode").sae == ("rel/id",)


def test_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    """A settings file elsewhere means the places beside it."""
    folder = tmp_path / "sub"
    folder.mkdir()
    (folder / "pairs.jsonl").touch()
    (folder / "sparserm.toml").write_text('run = "out"\n[extract]\ndata = "pairs.jsonl"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSERM_RUN", raising=False)
    CliRunner().invoke(probe, ["extract", "--config", str(folder / "sparserm.toml")], catch_exceptions=False)
    assert seen[-1].data == str(folder / "pairs.jsonl")
    assert seen[-1].run == folder / "out"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (
            "[select]\ntopk = 7\n",
            "sparserm.toml [select]: expected one of by, run, seed, top_k, found 'topk'; did you mean top_k?",
        ),
        (
            "[slect]\n",
            (
                "sparserm.toml [slect]: expected a table named like a command, found 'slect'; "
                "did you mean select?"
            ),
        ),
        (
            "[select\n",
            (
                "sparserm.toml: expected TOML, found Expected ']' at the end of a table declaration "
                "(at line 1, column 8); correct the file"
            ),
        ),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, monkeypatch, toml, message):
    """An unknown key, an unknown table and broken TOML each stop with the place."""
    with pytest.raises(UsageError) as caught:
        parsed(tmp_path, monkeypatch, toml, "select")
    assert str(caught.value) == message


def test_values_out_of_range_name_the_option(tmp_path, monkeypatch):
    """A number or word that cannot be is refused by the option's name."""
    with pytest.raises(UsageError) as caught:
        parsed(tmp_path, monkeypatch, "", "select", "--top-k", "0")
    assert str(caught.value) == "--top-k: expected a whole number of at least 1, found 0; correct the option"
    with pytest.raises(UsageError) as caught:
        ExtractConfig(dtype="float16")
    assert (
        str(caught.value)
        == "--dtype: expected one of auto, float32, bfloat16, found 'float16'; correct the option"
    )
