"""The key-value cache: what a decoder keeps of the tokens that it has seen."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from transformer_lab.checks import check_tensor, check_whole_tensor


class KeysValues(NamedTuple):
    """Keys and values of some positions, (batch, kv_heads, positions, d_head) each."""

    key: Tensor
    value: Tensor


class KVCache:
    """Keys and values of one attention layer, in memory that is set aside once.

    Without it, each new token would compute the keys and values of all earlier ones again.

    Args:
        batch: Number of sequences.
        max_len: Most positions that it can hold, in tokens.
        num_kv_heads: Heads of keys and values.
        d_head: Features of a head.
        memory: Keys and values of an encoder's output, in a decoder that attends to one.
        dtype: Of keys and values; torch's default when None.
        device: Where they are kept.

    Raises: ValueError if a size is below 1.

    >>> cache = KVCache(1, 8, 2, 4)
    >>> keys, values = cache.append(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4))
    >>> keys.shape, cache.length
    (torch.Size([1, 2, 3, 4]), 3)
    """

    def __init__(
        self,
        batch: int,
        max_len: int,
        num_kv_heads: int,
        d_head: int,
        *,
        memory: KeysValues | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        shape = (batch, num_kv_heads, max_len, d_head)
        if min(shape) < 1:
            raise ValueError(
                f"every size of a cache must be at least 1; they are batch={batch}, "
                f"max_len={max_len}, num_kv_heads={num_kv_heads}, d_head={d_head}."
            )
        self._keys = torch.empty(shape, dtype=dtype, device=device)
        self._values = torch.empty_like(self._keys)
        self.memory, self.max_len = memory, max_len
        self.length = 0  # positions that it holds now

    def append(
        self,
        key: Float[Tensor, "batch kv_heads new d_head"],
        value: Float[Tensor, "batch kv_heads new d_head"],
    ) -> KeysValues:
        """Add the keys and values of new positions, and return those of all so far.

        Args:
            key: Keys of the new positions.
            value: Values of the new positions.

        Returns: Views into the cache: no copies, valid until the next `append` or `select`.
        Raises: ValueError if they don't fit the cache, or it is full.
        """
        self._check("key", key, key)
        self._check("value", value, key)
        new = key.shape[2]
        end = self.length + new
        if end > self.max_len:
            raise ValueError(
                f"the cache holds {self.length} of {self.max_len} positions; {new} more don't "
                "fit. Make it larger, or start anew."
            )
        self._keys[:, :, self.length : end] = key
        self._values[:, :, self.length : end] = value
        self.length = end
        return KeysValues(self._keys[:, :, :end], self._values[:, :, :end])

    def select(self, rows: Int[Tensor, " batch"]) -> None:
        """Let each sequence go on from the past of another, as beam search needs it.

        Args:
            rows: For each sequence of the batch, number of the one whose past it takes.

        Raises: ValueError if rows isn't one number for each sequence.
        """
        check_whole_tensor("rows", rows)
        batch = self._keys.shape[0]
        if rows.shape != (batch,) or not (rows.is_meta or 0 <= rows.min() <= rows.max() < batch):
            raise ValueError(
                f"rows must name one of the {batch} sequences for each of them; it is {rows.tolist()}."
            )
        for kept in (self._keys, self._values):
            kept[:, :, : self.length] = kept[rows, :, : self.length]
        if self.memory is not None:
            self.memory = KeysValues(*(each[rows] for each in self.memory))

    def _check(self, name: str, tensor: Tensor, key: Tensor) -> None:
        check_tensor(name, tensor)
        kept = self._keys
        batch, heads, _, d_head = kept.shape
        fits = (batch, heads, key.shape[2] if key.dim() == 4 else "new", d_head)
        if tensor.shape != fits:
            raise ValueError(
                f"{name} must have shape (batch, kv_heads, new, d_head) = {fits}; "
                f"its shape is {tuple(tensor.shape)}."
            )
        if tensor.dtype != kept.dtype or tensor.device != kept.device:
            raise ValueError(
                f"{name} must be {kept.dtype} on {kept.device} like the cache; "
                f"it is {tensor.dtype} on {tensor.device}."
            )
