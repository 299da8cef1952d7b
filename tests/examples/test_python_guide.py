"""The guide to Python and the notebook run as they stand, on a tiny model."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import fitted_run, sae_files

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "examples" / "guides" / "python.md"
NOTEBOOK = ROOT / "examples" / "notebooks" / "reward_model.py"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Callable[..., Path]) -> Path:
    """Give a folder with the names that the guide uses."""
    fitted_run.write_rows(tmp_path / "pairs.jsonl", fitted_run.ROWS[:30])
    fitted_run.write_rows(tmp_path / "test.jsonl", fitted_run.ROWS[30:])
    (tmp_path / "my-model").symlink_to(tiny_model())
    sae = sae_files.perfect_sae(fitted_run.D_IN, hook="blocks.2.hook_resid_post", model="my-model")
    sae_files.save_sae(tmp_path / "my-sae", sae)
    return tmp_path


def run(folder: Path, script: Path, **variables: str) -> str:
    """Run a script in the folder, warnings of our own being errors, and return what it printed."""
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guide_runs_from_top_to_bottom(folder: Path):
    """Every block of it, in one process."""
    blocks = BLOCK.findall(GUIDE.read_text(encoding="utf-8"))
    assert len(blocks) == 12
    script = folder / "guide.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    printed = run(folder, script)
    assert "10 rows read" in printed
    assert "RewardModel('my-run/reward'" in printed


def test_the_notebook_runs_as_a_script(folder: Path):
    """With other pairs, model and SAE."""
    names = {"PAIRS": "pairs.jsonl", "TEST": "test.jsonl", "MODEL": "my-model", "SAE": "my-sae"}
    printed = run(folder, NOTEBOOK, **names, LAYER="2", TOP_K="6", RUN="run")
    assert "test rows: 10" in printed
    assert printed.count("rate_chosen") == 3
