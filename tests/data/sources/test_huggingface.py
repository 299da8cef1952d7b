"""Data sets of the hub: what each failure of `datasets` means to the user. Nothing is downloaded."""

import hashlib
from typing import Any

import datasets
import httpx
import huggingface_hub.constants
import pytest
from huggingface_hub.errors import GatedRepoError

from sparserm_cli.data.reader import Reader
from sparserm_cli.data.sources.huggingface import HubRows
from sparserm_cli.errors import BadInputError, IncompatibleError, SparseRMError, TemporaryError, UsageError

ROWS = [{"prompt": "a?", "chosen": "b", "rejected": "c"}, {"prompt": "d?", "chosen": "e", "rejected": "f"}]


class Hub:
    """Stands in for `datasets.load_dataset` and notes how it was called."""

    def __init__(self, result: Any) -> None:
        self.result, self.calls = result, []
        self.offline = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Note the call, and whether both libraries are told to stay offline."""
        self.calls.append((args, kwargs))
        self.offline = datasets.config.HF_HUB_OFFLINE and huggingface_hub.constants.HF_HUB_OFFLINE
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def install(monkeypatch: pytest.MonkeyPatch, result: Any) -> Hub:
    """Make `datasets.load_dataset` return or raise this."""
    hub = Hub(result)
    monkeypatch.setattr(datasets, "load_dataset", hub)
    return hub


def refusal(monkeypatch: pytest.MonkeyPatch, error: Exception, *, offline: bool = False) -> SparseRMError:
    """Return what the user is told of a failure."""
    install(monkeypatch, error)
    with pytest.raises(SparseRMError) as caught:
        list(HubRows("acme/pairs", split="train", offline=offline).rows())
    return caught.value


def test_rows_and_digest_of_a_data_set(monkeypatch: pytest.MonkeyPatch):
    """The reader takes a data set like a file; its digest is that of the rows as canonical JSON."""
    hub = install(monkeypatch, iter(ROWS))
    reader = Reader("acme/pairs:small@v1", purpose="pairs", split="test")
    assert [example.prompt for example in reader] == ["a?", "d?"]
    assert hub.calls == [(("acme/pairs", "small"), {"split": "test", "revision": "v1", "streaming": True})]
    text = (
        '{"chosen": "b", "prompt": "a?", "rejected": "c"}\n{"chosen": "e", "prompt": "d?", "rejected": "f"}\n'
    )
    (input_file,) = reader.inputs
    assert input_file == ("acme/pairs:small@v1#test", len(text), hashlib.sha256(text.encode()).hexdigest())


def test_row_38_offline_never_calls_out(monkeypatch: pytest.MonkeyPatch):
    """Both libraries are told so while the data set is read, and are set back afterwards."""
    hub = install(monkeypatch, iter(ROWS))
    assert not datasets.config.HF_HUB_OFFLINE
    assert len(list(HubRows("acme/pairs", split="train", offline=True).rows())) == 2
    assert hub.offline
    assert hub.calls[0][1]["streaming"] is False
    assert not datasets.config.HF_HUB_OFFLINE
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_row_38_unreachable_hub_is_temporary(monkeypatch: pytest.MonkeyPatch):
    """Exit 75, with the exact name."""
    request = httpx.Request("GET", "https://hub.invalid")
    for error in (
        ConnectionError("Couldn't reach it"),
        httpx.ConnectError("Couldn't reach it", request=request),
    ):
        refused = refusal(monkeypatch, error)
        assert isinstance(refused, TemporaryError)
        assert refused.exit_code == 75
        assert str(refused) == (
            "data set acme/pairs: expected the data set's files, found nothing in the cache, and from the "
            "hub: Couldn't reach it; try again later, or give a local file"
        )
    refused = refusal(monkeypatch, FileNotFoundError("not cached"), offline=True)
    assert isinstance(refused, TemporaryError)
    assert refused.found == "nothing in the cache, and --offline"


def test_row_38_gated_data_set_is_a_matter_of_access(monkeypatch: pytest.MonkeyPatch):
    """Exit 4: trying again later does not help."""
    response = httpx.Response(403, request=httpx.Request("GET", "https://hub.invalid"))
    gated = datasets.exceptions.DatasetNotFoundError("Dataset 'acme/pairs' is a gated dataset on the Hub.")
    for error in (gated, GatedRepoError("no", response=response)):
        refused = refusal(monkeypatch, error)
        assert isinstance(refused, IncompatibleError)
        assert str(refused) == (
            "data set acme/pairs: expected access to the data set, found a gated repository; "
            "ask for access at https://huggingface.co/datasets/acme/pairs and run `hf auth login`"
        )


def test_row_41_loading_scripts_are_never_run(monkeypatch: pytest.MonkeyPatch):
    """Nothing is passed that would allow it, and the refusal says what to do instead."""
    refused = refusal(
        monkeypatch, RuntimeError("Dataset scripts are no longer supported, but found pairs.py")
    )
    assert isinstance(refused, IncompatibleError)
    assert refused.found == "a loading script, which is never run"
    hub = install(monkeypatch, iter(ROWS))
    list(HubRows("acme/pairs", split="train", offline=False).rows())
    assert "trust_remote_code" not in hub.calls[0][1]


def test_other_failures(monkeypatch: pytest.MonkeyPatch):
    """No such data set is bad input, an unknown split bad usage, undecodable rows bad input."""
    missing = datasets.exceptions.DatasetNotFoundError("Dataset 'acme/pairs' doesn't exist on the Hub")
    assert isinstance(refusal(monkeypatch, missing), BadInputError)
    assert isinstance(refusal(monkeypatch, ValueError('Unknown split "train".')), UsageError)
    assert isinstance(refusal(monkeypatch, datasets.exceptions.DatasetGenerationError("bad")), BadInputError)

    def broken():
        yield ROWS[0]
        raise ValueError("cannot\ndecode")

    install(monkeypatch, broken())
    rows = HubRows("acme/pairs", split="train", offline=False).rows()
    assert next(rows).value == ROWS[0]
    with pytest.raises(BadInputError) as caught:
        next(rows)
    assert caught.value.found == "cannot decode"
