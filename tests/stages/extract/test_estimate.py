"""What a dry run estimates: by hand from the plan, from a rate given or measured here."""

import json

import numpy as np
import pytest

from sparserm_cli.cli.output import pipeline as reports
from sparserm_cli.config import ExtractConfig
from sparserm_cli.console import Output
from sparserm_cli.errors import UsageError
from sparserm_cli.models.checkpoints.resolve import resolve_model
from sparserm_cli.models.lm.backbone import block_parameters
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.trie import Tree
from sparserm_cli.stages.extract import estimate
from sparserm_cli.stages.extract.extract import ExtractSummary, extract

WIDTH, INNER, HEADS, KEYS, HEAD = 32, 64, 4, 2, 8
WEIGHTS = 2 * WIDTH * HEADS * HEAD + 2 * WIDTH * KEYS * HEAD + 3 * WIDTH * INNER + 2 * WIDTH
"""Of one block of the tiny llama: queries and output, keys and values, the gated MLP, two norms."""


@pytest.fixture
def config(tmp_path, tiny_model):
    """Give a dry run of three pairs, with whatever options."""
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Question {n}?", "chosen": "yes", "rejected": "no"} for n in range(3)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def give(**options) -> ExtractConfig:
        model = str(tiny_model("llama"))
        return ExtractConfig(
            run=tmp_path / "run", data=str(data), model=model, layer=(1,), dry_run=True, **options
        )

    return give


def dry_run(config: ExtractConfig) -> ExtractSummary:
    """Run it quietly."""
    return extract(config, progress=lambda _done, _total: None, note=lambda _text: None)


def test_a_given_rate_makes_a_price_without_loading_weights(config, monkeypatch, capsys):
    """Two devices of 10 tokens a second at 3.60 an hour: hours, operations and price follow from tokens."""
    monkeypatch.setattr(LanguageModel, "load", None)
    done = dry_run(config(tokens_per_second=10.0, gpu="H100", gpus=2, price_per_hour=3.6))
    tokens = done.plan.layout.prompt_tokens + done.plan.layout.response_tokens
    estimate = done.estimate
    assert estimate.rate == (10.0, "H100", "as given")
    assert estimate.seconds == pytest.approx(tokens / 20)
    assert estimate.preparing == 0
    assert estimate.flops == 2 * 2 * WEIGHTS * tokens
    assert estimate.price == pytest.approx(tokens / 10 / 3600 * 3.6)
    reports.extract(Output(), done)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        f"estimated: {round(tokens / 20)} s on 2 x H100 at 10 tokens/s, as given; "
        f"{estimate.flops:.2g} FLOP, for {estimate.price:,.2f}"
    )
    reports.extract(Output(as_json=True), done)
    printed = json.loads(capsys.readouterr().out)["estimate"]
    assert printed["rate"] == {"tokens_per_second": 10.0, "device": "H100", "source": "as given"}


def test_the_rate_is_measured_here_and_longer_with_calibrate(config, monkeypatch):
    """Three trees are soon computed; calibrating goes through them until the time is over."""
    monkeypatch.setattr(estimate, "CALIBRATION_SECONDS", 0.3)
    short, long = dry_run(config()).estimate, dry_run(config(calibrate=True)).estimate
    assert short.rate.device == long.rate.device == "cpu"
    assert short.rate.source == long.rate.source == "measured here for 0 s"
    assert short.price is None
    assert short.seconds > short.preparing > 0
    monkeypatch.setattr(estimate, "CALIBRATION_SECONDS", 1.6)
    assert dry_run(config(calibrate=True)).estimate.rate.source == "measured here for 2 s"


def test_a_device_that_is_not_here_needs_a_rate(config):
    """Nothing is taken from a table of speeds."""
    with pytest.raises(UsageError) as caught:
        dry_run(config(gpu="H100"))
    assert str(caught.value) == (
        "--gpu: expected the device of this machine, cpu, found H100; run `extract --dry-run --calibrate` on "
        "one, and give --tokens-per-second here"
    )


@pytest.mark.parametrize(
    ("option", "value"), [("tokens_per_second", 0.0), ("price_per_hour", -1.0), ("gpus", 0)]
)
def test_numbers_that_cannot_be(config, option, value):
    """A rate, a price or a number of devices that is not above 0 is refused."""
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')}: expected a"):
        config(**{option: value})


@pytest.mark.parametrize("arch", ["llama", "gemma2", "gpt2", "qwen3"])
def test_weights_are_counted_without_reading_them(arch, tiny_model):
    """As many as the loaded blocks have."""
    identity = resolve_model(str(tiny_model(arch)))
    loaded = LanguageModel.load(identity, layers=[1], dtype="float32")
    expected = sum(parameter.numel() for parameter in loaded.blocks.parameters())
    assert block_parameters(identity, [1]) == expected
    if arch == "llama":
        assert expected == 2 * WEIGHTS


def test_parts_double_until_one_fills_a_batch():
    """Ten prompts of two tokens with a response of three: parts of 1, 2 and 4, then those that are left."""
    ids = np.arange(3, dtype=np.uint32)
    trees = [Tree(ids[:2], (ids,)) for _ in range(10)]
    assert [len(part) for part in estimate._parts(trees, 20, repeat=False)] == [1, 2, 4, 3]
    endless = estimate._parts(trees, 1000, repeat=True)
    assert [len(next(endless)) for _ in range(7)] == [1, 2, 4, 3, 8, 2, 10]


def test_only_the_largest_parts_count():
    """Tokens and seconds of five parts: those of more than half of the most tokens are taken together."""
    measured = [(10, 10.0), (100, 10.0), (150, 2.0), (200, 3.0), (90, 10.0)]
    assert estimate._tokens_per_second(measured) == 350 / 5
    assert estimate._tokens_per_second(measured[:1]) == 1.0
