"""Who may attend to whom.

Every mask is boolean, True = may attend, and has the four axes (batch, heads, query, key), with
size 1 where it is the same for all. Masks are joined with `&` (both must allow) and `|` (one is enough).
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils._pytree import tree_map_only

from transformer_lab import checks


class CausalMask(Tensor):
    """A boolean tensor that knows that it is causal, and holds no numbers.

    `causal_mask` returns it, but not to torch.compile. Attention sees it and lets its kernel skip the upper
    triangle, without n² numbers in memory; any other operation on it gives an ordinary tensor.
    """

    @staticmethod
    def __new__(
        cls, query_len: int, key_len: int, device: torch.device | str | None = None
    ) -> "CausalMask":
        device = torch.device(device) if device else torch.get_default_device()
        mask: CausalMask = Tensor._make_wrapper_subclass(
            cls, (1, 1, query_len, key_len), dtype=torch.bool, device=device
        )
        return mask

    def dense(self) -> Tensor:
        """The same mask as an ordinary tensor."""
        return _triangle(self.shape[2], self.shape[3], self.device)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(cls, cls.dense, (args, kwargs or {}))
        return func(*args, **kwargs)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return repr(self.dense())

    def tolist(self) -> list[Any]:
        return self.dense().tolist()

    def numpy(self, *, force: bool = False) -> np.ndarray:
        return self.dense().numpy(force=force)


def causal_mask(
    query_len: int, key_len: int | None = None, *, device: torch.device | str | None = None
) -> Bool[Tensor, "1 1 {query_len} key"]:
    """Each query attends to itself and to what stands before it.

    mask[i, j] = (j ≤ i + key_len - query_len). With fewer queries than keys, as when earlier keys
    come from a cache, the queries are the last positions: the triangle ends in the corner bottom right.

    Args:
        query_len: Number of queries.
        key_len: Number of keys, at least query_len; equal to it when None.
        device: Where the mask is made.

    Raises: ValueError if a length is negative, or there are fewer keys than queries.
    Source: Vaswani et al. 2017, section 3.2.3.

    >>> causal_mask(2, 3)[0, 0]
    tensor([[ True,  True, False],
            [ True,  True,  True]])
    """
    key_len = query_len if key_len is None else key_len
    checks.whole("query_len", query_len, 0)
    checks.whole("key_len", key_len, 0)
    if key_len < query_len:
        raise ValueError(
            f"a causal mask needs a key for each query: query_len={query_len}, key_len={key_len}. "
            "Were the two swapped?"
        )
    return (_triangle if torch.compiler.is_compiling() else CausalMask)(query_len, key_len, device)


def _triangle(query_len: int, key_len: int, device: torch.device | str | None) -> Tensor:
    all_true = torch.ones(query_len, key_len, dtype=torch.bool, device=device)
    return all_true.tril(key_len - query_len)[None, None]


def padding_mask(
    lengths: Int[Tensor, " batch"], max_len: int
) -> Bool[Tensor, "batch 1 1 {max_len}"]:
    """Every query attends to the tokens of its own sequence, not to the padding behind them.

    mask[b, 0, 0, j] = (j < lengths[b]).

    Args:
        lengths: Number of tokens of each sequence.
        max_len: Length that all sequences were padded to, in tokens.

    Raises: ValueError if lengths is not a row of integers from 0 to max_len.

    >>> padding_mask(torch.tensor([1, 3]), 3)[:, 0, 0]
    tensor([[ True, False, False],
            [ True,  True,  True]])
    """
    checks.whole("max_len", max_len, 0)
    checks.lengths("lengths", lengths, max_len)
    return (torch.arange(max_len, device=lengths.device) < lengths[:, None])[:, None, None, :]


def token_mask(is_token: Bool[Tensor, "batch key"]) -> Bool[Tensor, "batch 1 1 key"]:
    """Every query attends to the tokens of its own sequence, wherever its padding stands.

    mask[b, 0, 0, j] = is_token[b, j].

    Args:
        is_token: True = a token, False = padding.

    Raises: ValueError if is_token isn't boolean or hasn't two axes.

    >>> token_mask(torch.tensor([[False, True]]))
    tensor([[[[False,  True]]]])
    """
    checks.token_rows("is_token", is_token)
    return is_token[:, None, None, :]


def prefix_mask(prefix_lengths: Int[Tensor, " batch"], n: int) -> Bool[Tensor, "batch 1 {n} {n}"]:
    """The prefix is seen by all, in both directions; what follows it is causal.

    mask[b, 0, i, j] = (j ≤ i or j < prefix_lengths[b]).

    Args:
        prefix_lengths: Number of tokens of each prefix.
        n: Length of the sequences, in tokens.

    Raises: ValueError if prefix_lengths is not a row of integers from 0 to n.
    Source: Raffel et al. 2020, section 3.2.1; Du et al. 2022, section 2.1.

    >>> prefix_mask(torch.tensor([2]), 3)[0, 0]
    tensor([[ True,  True, False],
            [ True,  True, False],
            [ True,  True,  True]])
    """
    checks.whole("n", n, 0)
    checks.lengths("prefix_lengths", prefix_lengths, n)
    return causal_mask(n, device=prefix_lengths.device) | padding_mask(prefix_lengths, n)


def sliding_window_mask(
    n: int, window: int, *, device: torch.device | str | None = None
) -> Bool[Tensor, "1 1 {n} {n}"]:
    """Each query attends to itself and to the window - 1 positions before it.

    mask[i, j] = (i - window < j ≤ i).

    Args:
        n: Length of the sequences, in tokens.
        window: Number of keys that a query sees at most, itself among them.
        device: Where the mask is made.

    Raises: ValueError if n is negative or window is below 1.
    Source: Jiang et al. 2023 (Mistral 7B), section 2. Longformer's window (Beltagy et al. 2020) reaches to
        both sides.

    >>> sliding_window_mask(3, 2)[0, 0]
    tensor([[ True, False, False],
            [ True,  True, False],
            [False,  True,  True]])
    """
    checks.whole("n", n, 0)
    checks.whole("window", window)
    causal = causal_mask(n, device=device)
    return causal & causal.triu(1 - window)
