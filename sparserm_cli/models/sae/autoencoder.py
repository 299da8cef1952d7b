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
    """Digest of weights and configuration, see `sae_digest`."""
    W_enc: Float32[Tensor, "d_in d_sae"]
    b_enc: Float32[Tensor, " d_sae"]
    W_dec: Float32[Tensor, "d_sae d_in"]
    """Its rows are the directions, as the format stores them (not always of norm 1)."""
    b_dec: Float32[Tensor, " d_in"]
    threshold: Float32[Tensor, " d_sae"] | None = None
    """jumprelu: a latent is active where its pre-activation is above this."""
    k: int | None = None
    """topk: at most this many latents of a row are active."""
    magnitude_scale: Float32[Tensor, " d_sae"] | None = None
    """gated: value = relu(pre * magnitude_scale + magnitude_shift) where pre > 0."""
    magnitude_shift: Float32[Tensor, " d_sae"] | None = None
    decoder_scale: Float32[Tensor, " d_sae"] | None = None
    """What latents are multiplied by before W_dec, where the encoder carries the decoder norms."""
    normalization: Normalization = "none"
    """What is done to each row of the input before the encoder, and undone after the decoder."""

    @property
    def d_in(self) -> int:
        """Width of the input."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_enc.shape[1]

    def identity(self) -> dict[str, Any]:
        """Return what an artifact made with this SAE records: the metadata and the digest of the weights."""
        return {**self.metadata.identity(), "d_in": self.d_in, "d_sae": self.d_sae, "digest": self.digest}

    def to(self, device: str) -> "SparseAutoencoder":
        """Return it with its tensors on another device."""
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
        """Return the latents of raw activations, densely.

        Of equal pre-activations at the k-th place of a topk SAE, those of lower index are active.
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

        That is the space of the raw activations unless the SAE normalises each row (`constant_norm_rescale`,
        `layer_norm`), whose undoing needs the row: `reconstruct` does it.
        """
        scaled = latents if self.decoder_scale is None else latents * self.decoder_scale
        return torch.addmm(self.b_dec, scaled, self.W_dec)

    @torch.no_grad()
    def reconstruct(
        self, x: Float[Tensor, "rows d_in"]
    ) -> tuple[Float32[Tensor, "rows d_in"], Float32[Tensor, "rows d_sae"]]:
        """Return reconstructions of raw activations, in their own space, and the latents."""
        latents = self.encode(x)
        _, undo = self._normalised(x.float())
        out = self.decode(latents)
        return (out if undo is None else out * undo[0] + undo[1]), latents

    def normalise(self, x: Float32[Tensor, "rows d_in"]) -> Float32[Tensor, "rows d_in"]:
        """Return what the encoder sees of raw activations."""
        return self._normalised(x)[0]

    def _normalised(self, x: Float32[Tensor, "rows d_in"]) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return the encoder's input, and (factor, shift) that undo it; SAELens' formulas."""
        if self.normalization == "constant_norm_rescale":
            factor = x.norm(dim=1, keepdim=True) / self.d_in**0.5
            return x / factor, (factor, torch.zeros_like(factor))
        if self.normalization == "layer_norm":
            mean = x.mean(dim=1, keepdim=True)
            deviation = (x - mean).std(dim=1, keepdim=True)
            return (x - mean) / (deviation + LAYER_NORM_EPSILON), (deviation, mean)
        return x, None
