"""Steering: the vector, the hook for transformers and the file for llama.cpp."""

import json
import struct

import gguf
import numpy as np
import pytest
import torch
from helpers import tiny_run
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from sparserm_cli.alignment.steering.export import export_control_vector
from sparserm_cli.alignment.steering.hook import steered
from sparserm_cli.alignment.steering.vector import residual_norms, steering_vector
from sparserm_cli.cli.main import app
from sparserm_cli.config import ExportConfig
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.head.reward_head import RewardHead
from sparserm_cli.models.head.score_gradient import score_gradient
from sparserm_cli.models.lm.backbone import blocks_of
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.store.artifacts.head_arrays import HeadArrays
from sparserm_cli.store.exchange.control_vector import (
    ControlVector,
    read_control_vector,
    write_control_vector,
)

IDS = torch.tensor([[10, 20, 30, 40, 50], [60, 70, 80, 90, 100]])


@pytest.fixture(scope="module")
def policy(tiny_model):
    """Load the whole language model that the tiny reward was fitted on."""
    return AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def vector(model):
    """Make the steering vector of the tiny reward model."""
    return steering_vector(model)


@torch.no_grad()
def hidden(policy):
    """Return what each block is given, which is the residual stream after the block before it."""
    taken = []

    def keep(_block, inputs):
        taken.append(inputs[0])

    handles = [block.register_forward_pre_hook(keep) for block in blocks_of(policy.get_decoder())]
    policy(IDS)
    for handle in handles:
        handle.remove()
    return taken


@pytest.mark.parametrize("pool", ["mean", "last", "both"])
def test_gradient_is_what_a_shift_of_every_token_adds_to_the_score(pool):
    """Worked out by hand: two directions, weights 3 and -1, standard deviations 2 and 4."""
    directions = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    count = 2 if pool == "both" else 1
    arrays = HeadArrays(
        np.full(2 * count, 7, np.float32),
        np.array([2, 4] * count, np.float32),
        {"weight": np.array([3, -1] * count, np.float32), "bias": np.zeros(1, np.float32)},
        {5: directions},
    )
    gradient = score_gradient(RewardHead(arrays, (5,), pool))
    np.testing.assert_allclose(gradient[5], count * np.array([1.5, -0.25, 0]))


def test_strength_one_adds_the_recorded_gain_to_a_score(model, vector):
    """The unit: a shift of one mean norm, in standard deviations of the training scores."""
    rows = model.tokenize("Question 1?", ["Yes, 1 is good.", "no never"])
    pooled = model.pooled(rows)
    moved = {
        layer: {name: vectors + vector.scaled(1.0)[layer] for name, vectors in by_pooling.items()}
        for layer, by_pooling in pooled.items()
    }
    gain = (model.scores_of(moved) - model.scores_of(pooled)) / model.config.score_std
    np.testing.assert_allclose(gain, vector.gains[1], rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(vector.scaled(-0.5)[1]), 0.5 * vector.norms[1], rtol=1e-5)
    assert vector.norms == residual_norms(model)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_hook_adds_exactly_the_vector_and_leaves_nothing_behind(tiny_model, arch, vector):
    """After the steered block every token is moved by the vector; before it none is; later none again."""
    policy = AutoModelForCausalLM.from_pretrained(tiny_model(arch), dtype=torch.float32).eval()
    before = hidden(policy)
    added = vector.scaled(0.3)
    with steered(policy, added):
        moved = hidden(policy)
    assert torch.equal(moved[1], before[1])
    assert torch.equal(moved[2], before[2] + torch.from_numpy(added[1]))
    assert not torch.equal(moved[3], before[3])
    assert torch.equal(hidden(policy)[2], before[2])


def test_hook_refuses_a_vector_of_another_model(policy):
    """It names both shapes, and hooks nothing."""
    with pytest.raises(IncompatibleError) as caught, steered(policy, {1: np.ones(7, np.float32)}):
        pass
    assert str(caught.value) == (
        "the steering vector: expected vectors of width 32 for blocks from 0 to 3, "
        "found shape (7,) for block 1; "
        "take the reward of this model"
    )
    with pytest.raises(IncompatibleError), steered(policy, {4: np.ones(32, np.float32)}):
        pass


def test_control_vector_is_read_back_by_the_gguf_library(reward, vector, tmp_path):
    """Names, number type, length and values are those that llama.cpp reads."""
    target = tmp_path / "steering.gguf"
    export_control_vector(ExportConfig(target=target, to="control-vector", reward=reward, strength=0.5))
    reader = gguf.GGUFReader(target)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    assert facts["general.architecture"] == "controlvector"
    assert (facts["controlvector.model_hint"], facts["controlvector.layer_count"]) == ("llama", 1)
    assert (facts["sparserm.strength"], facts["sparserm.norm.1"]) == (0.5, vector.norms[1])
    (tensor,) = reader.tensors
    assert (tensor.name, tensor.tensor_type.name, tensor.shape.tolist()) == ("direction.1", "F32", [32])
    np.testing.assert_array_equal(tensor.data, vector.scaled(0.5)[1])
    control = read_control_vector(target)
    np.testing.assert_array_equal(control.vectors[1], tensor.data)
    assert control.facts["reward"] == RewardModel.load(reward).config.lineage.digest


