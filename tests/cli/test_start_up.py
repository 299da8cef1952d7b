"""Start-up: what the command line loads before a command runs, and what it says."""

import json
import os
import subprocess
import sys

import pytest

from sparserm_cli.cli.main import app

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


def test_help_lists_the_commands_in_pipeline_order():
    """The order of the pipeline is the order of the help."""
    done, _ = loaded_by(["--help"])
    names = [
        line.split()[0]
        for line in done.stdout.split("Commands:")[1].splitlines()
        if line.startswith("  ") and line[2] != " "
    ]
    assert names[:7] == ["extract", "encode", "frequency", "select", "fit", "score", "evaluate"]


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
