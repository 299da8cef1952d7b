"""status, verify and repair over a whole run directory."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from helpers import captures
from helpers import small_artifacts as small

from sparserm_cli.errors import CorruptStoreError, TemporaryError
from sparserm_cli.store.artifacts.reward import read_reward, reward_path
from sparserm_cli.store.capture.plan import InputFact
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.capture.writer import ActivationsWriter
from sparserm_cli.store.features.reader import FeaturesReader
from sparserm_cli.store.io.local_disk import sha256_file
from sparserm_cli.store.io.sealed_json import read_sealed, write_sealed
from sparserm_cli.store.run.artifacts import NAMES, OPTIONAL
from sparserm_cli.store.run.locks import run_lock
from sparserm_cli.store.run.status import Status, status
from sparserm_cli.store.run.verify import repair, verify

ABOVE = ("frequency", "directions", "reward")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a run directory with everything."""
    run = tmp_path_factory.mktemp("whole")
    data = run / "data.jsonl"
    data.write_bytes(b"{}\n")
    captures.capture(run / "activations.zarr", inputs=(InputFact(str(data), 3, sha256_file(data)),))
    captures.encode(run / "features.zarr", run / "activations.zarr")
    small.frequency(run)
    small.directions(run)
    small.reward(run)
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """Give a copy of it."""
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def states(run_status: Status) -> dict[str, str]:
    """Return name to state of what is there."""
    return {artifact.name: artifact.state for artifact in run_status.artifacts if artifact.state != "absent"}


def test_an_empty_directory_asks_for_the_first_stage(tmp_path: Path):
    """Nothing is there, nothing is raised, nothing is made, and optional artifacts are not mentioned."""
    run_status = status(tmp_path / "run")
    assert states(run_status) == {}
    assert [artifact.name for artifact in run_status.artifacts] == [
        name for name in NAMES if name not in OPTIONAL
    ]
    assert run_status.next_command == "sparserm extract"
    assert not (tmp_path / "run").exists()


def test_a_whole_chain_is_complete(run: Path):
    """Sizes are those on the disk, dates those recorded inside, parents those it was made from."""
    run_status = status(run)
    assert set(states(run_status).values()) == {"complete"}
    assert run_status["features"].parents == ("activations",)
    assert run_status["directions"].parents == ("frequency",)
    for name in ("activations", "features"):
        root = run / f"{name}.zarr"
        inner = sum(path.stat().st_size for path in (root / "_sparserm").rglob("*.json"))
        files = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        assert run_status[name].bytes == files - inner
        assert (
            run_status[name].created
            == json.loads((root / "_sparserm" / "plan.json").read_text())["told"]["created"]
        )
        assert (run_status[name].done, run_status[name].units) == (3, 3)
    for name in ABOVE:
        made = datetime.fromisoformat(run_status[name].created)
        assert abs((datetime.now(UTC) - made).total_seconds()) < 3600
    assert run_status["frequency"].bytes == (run / "frequency.parquet").stat().st_size
    assert run_status["reward"].parents == ("activations", "directions")
    assert run_status.next_command == ""


def test_a_capture_half_done_says_how_far(tmp_path: Path):
    """Planned, then partial with k of n, failed units told, and the same command again."""
    captures.plan(tmp_path / "activations.zarr")
    assert states(status(tmp_path)) == {"activations": "planned"}
    writer = ActivationsWriter(tmp_path / "activations.zarr")
    captures.compute(writer, 1)
    writer.store.record_failure(2, "MemoryError: ")
    run_status = status(tmp_path)
    assert run_status["activations"].state == "partial"
    assert run_status["activations"].detail == "1 of 3 units, 1 failed"
    assert run_status.next_command == "sparserm extract"


def test_row_36_a_new_capture_makes_everything_above_it_stale_and_names_the_field(run: Path):
    """Other model revision: features name it, the others say whose fault it is."""
    shutil.rmtree(run / "activations.zarr")
    captures.capture(run / "activations.zarr", model_revision="sha256:1")
    run_status = status(run)
    assert states(run_status) == dict.fromkeys(("features", *ABOVE), "stale") | {"activations": "complete"}
    text = "made from other activations: model_revision was sha256:0, is sha256:1"
    assert run_status["features"].detail == text
    assert run_status["frequency"].detail == "made from features, which is stale"
    assert run_status.next_command == "sparserm encode --force"


def test_row_36_a_new_encoding_names_the_field_far_upstream(run: Path):
    """Captured and encoded again: now the frequencies name the model revision."""
    for name in ("activations.zarr", "features.zarr"):
        shutil.rmtree(run / name)
    captures.capture(run / "activations.zarr", model_revision="sha256:1")
    captures.encode(run / "features.zarr", run / "activations.zarr")
    run_status = status(run)
    text = "made from other features: activations.model_revision was sha256:0, is sha256:1"
    assert run_status["frequency"].detail == text
    assert run_status.next_command == "sparserm frequency"