def test_command_prints_what_json_says(reward, tmp_path):
    """`--json` is one object; a second export needs --force, and another file is never replaced."""
    target = tmp_path / "steering.gguf"
    words = ["export", str(target), "--to", "control-vector", "--reward", str(reward)]
    result = CliRunner().invoke(app, [*words, "--json"])
    printed = json.loads(result.stdout)
    assert sorted(printed) == ["bytes", "gains", "layers", "model", "norms", "path", "strength"]
    assert (printed["path"], printed["bytes"]) == (str(target), target.stat().st_size)
    assert (printed["strength"], printed["layers"]) == (0.1, [1])
    with pytest.raises(UsageError, match="expected a new file, found an earlier export; use --force"):
        export_control_vector(ExportConfig(target=target, to="control-vector", reward=reward))
    export_control_vector(ExportConfig(target=target, to="control-vector", reward=reward, force=True))
    target.write_bytes(b"mine")
    with pytest.raises(UsageError, match="found something else; name another one"):
        export_control_vector(ExportConfig(target=target, to="control-vector", reward=reward, force=True))


def test_heads_and_layers_without_a_meaning_are_refused(tiny_model, tmp_path):
    """A hidden layer has no one direction, and llama.cpp has no place for block 0."""
    for folder, layer, head in (("mlp", 1, "mlp"), ("first", 0, "linear")):
        (tmp_path / folder).mkdir()
        tiny_run.tiny_run(tmp_path / folder, tiny_model(), layers=(layer,), head=head)
    reward = tmp_path / "mlp" / "run" / "reward"
    config = ExportConfig(target=tmp_path / "a.gguf", to="control-vector", reward=reward)
    with pytest.raises(IncompatibleError) as caught:
        export_control_vector(config)
    assert str(caught.value) == (
        f"{reward}: head: expected a linear head, whose score rises in the same direction everywhere, "
        "found mlp; "
        "run `sparserm fit --head linear` first"
    )
    with pytest.raises(ValueError, match="differs from response to response"):
        score_gradient(RewardModel.load(reward).head)
    reward = tmp_path / "first" / "run" / "reward"
    with pytest.raises(IncompatibleError) as caught:
        export_control_vector(ExportConfig(target=tmp_path / "a.gguf", to="control-vector", reward=reward))
    assert str(caught.value) == (
        f"{reward}: layers: expected layers from 1 on, since llama.cpp adds nothing after block 0, found 0; "
        "capture another layer, or steer with the hook for transformers"
    )
    assert not (tmp_path / "a.gguf").exists()


def test_options_that_mean_nothing_are_refused(tmp_path):
    """A strength needs a vector, and the vector a .gguf file."""
    with pytest.raises(UsageError, match="--strength: expected --to control-vector beside it, found hf"):
        ExportConfig(target=tmp_path, to="hf", strength=0.5)
    with pytest.raises(UsageError, match="--strength: expected a finite number"):
        ExportConfig(target=tmp_path, to="control-vector", strength=float("nan"))
    with pytest.raises(UsageError, match=r"expected a name that ends with \.gguf, found no ending"):
        export_control_vector(ExportConfig(target=tmp_path / "vector", to="control-vector"))


def test_files_that_are_no_control_vector_are_refused(tmp_path):
    """A model, a vector of another number type, vectors of two lengths, a cut file."""
    expected = "expected a control vector: float32 tensors direction.N in a .gguf file"
    with pytest.raises(IncompatibleError, match=f"{expected}, found no such file"):
        read_control_vector(tmp_path / "none.gguf")
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    finish(writer)
    with pytest.raises(IncompatibleError, match="found a file of the architecture llama"):
        read_control_vector(tmp_path / "model.gguf")
    writer = gguf.GGUFWriter(tmp_path / "half.gguf", "controlvector")
    writer.add_tensor("direction.3", np.ones(4, np.float16))
    finish(writer)
    with pytest.raises(IncompatibleError, match=r"found a tensor direction\.3 of type F16"):
        read_control_vector(tmp_path / "half.gguf")
    vectors = {2: np.ones(4, np.float32), 3: np.ones(5, np.float32)}
    write_control_vector(tmp_path / "two.gguf", ControlVector(vectors, "llama", {}))
    with pytest.raises(IncompatibleError, match="found vectors of 2 lengths"):
        read_control_vector(tmp_path / "two.gguf")
    (tmp_path / "cut.gguf").write_bytes(struct.pack("<4sI", b"GGUF", 3))
    with pytest.raises(IncompatibleError, match=expected):
        read_control_vector(tmp_path / "cut.gguf")
    with pytest.raises(ValueError, match="a vector of block 0"):
        write_control_vector(tmp_path / "zero.gguf", ControlVector({0: np.ones(4, np.float32)}, "llama", {}))


def finish(writer):
    """Write what a writer has gathered."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
