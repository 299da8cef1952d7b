"""doctor: drifts measured by hand, and models that are sensitive to one thing and not to another."""

import numpy as np
import pytest
from helpers import fitted_run as shared

from sparserm_cli.alignment.doctor.checks import NEGLIGIBLE, Scale, Subject
from sparserm_cli.alignment.doctor.doctor import doctor
from sparserm_cli.config import DoctorConfig
from sparserm_cli.errors import UsageError
from sparserm_cli.models.checkpoints.resolve import resolve_model

IN_A_BATCH = "in one padded batch"
LEFT = "padded on the left, positions not told"
MASK = "mask made from ids that are not the padding's"


def diagnosed(model, **options):
    """Examine a model and return the diagnosis and its checks by name."""
    diagnosis = doctor(DoctorConfig(model=str(model), **options), note=shared.QUIET["note"])
    return diagnosis, {check.name: check for check in diagnosis.checks}


def test_drift_is_counted_in_the_spread_between_responses(tiny_model):
    """By hand: two vectors 2 apart have a spread of 1, so moving one by 0.5 is a drift of 0.5."""
    identity = resolve_model(str(tiny_model()))
    right, moved = (
        {1: {"mean": np.array(rows, np.float32)}} for rows in ([[0, 0], [2, 0]], [[0, 0], [2, 0.5]])
    )
    check = Scale(Subject(identity, (1,), None), right, [0, 0]).check("moved", moved, "fine", "set it")
    assert check == ("moved", 0.5, 0.25, None, None, "set it")
    same = Scale(Subject(identity, (1,), None), right, [0, 0]).check("same", right, "fine", "set it")
    assert same == ("same", 0.0, 0.0, None, None, "fine")


def test_scores_drift_in_their_own_spread_and_turn_round(tiny_model):
    """A head that reads the first number: scores 0 and 2 become 3 and 2, with a spread of 4."""
    identity = resolve_model(str(tiny_model()))
    right, moved = ({1: {"mean": np.array(rows, np.float32)}} for rows in ([[0], [2]], [[3], [2]]))
    subject = Subject(identity, (1,), None, lambda pooled: pooled[1]["mean"][:, 0], 4.0)
    check = Scale(subject, right, [0, 0]).check("moved", moved, "", "")
    assert (check.score_drift, check.flips) == (0.75, 1)
    apart = Scale(subject, right, [0, 1]).check("moved", moved, "", "")
    assert apart.flips == 0


def test_what_is_not_finite_is_no_small_drift(tiny_model):
    """NaN counts as infinitely far."""
    identity = resolve_model(str(tiny_model()))
    right, moved = ({1: {"mean": np.array(rows, np.float32)}} for rows in ([[0], [2]], [[0], [np.nan]]))
    check = Scale(Subject(identity, (1,), None), right, [0, 0]).check("", moved, "fine", "set it")
    assert (check.drift, check.advice) == (np.inf, "set it")


def test_relative_positions_take_either_padding(tiny_model):
    """A llama's rotary positions do not mind; padding that is the end of a turn must not become a mask."""
    diagnosis, checks = diagnosed(tiny_model("llama"))
    assert (diagnosis.layers, diagnosis.responses, diagnosis.bos, diagnosis.eos) == (
        (1,),
        10,
        "",
        "<|im_end|>",
    )
    for name in (IN_A_BATCH, LEFT, "prompt computed once for all its responses"):
        assert checks[name].drift <= NEGLIGIBLE
    assert checks[IN_A_BATCH].advice == "any batch size will do"
    assert checks[LEFT].advice == "either side will do"
    assert checks[MASK].drift > NEGLIGIBLE
    assert checks[MASK].advice.startswith("pad is the end of a turn: make masks from lengths")
    assert checks["without the chat template"].drift > NEGLIGIBLE
    assert checks["two BOS, or none"].advice == "the model has no BOS"
    assert 0 < checks["in bfloat16"].drift < 1
    assert "of what float16 holds" in checks["in float16"].advice


def test_absolute_positions_need_padding_on_the_right(tiny_model):
    """GPT-2 learnt a vector a position, so left padding moves every token to a place it has not been at."""
    _, checks = diagnosed(tiny_model("gpt2"), layer=(0, 2))
    assert checks[LEFT].drift > NEGLIGIBLE
    assert checks[LEFT].advice == "pad on the right, or give position_ids that begin at the first token"


def test_a_reward_model_tells_what_scores_do(fitted_run, tiny_model, tmp_path):
    """Its own layers, scores too, on rows of a file."""
    file = shared.write_rows(tmp_path / "t.jsonl", shared.ROWS[30:])
    diagnosis, checks = diagnosed(tiny_model("llama"), reward=fitted_run / "reward", data=file, limit=4)
    assert (diagnosis.layers, diagnosis.responses) == ((1,), 8)
    assert checks[IN_A_BATCH].score_drift < 1e-3
    assert checks[IN_A_BATCH].flips == 0
    assert checks["without the chat template"].score_drift > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layer": (1,), "reward": "r"},
            "--layer: expected no layer, since --reward has its own, found both",
        ),
        ({"template": "t", "reward": "r"}, "--template: expected none, since --reward has its own"),
        ({"template": "raw"}, "--template: expected a Jinja file, found raw"),
    ],
)
def test_options_that_contradict(options, message):
    """What cannot be meant is refused."""
    with pytest.raises(UsageError, match=message):
        DoctorConfig(**options)
