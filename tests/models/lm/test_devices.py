"""Models that one device cannot hold: the same vectors wherever blocks lie, and nothing above the layer."""

import gc
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate.utils.offload
import pytest
import torch
from torch import nn

from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.checkpoints.resolve import resolve_model
from sparserm_cli.models.lm.devices import devices_of
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.trie import build_trie, sort_rows
from sparserm_cli.models.lm.trie_trial import trial_rows

Make = Callable[..., Path]
IDS = torch.arange(2, 40).reshape(2, 19)


def load(folder: Path, device: str, **options: Any) -> LanguageModel:
    """Load three of the four blocks of a tiny model."""
    return LanguageModel.load(
        resolve_model(str(folder)), layers=[0, 2], device=device, **{"dtype": "float32"} | options
    )


def vectors(lm: LanguageModel) -> list[torch.Tensor]:
    """Run two sequences as plain rows, and two as a trie; return what follows layers 0 and 2."""
    trie = build_trie(*sort_rows(trial_rows(lm)))
    return [*lm.forward_rows(IDS, torch.ones_like(IDS)).values(), *lm.forward_trie(trie).values()]


def map_file(folder: Path, places: Any) -> str:
    """Write a file of devices and return its name."""
    path = folder / "devices.json"
    path.write_text(json.dumps(places))
    return str(path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("arch", ["llama", "gemma2"])
@pytest.mark.parametrize("on_disk", [(), ("layers.1",), ("embed_tokens", "layers.0", "layers.2")])
def test_blocks_on_the_disk_give_the_same(
    arch: str, dtype: str, on_disk: tuple[str, ...], tmp_path: Path, tiny_model: Make
) -> None:
    """To the bit, by plain rows and by a trie, wherever the blocks wait until they are run."""
    parts = ("embed_tokens", "layers.0", "layers.1", "layers.2", "norm", "rotary_emb")
    places = {part: "disk" if part in on_disk else "cpu" for part in parts} if on_disk else {"": "cpu"}
    plain = load(tiny_model(arch), "cpu", dtype=dtype)
    placed = load(tiny_model(arch), map_file(tmp_path, places), dtype=dtype)
    waiting = {name for name, parameter in placed.backbone.named_parameters() if parameter.is_meta}
    assert {part for part in parts if any(name.startswith(f"{part}.") for name in waiting)} == set(on_disk)
    assert (placed.device, placed.dtype, placed.supports_tree) == ("cpu", dtype, True)
    torch.testing.assert_close(vectors(placed), vectors(plain), rtol=0, atol=0)


def test_blocks_above_the_layer_are_not_read_from_the_disk(
    tmp_path: Path, tiny_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what lies on the disk only blocks up to the layer are fetched, each time they are run."""
    read: list[str] = []

    class Recorder(accelerate.utils.offload.OffloadedWeightsLoader):
        def __getitem__(self, key: str) -> torch.Tensor:
            read.append(key)
            return super().__getitem__(key)

    monkeypatch.setattr("accelerate.big_modeling.OffloadedWeightsLoader", Recorder)
    places = {"embed_tokens": "cpu", "layers": "disk", "norm": "cpu", "rotary_emb": "cpu"}
    lm = load(tiny_model(), map_file(tmp_path, places))
    assert len(lm.blocks) == 3
    read.clear()
    lm.forward_rows(IDS, torch.ones_like(IDS))
    assert {".".join(name.split(".")[:2]) for name in read} == {"layers.0", "layers.1", "layers.2"}
    assert len(read) == len(set(read))


def test_balanced_shares_the_model_among_all_gpus(tiny_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The word reaches transformers; without a GPU all of it lies in main memory, and no folder is left."""
    from transformers import PreTrainedModel

    calls = []
    from_pretrained = PreTrainedModel.from_pretrained.__func__

    def recorded(cls: type, *args: Any, **options: Any) -> Any:
        if "offload_folder" in options:  # a check of tensor names before it loads no weights
            calls.append((options["device_map"], Path(options["offload_folder"])))
        return from_pretrained(cls, *args, **options)

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(recorded))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lm = load(tiny_model(), "balanced")
    assert lm.device == "cpu"
    (words, folder), *others = calls
    assert (words, others) == ("balanced", [])
    assert folder.parent == Path(tempfile.gettempdir())
    del lm
    gc.collect()
    assert not folder.exists()


def test_the_first_weights_that_lie_somewhere_take_the_input() -> None:
    """Those that wait in main memory or on the disk are on the meta device until they are run."""
    model = nn.Sequential(*(nn.Linear(1, 1, device=device) for device in ("meta", "cpu", "meta")))
    assert devices_of(model) == ["cpu"]
    assert devices_of(model[0]) == ["cpu"]


def test_blocks_on_several_devices_are_run_as_plain_rows(
    tiny_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trie lies on one device; accelerate takes plain rows from one to the next."""
    monkeypatch.setattr("sparserm_cli.models.lm.language_model.devices_of", lambda _model: ["cpu", "cuda:1"])
    lm = load(tiny_model(), "cpu")
    assert (lm.supports_tree, lm.tree_reason) == (False, "its blocks are on 2 devices")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "which cannot be read as JSON (Expecting"),
        ("[1]", "which holds something else; repair the file"),
        ('{"": 1.5}', "which holds something else; repair the file"),
    ],
)
def test_a_file_that_names_no_devices(content: str, message: str, tmp_path: Path, tiny_model: Make) -> None:
    """Exit 2 names the file; so does one that is not there."""
    path = tmp_path / "devices.json"
    path.write_text(content)
    for name, words in ((path, message), (tmp_path / "none.json", "cannot be read as JSON ([Errno 2]")):
        with pytest.raises(UsageError) as caught:
            load(tiny_model(), str(name))
        assert words in str(caught.value)
        assert f"found {name}, which" in str(caught.value)


def test_a_block_without_a_device_is_one_line(tmp_path: Path, tiny_model: Make) -> None:
    """What transformers says of a map that forgets a block."""
    with pytest.raises(IncompatibleError, match=r"layers\.2"):
        load(tiny_model(), map_file(tmp_path, {"embed_tokens": "cpu", "layers.0": "disk"}))
