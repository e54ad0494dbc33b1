"""From logits to the next token: the likeliest one, or one drawn by chance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from transformer_lab.generation.filters import Filter

# Picks the next token of each row: called with the logits (batch, vocab), the tokens so far (batch, seen),
# whose padding on the left repeats the row's first token, and for each row a number drawn uniformly from 0
# to below 1.
Choose = Callable[[Tensor, Tensor, Tensor], Tensor]


def greedy(
    logits: Float[Tensor, "batch vocab"],
    past: Int[Tensor, "batch seen"] | None = None,
    chance: Float[Tensor, " batch"] | None = None,
) -> Int[Tensor, " batch"]:
    """Takes the likeliest token, the first of equals.

    Args:
        logits: Of the next token.
        past: The tokens so far; not looked at.
        chance: Not looked at.

    >>> greedy(torch.tensor([[0.1, 0.7, 0.2]]))
    tensor([1])
    """
    return logits.argmax(dim=-1)


@dataclass(frozen=True)
class Sampling:
    """Draws a token with the probabilities that the filters leave.

    The token is the first at which the cumulated probability exceeds the row's chance. Greedy choice
    after a penalty is `Sampling([RepetitionPenalty(1.2), TopK(1)])`.

    Args:
        filters: Applied in this order to the logits: Temperature, TopK, TopP, MinP, RepetitionPenalty,
            or any function of the logits and the tokens so far.

    Raises: TypeError if filters is no list of functions.

    >>> from transformer_lab.generation import TopK
    >>> past = torch.tensor([[1]])
    >>> Sampling([TopK(2)])(torch.tensor([[3.0, 1.0, 2.0]]), past, torch.tensor([0.9]))
    tensor([2])
    """

    filters: Sequence[Filter] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.filters, Sequence):
            raise TypeError(
                f"filters must be a list, such as [TopK(50)]; it is {self.filters!r}. "
                "Put brackets around it."
            )
        for each in self.filters:
            if isinstance(each, type) or not callable(each):
                raise TypeError(
                    f"each filter must be a function of logits and past tokens, such as TopK(50); "
                    f"one is {each!r}."
                )

    def __call__(
        self,
        logits: Float[Tensor, "batch vocab"],
        past: Int[Tensor, "batch seen"],
        chance: Float[Tensor, " batch"],
    ) -> Int[Tensor, " batch"]:
        for each in self.filters:
            logits = each(logits, past)
        cumulated = logits.softmax(dim=-1).cumsum(dim=-1)
        # Times the sum, which rounding takes away from 1. NaN gives an id beyond the vocabulary, which
        # the caller refuses.
        reached = chance[:, None] * cumulated[:, -1:]
        return torch.searchsorted(cumulated, reached, right=True)[:, 0]


def chances(seed: int, batch: int, steps: int) -> Float[Tensor, "{batch} {steps}"]:
    """Numbers from 0 to below 1, one for each row and step.

    They depend on nothing but the seed, the row and the step: a longer text begins like a shorter one,
    and a row doesn't change when others are added.

    Args:
        seed: A whole number from 0.
        batch: Number of rows.
        steps: Number of tokens for each.

    >>> torch.equal(chances(0, 3, 5)[:2, :4], chances(0, 2, 4))
    True
    """
    # With 23 bits the product of such a number and a float32 is always below that float32.
    drawn = [np.random.default_rng((seed, row)).integers(2**23, size=steps) for row in range(batch)]
    return torch.from_numpy(np.stack(drawn)).float() / 2**23
