"""Whether an SAE is one of the model that was captured."""

import pytest

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.sae.compatibility import Captured, check_metadata
from sparserm_cli.models.sae.metadata import SAEMetadata


def check(sae: str, captured: str) -> int:
    """Compare an SAE's model with that of a capture of block 0."""
    hook = "blocks.0.hook_resid_post"
    sae_metadata = SAEMetadata("an-sae", "saelens", "standard", 2, 4, hook, sae, "float32", "none", {})
    return check_metadata(sae_metadata, Captured(captured, "revision", (0,), 2))


@pytest.mark.parametrize(
    ("sae", "captured"),
    [
        ("gpt2-small", "openai-community/gpt2"),
        ("gpt2", "gpt2-small"),
        ("google/gemma-3-270m-pt", "google/gemma-3-270m"),
        ("gemma-3-270m", "/models/gemma-3-270m-pt"),
    ],
)
def test_second_names_of_a_model_are_no_mismatch(sae: str, captured: str) -> None:
    """Two names under which the same weights are published."""
    assert check(sae, captured) == 0


@pytest.mark.parametrize(
    ("sae", "captured"),
    [("gpt2-medium", "gpt2"), ("gemma-3-270m-it", "gemma-3-270m"), ("pythia-70m", "pythia-70m-deduped")],
)
def test_other_models_are(sae: str, captured: str) -> None:
    """Names that differ in little more belong to other weights."""
    with pytest.raises(IncompatibleError, match=rf"model_name: expected {captured}, found {sae}; "):
        check(sae, captured)
