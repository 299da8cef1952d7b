"""extract on a tiny random model: right vectors, nothing recomputed, nothing mixed up."""

import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sparserm_cli.cli.output import pipeline as reports
from sparserm_cli.config import ExtractConfig
from sparserm_cli.console import Output
from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.errors import (
    BadInputError,
    IncompatibleError,
    ResourceError,
    StoppedError,
    TemporaryError,
    UsageError,
)
from sparserm_cli.formatting import size
from sparserm_cli.models.lm import devices
from sparserm_cli.models.lm import language_model as lm
from sparserm_cli.stages.extract.extract import extract, fetching
from sparserm_cli.store.capture.reader import ActivationsReader
from sparserm_cli.store.run.locks import run_lock
from sparserm_cli.store.run.status import status

ROWS = [
    {"prompt": f"Question {n % 5}?", "chosen": f"yes, {n} " + "a" * n, "rejected": f"no {n}"}
    for n in range(12)
]


@pytest.fixture
def data(tmp_path):
    """Write twelve pairs over five prompts."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def config(data: Path, model: Path, run: Path, **changes) -> ExtractConfig:
    """Small units, so that there are several."""
    wanted = {"layer": (1,), "dtype": "float32", "unit_tokens": 40} | changes
    return ExtractConfig(data=str(data), model=str(model), run=run, **wanted)


def run(*args, **changes):
    """Extract quietly."""
    return extract(config(*args, **changes), progress=lambda _done, _total: None, note=lambda _text: None)


def test_margins_of_the_data_are_stored(tiny_model, tmp_path):
    """As a column, as scores of both sides, and none for a row that has neither."""
    margins = [{"margin": 2.5}, {"score_chosen": 7, "score_rejected": 8.5}, {}]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(ROWS[n] | margin) + "\n" for n, margin in enumerate(margins)))
    run(data, tiny_model("llama"), tmp_path / "run")
    reader = ActivationsReader(tmp_path / "run" / "activations.zarr")
    np.testing.assert_array_equal(reader.rows.pair_margin, [2.5, -1.5, np.nan])


def test_vectors_are_those_of_transformers(data, tiny_model, tmp_path):
    """Tokens, last and mean equal hidden_states[layer + 1] of the whole model on prompt + response."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model("llama")
    done = run(data, folder, tmp_path / "run", layer=(0, 2))
    reader = ActivationsReader(done.path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    template = PromptTemplate(tokenizer)
    pairs = reader.pairs()
    assert len(pairs.chosen) == len(ROWS)
    for number, row in enumerate(ROWS):
        prompt = template.render(row["prompt"])
        for side, response in (
            (pairs.chosen, int(pairs.chosen[number])),
            (pairs.rejected, int(pairs.rejected[number])),
        ):
            text = row["chosen"] if side is pairs.chosen else row["rejected"]
            ids = tokenizer(prompt + text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
            with torch.no_grad():
                states = whole(ids, output_hidden_states=True).hidden_states
            for layer in (0, 2):
                expected = states[layer + 1][0, start:].numpy()
                np.testing.assert_allclose(reader.tokens(layer, response), expected, rtol=1e-4, atol=1e-4)
                np.testing.assert_allclose(
                    reader.pooled(layer, "last")[response], expected[-1], rtol=1e-4, atol=1e-4
                )
                np.testing.assert_allclose(
                    reader.pooled(layer, "mean")[response], expected.mean(0), rtol=1e-4, atol=1e-4
                )


def test_bfloat16_is_kept_as_its_bits(data, tiny_model, tmp_path):
    """What is stored is what the model computed, to the bit: the low half of every float32 is zero."""
    done = run(data, tiny_model("llama"), tmp_path / "run", dtype="bfloat16")
    reader = ActivationsReader(done.path)
    block = next(iter(reader.iter_tokens(1)))
    assert block.rows.dtype == np.float32
    assert not (block.rows.view(np.uint32) & 0xFFFF).any()
    assert (reader.pooled(1, "mean").view(np.uint32) & 0xFFFF).any()


def test_the_type_is_told_and_why(data, tiny_model, tmp_path, monkeypatch):
    """What `auto` chose has a reason; whoever continues elsewhere keeps to the plan."""
    monkeypatch.setattr(devices, "bfloat16_gain", lambda: 0.51)
    slower = "products in bfloat16 are 0.51 times as fast as in float32 on this processor"
    for rank, able, reason in (
        (0, "avx2", slower),
        (1, "amx_bf16", "as planned"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: {able: True})
        notes: list[str] = []
        extract_config = config(
            data, tiny_model("llama"), tmp_path / "run", dtype="auto", device="cpu", worker=(rank, 2)
        )
        extract(extract_config, progress=lambda _done, _total: None, note=notes.append)
        assert f"computing in float32 on cpu: {reason}; each prompt once for all its responses" in notes


def test_rerun_of_a_finished_capture_loads_no_model(data, tiny_model, tmp_path, monkeypatch):
    """Digests alone say that there is nothing to do."""
    first = run(data, tiny_model("llama"), tmp_path / "run")
    assert first.computed == first.plan.layout.units > 1
    monkeypatch.setattr(lm.LanguageModel, "load", None)
    again = run(data, tiny_model("llama"), tmp_path / "run")
    assert (again.state, again.computed, again.digest) == ("complete", 0, first.digest)


@pytest.mark.parametrize(
    ("changes", "field", "expected", "present"),
    [
        ({"layer": (2,)}, "layers", "[1]", "[2]"),
        ({"dtype": "bfloat16"}, "dtype", "float32", "bfloat16"),
        ({"template": "raw"}, "template_source", "model", "raw"),
        ({"positions": "pooled"}, "positions", "response", "pooled"),
        ({"max_length": 99}, "max_length", "512", "99"),
    ],
)
def test_another_request_is_refused_by_field(data, tiny_model, tmp_path, changes, field, expected, present):
    """A run directory holds one capture; what differs is named with both values."""
    run(data, tiny_model("llama"), tmp_path / "run")
    with pytest.raises(IncompatibleError) as caught:
        run(data, tiny_model("llama"), tmp_path / "run", **changes)
    assert str(caught.value) == (
        f"{tmp_path}/run/activations.zarr: {field}: expected {expected}, found {present}; "
        "give the same option, another --run directory, or --force to start anew"
    )


def test_row_39_another_model_is_refused(data, tiny_model, tmp_path):
    """Weights are compared by content, not by name."""
    run(data, tiny_model("llama"), tmp_path / "run")
    other = tmp_path / "other"
    tiny_model("llama")
    import shutil

    shutil.copytree(tiny_model("llama", initializer_range=0.3), other)
    with pytest.raises(
        IncompatibleError, match=r"activations\.zarr: model: expected .*llama.*, found .*other; "
    ):
        run(data, other, tmp_path / "run")


def test_one_changed_byte_of_input_is_refused_and_force_starts_anew(data, tiny_model, tmp_path):
    """The data's digest is part of what a capture is."""
    first = run(data, tiny_model("llama"), tmp_path / "run")
    data.write_text(data.read_text().replace("no 3", "no 4"))
    with pytest.raises(
        IncompatibleError, match=r"activations\.zarr: inputs: expected .*bytes.*, found .*bytes"
    ):
        run(data, tiny_model("llama"), tmp_path / "run")
    anew = run(data, tiny_model("llama"), tmp_path / "run", force=True)
    assert anew.digest != first.digest
    assert run(data, tiny_model("llama"), tmp_path / "run", force=True).computed == 0


def test_a_relative_path_of_data_is_found_from_anywhere_and_moves_with_the_run(
    data, tiny_model, tmp_path, monkeypatch
):
    """What is recorded counts from the run directory, whatever the working directory was or is."""
    monkeypatch.chdir(tmp_path)
    made = run(Path(data.name), tiny_model("llama"), Path("run"))
    assert made.plan.settings.inputs[0].path == "../pairs.jsonl"
    (tmp_path / "project").mkdir()
    for name in ("run", "pairs.jsonl"):
        (tmp_path / name).rename(tmp_path / "project" / name)
    moved = tmp_path / "project"
    monkeypatch.chdir("/")
    assert status(moved / "run")["activations"].state == "complete"
    (moved / "pairs.jsonl").write_text((moved / "pairs.jsonl").read_text().replace("no 3", "no 4"))
    artifact = status(moved / "run")["activations"]
    assert (artifact.state, artifact.detail.partition(":")[0]) == ("stale", f"{moved}/pairs.jsonl")


def test_workers_make_the_same_capture(data, tiny_model, tmp_path):
    """Two workers' slices add up to the digest of one."""
    alone = run(data, tiny_model("llama"), tmp_path / "alone")
    first = run(data, tiny_model("llama"), tmp_path / "shared", worker=(0, 2))
    assert first.state == "partial"
    second = run(data, tiny_model("llama"), tmp_path / "shared", worker=(1, 2))
    assert (second.state, second.digest) == ("complete", alone.digest)
    assert first.computed + second.computed == alone.computed


def test_row_50_interrupted_capture_continues_to_the_same_digest(data, tiny_model, tmp_path):
    """Ctrl-C after some tokens finishes the unit; the same command then ends as an undisturbed one."""
    alone = run(data, tiny_model("llama"), tmp_path / "alone")

    def interrupt(done, _total):
        if done > 30 and not stopped:
            stopped.append(done)
            os.kill(os.getpid(), signal.SIGINT)

    stopped = []
    with pytest.raises(StoppedError) as caught:
        extract(
            config(data, tiny_model("llama"), tmp_path / "run"), progress=interrupt, note=lambda _text: None
        )
    assert caught.value.exit_code == 130
    resumed = run(data, tiny_model("llama"), tmp_path / "run")
    assert 0 < resumed.computed < alone.computed
    assert resumed.digest == alone.digest


def test_row_08_second_run_waits_for_nobody(data, tiny_model, tmp_path):
    """A held directory stops the second run and names the holder."""
    with run_lock(tmp_path / "run"), pytest.raises(TemporaryError, match=f"pid {os.getpid()}"):
        run(data, tiny_model("llama"), tmp_path / "run")


def test_rejected_rows_are_counted_and_kept(data, tiny_model, tmp_path):
    """Accepted and rejected rows add up, and what was rejected lies beside the data."""
    with data.open("a") as file:
        file.write('{"prompt": "x", "chosen": "y"}\n')
    with pytest.raises(BadInputError, match=r"pairs\.jsonl:line 13 \(byte \d+\), field rejected"):
        run(data, tiny_model("llama"), tmp_path / "run")
    assert not (tmp_path / "run" / "activations.zarr").exists()
    done = run(data, tiny_model("llama"), tmp_path / "run", on_bad_row="reject")
    counts = done.plan.counts
    assert (counts["rows_read"], counts["rows_accepted"], counts["rows_rejected"]) == (13, 12, 1)
    rejects = (done.path / "_sparserm" / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in rejects] == [13]


def test_row_22_dedupe_keeps_the_first_of_equal_pairs(data, tiny_model, tmp_path):
    """Equal pairs are counted, and with --dedupe kept once."""
    data.write_text(data.read_text() * 2)
    assert run(data, tiny_model("llama"), tmp_path / "all").plan.layout.pairs == 24
    once = run(data, tiny_model("llama"), tmp_path / "once", dedupe=True)
    assert once.plan.layout.pairs == 12
    assert once.plan.counts["duplicate_pairs"] == 12


def test_dry_run_writes_nothing(data, tiny_model, tmp_path):
    """A dry run tells the price and leaves no trace."""
    done = run(data, tiny_model("llama"), tmp_path / "run", dry_run=True)
    assert (done.state, done.plan.layout.pairs, done.computed) == ("planned", 12, 0)
    assert done.estimate.seconds > 0
    assert not (tmp_path / "run").exists()


def test_row_50_an_interrupted_dry_run_leaves_no_trace(data, tiny_model, tmp_path, monkeypatch):
    """The plan that it works with lies among the temporary files until then."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))

    def interrupt(*_: object) -> None:
        assert len(list(folder.glob("*/activations.zarr"))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr("sparserm_cli.stages.extract.extract.estimate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(data, tiny_model("llama"), tmp_path / "run", dry_run=True)
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "run").exists()


def test_blocks_on_the_disk_leave_the_digest_as_it_is(data, tiny_model, tmp_path):
    """Where a model lies is no part of what a capture is."""
    places = tmp_path / "devices.json"
    places.write_text(
        json.dumps({"embed_tokens": "cpu", "layers": "disk", "norm": "cpu", "rotary_emb": "cpu"})
    )
    plain = run(data, tiny_model("llama"), tmp_path / "plain", device="cpu")
    placed = run(data, tiny_model("llama"), tmp_path / "placed", device=str(places))
    assert placed.digest == plain.digest


@pytest.mark.parametrize("done", [0, 1])
def test_row_07_a_short_disk_is_refused_before_any_unit(data, tiny_model, tmp_path, monkeypatch, done):
    """A tenth more than what is still to be written must be free, at the start and on going on."""
    whole = run(data, tiny_model("llama"), tmp_path / "run")
    store = ActivationsReader(whole.path).store
    store.drop(range(done, whole.plan.layout.units))
    left = whole.plan.bytes_left(done)
    assert left == whole.plan.bytes * (whole.plan.layout.units - done) // whole.plan.layout.units > 0
    monkeypatch.setattr("sparserm_cli.store.io.local_disk.free_bytes", lambda _folder: int(left * 1.1) - 1)
    monkeypatch.setattr(lm.LanguageModel, "load", None)
    with pytest.raises(ResourceError) as caught:
        run(data, tiny_model("llama"), tmp_path / "run")
    assert str(caught.value) == (
        f"{tmp_path}/run: expected {int(left * 1.1):,} bytes free, found {int(left * 1.1) - 1:,}; "
        "free space, choose another --run directory, or use --positions pooled"
    )


def test_row_07_a_dry_run_tells_everything_and_then_refuses(data, tiny_model, tmp_path, monkeypatch, capsys):
    """Rows, pairs, tokens, bytes, files, free disk and time; exit 6 if the disk is short."""
    done = run(data, tiny_model("llama"), tmp_path / "run", dry_run=True)
    reports.extract(Output(), done)
    lines = capsys.readouterr().out.splitlines()
    layout = done.plan.layout
    assert lines[0] == "12 rows read: 12 accepted, 0 rejected"
    tokens = layout.response_tokens + layout.prompt_tokens
    assert lines[1] == f"planned: 12 pairs, 24 responses to 5 prompts, {tokens:,} tokens"
    assert lines[2] == f"{size(done.plan.bytes)} in {done.plan.files} files, {size(done.free)} free"
    assert re.fullmatch(
        r"estimated: \d+ s, \d+ s of them to read and load, on 1 x cpu at [\d,]+ tokens/s, "
        r"measured here for \d s; [\d.e+]+ FLOP",
        lines[3],
    )
    monkeypatch.setattr("sparserm_cli.store.io.local_disk.free_bytes", lambda _folder: done.plan.bytes)
    with pytest.raises(ResourceError, match="bytes free"):
        reports.extract(Output(as_json=True), done)
    estimate = json.loads(capsys.readouterr().out)
    assert (estimate["bytes"], estimate["files"], estimate["tokens"]) == (
        done.plan.bytes,
        done.plan.files,
        tokens,
    )


def test_layer_must_be_said_and_exist(data, tiny_model, tmp_path):
    """No layer, and one above the model's last, are refused before any work."""
    with pytest.raises(UsageError) as caught:
        run(data, tiny_model("llama"), tmp_path / "run", layer=None)
    assert str(caught.value) == (
        "--layer: expected a layer, found none; give --layer, such as the middle one, or --sae with an SAE "
        "that knows its layer"
    )
    with pytest.raises(
        UsageError, match=r"--layer: expected layers from 0 to 3 for .*, found 4; correct the option"
    ):
        run(data, tiny_model("llama"), tmp_path / "run", layer=(4,))


def test_how_data_are_understood_is_said_and_no_pair_is_an_error(tiny_model, tmp_path):
    """Identical answers and ties are counted; if nothing else is there, no later stage has to find out."""
    same = {"prompt": "Hi?", "chosen": "Yes.", "rejected": "Yes."}
    path, notes = tmp_path / "same.jsonl", []
    path.write_text((json.dumps(same) + "\n") * 2)
    with pytest.raises(BadInputError) as caught:
        extract(
            config(path, tiny_model("llama"), tmp_path / "run"), progress=lambda *_: None, note=notes.append
        )
    assert str(caught.value) == (
        f"{path}: expected a pair of two different responses, found 2 pairs have identical answers; "
        "see what the file becomes with `sparserm data`"
    )
    assert f"{path}: shape preference: prompt, chosen, rejected; nothing is ignored" in notes
    assert "2 pairs have identical answers" in notes


def test_a_model_that_is_fetched_counts_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """How much of a model is there is said in bytes, at once and then every ten seconds; never in tokens."""
    clock, notes = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    say = fetching("org/model", notes.append)
    for now, done in ((0.0, 0), (5.0, 1 << 20), (10.0, 3 << 20), (12.0, 4 << 20)):
        clock[0] = now
        say(done, 4 << 20)
    assert notes == ["fetching org/model: 0 B of 4.0 MiB", "fetching org/model: 3.0 MiB of 4.0 MiB"]
