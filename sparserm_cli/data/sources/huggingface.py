"""Stream the rows of a Hugging Face data set; code from a data set repository is never run."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sparserm_cli.data.example import InputFile, RawRow
from sparserm_cli.data.sources.strict_json import EXCERPT_CHARACTERS
from sparserm_cli.data.sources.tables import checked_row
from sparserm_cli.errors import BadInputError, IncompatibleError, SparseRMError, UsageError
from sparserm_cli.hub_errors import HubRequest


class HubRows:
    """One split of a data set, which can be read once.

    Args:
        name: `owner/name[:config][@revision]`.
        split: name of the split.
        offline: use only what is in the local cache.

    """

    def __init__(self, name: str, *, split: str, offline: bool) -> None:
        self._name, self._split, self._offline = name, split, offline
        self._digest, self._bytes = hashlib.sha256(), 0
        self._found = False

    def rows(self) -> Iterator[RawRow]:
        """Yield the rows.

        Raises:
            TemporaryError: the hub cannot be reached and the cache lacks the data set.
            IncompatibleError: the data set needs a login, a licence to be accepted, or remote code.
            BadInputError: there is no such data set, or it cannot be read.
            UsageError: it has no such split or configuration.

        """
        import datasets
        import httpx

        try:
            with _offline(self._offline):
                rows = self._load()
                self._found = True
                for number, value in enumerate(rows, start=1):
                    self._count(value)
                    yield checked_row(number, value)
        except (
            OSError,
            ValueError,
            RuntimeError,
            httpx.HTTPError,
            datasets.exceptions.DatasetsError,
        ) as error:
            raise self._explained(error) from None

    def inputs(self) -> tuple[InputFile, ...]:
        """Return the data set as one input: the digest covers the rows read so far, as canonical JSON."""
        return (InputFile(f"{self._name}#{self._split}", self._bytes, self._digest.hexdigest()),)

    def _load(self) -> Any:
        import datasets

        path, _, revision = self._name.partition("@")
        path, _, config = path.partition(":")
        return datasets.load_dataset(
            path, config or None, split=self._split, revision=revision or None, streaming=not self._offline
        )

    def _count(self, value: dict[str, Any]) -> None:
        text = json.dumps(value, sort_keys=True, default=lambda item: type(item).__name__) + "\n"
        self._bytes += len(text)
        self._digest.update(text.encode())

    def _explained(self, error: Exception) -> SparseRMError:
        """Return the error that explains a failure of `datasets`."""
        import datasets

        text = " ".join(str(error).split())
        where, found, low = f"data set {self._name}", text[:EXCERPT_CHARACTERS], text.lower()
        repo = re.split("[:@]", self._name)[0]
        request = HubRequest(where, repo, "data set", "a local file", self._offline)
        status = getattr(getattr(error, "response", None), "status_code", None)
        if "gated dataset" in low or status in (401, 403):
            return request.gated()
        if "scripts are no longer supported" in low or "trust_remote_code" in low:
            hint = "convert it to .parquet or .jsonl"
            return IncompatibleError(where, "data files", "a loading script, which is never run", hint)
        if isinstance(error, datasets.exceptions.DatasetNotFoundError):
            hint = "check the name, or run `hf auth login` if it is private"
            return BadInputError(where, "a data set that can be read", found, hint)
        if isinstance(error, ValueError) and not self._found:
            return UsageError(where, "an existing split and configuration", found, "see --split")
        if isinstance(error, ValueError | RuntimeError | datasets.exceptions.DatasetsError):
            return BadInputError(where, "readable rows", found, "download it and give the files' path")
        return request.explained(error) or request.unreachable(error)


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Keep `datasets` from using the network, as its environment variable would have done at import."""
    if not wanted:
        yield
        return
    import datasets
    import huggingface_hub.constants as hub

    before = hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
