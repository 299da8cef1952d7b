"""Start-up: what the command line loads before a command runs, and what it says."""

import json
import os
import subprocess
import sys

import pytest

from sparserm_cli.cli.builder import COMMANDS
from sparserm_cli.cli.main import app
from sparserm_cli.config.option import PANELS, declared_fields
from sparserm_cli.config.pipeline import MEASURES

HEAVY = ("torch", "transformers", "sae_lens", "datasets", "zarr", "h5py", "numpy")

PROBE = """
import json, sys
from sparserm_cli.cli.main import app
sys.argv = ["sparserm", *json.loads(sys.argv[1])]
try:
    app()
finally:
    print(json.dumps([name for name in json.loads('{heavy}') if name in sys.modules]), file=sys.stderr)
"""


def loaded_by(words, extra=""):
    """Return which heavy packages a fresh interpreter holds after `sparserm WORDS`."""
    code = extra + PROBE.replace("{heavy}", json.dumps(HEAVY))
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, json.loads(done.stderr.strip().splitlines()[-1])


@pytest.mark.parametrize("words", [["--help"], ["extract", "--help"], ["score", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(words):
    """Help must be instant, so no scientific package may be imported for it."""
    done, heavy = loaded_by(words)
    assert done.returncode == 0
    assert heavy == []


def test_the_import_probe_can_fail():
    """The probe above sees a heavy import when there is one."""
    assert loaded_by(["--help"], extra="import numpy\n")[1] == ["numpy"]


def test_help_lists_the_commands_in_panels_and_pipeline_order():
    """The order of the pipeline is the order of the help; every command stands in one panel."""
    done, _ = loaded_by(["-h"])
    panels = {}
    for line in done.stdout.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            names = panels.setdefault(line.removesuffix(":"), [])
        elif line.startswith("  ") and line[2] != " " and panels:
            names.append(line.split()[0])
    assert list(panels)[:4] == ["Pipeline", "Use a reward model", "Inspect", "Maintain"]
    assert panels["Pipeline"][:5] == ["extract", "encode", "frequency", "select", "fit"]
    shown = [name for panel in list(panels)[:4] for name in panels[panel]]
    assert sorted(shown) == sorted(COMMANDS)


def test_options_stand_in_panels():
    """A reader of 38 options finds those of the data, the model, a cluster and a price."""
    done, _ = loaded_by(["extract", "-h"])
    heads = [line for line in done.stdout.splitlines() if line.endswith(":") and line[0] != " "]
    assert heads == [
        "Arguments:",
        "Data:",
        "Model and SAE:",
        "Limits:",
        "Cluster:",
        "Price of a dry run:",
        "Run directory and output:",
    ]


def test_every_help_text_is_a_sentence():
    """A capital, a full stop, at least three words, no private fragment, and a panel that is shown."""
    for name, made in COMMANDS.items():
        for field in declared_fields(made.config).values():
            if field.option is None:
                continue
            text, where = field.option.help, f"{name} {field.flag}"
            assert text[0].isupper(), where
            assert text.endswith("."), where
            assert len(text.split()) >= 3, where
            assert not text.startswith(("Of ", "For a", "What ")), where
            assert field.option.panel in PANELS, where


def complete(words):
    """Return what the shell is offered after `sparserm WORDS`, the last of which is begun."""
    variables = {"COMP_WORDS": "sparserm " + " ".join(words), "COMP_CWORD": str(len(words))}
    done = subprocess.run(
        [sys.executable, "-c", "from sparserm_cli.cli.main import app; app(prog_name='sparserm')"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **variables, "_SPARSERM_COMPLETE": "complete_bash"},
    )
    return done.stdout.split()


def test_choices_complete_in_the_shell():
    """Those of a field with few values, and the measures that only the stage knows."""
    assert complete(["fit", "--head", ""]) == ["linear", "mlp"]
    assert complete(["select", "--by", "random-"]) == ["random-latents", "random-directions"]


def test_the_measures_offered_are_those_there_are():
    """The config names them without importing the stage."""
    from sparserm_cli.stages.select import rankings as selection

    assert tuple(selection.RANKINGS) == MEASURES


@pytest.mark.parametrize("name", [info.name for info in app.registered_commands])
def test_every_command_has_an_example(name):
    """Each command's help shows how it is called."""
    done, _ = loaded_by([name, "--help"])
    assert f"Example: sparserm {name}" in " ".join(done.stdout.split())


@pytest.mark.parametrize("name", [info.name for info in app.registered_commands])
def test_every_command_has_the_common_options(name):
    """Run directory, settings file, JSON and quiet are everywhere."""
    done, _ = loaded_by([name, "--help"])
    for option in ("--run", "--config", "--json", "--quiet"):
        assert option in done.stdout


def test_completion_is_offered():
    """A shell can ask for its completion script."""
    done = subprocess.run(
        [sys.executable, "-m", "sparserm_cli", "--show-completion", "bash"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )
    assert "complete" in done.stdout


def test_the_package_loads_nothing_heavy_before_a_name_is_used():
    """`import sparserm_cli` is instant, and every public name is there to be found."""
    heavy = (*HEAVY, "pandas", "scipy", "pyarrow", "sklearn")
    code = (
        "import sys, sparserm_cli; assert set(sparserm_cli.__all__) <= set(dir(sparserm_cli)); "
        f"print([name for name in {heavy} if name in sys.modules]); "
        "[getattr(sparserm_cli, name) for name in sparserm_cli.__all__]; "
        "print([name for name in ('numpy',) if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines() == ["[]", "['numpy']"]
