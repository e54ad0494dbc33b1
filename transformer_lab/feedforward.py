"""The position-wise feed-forward networks: the same small network at every position."""

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


class FeedForward(nn.Module):
    """Widens each vector, bends it by the activation and brings it back to its width.

    down_proj(activation(up_proj(x))).

    Args:
        d_model: Width of the vectors.
        d_ff: Width in between, often 4 · d_model.
        activation: Function of each number, such as `F.relu` or `F.gelu`. A module serves too:
            `nn.Sequential(nn.ReLU(), nn.Dropout(0.1))` drops activations, as T5 does.
        bias: Whether both projections have a bias.

    Raises:
        ValueError: A width is not positive.

    Source:
        Vaswani et al. 2017, equation 2, with ReLU and bias.

    >>> sum(p.numel() for p in FeedForward(8, 32, nn.functional.gelu, bias=True).parameters())
    552
    """

    def __init__(
        self, d_model: int, d_ff: int, activation: Activation, *, bias: bool = False
    ) -> None:
        super().__init__()
        _check_parts(d_model, d_ff, activation)
        self.up_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.down_proj = nn.Linear(d_ff, d_model, bias=bias)
        self.activation = activation

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The vectors that come out, one for each that goes in.

        Args:
            x: The vectors, along the last axis.

        Raises:
            ValueError: x doesn't hold floating-point vectors of width d_model, or isn't where the weights are.
        """
        _check_input(x, self.up_proj.weight)
        out: Tensor = self.down_proj(self.activation(self.up_proj(x)))
        return out


class GatedFeedForward(nn.Module):
    """A feed-forward network in which a second projection decides how much of each feature passes.

    down_proj(activation(gate_proj(x)) · up_proj(x)), the product taken number by number. With `F.silu` it is
    SwiGLU, with `F.gelu` GEGLU, with `torch.sigmoid` GLU.

    Args:
        d_model: Width of the vectors.
        d_ff: Width in between; ⅔ of an ungated network's gives as many parameters.
        activation: Function of each number of the gate. A module serves too, as in `FeedForward`.
        bias: Whether the three projections have a bias.

    Raises:
        ValueError: A width is not positive.

    Source:
        Shazeer 2020, equation 6, without bias.

    >>> sum(p.numel() for p in GatedFeedForward(8, 32, nn.functional.silu).parameters())
    768
    """

    def __init__(
        self, d_model: int, d_ff: int, activation: Activation, *, bias: bool = False
    ) -> None:
        super().__init__()
        _check_parts(d_model, d_ff, activation)
        self.gate_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.up_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.down_proj = nn.Linear(d_ff, d_model, bias=bias)
        self.activation = activation

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The vectors that come out, one for each that goes in.

        Args:
            x: The vectors, along the last axis.

        Raises:
            ValueError: x doesn't hold floating-point vectors of width d_model, or isn't where the weights are.
        """
        _check_input(x, self.up_proj.weight)
        out: Tensor = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return out


def llama_ffn_width(d_model: int, multiple_of: int = 256, multiplier: float = 1.0) -> int:
    """The width d_ff that LLaMA gives to its gated feed-forward network.

    ⅔ · 4 · d_model, times multiplier, rounded up to a multiple of multiple_of.

    Args:
        d_model: Width of the model.
        multiple_of: What the width is a multiple of: 256 in LLaMA, 4096 in LLaMA-2-70B, 1024 in Llama-3-8B.
        multiplier: 1.3 in LLaMA-2-70B and Llama 3.

    Raises:
        ValueError: An argument is not positive.

    Source:
        Touvron et al. 2023, section 2.2; the rounding is that of Meta's code.

    >>> llama_ffn_width(4096)
    11008
    """
    _check_positive("d_model", d_model)
    _check_positive("multiple_of", multiple_of)
    if not 0 < multiplier < math.inf:
        raise ValueError(f"multiplier must be above 0 and finite; it is {multiplier}.")
    width = int(multiplier * (8 * d_model // 3))
    return math.ceil(width / multiple_of) * multiple_of


def _check_parts(d_model: int, d_ff: int, activation: Activation) -> None:
    _check_positive("d_model", d_model)
    _check_positive("d_ff", d_ff)
    if not callable(activation):
        raise TypeError(
            f"activation must be a function such as F.gelu; it is {activation!r} "
            f"({type(activation).__name__})."
        )


def _check_positive(name: str, number: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(
            f"{name} must be a whole number; it is {number!r} ({type(number).__name__})."
        )
    if number < 1:
        raise ValueError(f"{name} must be at least 1; it is {number}.")


def _check_input(x: Tensor, weight: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor; it is a {type(x).__name__}.")
    if x.shape[-1:] != weight.shape[-1:]:
        raise ValueError(
            f"x must have {weight.shape[-1]} features along its last axis; its shape is {tuple(x.shape)}."
        )
    if not x.is_floating_point():
        raise ValueError(f"x must hold floating-point numbers; it holds {x.dtype}.")
    if x.device != weight.device:
        raise ValueError(
            f"x must be where the weights are: x is on {x.device}, the weights on {weight.device}."
        )
