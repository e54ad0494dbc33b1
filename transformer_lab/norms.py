"""Normalisation of each position's feature vector.

`LayerNorm` is torch's own: it divides by sqrt(biased variance + eps) and takes mean and variance of
half-precision input in float32.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import LayerNorm

from transformer_lab.checks import check_above, check_features, check_whole

__all__ = ["LayerNorm", "RMSNorm"]


class RMSNorm(nn.Module):
    """Divides each vector by its root mean square, so that its length is about √d_model, and weights it.

    x / sqrt(mean(x²) + eps) · weight, the mean taken over the features. No mean is subtracted, no bias added.

    Args:
        d_model: Width of the vectors.
        eps: Keeps the root away from 0; 1e-6 in T5 and LLaMA, 1e-5 in LLaMA 2 and 3.

    Raises: ValueError if d_model or eps is not positive, or x holds no such vectors.
    Source: Zhang and Sennrich 2019, equation 4. Differs: eps. Half-precision input is widened to float32,
        normalised, cast back and then weighted, as in LLaMA's code; `torch.nn.RMSNorm` weights before it
        casts back, which rounds once less.

    >>> RMSNorm(2)(torch.tensor([3.0, 4.0]))
    tensor([0.8485, 1.1314], grad_fn=<MulBackward0>)
    """

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__()
        check_whole("d_model", d_model)
        check_above("eps", eps)
        self.weight, self.eps = nn.Parameter(torch.ones(d_model)), eps

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The normalised vectors."""
        check_features("x", x, self.weight)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normalised = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return normalised.to(x.dtype) * self.weight
