"""Normalisation of each position's feature vector.

`LayerNorm` is torch's own: it divides by sqrt(biased variance + eps) and takes mean and variance of
half-precision input in float32.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import LayerNorm

__all__ = ["LayerNorm", "RMSNorm"]


class RMSNorm(nn.Module):
    """Divides each vector by its root mean square, so that its length is about √d_model, and weights it.

    x / sqrt(mean(x²) + eps) · weight, the mean taken over the features. No mean is subtracted, no bias added.

    Args:
        d_model: Width of the vectors.
        eps: Keeps the root away from 0; 1e-6 in T5 and LLaMA, 1e-5 in LLaMA 2 and 3.

    Raises:
        ValueError: d_model or eps is not positive.

    Source:
        Zhang and Sennrich 2019, equation 4.

    Differs from the paper:
        eps. Half-precision input is widened to float32, normalised, cast back and then weighted, as in
        LLaMA's code; `torch.nn.RMSNorm` weights before it casts back, which rounds once less.

    >>> RMSNorm(2)(torch.tensor([3.0, 4.0]))
    tensor([0.8485, 1.1314], grad_fn=<MulBackward0>)
    """

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__()
        if isinstance(d_model, bool) or not isinstance(d_model, int):
            raise TypeError(
                f"d_model must be a whole number; it is {d_model!r} ({type(d_model).__name__})."
            )
        if d_model < 1:
            raise ValueError(f"d_model must be at least 1; it is {d_model}.")
        if not 0 < eps < math.inf:
            raise ValueError(f"eps must be above 0 and finite; it is {eps}.")
        self.weight, self.eps = nn.Parameter(torch.ones(d_model)), eps

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The normalised vectors.

        Args:
            x: The vectors, along the last axis.

        Raises:
            ValueError: x doesn't hold floating-point vectors of width d_model.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a torch.Tensor; it is a {type(x).__name__}.")
        if not x.is_floating_point() or x.shape[-1:] != self.weight.shape:
            raise ValueError(
                f"x must hold floating-point vectors of {len(self.weight)} features, along its last "
                f"axis; its shape is {tuple(x.shape)} and it holds {x.dtype}."
            )
        if x.device != self.weight.device:
            raise ValueError(
                f"x must be where the weight is: x is on {x.device}, the weight on {self.weight.device}."
            )
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normalised = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return normalised.to(x.dtype) * self.weight
