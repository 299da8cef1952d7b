"""Sparse autoencoders of every format in one form in memory: linear encoder, activation, linear decoder.

Axes: rows (tokens), d_in (width of the residual stream), d_sae (latents).
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from sparserm_cli.models.sae.metadata import SAEMetadata

Normalization = Literal["none", "constant_norm_rescale", "layer_norm"]

LAYER_NORM_EPSILON = 1e-5
"""SAELens' constant for `normalize_activations: layer_norm`, added to the standard deviation."""


@dataclass(frozen=True)
class SparseAutoencoder:
    """An SAE ready to encode: `decode(encode(x))` approximates x.

    The pre-activations are `normalise(x) @ W_enc + b_enc`; formats that subtract b_dec from the input, scale
    it or weigh latents by their decoder norm have that folded into W_enc and b_enc when they are read.
    """

    metadata: SAEMetadata
    digest: str
    """Digest of weights and configuration, as `sae_digest` computes it."""
    W_enc: Float32[Tensor, "d_in d_sae"]
    b_enc: Float32[Tensor, " d_sae"]
    W_dec: Float32[Tensor, "d_sae d_in"]
    """The rows are the directions, as the format stores them; their norm is not always 1."""
    b_dec: Float32[Tensor, " d_in"]
    threshold: Float32[Tensor, " d_sae"] | None = None
    """Of a jumprelu SAE: a latent is active where its pre-activation is above this threshold."""
    k: int | None = None
    """Of a topk SAE: at most this many latents are active per row."""
    magnitude_scale: Float32[Tensor, " d_sae"] | None = None
    """Of a gated SAE: value = relu(pre * magnitude_scale + magnitude_shift) where pre > 0."""
    magnitude_shift: Float32[Tensor, " d_sae"] | None = None
    decoder_scale: Float32[Tensor, " d_sae"] | None = None
    """Factor of each latent before W_dec, where the encoder contains the decoder norms."""
    normalization: Normalization = "none"
    """Normalisation of each row of the input before the encoder, which is undone after the decoder."""

    @property
    def d_in(self) -> int:
        """Width of the input."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_enc.shape[1]

    def identity(self) -> dict[str, Any]:
        """Return the record of this SAE in an artifact: its metadata and the digest of the weights."""
        return {**self.metadata.identity(), "d_in": self.d_in, "d_sae": self.d_sae, "digest": self.digest}

    def to(self, device: str) -> "SparseAutoencoder":
        """Return the SAE with its tensors on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    @torch.no_grad()
    def pre_activations(self, x: Float[Tensor, "rows d_in"]) -> Float32[Tensor, "rows d_sae"]:
        """Return the encoder's linear part in float32."""
        return torch.addmm(self.b_enc, self.normalise(x.float()), self.W_enc)

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "rows d_in"]) -> Float32[Tensor, "rows d_sae"]:
        """Return the latents of raw activations as a dense matrix.

        Where pre-activations at the k-th place of a topk SAE are equal, the latents of lower index are
        active.
        """
        return self.activate(self.pre_activations(x))

    def activate(self, pre: Float32[Tensor, "rows d_sae"]) -> Float32[Tensor, "rows d_sae"]:
        """Apply the activation function to pre-activations."""
        if self.threshold is not None:
            return pre.relu() * (pre > self.threshold)
        if self.magnitude_scale is not None and self.magnitude_shift is not None:
            return torch.addcmul(self.magnitude_shift, pre, self.magnitude_scale).relu() * (pre > 0)
        if self.k is not None:
            order = pre.sort(dim=1, descending=True, stable=True).indices[:, : self.k]
            return torch.zeros_like(pre).scatter_(1, order, pre.gather(1, order).relu())
        return pre.relu()

    @torch.no_grad()
    def decode(self, latents: Float32[Tensor, "rows d_sae"]) -> Float32[Tensor, "rows d_in"]:
        """Return reconstructions in the space that the SAE was trained in.

        That is the space of the raw activations, unless the SAE normalises each row (`constant_norm_rescale`,
        `layer_norm`). Undoing this needs the row, so `reconstruct` does it.
        """
        scaled = latents if self.decoder_scale is None else latents * self.decoder_scale
        return torch.addmm(self.b_dec, scaled, self.W_dec)

    @torch.no_grad()
    def reconstruct(
        self, x: Float[Tensor, "rows d_in"]
    ) -> tuple[Float32[Tensor, "rows d_in"], Float32[Tensor, "rows d_sae"]]:
        """Return reconstructions of raw activations, in the space of the latter, and the latents."""
        latents = self.encode(x)
        _, undo = self._normalised(x.float())
        out = self.decode(latents)
        return (out if undo is None else out * undo[0] + undo[1]), latents

    def normalise(self, x: Float32[Tensor, "rows d_in"]) -> Float32[Tensor, "rows d_in"]:
        """Return raw activations as the encoder's input."""
        return self._normalised(x)[0]

    def _normalised(self, x: Float32[Tensor, "rows d_in"]) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return the encoder's input and the (factor, shift) that undo its normalisation, as SAELens does."""
        if self.normalization == "constant_norm_rescale":
            factor = x.norm(dim=1, keepdim=True) / self.d_in**0.5
            return x / factor, (factor, torch.zeros_like(factor))
        if self.normalization == "layer_norm":
            mean = x.mean(dim=1, keepdim=True)
            deviation = (x - mean).std(dim=1, keepdim=True)
            return (x - mean) / (deviation + LAYER_NORM_EPSILON), (deviation, mean)
        return x, None
