"""What models ask of their input, and who sees whom in them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from transformer_lab.cache import KVCache
from transformer_lab.checks import check_device, check_floating, check_tensor
from transformer_lab.masks import causal_mask, token_mask
from transformer_lab.models.common import Caches, ModelConfig


def check_ids(name: str, ids: Tensor, limit: int, like: Tensor | None = None) -> None:
    """Refuse what can't be looked up in an embedding of `limit` rows, or doesn't go with other ids."""
    check_tensor(name, ids)
    if ids.dim() != 2 or ids.shape[1] == 0:
        raise ValueError(
            f"{name} must have the axes (batch, seq), with one token at least; "
            f"its shape is {tuple(ids.shape)}."
        )
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} must hold int64 or int32; it holds {ids.dtype}.")
    if like is not None and (ids.shape, ids.device) != (like.shape, like.device):
        raise ValueError(
            f"{name} must go with the tokens, of shape {tuple(like.shape)} on {like.device}; "
            f"its shape is {tuple(ids.shape)}, on {ids.device}."
        )
    # A meta tensor holds no numbers; CUDA's own kernels stop at such an id, and asking would wait for them.
    if ids.numel() and ids.device.type not in ("meta", "cuda"):
        smallest, largest = int(ids.min()), int(ids.max())
        if smallest < 0 or largest >= limit:
            raise ValueError(
                f"{name} must lie between 0 and {limit - 1}; it goes from {smallest} to {largest}."
            )


def check_length(positions: Tensor, max_positions: int) -> None:
    """Refuse positions, counted from 0, that the model has no embedding for."""
    if positions.device.type in ("meta", "cuda"):  # as in check_ids
        return
    if positions.numel() and int(positions.max()) >= max_positions:
        raise ValueError(
            f"a sequence may have {max_positions} tokens at most (max_positions); "
            f"one has {int(positions.max()) + 1}. Shorten it."
        )


def encoder_mask(is_token: Tensor | None, batch: int, length: int) -> Tensor | None:
    """Everyone sees all tokens of the own sequence; without padding there is nothing to mask."""
    if is_token is None:
        return None
    mask = token_mask(is_token)
    if is_token.shape != (batch, length):
        raise ValueError(
            f"is_token must have the shape (batch, all tokens, cached ones included) = {(batch, length)}; "
            f"its shape is {tuple(is_token.shape)}."
        )
    return mask


def decoder_inputs(
    tokens: Tensor, is_token: Tensor | None, caches: Caches, num_layers: int
) -> tuple[Tensor, Tensor, Sequence[KVCache | None]]:
    """Who sees whom in a decoder, where the new tokens stand, and each layer's cache.

    The causal mask is left as it is where there is no padding, for the sake of the fused kernel. Positions
    are counted from each sequence's first token.
    """
    if caches is not None and len(caches) != num_layers:
        raise ValueError(
            f"there must be one cache for each of the {num_layers} layers; there are {len(caches)}. "
            "The model's new_caches makes them."
        )
    past = caches[0].length if caches else 0
    batch, total = len(tokens), past + tokens.shape[1]
    mask: Tensor = causal_mask(tokens.shape[1], total, device=tokens.device)
    seen = encoder_mask(is_token, batch, total)
    if seen is None or is_token is None:
        positions = torch.arange(past, total, device=tokens.device)
    else:
        mask = mask & seen
        positions = (is_token.cumsum(dim=1) - 1).clamp(min=0)[:, past:]
    return mask, positions, caches or [None] * num_layers


def memory_inputs(
    memory: Tensor | None,
    is_token: Tensor | None,
    caches: Caches,
    tokens: Tensor,
    config: ModelConfig,
) -> tuple[Sequence[Any], Tensor | None]:
    """For each layer what its cross-attention asks, and which tokens of the source it may see."""
    if (memory is None) == (caches is None):
        raise ValueError(
            "a decoder needs either memory or caches, which hold what they need of the memory; "
            f"it got {'neither' if memory is None else 'both'}."
        )
    if caches:
        seen = [cache.memory for cache in caches]
        if seen[0] is None:
            raise ValueError("these caches hold no memory. Make them with new_caches(memory, …).")
        return seen, encoder_mask(is_token, len(tokens), seen[0].key.shape[2])
    assert memory is not None
    check_floating("memory", memory)
    d_model = config.d_model
    if memory.dim() != 3 or (memory.shape[0], memory.shape[2]) != (len(tokens), d_model):
        raise ValueError(
            f"memory must have the shape (batch, source, d_model) = ({len(tokens)}, source, {d_model}); "
            f"its shape is {tuple(memory.shape)}."
        )
    check_device("memory", memory, "target", tokens)
    return [memory] * config.num_layers, encoder_mask(is_token, *memory.shape[:2])
