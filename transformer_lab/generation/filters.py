"""What changes the logits before a token is drawn from them.

A filter is called with the logits and the tokens so far, and returns new logits; -inf rules a token out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from transformer_lab import checks

Filter = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Temperature:
    """Sharpens the distribution (below 1) or flattens it (above 1).

    logits / temperature.

    Args:
        temperature: Above 0; 1 changes nothing.

    Raises: ValueError if temperature isn't above 0.
    Source: Ackley et al. 1985 (Boltzmann machines); Hinton et al. 2015, equation 1.

    >>> Temperature(0.5)(Tensor([1.0, -1.0]))
    tensor([ 2., -2.])
    """

    temperature: float

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature must be above 0 and finite; it is {self.temperature}. "
                "To take the likeliest token always, choose=greedy."
            )

    def __call__(
        self, logits: Float[Tensor, "*batch vocab"], past: Tensor | None = None
    ) -> Float[Tensor, "*batch vocab"]:
        return logits / self.temperature


@dataclass(frozen=True)
class TopK:
    """Keeps the k likeliest tokens, and those as likely as the last of them.

    Args:
        k: Number of tokens; all are kept when the vocabulary is smaller.

    Raises: ValueError if k is below 1.
    Source: Fan et al. 2018, section 5.4.

    >>> TopK(2)(Tensor([3.0, 1.0, 2.0]))
    tensor([3., -inf, 2.])
    """

    k: int

    def __post_init__(self) -> None:
        checks.whole("k", self.k)

    def __call__(
        self, logits: Float[Tensor, "*batch vocab"], past: Tensor | None = None
    ) -> Float[Tensor, "*batch vocab"]:
        last_kept = logits.topk(min(self.k, logits.shape[-1])).values[..., -1:]
        return logits.masked_fill(logits < last_kept, -math.inf)


@dataclass(frozen=True)
class TopP:
    """Keeps the nucleus: the fewest of the likeliest tokens whose probabilities reach p together.

    A token stays when those before it, from the likeliest on, sum to less than p: so the one that
    crosses p is kept.

    Args:
        p: Probability, above 0; 1 keeps all.

    Raises: ValueError if p isn't above 0 and at most 1.
    Source: Holtzman et al. 2020, section 3.1.

    >>> TopP(0.6)(Tensor([0.5, 0.3, 0.2]).log()).exp()
    tensor([0.5000, 0.3000, 0.0000])
    """

    p: float

    def __post_init__(self) -> None:
        _check_share("p", self.p)

    def __call__(
        self, logits: Float[Tensor, "*batch vocab"], past: Tensor | None = None
    ) -> Float[Tensor, "*batch vocab"]:
        if self.p == 1:  # rounding would make the last tokens seem superfluous
            return logits
        # Sorting a whole vocabulary takes longer than a small model. A nucleus is rarely that large.
        normalizer = logits.logsumexp(dim=-1, keepdim=True)
        for size in (min(1024, logits.shape[-1]), logits.shape[-1]):
            likeliest, order = logits.topk(size)
            probabilities = (likeliest - normalizer).exp()
            up_to = probabilities.cumsum(dim=-1)
            if bool((up_to[..., -1] >= self.p).all()):
                break
        dropped = (up_to - probabilities >= self.p).to(likeliest.dtype)
        nucleus = likeliest.masked_fill(dropped.bool(), -math.inf)
        return logits.new_full(logits.shape, -math.inf).scatter(-1, order, nucleus)


@dataclass(frozen=True)
class MinP:
    """Keeps the tokens that are at least p times as likely as the likeliest.

    Args:
        p: Share of the largest probability, above 0 and at most 1.

    Raises: ValueError if p isn't above 0 and at most 1.
    Source: Nguyen et al. 2024 (min-p), section 3.

    >>> MinP(0.5)(Tensor([0.5, 0.3, 0.2]).log()).exp()
    tensor([0.5000, 0.3000, 0.0000])
    """

    p: float

    def __post_init__(self) -> None:
        _check_share("p", self.p)

    def __call__(
        self, logits: Float[Tensor, "*batch vocab"], past: Tensor | None = None
    ) -> Float[Tensor, "*batch vocab"]:
        least = logits.amax(dim=-1, keepdim=True) + math.log(self.p)
        return logits.masked_fill(logits < least, -math.inf)


@dataclass(frozen=True)
class RepetitionPenalty:
    """Makes the tokens that were there before less likely, once each, the prompt's included.

    A positive logit is divided by the penalty, a negative one multiplied by it: both become smaller.

    Args:
        penalty: Above 1 against repetition; 1 changes nothing.

    Raises: ValueError if penalty isn't above 0.
    Source: Keskar et al. 2019 (CTRL), section 4.1. Differs: the paper divides negative logits too,
    which would make their tokens likelier.

    >>> import torch
    >>> RepetitionPenalty(2.0)(torch.tensor([[4.0, -1.0, 3.0]]), torch.tensor([[0, 1, 0]]))
    tensor([[ 2., -2.,  3.]])
    """

    penalty: float

    def __post_init__(self) -> None:
        checks.above("penalty", self.penalty)

    def __call__(
        self, logits: Float[Tensor, "batch vocab"], past: Int[Tensor, "batch seen"]
    ) -> Float[Tensor, "batch vocab"]:
        seen = logits.gather(-1, past)
        smaller = (seen / self.penalty).where(seen > 0, seen * self.penalty)
        return logits.scatter(-1, past, smaller)


def _check_share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(
            f"{name} must be above 0 and at most 1, so that a token is left; it is {value}."
        )
