"""What the errors of the Hugging Face hub mean, for models, SAEs and data sets alike."""

from typing import NamedTuple, cast

from sparserm_cli.errors import IncompatibleError, SparseRMError, TemporaryError
from sparserm_cli.formatting import first_line


class HubRequest(NamedTuple):
    """What is wanted from the hub, as errors name it."""

    where: str
    """The name as the user gave it."""
    repo: str
    """Id of the repository, such as `org/name`."""
    kind: str
    """`model`, `SAE` or `data set`."""
    instead: str
    """What the user may give if the hub does not answer, such as `a local file`."""
    offline: bool = False
    """Whether the cache alone may be used."""

    def gated(self) -> SparseRMError:
        """Return the error for a repository that this user may not read."""
        page = f"{'datasets/' if self.kind == 'data set' else ''}{self.repo}"
        hint = f"ask for access at https://huggingface.co/{page} and run `hf auth login`"
        return IncompatibleError(self.where, f"access to the {self.kind}", "a gated repository", hint)

    def absent(self) -> SparseRMError:
        """Return the error for a repository or revision that does not exist, or is not shown to this user."""
        article = "an" if self.kind == "SAE" else "a"
        found = "no such repository or revision"
        hint = f"correct it; for a private {self.kind} run `hf auth login`"
        return IncompatibleError(self.where, f"{article} {self.kind} on the hub", found, hint)

    def unreachable(self, error: Exception) -> SparseRMError:
        """Return the error for files that are not in the cache, and the hub gives none."""
        wanted = f"the {self.kind}'s files"
        if self.offline:
            found, hint = "nothing in the cache, and --offline", "run once without it"
            return TemporaryError(self.where, wanted, found, hint)
        found = f"nothing in the cache, and from the hub: {first_line(error)}"
        return TemporaryError(self.where, wanted, found, f"try again later, or give {self.instead}")

    def explained(self, error: Exception) -> SparseRMError | None:
        """Return the error that explains one of huggingface_hub; None for any other error."""
        from huggingface_hub import errors

        # Among the bases of the hub's error is that of the HTTP library, whichever it is.
        network = cast("tuple[type[Exception], ...]", (OSError, *errors.HfHubHTTPError.__bases__))
        if isinstance(error, errors.GatedRepoError):
            return self.gated()
        unknown = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError)
        if isinstance(error, unknown):
            return self.absent()
        if isinstance(error, (*network, errors.RevisionResolutionError)):
            return self.unreachable(error)
        return None
