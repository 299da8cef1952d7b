"""Fetch a model's files from the Hugging Face hub, or find them in the hub's own cache."""

import io
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from sparserm_cli.config import Progress
from sparserm_cli.errors import IncompatibleError, TemporaryError
from sparserm_cli.models.checkpoints.library_noise import first_line

COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_folder(
    hub_id: str, revision: str, files: Sequence[str], *, offline: bool, progress: Progress | None
) -> Path:
    """Return the folder of a hub model's files, named after the commit; missing files are fetched.

    Args:
        hub_id: the repository, such as `org/name`.
        revision: branch, tag or commit.
        files: patterns of the names of files to fetch.
        offline: look in the cache only.
        progress: called with the bytes done and all bytes.

    Raises:
        IncompatibleError: the repository is gated, or there is no such repository or revision.
        TemporaryError: the cache has no copy, and the hub does not answer or `offline` is set.

    """
    from huggingface_hub import errors, snapshot_download

    where = f"{hub_id}@{revision}"
    wanted: dict[str, Any] = {"repo_id": hub_id, "revision": revision, "allow_patterns": list(files)}
    # The hub's error is derived from that of the HTTP library in use.
    network = cast("tuple[type[Exception], ...]", (OSError, *errors.HfHubHTTPError.__bases__))
    # The content of a commit never changes, so the cache is as good as the hub.
    if offline or COMMIT.fullmatch(revision):
        try:
            return Path(snapshot_download(**wanted, local_files_only=True))
        except OSError as error:
            if offline:
                found, hint = "nothing in the cache, and --offline", "run once without it"
                raise TemporaryError(where, "the model's files", found, hint) from error
    try:
        return Path(snapshot_download(**wanted, tqdm_class=_silent_bar(progress)))
    except errors.GatedRepoError as error:
        hint = f"ask for access at https://huggingface.co/{hub_id} and run `hf auth login`"
        raise IncompatibleError(where, "access to the model", "a gated repository", hint) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        found, hint = "no such repository or revision", "correct it; for a private model run `hf auth login`"
        raise IncompatibleError(where, "a model on the hub", found, hint) from error
    except network as error:
        found = f"nothing in the cache, and from the hub: {first_line(error)}"
        hint = "try again later, or give --model a local directory"
        raise TemporaryError(where, "the model's files", found, hint) from error


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
