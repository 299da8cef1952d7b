"""Files from the Hugging Face hub, or from the hub's own cache."""

import io
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from sparserm_cli.config import Progress
from sparserm_cli.hub_errors import HubRequest

COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_folder(
    request: HubRequest, revision: str, files: Sequence[str], progress: Progress | None = None
) -> Path:
    """Return the folder of a hub repository's files, fetching what is missing; it is named after the commit.

    Args:
        request: the repository, and how errors name it.
        revision: branch, tag or commit.
        files: patterns of the names wanted.
        progress: called with (bytes done, bytes in all).

    Raises:
        IncompatibleError: a gated repository, or no such repository or revision.
        TemporaryError: the hub does not answer, or may not be asked, and the cache has no copy.

    """
    from huggingface_hub import snapshot_download

    wanted: dict[str, Any] = {"repo_id": request.repo, "revision": revision, "allow_patterns": list(files)}
    try:
        if request.offline:
            return Path(snapshot_download(**wanted, local_files_only=True))
        # What a commit holds never changes, so that the cache is as good as the hub.
        if COMMIT.fullmatch(revision):
            with suppress(OSError):
                return Path(snapshot_download(**wanted, local_files_only=True))
        return Path(snapshot_download(**wanted, tqdm_class=_silent_bar(progress)))
    except Exception as error:
        explained = request.explained(error)
        if explained is None:
            raise
        raise explained from error


def _silent_bar(progress: Progress | None) -> Any:
    """Make a class of progress bars that draw nothing and report bytes to `progress`."""
    tqdm: Any = import_module("tqdm.auto").tqdm  # it has no type stubs

    class Bar(tqdm):
        """A progress bar that draws nothing."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **(options | {"file": io.StringIO()}))

        def update(self, n: float | None = 1) -> bool | None:
            """Add to the count and report it."""
            drawn: bool | None = super().update(n)
            if progress is not None and self.unit == "B" and self.total:
                progress(int(self.n), int(self.total))
            return drawn

    return Bar
