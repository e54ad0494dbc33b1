"""What all models share: checks of settings and input, who sees whom in a decoder, normal weights."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from transformer_lab.cache import KVCache
from transformer_lab.masks import causal_mask, token_mask


def check_config(config: Any) -> None:
    """Refuse settings that no model can be built from.

    Args:
        config: A model's settings: a dataclass with d_model and num_heads, perhaps d_head.

    Raises:
        TypeError: A size is no whole number.
        ValueError: A size is below 1, a probability isn't one, or the heads don't divide d_model.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type in (int, int | None) and value is not None:
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(
                    f"{field.name} must be a whole number; it is {value!r} ({type(value).__name__})."
                )
            if value < 1:
                raise ValueError(f"{field.name} must be at least 1; it is {value}.")
        if field.name == "dropout" and not 0 <= value < 1:
            raise ValueError(f"dropout is a probability, from 0 to below 1; it is {value}.")
        if field.name == "norm_eps" and not value > 0:
            raise ValueError(f"norm_eps must be above 0; it is {value}.")
    free = any(field.name == "d_head" for field in fields(config))
    if not free and config.d_model % config.num_heads:
        raise ValueError(
            f"d_model must be a multiple of num_heads; they are {config.d_model} and {config.num_heads}."
        )


def check_ids(name: str, ids: Tensor, limit: int, like: Tensor | None = None) -> None:
    """Refuse what can't be looked up in an embedding.

    Args:
        name: What to call them in the message.
        ids: The ids, (batch, seq).
        limit: Number of rows of the embedding.
        like: Ids whose shape and device they must share.

    Raises:
        TypeError: They are no tensor.
        ValueError: Shape, dtype, device or range are wrong.
    """
    if not isinstance(ids, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; it is a {type(ids).__name__}.")
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


def check_memory(memory: Tensor, tokens: Tensor, d_model: int) -> None:
    """Refuse what is no encoder's output for these sequences.

    Args:
        memory: The encoder's output.
        tokens: Ids of the target's tokens.
        d_model: Features of each position.

    Raises:
        ValueError: Its shape isn't (batch, source, d_model).
    """
    if memory.dim() != 3 or (memory.shape[0], memory.shape[2]) != (tokens.shape[0], d_model):
        raise ValueError(
            f"memory must have the shape (batch, source, d_model) = ({tokens.shape[0]}, source, {d_model}); "
            f"its shape is {tuple(memory.shape)}."
        )


def encoder_mask(
    is_token: Bool[Tensor, "batch seq"] | None, batch: int, length: int
) -> Bool[Tensor, "batch 1 1 seq"] | None:
    """Everyone sees all tokens of the own sequence; without padding there is nothing to mask.

    Args:
        is_token: True = a token, False = padding; all are tokens when None.
        batch: Number of sequences.
        length: Their length, padding included.

    Raises:
        ValueError: is_token doesn't fit.
    """
    if is_token is None:
        return None
    _check_is_token(is_token, batch, length)
    return token_mask(is_token)


def decoder_inputs(
    tokens: Int[Tensor, "batch new"],
    is_token: Bool[Tensor, "batch all"] | None,
    caches: Sequence[KVCache] | None,
    num_layers: int,
) -> tuple[Tensor, Int[Tensor, "*#batch new"], Sequence[KVCache | None]]:
    """Who sees whom in a decoder, where the new tokens stand, and each layer's cache.

    Args:
        tokens: Ids of the new tokens.
        is_token: True = a token, False = padding, over all keys, those in the caches included.
        caches: What was seen before, one for each layer.
        num_layers: Number of the decoder's layers.

    Returns:
        The causal mask (left as it is where there is no padding, for the sake of the fused kernel);
        the positions of the new tokens, counted from each sequence's first token; the caches.

    Raises:
        ValueError: is_token doesn't fit, or there isn't one cache for each layer.
    """
    if caches is not None and len(caches) != num_layers:
        raise ValueError(
            f"there must be one cache for each of the {num_layers} layers; there are {len(caches)}. "
            "The model's new_caches makes them."
        )
    past = caches[0].length if caches else 0
    total = past + tokens.shape[1]
    mask: Tensor = causal_mask(tokens.shape[1], total, device=tokens.device)
    positions = torch.arange(past, total, device=tokens.device)
    if is_token is not None:
        _check_is_token(is_token, tokens.shape[0], total)
        mask = mask & token_mask(is_token)
        positions = (is_token.cumsum(dim=1) - 1).clamp(min=0)[:, past:]
    return mask, positions, caches or [None] * num_layers


def new_caches(blocks: nn.ModuleList, batch: int, max_len: int) -> list[KVCache]:
    """An empty cache for each block, in the dtype and on the device of its weights.

    Args:
        blocks: A decoder's blocks.
        batch: Number of sequences.
        max_len: Most tokens, padding included.
    """
    caches = []
    for block in blocks:
        attention: Any = block.attention
        weight, d_head = attention.key_proj.weight, attention.d_head
        size = (batch, max_len, weight.shape[0] // d_head, d_head)
        caches.append(KVCache(*size, dtype=weight.dtype, device=weight.device))
    return caches


def check_length(positions: Tensor, max_positions: int) -> None:
    """Refuse positions that the model has no embedding for.

    Args:
        positions: Positions of the tokens, counted from 0.
        max_positions: Number of positions that it knows.

    Raises:
        ValueError: A sequence is too long.
    """
    if positions.device.type in ("meta", "cuda"):  # as in check_ids
        return
    if positions.numel() and int(positions.max()) >= max_positions:
        raise ValueError(
            f"a sequence may have {max_positions} tokens at most (max_positions); "
            f"one has {int(positions.max()) + 1}. Shorten it."
        )


def init_normal_(model: nn.Module, std: float, num_layers: int | None = None) -> None:
    """Draws the weights of linear layers and embeddings from N(0, std²), in place; biases become 0.

    Args:
        model: The model.
        std: Standard deviation.
        num_layers: When given, the projections that end a sublayer get std / √(2 · num_layers): so
            the sum over all sublayers starts out as large as a single one.

    Source:
        Radford et al. 2019, section 2.3 (the scaling by depth).
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            ends = num_layers is not None and name.endswith(("out_proj", "down_proj"))
            depth = 2 * num_layers if ends and num_layers else 1
            nn.init.normal_(module.weight, std=std / depth**0.5)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_is_token(is_token: Tensor, batch: int, total: int) -> None:
    token_mask(is_token)  # its own checks: a boolean tensor with two axes
    if is_token.shape != (batch, total):
        raise ValueError(
            f"is_token must have the shape (batch, all tokens, cached ones included) = {(batch, total)}; "
            f"its shape is {tuple(is_token.shape)}."
        )
