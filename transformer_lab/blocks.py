"""How sublayers are put together: residual connections with their norm, and the blocks made of them.

A residual wrapper is called with x and a sublayer f, and decides where the norm stands. The blocks take
their attention, feed-forward network and wrappers ready-made.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from transformer_lab import checks
from transformer_lab.cache import KeysValues

Sublayer = Callable[[Tensor], Tensor]
Vectors: TypeAlias = Float[Tensor, "*batch d_model"]
AnyModule = TypeVar("AnyModule", bound=nn.Module)


class Residual(nn.Module):
    """What the wrappers have in common: a norm, and dropout of what the sublayer adds.

    Args:
        norm: The norm, for vectors of x's width.
        dropout: Probability that a number of the sublayer's output is dropped in training.

    Raises: ValueError if dropout is no probability, x holds no floating-point numbers, or a sublayer changes
        its shape; TypeError if the sublayer is no function, or returns no tensor.
    """

    def __init__(self, norm: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        checks.modules(norm=norm)
        checks.above("dropout", dropout, float("-inf"))  # nn.Dropout asks whether it is from 0 to 1
        self.norm, self.dropout = norm, nn.Dropout(dropout)


class PreNorm(Residual):
    """Normalises what goes into the sublayer; x itself passes by untouched.

    x + dropout(f(norm(x))).

    Source: Xiong et al. 2020, figure 1; before them GPT-2 (Radford et al. 2019, section 2.3).

    >>> PreNorm(nn.Identity())(Tensor([1.0, 2.0]), Tensor.square)
    tensor([2., 6.])
    """

    def forward(self, x: Vectors, sublayer: Sublayer) -> Vectors:
        return x + self.dropout(_added(x, sublayer, self.norm))


class PostNorm(Residual):
    """Normalises the sum of x and what the sublayer adds to it.

    norm(x + dropout(f(x))).

    Source: Vaswani et al. 2017, sections 3.1 and 5.4.

    >>> PostNorm(nn.ReLU())(Tensor([1.0, -2.0]), Tensor.square)
    tensor([2., 2.])
    """

    def forward(self, x: Vectors, sublayer: Sublayer) -> Vectors:
        return self.norm(x + self.dropout(_added(x, sublayer)))


class SandwichNorm(Residual):
    """Normalises what goes into the sublayer and what comes out of it; x itself passes by untouched.

    x + dropout(norm_out(f(norm(x)))).

    Args:
        norm: The norm before the sublayer.
        norm_out: The norm after it, another module than norm.
        dropout: Probability that a number of norm_out's output is dropped in training.

    Raises: ValueError if both norms are one and the same module, and as `Residual`.
    Source: Ding et al. 2021 (CogView), section 2.4; Gemma 2 and GLM-4-0414 do the same with RMSNorm.

    >>> SandwichNorm(nn.Identity(), nn.ReLU())(Tensor([1.0, -2.0]), Tensor.neg)
    tensor([1., 0.])
    """

    def __init__(self, norm: nn.Module, norm_out: nn.Module, dropout: float = 0.0) -> None:
        super().__init__(norm, dropout)
        checks.modules(norm=norm, norm_out=norm_out)
        self.norm_out = norm_out

    def forward(self, x: Vectors, sublayer: Sublayer) -> Vectors:
        return x + self.dropout(self.norm_out(_added(x, sublayer, self.norm)))


class DeepNorm(Residual):
    """Post-norm with a heavier x, so that very deep stacks train: each sublayer changes it only a little.

    norm(alpha · x + dropout(f(x))). It goes together with `deep_norm_init_`.

    Args:
        norm: The norm, a LayerNorm in the paper.
        alpha: Weight of x; `deep_norm_constants` gives it.
        dropout: Probability that a number of f's output is dropped in training.

    Raises: ValueError if alpha is not positive, and as `Residual`.
    Source: Wang et al. 2022 (DeepNet), section 3.

    >>> DeepNorm(nn.ReLU(), alpha=2.0)(Tensor([1.0, -3.0]), Tensor.square)
    tensor([3., 3.])
    """

    def __init__(self, norm: nn.Module, alpha: float, dropout: float = 0.0) -> None:
        super().__init__(norm, dropout)
        checks.above("alpha", alpha)
        self.alpha = alpha

    def forward(self, x: Vectors, sublayer: Sublayer) -> Vectors:
        return self.norm(self.dropout(_added(x, sublayer)) + self.alpha * x)


class DeepNormScales(NamedTuple):
    """What DeepNorm asks of the blocks of one stack: alpha of x in the sum, beta of the first weights."""

    alpha: float
    beta: float


class DeepNormConstants(NamedTuple):
    """The scales for the encoder's blocks and for the decoder's; None where there is no such stack."""

    encoder: DeepNormScales | None
    decoder: DeepNormScales | None


def deep_norm_constants(encoder_layers: int, decoder_layers: int) -> DeepNormConstants:
    """The constants of DeepNorm for stacks of so many layers.

    One stack of N layers: alpha = (2N)^(1/4), beta = (8N)^(-1/4). An encoder of N with a decoder of M:
    0.81 (N⁴M)^(1/16) and 0.87 (N⁴M)^(-1/16) in the encoder, (3M)^(1/4) and (12M)^(-1/4) in the decoder.

    Args:
        encoder_layers: Number of blocks of the encoder, N; 0 for a model without one.
        decoder_layers: Number of blocks of the decoder, M; 0 for a model without one.

    Raises: ValueError if a number is negative, or both are 0.
    Source: Wang et al. 2022 (DeepNet), figure 2.

    >>> deep_norm_constants(8, 0).encoder
    DeepNormScales(alpha=2.0, beta=0.3535533905932738)
    """
    checks.whole("encoder_layers", encoder_layers, 0)
    checks.whole("decoder_layers", decoder_layers, 0)
    n, m = encoder_layers, decoder_layers
    if n == m == 0:
        raise ValueError("there must be an encoder or a decoder; both have 0 layers.")
    if n == 0 or m == 0:
        alone = DeepNormScales(alpha=(2 * (n + m)) ** 0.25, beta=(8 * (n + m)) ** -0.25)
        return DeepNormConstants(encoder=alone if n else None, decoder=alone if m else None)
    root = (n**4 * m) ** (1 / 16)
    return DeepNormConstants(
        encoder=DeepNormScales(alpha=0.81 * root, beta=0.87 / root),
        decoder=DeepNormScales(alpha=(3 * m) ** 0.25, beta=(12 * m) ** -0.25),
    )


# Projections by their names in attention and feed-forward networks.
_SCALED = {"value_proj", "out_proj", "up_proj", "gate_proj", "down_proj"}
_UNSCALED = {"query_proj", "key_proj"}


def deep_norm_init_(block: AnyModule, beta: float) -> AnyModule:
    """Draws a block's weights as DeepNorm asks, in place: smaller ones where they scale what a block adds.

    Xavier normal, standard deviation gain · sqrt(2 / (fan_in + fan_out)). The gain is beta for value_proj,
    out_proj, up_proj, gate_proj and down_proj, and 1 for query_proj and key_proj. Biases and norms stay.

    Args:
        block: A block, or a stack of them.
        beta: The gain; `deep_norm_constants` gives it.

    Returns: The block.
    Raises: ValueError if beta is not positive, or the block has no linear layer, or one with another name.
    Source: Wang et al. 2022 (DeepNet), figure 2. Differs: the gate of a gated feed-forward network, which
        the paper doesn't have, gets beta too.

    >>> feed_forward = nn.ModuleDict({"up_proj": nn.Linear(200, 200)})
    >>> round(deep_norm_init_(feed_forward, beta=0.5)["up_proj"].weight.std().item(), 2)
    0.04
    """
    checks.modules(block=block)
    checks.above("beta", beta)
    linear = {path: each for path, each in block.named_modules() if isinstance(each, nn.Linear)}
    checks.layer_names(linear, _SCALED | _UNSCALED)
    for path, module in linear.items():
        nn.init.xavier_normal_(module.weight, gain=beta if path.split(".")[-1] in _SCALED else 1.0)
    return block


class TransformerBlock(nn.Module):
    """Self-attention, then a feed-forward network, each in its own residual connection.

    Args:
        attention: Called with x and the keyword arguments of `forward`.
        feed_forward: Called with x.
        residual: Makes a new wrapper at each call, such as `lambda: PreNorm(LayerNorm(512), 0.1)`.

    Raises: TypeError if a part is no module, or residual is a wrapper instead of a function that makes one;
        ValueError if two parts, or two wrappers, are one and the same module.
    Source: Vaswani et al. 2017, section 3.1; for decoder-only models without its cross-attention.

    >>> block = TransformerBlock(nn.Tanh(), nn.ReLU(), residual=lambda: PreNorm(nn.Identity()))
    >>> block(Tensor([[[1.0, -1.0]]]))
    tensor([[[ 3.5232, -1.7616]]])
    """

    def __init__(
        self, attention: nn.Module, feed_forward: nn.Module, residual: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        checks.modules(attention=attention, feed_forward=feed_forward)
        self.attention, self.feed_forward = attention, feed_forward
        self.attention_residual, self.feed_forward_residual = _make(residual, 2)

    def forward(self, x: Vectors, **attend: Any) -> Vectors:
        """The vectors after both sublayers; mask, score_bias, positions, cache go to the attention."""
        x = self.attention_residual(x, lambda h: self.attention(h, **attend))
        return self.feed_forward_residual(x, self.feed_forward)


class DecoderBlock(nn.Module):
    """Self-attention, attention to the encoder's output, then a feed-forward network.

    Arguments and errors as `TransformerBlock`; cross_attention is called with x, memory and a mask.

    Source: Vaswani et al. 2017, section 3.1.
    """

    def __init__(
        self,
        attention: nn.Module,
        cross_attention: nn.Module,
        feed_forward: nn.Module,
        residual: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        parts = {"attention": attention, "cross_attention": cross_attention}
        checks.modules(**parts, feed_forward=feed_forward)
        self.attention, self.cross_attention = attention, cross_attention
        self.feed_forward = feed_forward
        self.attention_residual, self.cross_attention_residual, self.feed_forward_residual = _make(
            residual, 3
        )

    def forward(
        self,
        x: Vectors,
        memory: Float[Tensor, "batch source d_memory"] | KeysValues,
        *,
        memory_mask: Tensor | None = None,
        **attend: Any,
    ) -> Vectors:
        """The vectors after the three sublayers.

        Args:
            x: One vector for each token of the target.
            memory: The encoder's output, one vector for each token of the source, or its keys and values.
            memory_mask: Which tokens of the source may be attended to; the cross-attention's mask.
            **attend: As in `TransformerBlock.forward`, for the self-attention.
        """
        checks.kind("memory", memory, Tensor | KeysValues, "a torch.Tensor or KeysValues")
        x = self.attention_residual(x, lambda h: self.attention(h, **attend))
        x = self.cross_attention_residual(
            x, lambda h: self.cross_attention(h, memory, mask=memory_mask)
        )
        return self.feed_forward_residual(x, self.feed_forward)


def _make(residual: Callable[[], nn.Module], number: int) -> list[nn.Module]:
    checks.maker("residual", residual, "a wrapper", "lambda: PreNorm(LayerNorm(512))")
    wrappers = {f"residual's wrapper {i + 1}": residual() for i in range(number)}
    checks.modules(**wrappers)
    return list(wrappers.values())


def _added(x: Tensor, sublayer: Sublayer, norm: nn.Module | None = None) -> Tensor:
    checks.floating("x", x)
    if not callable(sublayer):
        checks.kind("sublayer", sublayer, Callable, "a function")
    added = sublayer(x if norm is None else norm(x))
    checks.floating("what a sublayer returns", added)
    checks.kept("a sublayer", added, x)
    return added
