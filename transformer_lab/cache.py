"""The key-value cache: what a decoder keeps of the tokens that it has seen."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from transformer_lab import checks


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

    Raises: ValueError if a size is below 1, or the memory doesn't fit the sizes, dtype and device.

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
        checks.whole("batch", batch)
        checks.whole("max_len", max_len)
        checks.whole("num_kv_heads", num_kv_heads)
        checks.whole("d_head", d_head)
        shape = (batch, num_kv_heads, max_len, d_head)
        self._keys = torch.empty(shape, dtype=dtype, device=device)
        self._values = torch.empty_like(self._keys)
        self._sizes = (batch, num_kv_heads, d_head)
        if memory is not None:
            checks.kind("memory", memory, KeysValues, "a pair of KeysValues")
            checks.keys_values(*memory, self._sizes, "the cache", self._keys)
        self.memory, self.max_len = memory, max_len
        source = None if memory is None else memory.key.shape[2]
        self.kind = (source, *self._sizes, self._keys.dtype, self._keys.device)  # one in all layers
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
        checks.keys_values(key, value, self._sizes, "the cache", self._keys)
        checks.room(self.length, self.max_len, key.shape[2])
        end = self.length + key.shape[2]
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
        checks.rows_of("rows", rows, self._keys)
        rows = rows.long()  # uint8 would be read as a mask
        for kept in (self._keys, self._values):
            kept[:, :, : self.length] = kept[rows, :, : self.length]
        if self.memory is not None:
            self.memory = KeysValues(*(each[rows] for each in self.memory))
