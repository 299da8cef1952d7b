"""What a new user meets first: one command from data to reward, early errors, errors as JSON, hints."""

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from sparserm_cli.cli.builder import COMMANDS
from sparserm_cli.cli.main import app
from sparserm_cli.config import ExtractConfig, SelectConfig
from sparserm_cli.config.option import declared_fields
from sparserm_cli.console import Output
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.locations import bundled_sae


def run_command(folder, *words):
    """Run `sparserm` in a process of its own and return it; torch must not have been imported."""
    code = (
        "import sys; from sparserm_cli.cli.main import main\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules, 'torch was imported'"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Return what makes the stages' configs out of a command line of `run`, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSERM_RUN", raising=False)
    configs = []
    monkeypatch.setattr("sparserm_cli.stages.run.run_stages", lambda made, **_: configs.append(made) or [])
    monkeypatch.setattr("sparserm_cli.cli.output.run_directory.run", lambda *_: None)

    def made(*words):
        CliRunner().invoke(app, ["run", *words], catch_exceptions=False)
        return configs[-1]

    return made


def test_one_command_takes_the_default_model_and_its_sae(planned):
    """The SAE gives the layer, and tokens are kept so that everything after it works."""
    made = planned("pairs.jsonl", "--top-k", "8", "--limit", "9")
    extract, encode = made["extract"], made["encode"]
    assert (extract.data, extract.model, extract.layer, extract.limit) == (
        "pairs.jsonl",
        "smollm2-135m",
        None,
        9,
    )
    assert (extract.sae, extract.positions) == (("smollm2-135m",), "response")
    assert encode.sae == ("smollm2-135m",)
    assert made["select"].top_k == 8


def test_a_settings_file_is_honoured_and_what_is_typed_wins(planned, tmp_path):
    """Its layer needs no SAE in extract."""
    (tmp_path / "sparserm.toml").write_text(
        '[extract]\ndata = "a.jsonl"\nmodel = "m"\nlayer = 3\n[encode]\nsae = "s"\n[select]\ntop-k = 4\n'
    )
    made = planned("--top-k", "5")
    assert (made["extract"].data, made["extract"].layer, made["extract"].sae) == ("a.jsonl", (3,), ())
    assert made["encode"].sae == ("s",)
    assert made["select"].top_k == 5


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            (),
            (
                "sparserm run: expected preference pairs, or the key data under [extract] in sparserm.toml, "
                "found neither; run `sparserm run pairs.jsonl`"
            ),
        ),
        (
            ("a.jsonl", "--model", "org/m"),
            (
                "--sae: expected an SAE for org/m, found none; give --sae, or train one: "
                "sparserm train-sae TEXT --model org/m --layer L --output sae"
            ),
        ),
    ],
)
def test_what_is_missing_is_named(planned, words, text):
    """Before any stage begins."""
    with pytest.raises(UsageError) as caught:
        planned(*words)
    assert str(caught.value) == text


def test_a_settings_file_is_written_and_read_back(planned, tmp_path):
    """It holds what differs from the defaults, and an earlier file is left alone."""
    words = ("pairs.jsonl", "--top-k", "8", "--write-config", "sparserm.toml")
    assert CliRunner().invoke(app, ["run", *words], catch_exceptions=False).stdout == (
        "sparserm.toml: written\nnext: sparserm run\n"
    )
    text = (tmp_path / "sparserm.toml").read_text()
    assert "[select]\ntop-k = 8\n" in text
    assert planned()["select"].top_k == 8
    assert planned()["extract"].sae == ("smollm2-135m",)
    with pytest.raises(UsageError, match="a file that is not there yet"):
        CliRunner().invoke(app, ["run", *words], catch_exceptions=False)


def test_the_sae_of_the_default_model_is_installed():
    """In a checkout it is that of the examples; no other name reaches outside."""
    folder = bundled_sae("smollm2-135m")
    assert (folder / "sae_weights.safetensors").is_file()
    assert bundled_sae("../smollm2-135m") is None
    assert bundled_sae("other") is None


@pytest.mark.parametrize(
    ("words", "code", "where"),
    [
        (("extract", "gone.jsonl", "--layer", "1"), 3, "gone.jsonl"),
        (("score", "gone.jsonl"), 3, "gone.jsonl"),
        (("encode", "--sae", "s", "--run", "gone"), 4, "gone/activations.zarr"),
        (("fit", "--run", "gone"), 4, "gone/directions"),
        (("verify", "--run", "gone"), 4, "gone"),
        (("repair", "--run", "gone"), 4, "gone"),
        (("select", "--top-k", "0"), 2, "--top-k"),
        (("select", "--top-k", "many"), 2, "command line"),
    ],
)
def test_errors_come_before_torch_and_as_one_json_object(tmp_path, words, code, where):
    """A script reads stdout as one object whatever happens; a person reads one line on stderr."""
    done = run_command(tmp_path, *words, "--json")
    assert done.returncode == code, done.stderr
    assert "torch was imported" not in done.stderr
    error = json.loads(done.stdout)["error"]
    assert set(error) == {"code", "where", "expected", "found", "next"}
    assert (error["code"], error["where"]) == (code, where)
    assert not (tmp_path / "gone").exists()


def test_the_hint_of_an_error_names_the_run(tmp_path):
    """What was typed has to be typed again."""
    done = run_command(tmp_path, "fit", "--run", "my run")
    assert done.stderr.endswith("run `sparserm select --run 'my run'` first\n")


def test_hints_leave_out_what_the_settings_have():
    """The SAE stands in the file; the run directory was typed."""
    out = Output(carried=" --run mine", settings={"encode": {"sae": "s"}})
    assert out.command("encode", sae="SAE") == "sparserm encode --run mine"
    assert Output().command("encode", sae="SAE") == "sparserm encode --sae SAE"


def test_an_error_carries_options_into_its_commands():
    """Only what stands between backquotes is a command."""
    problem = IncompatibleError("a", "b", "c", "run `sparserm fit` first, or sparserm select")
    assert problem.carrying(" --run r").hint == "run `sparserm fit --run r` first, or sparserm select"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"top_k": "8"}, "--top-k: expected a whole number, found '8' (str); correct the option"),
        ({"top_k": True}, "--top-k: expected a whole number, found True (bool); correct the option"),
        ({"by": 3}, "--by: expected text, found 3 (int); correct the option"),
    ],
)
def test_values_of_another_type_are_usage_errors(given, text):
    """A library user gets the same words as the command line gives."""
    with pytest.raises(UsageError) as caught:
        SelectConfig(**given)
    assert str(caught.value) == text


def test_text_and_lists_become_what_the_field_promises(tmp_path):
    """A path as text, and a list where a tuple is wanted."""
    config = ExtractConfig(run=str(tmp_path), layer=[3, 4])
    assert (config.run, config.layer) == (tmp_path, (3, 4))


def test_every_command_is_declared_by_a_config():
    """Its parameters are the fields with an option and the three switches, and nothing else."""
    commands = typer.main.get_command(app).commands
    for name, made in COMMANDS.items():
        options = {field.name for field in declared_fields(made.config).values() if field.option is not None}
        names = {parameter.name for parameter in commands[name].params}
        assert names == options | {"config", "json", "quiet"}, name
