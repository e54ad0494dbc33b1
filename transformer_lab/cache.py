"""The key-value cache: what a decoder keeps of the tokens that it has seen."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


class KVCache:
    """Keys and values of one attention layer, in memory that is set aside once.

    Without it, each new token would compute the keys and values of all earlier ones again.

    Args:
        batch: Number of sequences.
        max_len: Most positions that it can hold, in tokens.
        num_kv_heads: Heads of keys and values.
        d_head: Features of a head.
        dtype: Of keys and values; torch's default when None.
        device: Where they are kept.

    Attributes:
        length: Positions that it holds now.

    Raises:
        ValueError: A size is below 1.

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
        self.length = 0

    @property
    def max_len(self) -> int:
        """Most positions that it can hold, in tokens."""
        return self._keys.shape[2]

    def append(
        self,
        key: Float[Tensor, "batch kv_heads new d_head"],
        value: Float[Tensor, "batch kv_heads new d_head"],
    ) -> tuple[
        Float[Tensor, "batch kv_heads all d_head"], Float[Tensor, "batch kv_heads all d_head"]
    ]:
        """Add the keys and values of new positions, and return those of all so far.

        Args:
            key: Keys of the new positions.
            value: Values of the new positions.

        Returns:
            Views into the cache: no copies, valid until the next `append` or `select`.

        Raises:
            ValueError: They don't fit the cache, or it is full.
        """
        batch, heads, _, d_head = self._keys.shape
        fits = (batch, heads, key.shape[2] if key.dim() == 4 else "new", d_head)
        for name, tensor in (("key", key), ("value", value)):
            if tuple(tensor.shape) != fits:
                raise ValueError(
                    f"{name} must have shape (batch, kv_heads, new, d_head) = {fits}; "
                    f"its shape is {tuple(tensor.shape)}."
                )
            if tensor.dtype != self._keys.dtype or tensor.device != self._keys.device:
                raise ValueError(
                    f"{name} must be {self._keys.dtype} on {self._keys.device} like the cache; "
                    f"it is {tensor.dtype} on {tensor.device}."
                )
        end = self.length + key.shape[2]
        if end > self.max_len:
            raise ValueError(
                f"the cache holds {self.length} of {self.max_len} positions; {key.shape[2]} more don't "
                "fit. Make it larger, or start anew."
            )
        self._keys[:, :, self.length : end] = key
        self._values[:, :, self.length : end] = value
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def select(self, rows: Int[Tensor, " batch"]) -> None:
        """Let each sequence go on from the past of another, as beam search needs it.

        Args:
            rows: For each sequence of the batch, number of the one whose past it takes.
        """
        for kept in (self._keys, self._values):
            kept[:, :, : self.length] = kept[rows, :, : self.length]