def test_row_36_new_frequencies_make_directions_stale(run: Path):
    """Another seed of the frequencies: directions/ say so."""
    small.frequency(run, seed=1)
    run_status = status(run)
    assert run_status["directions"].detail == "made from other frequency: seed was 0, is 1"
    assert run_status["reward"].detail == "made from directions, which is stale"
    small.directions(run)
    assert status(run)["reward"].state == "complete"  # what it was made from is the same to the bit
    small.directions(run, row=2.0)
    assert status(run)["reward"].detail == "made from other directions: frequency.seed was 0, is 1"


@pytest.mark.parametrize("text", [b"{ }\n", b"{]\n"])
def test_a_changed_input_file_makes_the_capture_stale(whole: Path, tmp_path: Path, text: bytes):
    """One byte more, or one byte different: the file is named with what was read."""
    data = tmp_path / "pairs.jsonl"
    data.write_bytes(b"{}\n")
    digest = sha256_file(data)
    captures.capture(tmp_path / "activations.zarr", inputs=(InputFact(str(data), 3, digest),))
    data.write_bytes(text)
    detail = status(tmp_path)["activations"].detail
    now = "3 bytes were read, is 4 bytes" if len(text) == 4 else f"sha256 {digest} was read, is sha256"
    assert detail.startswith(f"{data}: {now}")
    assert status(tmp_path).next_command == "sparserm extract --force"


