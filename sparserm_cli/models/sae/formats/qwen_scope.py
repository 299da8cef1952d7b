"""Qwen Scope: TopK SAEs, one file per layer, in a repository whose name gives k."""

import re

from sparserm_cli.errors import IncompatibleError
from sparserm_cli.models.sae.formats.base import SAEFormat, Tensors, Weights, described
from sparserm_cli.models.sae.metadata import LocalSAE, SAEMetadata


def read_metadata(files: LocalSAE) -> SAEMetadata:
    """Read layer, width and k from the path, `SAE-Res-MODEL-W32K-L0_50/layer5.sae.pt`."""
    path = files.weights.absolute().as_posix()
    repo = re.search(r"SAE-Res-([\w.-]+?)-W(\d+)K-L0_(\d+)", path)
    if repo is None:
        expected = "a folder named like SAE-Res-MODEL-W32K-L0_50, which gives k"
        raise IncompatibleError(
            files.name, expected, files.folder.name, "keep the repository's name as the folder's"
        )
    hook = f"blocks.{int(files.weights.name.split('.')[0].removeprefix('layer'))}.hook_resid_post"
    settings = {"k": int(repo[3])}
    return described(
        files, "topk", d_sae=int(repo[2]) * 1024, hook_name=hook, model_name=repo[1], settings=settings
    )


def to_weights(metadata: SAEMetadata, t: Tensors) -> Weights:
    """Take the k largest of x @ W_enc.T + b_enc; the file holds both matrices transposed."""
    w_enc, w_dec = t.matrix("W_enc").T, t.matrix("W_dec").T
    return Weights(w_enc, t.vector("b_enc"), w_dec, t.vector("b_dec"), k=int(metadata.settings["k"]))


FORMAT = SAEFormat(
    "qwen-scope",
    read_metadata,
    to_weights,
    file_pattern=r"layer\d+\.sae\.pt",
    sae_lens_loaders=("qwen_scope",),
)
