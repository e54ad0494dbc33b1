"""What models ask of their input, and who sees whom in them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from transformer_lab.cache import KVCache
from transformer_lab.checks import check_device, check_kind, check_tensor
from transformer_lab.masks import causal_mask, token_mask
from transformer_lab.models.common import Caches, ModelConfig


def check_ids(name: str, ids: Tensor, embedding: nn.Embedding, like: Tensor | None = None) -> None:
    """Refuse what can't be looked up in an embedding, or doesn't go with other ids."""
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
    check_device(name, ids, "the embedding", embedding.weight)
    # A meta tensor holds no numbers; CUDA's own kernels stop at such an id, and asking would wait for them.
    if ids.numel() and ids.device.type not in ("meta", "cuda"):
        smallest, largest, limit = int(ids.min()), int(ids.max()), len(embedding.weight)
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


def encoder_mask(
    is_token: Tensor | None, tokens: Tensor, length: int | None = None, name: str = "is_token"
) -> Tensor | None:
    """Everyone sees all tokens of the own sequence; without padding there is nothing to mask."""
    if is_token is None:
        return None
    check_tensor(name, is_token)
    check_device(name, is_token, "the tokens", tokens)
    fits = (len(tokens), tokens.shape[1] if length is None else length)
    if is_token.shape != fits or is_token.dtype != torch.bool:
        raise ValueError(
            f"{name} must be boolean and have the shape (batch, all tokens, cached ones included) = "
            f"{fits}; it holds {is_token.dtype}, and its shape is {tuple(is_token.shape)}."
        )
    return token_mask(is_token)


def decoder_inputs(
    tokens: Tensor, is_token: Tensor | None, caches: Caches, num_layers: int
) -> tuple[Tensor, Tensor, Sequence[KVCache | None]]:
    """Who sees whom in a decoder, where the new tokens stand, and each layer's cache.

    The causal mask is left as it is where there is no padding, for the sake of the fused kernel. Positions
    are counted from each sequence's first token.
    """
    if caches is not None:
        _check_caches(caches, num_layers, tokens.shape[1])
    past = caches[0].length if caches else 0
    total = past + tokens.shape[1]
    mask: Tensor = causal_mask(tokens.shape[1], total, device=tokens.device)
    seen = encoder_mask(is_token, tokens, total)
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
    name = "memory_is_token"
    if memory is None and caches is not None:
        seen = [cache.memory for cache in caches]
        if seen[0] is None:
            raise ValueError("these caches hold no memory. Make them with new_caches(memory, …).")
        return seen, encoder_mask(is_token, tokens, seen[0].key.shape[2], name)
    if memory is None or caches is not None:
        raise ValueError(
            "a decoder needs either memory or caches, which hold what they need of the memory; "
            f"it got {'neither' if memory is None else 'both'}."
        )
    check_tensor("memory", memory)
    d_model = config.d_model
    if memory.dim() != 3 or (memory.shape[0], memory.shape[2]) != (len(tokens), d_model):
        raise ValueError(
            f"memory must have the shape (batch, source, d_model) = ({len(tokens)}, source, {d_model}); "
            f"its shape is {tuple(memory.shape)}."
        )
    check_device("memory", memory, "target", tokens)
    return [memory] * config.num_layers, encoder_mask(is_token, tokens, memory.shape[1], name)


def _check_caches(caches: Sequence[KVCache], num_layers: int, new: int) -> None:
    check_kind("caches", caches, list | tuple, "a list of KVCache, which new_caches makes")
    if len(caches) != num_layers:
        raise ValueError(
            f"there must be one cache for each of the {num_layers} layers; there are {len(caches)}. "
            "The model's new_caches makes them."
        )
    for cache in caches:
        check_kind(f"each of the {num_layers} caches", cache, KVCache, "a KVCache").check_room(new)
    kinds = [(cache.length, *cache.kind) for cache in caches]
    if len(set(caches)) < num_layers or kinds.count(kinds[0]) < num_layers:
        raise ValueError(f"each layer must have a cache of its own, all alike; they are {kinds}.")
