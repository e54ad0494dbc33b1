"""The position-wise feed-forward networks: the same small network at every position."""

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from transformer_lab import checks

Activation = Callable[[Tensor], Tensor]


class FeedForward(nn.Module):
    """Widens each vector, bends it by the activation and brings it back to its width.

    down_proj(activation(up_proj(x))).

    Args:
        d_model: Width of the vectors.
        d_ff: Width in between, often 4 · d_model.
        activation: Function of each number, such as `F.relu` or `F.gelu`. A module serves too:
            `nn.Sequential(nn.ReLU(), nn.Dropout(0.1))` drops activations, as T5 does.
        bias: Whether the projections have a bias.

    Raises: ValueError if a width is not positive, or x doesn't hold vectors of width d_model.
    Source: Vaswani et al. 2017, equation 2, with ReLU and bias.

    >>> sum(p.numel() for p in FeedForward(8, 32, nn.functional.gelu, bias=True).parameters())
    552
    """

    def __init__(
        self, d_model: int, d_ff: int, activation: Activation, *, bias: bool = False
    ) -> None:
        super().__init__()
        checks.whole("d_model", d_model)
        checks.whole("d_ff", d_ff)
        checks.kind("activation", activation, Callable, "a function such as F.gelu")
        self.up_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.down_proj = nn.Linear(d_ff, d_model, bias=bias)
        self.activation = activation

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The vectors that come out, one for each that goes in."""
        checks.projected("x", x, self.up_proj.weight)
        return self.down_proj(self.activation(self.up_proj(x)))


class GatedFeedForward(FeedForward):
    """A feed-forward network in which a second projection decides how much of each feature passes.

    down_proj(activation(gate_proj(x)) · up_proj(x)), the product taken number by number. With `F.silu` it is
    SwiGLU, with `F.gelu` GEGLU, with `torch.sigmoid` GLU. Arguments as in `FeedForward`; the activation is
    the gate's, and ⅔ of an ungated network's d_ff gives as many parameters.

    Source: Shazeer 2020, equation 6, without bias.

    >>> sum(p.numel() for p in GatedFeedForward(8, 32, nn.functional.silu).parameters())
    768
    """

    def __init__(
        self, d_model: int, d_ff: int, activation: Activation, *, bias: bool = False
    ) -> None:
        super().__init__(d_model, d_ff, activation, bias=bias)
        self.gate_proj = nn.Linear(d_model, d_ff, bias=bias)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The vectors that come out, one for each that goes in."""
        checks.projected("x", x, self.up_proj.weight)
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


def llama_ffn_width(d_model: int, multiple_of: int = 256, multiplier: float = 1.0) -> int:
    """The width d_ff that LLaMA gives to its gated feed-forward network.

    ⅔ · 4 · d_model, times multiplier, rounded up to a multiple of multiple_of.

    Args:
        d_model: Width of the model.
        multiple_of: What the width is a multiple of: 256 in LLaMA, 4096 in LLaMA-2-70B, 1024 in Llama-3-8B.
        multiplier: 1.3 in LLaMA-2-70B and Llama 3.

    Raises: ValueError if an argument is not positive.
    Source: Touvron et al. 2023, section 2.2; the rounding is that of Meta's code.

    >>> llama_ffn_width(4096)
    11008
    """
    checks.whole("d_model", d_model)
    checks.whole("multiple_of", multiple_of)
    checks.above("multiplier", multiplier)
    width = int(multiplier * (8 * d_model // 3))
    return math.ceil(width / multiple_of) * multiple_of
