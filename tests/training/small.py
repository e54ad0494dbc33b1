"""A tiny model with all that a Transformer has, made of torch's own parts, and batches for it."""

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCAB, WIDTH, CONTEXT, BATCH = 11, 8, 6, 4


class Tiny(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(WIDTH),
                nn.Linear(WIDTH, 16),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(16, WIDTH),
            )
            for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = x + block(x).cumsum(1)
        return self.head(x)


def tiny(dropout: float = 0.0, seed: int = 0) -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Tiny(dropout)


def batches(step: int) -> tuple[Tensor, Tensor]:
    """Each row has another number of targets that count."""
    draw = torch.Generator().manual_seed(step)
    rows = torch.randint(VOCAB, (BATCH, CONTEXT + 1), generator=draw)
    targets = rows[:, 1:].clone()
    for row in range(BATCH):
        targets[row, : (row + step) % 4] = -100
    return rows[:, :-1], targets


def by_hand(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss in other words: the mean of minus the logarithms of the right ones' probabilities."""
    logits, targets = model(batch[0]), batch[1]
    counted = targets != -100
    return -F.log_softmax(logits[counted], -1)[range(int(counted.sum())), targets[counted]].mean()


def same(model: nn.Module, other: nn.Module) -> bool:
    pairs = zip(model.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def in_a_child(function: Callable[..., object], *arguments: object) -> int:
    """How a process ends that does this: 0, 1 after an exception, -9 when it was killed.

    A fork, because to start Python anew and import torch takes two seconds.
    """
    child = os.fork()
    if not child:
        ended = 1
        try:
            torch.set_num_threads(1)
            function(*arguments)
            ended = 0
        finally:
            os._exit(ended)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
