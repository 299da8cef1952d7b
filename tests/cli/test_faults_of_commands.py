"""Every command that writes: a full disk, a read-only place and SIGKILL cost nothing but the time."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import forked, tiny_run

from sparserm_cli.store.run.status import status

pytestmark = pytest.mark.slow

RESPONSES = [
    {"prompt": f"Question {n}?", "responses": [f"Yes, {n} is good", "no never", f"maybe {n}"]}
    for n in range(100, 104)
]
COMMANDS = {
    "extract": ["pairs.jsonl", "--model", "tiny", "--layer", "1", "--dtype", "float32", "--force"],
    "encode": ["--sae", "sae-1", "--force"],
    "frequency": ["--val-fraction", "0.3"],
    "select": ["--top-k", "3"],
    "fit": ["--val-fraction", "0.3"],
    "score": ["responses.jsonl"],
    "evaluate": ["pairs.jsonl", "--allow-overlap"],
    "rank": ["responses.jsonl"],
    "pairs": ["responses.jsonl"],
    "report": [],
    "export": ["exported", "--to", "hf"],
    "train-sae": [
        *("pairs.jsonl", "--model", "tiny", "--layer", "1", "--output", "sae-new", "--steps", "3"),
        *("--batch-rows", "16", "--d-sae", "64", "--k", "4"),
    ],
}
WITHOUT_RUN = {"train-sae"}
STAGES = {"extract", "encode", "frequency", "select", "fit"}
"""Commands whose stages are tried without the right to write in `stages/test_every_stage.py`."""
SAME_BYTES = {".jsonl", ".safetensors"}
"""Files in which no time stands."""


class Ended(NamedTuple):
    """How a command ended."""

    code: int | None
    error: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """Give a folder with data, model, SAE and a run directory with every artifact."""
    folder = tmp_path_factory.mktemp("made")
    tiny_run.tiny_run(folder, tiny_model())
    lines = "".join(json.dumps(row) + "\n" for row in RESPONSES)
    (folder / "responses.jsonl").write_text(lines)
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return the names of all files, and the bytes of those that a second run must give again."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.suffix in SAME_BYTES else None
        for path in files
    }


def digests(run: Path) -> dict[str, str]:
    """Return the digests of all artifacts."""
    state = status(run)
    return {name: state[name].lineage.digest for name in ("activations", "directions", "reward")}


@pytest.mark.parametrize("command", COMMANDS)
def test_row_97_row_100_row_101_a_command_that_writes(made: Path, tmp_path: Path, command: str) -> None:
    """Without room or the right to write it is one line and changes nothing; killed, it is run again.

    It then ends with what an undisturbed run has given, and no temporary file is left.
    """
    run = [] if command in WITHOUT_RUN else ["--run", "run"]
    words = [command, *COMMANDS[command], *run, "--quiet"]
    streams, usual, folder = (tmp_path / name for name in ("streams", "usual", "folder"))
    streams.mkdir()
    for copy in (usual, folder):
        shutil.copytree(made, copy, symlinks=True)
    before = contents(folder)

    def ended(where: Path, **fault: str) -> Ended:
        code, _, error = forked.start(words, streams, cwd=where, **fault).wait()
        return Ended(code, error)

    assert ended(usual) == Ended(0, "")
    for fault, message in (
        ("operation:1:EROFS", "expected a place to write, found a read-only file system"),
        ("rename:1:ENOSPC", "on the disk, found no space left"),
    )[command in STAGES :]:
        stopped = ended(folder, SPARSERM_FAULT_ERROR=fault)
        assert stopped.code == 6, stopped.error
        assert message in stopped.error
        assert stopped.error.count("\n") == 1
    assert (
        contents(folder).keys() - {name for name in contents(folder) if "/scored/" in name} == before.keys()
    )
    assert ended(folder, SPARSERM_FAULT="rename:1").code == -signal.SIGKILL
    assert ended(folder) == Ended(0, "")
    assert contents(folder) == contents(usual)
    assert digests(folder / "run") == digests(usual / "run")
