"""Batches as functions of the step number.

The random choice of batch k depends on the seed and on k alone, never on what was drawn before. So a
run that stops and goes on sees the same batches, and nothing about the data has to be saved.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int64, Integer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from transformer_lab import checks

Row = TypeVar("Row", Tensor, np.ndarray, list[int], str)
Ids: TypeAlias = Sequence[int] | Integer[Tensor, " _"] | Integer[np.ndarray, " _"]
Example: TypeAlias = tuple[Ids, Ids]
Batch = TypeVar("Batch")

IGNORED = -100  # what torch's cross-entropy leaves out


def split(ids: Row, train: float = 0.9, context: int = 0) -> tuple[Row, Row]:
    """Cut a row in two: the first part to train on, the rest to validate on.

    No window of one part shares a token with a window of the other.

    Args:
        ids: Tokens, or the characters of a text.
        train: Share of the first part, between 0 and 1.
        context: Length of the windows to be cut from each part, in tokens. A window needs one token more,
            the last target.

    Returns: The two parts, as the kind of row that was given; joined, they are the whole.
    Raises: ValueError if train isn't between 0 and 1, or a part is shorter than one window.

    >>> split([1, 2, 3, 4, 5], train=0.6)
    ([1, 2, 3], [4, 5])
    """
    if isinstance(train, bool) or not isinstance(train, (int, float)):
        raise TypeError(f"train must be a number between 0 and 1; it is {train!r}.")
    if not 0 < train < 1:
        raise ValueError(f"train must lie between 0 and 1, both left out; it is {train}.")
    checks.whole("context", context, 0)
    cut = round(train * len(ids))
    parts = {"training": ids[:cut], "validation": ids[cut:]}
    for name, part in parts.items():
        if len(part) < context + 1:
            raise ValueError(
                f"the {name} part must hold at least one window, context + 1 = {context + 1} tokens; "
                f"it has {len(part)} of {len(ids)}. Take a longer text, a shorter context or another share."
            )
    return parts["training"], parts["validation"]


class Windows:
    """Random windows of one long row of tokens, to train a language model.

    targets[b, i] = inputs[b, i + 1]: each position is to predict the token after it.

    Args:
        ids: The tokens; kept as a copy, in the smallest integers that hold them.
        context: Length of a window, in tokens.
        batch: Windows in a batch.
        seed: Another seed, other batches.
        device: Where the tokens are kept and the batches come out; when None, where ids are.

    Raises: TypeError if ids are no whole numbers; ValueError if ids isn't a single row, has negative
        numbers or is shorter than context + 1.

    >>> inputs, targets = Windows(range(100), context=3, batch=2)(step=0)
    >>> bool((targets == inputs + 1).all())
    True
    """

    def __init__(
        self,
        ids: Ids,
        *,
        context: int,
        batch: int,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        checks.whole("context", context, 1)
        checks.whole("batch", batch, 1)
        checks.whole("seed", seed, 0)
        row = _row(ids)
        if len(row) < context + 1:
            raise ValueError(
                f"ids must hold at least one window, context + 1 = {context + 1} tokens; they are "
                f"{len(row)}. Take a longer text or a shorter context."
            )
        self.context, self.batch, self.seed = context, batch, seed
        if device is None and isinstance(ids, Tensor):
            device = ids.device
        self._ids = torch.as_tensor(row, device=device)

    def __call__(
        self, step: int
    ) -> tuple[Int64[Tensor, "batch context"], Int64[Tensor, "batch context"]]:
        """Draw the batch of one step.

        Args:
            step: Its number, from 0.

        Returns: Inputs and targets.
        Raises: TypeError if step is no whole number; ValueError if it is negative.
        """
        starts = range(len(self._ids) - self.context)
        return self._cut(_generator(self.seed, step).choices(starts, k=self.batch))

    def sequential(
        self,
    ) -> Iterator[tuple[Int64[Tensor, "batch context"], Int64[Tensor, "batch context"]]]:
        """Go over the row once, window after window, to validate: no token is predicted twice.

        Returns: Batches of inputs and targets. The last one may have fewer windows. What is left at the
            end, less than a window, is dropped.
        """
        starts = range(0, len(self._ids) - self.context, self.context)
        for first in range(0, len(starts), self.batch):
            yield self._cut(starts[first : first + self.batch])

    def _cut(self, starts: Sequence[int]) -> tuple[Tensor, Tensor]:
        device = self._ids.device
        places = torch.tensor(starts, device=device)[:, None] + torch.arange(
            self.context, device=device
        )
        return self._ids[places].long(), self._ids[places + 1].long()


class Passes(Windows):
    """Windows without repeats: each pass over the row reads every token once, in an order of its own.

    Windows that are drawn one by one leave 1/e of the tokens unread by the time that as many were read
    as there are. Here a pass begins at a random place within the first two windows, cuts the row from
    there into windows side by side, and shuffles them; so it misses less than two windows, at the ends. Which
    windows batch k has depends on the seed and on k alone. Arguments and errors as for `Windows`.

    >>> passes = Passes(range(1, 101), context=9, batch=10)
    >>> inputs, _ = passes(step=0)
    >>> len(set(inputs.flatten().tolist()))
    90
    """

    def __call__(
        self, step: int
    ) -> tuple[Int64[Tensor, "batch context"], Int64[Tensor, "batch context"]]:
        """The batch of one step; see `Windows`."""
        checks.whole("step", step, 0)
        # One token is a target only, and with it goes room for the random place to begin.
        windows = max((len(self._ids) - 1) // self.context - 1, 1)
        first = step * self.batch
        places = [divmod(number, windows) for number in range(first, first + self.batch)]
        last = len(self._ids) - 1 - self.context
        starts = [_order(self.seed, number, windows, self.context, last)[k] for number, k in places]
        return self._cut(starts)


class PairBatch(NamedTuple):
    """A batch for an encoder-decoder, padded on the right.

    Attributes:
        source: What the encoder reads.
        inputs: What the decoder reads: start_id, then the target.
        targets: What the decoder is to say: the target, then end_id; -100 where inputs are padding.
        source_is_token: True = a token of the source, False = padding.
        is_token: The same for inputs.
    """

    source: Int64[Tensor, "batch source"]
    inputs: Int64[Tensor, "batch target"]
    targets: Int64[Tensor, "batch target"]
    source_is_token: Bool[Tensor, "batch source"]
    is_token: Bool[Tensor, "batch target"]


class _Examples(ABC, Generic[Batch]):
    """What `Pairs` and `Completions` share: which examples a batch is made of."""

    def __init__(
        self,
        pairs: Iterable[Example],
        *,
        batch: int,
        seed: int,
        device: torch.device | str | None,
    ) -> None:
        checks.whole("batch", batch, 1)
        checks.whole("seed", seed, 0)
        self.batch, self.seed, self.device = batch, seed, device
        self._pairs = [_pair(number, pair) for number, pair in enumerate(pairs)]
        if not self._pairs:
            raise ValueError("pairs must hold at least one pair; there is none.")

    def __call__(self, step: int) -> Batch:
        """Draw the batch of one step.

        Args:
            step: Its number, from 0.

        Raises: TypeError if step is no whole number; ValueError if it is negative.
        """
        return self._collate(_generator(self.seed, step).choices(self._pairs, k=self.batch))

    def sequential(self) -> Iterator[Batch]:
        """Go over all pairs once, in their order; the last batch may be smaller."""
        for first in range(0, len(self._pairs), self.batch):
            yield self._collate(self._pairs[first : first + self.batch])

    @abstractmethod
    def _collate(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Batch: ...

    def _pad(self, rows: list[list[int]], value: int) -> Tensor:
        tensors = [torch.tensor(row) for row in rows]
        return pad_sequence(tensors, batch_first=True, padding_value=value).to(self.device)


class Pairs(_Examples[PairBatch]):
    """Random pairs of source and target, to train an encoder-decoder.

    A target [a, b] gives the inputs [start_id, a, b] and the targets [a, b, end_id].

    Args:
        pairs: Source and target of each example, as token ids.
        batch: Pairs in a batch.
        start_id: The token that the decoder begins with.
        end_id: The token that says that the target is complete.
        pad_id: Fills the shorter rows; may be one of the others, as the masks say what is padding.
        seed: Another seed, other batches.
        device: Where the batches come out.

    Raises: TypeError if pairs aren't pairs of rows of whole numbers; ValueError if there are none, a source
        is empty or a number is negative.

    >>> batch = Pairs([([5, 6], [7])], batch=1, start_id=1, end_id=2, pad_id=0)(step=0)
    >>> batch.source.tolist(), batch.inputs.tolist(), batch.targets.tolist()
    ([[5, 6]], [[1, 7]], [[7, 2]])
    """

    def __init__(
        self,
        pairs: Iterable[Example],
        *,
        batch: int,
        start_id: int,
        end_id: int,
        pad_id: int,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(pairs, batch=batch, seed=seed, device=device)
        checks.whole("start_id", start_id, 0)
        checks.whole("end_id", end_id, 0)
        checks.whole("pad_id", pad_id, 0)
        self.start_id, self.end_id, self.pad_id = start_id, end_id, pad_id

    def _collate(self, pairs: Sequence[tuple[list[int], list[int]]]) -> PairBatch:
        targets = self._pad([[*target, self.end_id] for _, target in pairs], IGNORED)
        # Counted, not compared with pad_id: a token may have the same number.
        source_is_token = self._pad([[1] * len(source) for source, _ in pairs], 0).bool()
        return PairBatch(
            source=self._pad([source for source, _ in pairs], self.pad_id),
            inputs=self._pad([[self.start_id, *target] for _, target in pairs], self.pad_id),
            targets=targets,
            source_is_token=source_is_token,
            is_token=targets != IGNORED,
        )


class Completions(_Examples[tuple[Int64[Tensor, "batch seq"], Int64[Tensor, "batch seq"]]]):
    """Random pairs of prompt and completion, to train a decoder on what follows a prompt.

    A prompt [a, b] with the completion [c] gives the inputs [a, b, c] and the targets [-100, c, end_id]:
    the prompt is read, not learnt. Shorter rows are padded on the right.

    Args:
        pairs: Prompt and completion of each example, as token ids.
        batch: Pairs in a batch.
        end_id: The token that says that the completion is over.
        pad_id: Fills the shorter inputs; their targets are -100.
        seed: Another seed, other batches.
        device: Where the batches come out.

    Raises: TypeError if pairs aren't pairs of rows of whole numbers; ValueError if there are none, a prompt
        is empty or a number is negative.

    >>> inputs, targets = Completions([([5, 6], [7])], batch=1, end_id=2, pad_id=0)(step=0)
    >>> inputs.tolist(), targets.tolist()
    ([[5, 6, 7]], [[-100, 7, 2]])
    """

    def __init__(
        self,
        pairs: Iterable[Example],
        *,
        batch: int,
        end_id: int,
        pad_id: int,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(pairs, batch=batch, seed=seed, device=device)
        checks.whole("end_id", end_id, 0)
        checks.whole("pad_id", pad_id, 0)
        self.end_id, self.pad_id = end_id, pad_id

    def _collate(self, pairs: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
        inputs = [prompt + completion for prompt, completion in pairs]
        targets = [
            [IGNORED] * (len(prompt) - 1) + completion + [self.end_id]
            for prompt, completion in pairs
        ]
        return self._pad(inputs, self.pad_id), self._pad(targets, IGNORED)


@lru_cache(maxsize=4)  # shuffling a long text anew at each step would take longer than the step
def _order(seed: int, number: int, windows: int, context: int, last: int) -> list[int]:
    """Where the windows of one pass begin, in its order; none begins behind `last`."""
    chance = random.Random(f"{seed}/pass {number}")
    begin = chance.randint(0, last - (windows - 1) * context)
    starts = [begin + window * context for window in range(windows)]
    chance.shuffle(starts)
    return starts


def _generator(seed: int, step: int) -> random.Random:
    checks.whole("step", step, 0)
    # From a text, so that no two pairs give the same: torch's generator on the CPU would keep 32 bits.
    return random.Random(f"{seed}/{step}")


def _row(ids: Ids) -> np.ndarray:
    """The ids as a checked copy in the smallest integers that torch can index."""
    if isinstance(ids, Tensor) and ids.is_floating_point():
        raise TypeError(f"ids must be whole numbers; they hold {ids.dtype}.")
    try:
        given = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    except ValueError:
        raise ValueError(
            "ids must be one row of token ids; they are rows of several lengths."
        ) from None
    if given.ndim != 1:
        raise ValueError(
            f"ids must be one row of token ids; they have the axes {given.shape}. "
            "Encode the text first, and join rows into one."
        )
    if given.size == 0:
        raise ValueError("ids must hold at least one token; they are empty.")
    if given.dtype.kind not in "iu":
        raise TypeError(f"ids must be whole numbers; they hold {given.dtype}.")
    least, most = int(given.min()), int(given.max())
    if least < 0:
        raise ValueError(f"ids must be 0 or more; the smallest is {least}.")
    kinds = (np.uint8, np.int16, np.int32, np.int64)
    fitting = next((kind for kind in kinds if most <= np.iinfo(kind).max), None)
    if fitting is None:
        raise ValueError(f"ids must be below 2**63; the largest is {most}.")
    return given.astype(fitting)


def _pair(number: int, pair: Example) -> tuple[list[int], list[int]]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"pair {number} must be two rows of token ids; it is {pair!r:.60}.")
    first, second = (_tokens(number, row) for row in pair)
    if not first:
        raise ValueError(
            f"the first row of pair {number} must hold at least one token; it is empty."
        )
    return first, second


def _tokens(number: int, row: Ids) -> list[int]:
    if isinstance(row, (Tensor, np.ndarray)):
        row = row.tolist()
    if not isinstance(row, Sequence):
        raise TypeError(f"pair {number} must be two rows of token ids; {row!r:.60} is no row.")
    for token in row:
        if isinstance(token, bool) or not isinstance(token, int):
            raise TypeError(
                f"pair {number} must hold token ids, whole numbers; {token!r:.60} is in it. "
                "Encode the text first."
            )
        if token < 0:
            raise ValueError(f"pair {number} must hold ids of 0 or more; {token} is in it.")
    return list(row)