def test_large_inputs_are_read_when_asked_and_the_rest_of_the_time_it_says_so(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    """Another byte in a file of the same size: a quick status does not claim to have looked."""
    monkeypatch.setattr("sparserm_cli.store.run.status.READ_BYTES", 2)
    [data] = ActivationsReader(run / "activations.zarr").plan.settings.inputs
    whole = Path(data.path).read_bytes()
    Path(data.path).write_bytes(b"{]\n")
    try:
        quick, deep = status(run)["activations"], status(run, deep=True)["activations"]
    finally:
        Path(data.path).write_bytes(whole)
    detail = "3 bytes of input were not read: `sparserm status --deep` and every stage do so"
    assert (quick.state, quick.detail) == ("complete", detail)
    assert deep.state == "stale"
    assert deep.detail.startswith(f"{data.path}: sha256 {data.sha256} was read, is sha256 ")


def test_a_parent_thrown_away_leaves_its_children_complete(run: Path):
    """Terabytes of activations may go once they are encoded."""
    shutil.rmtree(run / "activations.zarr")
    run_status = status(run)
    assert states(run_status) == dict.fromkeys(("features", *ABOVE), "complete")
    assert run_status.next_command == "sparserm extract"


def damage(path: Path) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_verify_finds_what_quick_cannot_only_when_deep(run: Path):
    """A flipped bit of a chunk: quick says nothing, deep names unit and file."""
    verify(run).raise_if_damaged()
    verify(run, deep=True).raise_if_damaged()
    damage(run / "features.zarr" / "layers" / "1" / "parts" / "00001" / "data" / "c.0")
    verify(run).raise_if_damaged()
    verification = verify(run, deep=True)
    assert [(checked.artifact.name, checked.units) for checked in verification.damaged] == [("features", [1])]
    with pytest.raises(CorruptStoreError) as error:
        verification.raise_if_damaged()
    path = run / "features.zarr" / "layers" / "1" / "parts" / "00001" / "data" / "c.0"
    assert str(error.value).startswith(f"{path} (unit 1): expected xxh3-128 ")
    assert str(error.value).endswith("; run `sparserm repair`")


SMALL = (
    "frequency.parquet",
    "directions/directions.json",
    "directions/directions.safetensors",
    "reward/README.md",
    "reward/config.json",
    "reward/controls.safetensors",
    "reward/model.safetensors",
)


@pytest.mark.parametrize("file", SMALL)
def test_row_10_row_11_row_12_no_byte_of_a_small_artifact_changes_unnoticed(run: Path, file: str):
    """A flipped bit at 40 places, an empty file, a missing one: verify names the artifact, deep or not."""
    path = run / file
    whole = path.read_bytes()
    places = sorted({place * (len(whole) - 1) // 39 for place in range(40)})
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in places]
    for content in [*damaged, b""]:
        path.write_bytes(content)
        assert [checked.artifact.path.name for checked in verify(run).damaged] == [file.partition("/")[0]]
    path.unlink()
    names = [checked.artifact.path.name for checked in verify(run).damaged]
    assert names == ([file.partition("/")[0]] if "/" in file else [])  # no file at all is no artifact
    path.write_bytes(whole)
    assert verify(run).damaged == ()


def test_an_edited_card_is_told_and_no_obstacle(run: Path):
    """People may write on the card; the reward model is whole."""
    card = run / "reward" / "README.md"
    card.write_text(card.read_text() + "Mine.\n")
    read_reward(reward_path(run))
    [checked] = verify(run).damaged
    assert (checked.artifact.name, [damage.path for damage in checked.damage]) == ("reward", ["README.md"])
    with pytest.raises(CorruptStoreError, match=r"reward/README\.md: .*; run `sparserm fit`$"):
        verify(run).raise_if_damaged()


def test_status_and_verify_tell_corrupt_artifacts_apart(run: Path):
    """A missing chunk, a cut table, a cut and a damaged tensor file: each is corrupt, none raises."""
    (run / "activations.zarr" / "layers" / "1" / "mean" / "c.0.0").unlink()
    table = run / "frequency.parquet"
    table.write_bytes(table.read_bytes()[:-4])
    tensors = run / "directions" / "directions.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-4])
    damage(run / "reward" / "model.safetensors")
    run_status = status(run)
    assert states(run_status) == dict.fromkeys(("activations", *ABOVE), "corrupt") | {"features": "complete"}
    assert "layers/1/mean/c.0.0 (unit 0): expected " in run_status["activations"].detail
    names = [checked.artifact.name for checked in verify(run).damaged]
    assert names == ["activations", *ABOVE]


def test_repair_gives_up_the_damaged_units_and_nothing_else(run: Path):
    """Two stores damaged in one unit each: rerun, they have their digests again."""
    digests = [
        ActivationsReader(run / "activations.zarr").digest,
        FeaturesReader(run / "features.zarr").digest,
    ]
    damage(run / "activations.zarr" / "layers" / "2" / "tokens" / "c.2.0")
    (run / "features.zarr" / "layers" / "2" / "parts" / "00000" / "indptr" / "c.0").unlink()
    done = repair(run)
    assert [(repaired.artifact.name, repaired.units, repaired.command) for repaired in done] == [
        ("activations", (2,), "sparserm extract"),
        ("features", (0,), "sparserm encode"),
    ]
    assert states(status(run)) == dict.fromkeys(("activations", "features"), "partial") | dict.fromkeys(
        ABOVE, "complete"
    )
    assert ActivationsWriter(run / "activations.zarr").store.pending() == [2]
    assert captures.fill(run / "activations.zarr").digest == digests[0]
    assert captures.encode(run / "features.zarr", run / "activations.zarr").digest == digests[1]
    verify(run, deep=True).raise_if_damaged()
    assert repair(run) == ()


def test_repair_of_a_damaged_manifest_does_no_unit_again(run: Path):
    """The receipts are there: the next run only writes the manifest."""
    damage(run / "activations.zarr" / "_sparserm" / "MANIFEST.json")
    assert [repaired.units for repaired in repair(run)] == [()]
    store = ActivationsWriter(run / "activations.zarr").store
    assert store.pending() == []
    assert store.finalize() is not None
    verify(run, deep=True).raise_if_damaged()


@pytest.mark.parametrize("path", ["_sparserm/plan.json", "rows/pair_row/c.0", "layers/1/mean/zarr.json"])
def test_repair_leaves_alone_what_only_a_new_plan_mends(run: Path, path: str):
    """It says which command makes the store anew, and touches nothing."""
    damage(run / "activations.zarr" / path)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    done = repair(run)
    assert [(repaired.units, repaired.command) for repaired in done] == [((), "sparserm extract --force")]
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with pytest.raises(CorruptStoreError, match="run `sparserm extract --force`"):
        verify(run, deep=True).raise_if_damaged()


def test_row_08_repair_waits_for_no_run(run: Path):
    """Exit 75 while a run is at work."""
    with run_lock(run), pytest.raises(TemporaryError, match="no other run at work"):
        repair(run)


def test_row_37_a_newer_artifact_is_told_not_raised(run: Path):
    """The status says to upgrade; verify leaves it alone, since it cannot read it."""
    for path in (run / "directions" / "directions.json", run / "features.zarr" / "_sparserm" / "plan.json"):
        write_sealed(path, {**read_sealed(path), "version": 2})
    run_status = status(run)
    for name in ("directions", "features"):
        assert run_status[name].state == "incompatible"
        assert run_status[name].detail.endswith("found version 2; upgrade sparserm")
    assert [checked.artifact.name for checked in verify(run).artifacts] == [
        "activations",
        "frequency",
        "reward",
    ]


def test_row_57_status_and_verify_write_nothing(run: Path, monkeypatch: pytest.MonkeyPatch):
    """On a read-only medium too."""
    monkeypatch.setenv("SPARSERM_FAULT_ERROR", "operation:1:EROFS")
    assert set(states(status(run)).values()) == {"complete"}
    verify(run, deep=True).raise_if_damaged()


def test_row_56_status_reads_no_modification_time(run: Path):
    """Parents dated after their children are not newer."""
    for path in (run / "activations.zarr").rglob("*"):
        os.utime(path, (4_102_444_800, 4_102_444_800))
    os.utime(run / "directions", (0, 0))
    assert set(states(status(run)).values()) == {"complete"}
