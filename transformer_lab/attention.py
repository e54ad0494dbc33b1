"""Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1)."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def attention_weights(
    query: Float[Tensor, "*batch query d_key"],
    key: Float[Tensor, "*batch key d_key"],
    mask: Bool[Tensor, "*#batch #query #key"] | None = None,
    score_bias: Float[Tensor, "*#batch #query #key"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "*batch query key"]:
    """How much each query attends to each key: every row is non-negative and sums to 1.

    weights = softmax(query keyᵀ · scale + score_bias), taken over the keys that the mask allows.

    Args:
        query: What each position looks for.
        key: What each position offers to be found by.
        mask: True = may attend. Has the axes of the scores, with size 1 where it is the same for all.
        score_bias: Added to the scaled scores (ALiBi, T5's relative positions). Axes as for the mask.
        scale: Factor of the scores; 1/√d_key when None.

    Returns:
        The weights. The row of a query that may attend to nothing is zero.

    Raises:
        ValueError: Shapes, dtypes or devices don't fit together.

    Source:
        Vaswani et al. 2017, equation 1, the part before the product with V.

    >>> attention_weights(torch.zeros(1, 4), torch.zeros(2, 4))
    tensor([[0.5000, 0.5000]])
    """
    _check_query_and_key(query, key)
    _check_mask_and_bias(query, key, mask, score_bias)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query @ key.mT * scale
    if score_bias is not None:
        scores = scores + score_bias
    if mask is None:
        return scores.softmax(dim=-1)
    # A row without any allowed key would be softmax(-inf, …, -inf) = NaN, and its gradient too.
    # Such a row is left unmasked here and set to zero afterwards.
    empty = ~mask.any(dim=-1, keepdim=True)
    weights = scores.masked_fill(~(mask | empty), float("-inf")).softmax(dim=-1)
    return weights.masked_fill(empty, 0.0)


def scaled_dot_product_attention(
    query: Float[Tensor, "*batch query d_key"],
    key: Float[Tensor, "*batch key d_key"],
    value: Float[Tensor, "*batch key d_value"],
    mask: Bool[Tensor, "*#batch #query #key"] | None = None,
    score_bias: Float[Tensor, "*#batch #query #key"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "*batch query d_value"]:
    """For each query the mean of the values, weighted by how well their keys match.

    output = softmax(query keyᵀ · scale + score_bias) value. Calls torch's own function, which takes a
    fused kernel where there is one; that never stores the weights. Who wants to look at them calls
    `attention_weights`.

    Args:
        query: What each position looks for.
        key: What each position offers to be found by.
        value: What each position hands over when it is found.
        mask: True = may attend. Has the axes of the scores, with size 1 where it is the same for all.
        score_bias: Added to the scaled scores (ALiBi, T5's relative positions). Axes as for the mask.
        scale: Factor of the scores; 1/√d_key when None.

    Returns:
        The outputs. That of a query that may attend to nothing is zero.

    Raises:
        ValueError: Shapes, dtypes or devices don't fit together.

    Source:
        Vaswani et al. 2017, equation 1.

    >>> value = torch.tensor([[1.0], [3.0]])
    >>> scaled_dot_product_attention(torch.zeros(1, 4), torch.zeros(2, 4), value)
    tensor([[2.]])
    """
    _check_query_and_key(query, key)
    _check_value(key, value)
    _check_mask_and_bias(query, key, mask, score_bias)
    blocked_or_biased = mask
    if score_bias is not None:
        blocked_or_biased = score_bias
        if mask is not None:
            blocked_or_biased = score_bias.masked_fill(~mask, float("-inf"))
    return F.scaled_dot_product_attention(query, key, value, blocked_or_biased, scale=scale)


def _check_query_and_key(query: Tensor, key: Tensor) -> None:
    for name, tensor in (("query", query), ("key", key)):
        _check_floating(name, tensor)
    _check_same_kind("key", key, "query", query)
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"query and key must have the same number of features: query has {query.shape[-1]} "
            f"(shape {_shape(query)}), key has {key.shape[-1]} (shape {_shape(key)})."
        )
    if query.shape[:-2] != key.shape[:-2]:
        raise ValueError(
            f"query and key must have the same leading axes: query has {_shape(query)}, "
            f"key has {_shape(key)}. Repeat or expand the smaller one on purpose; it is not done in silence."
        )


def _check_value(key: Tensor, value: Tensor) -> None:
    _check_floating("value", value)
    _check_same_kind("value", value, "key", key)
    if value.shape[:-1] != key.shape[:-1]:
        raise ValueError(
            f"there must be one value for each key: key has shape {_shape(key)}, value {_shape(value)}; "
            "all axes but the last must be equal."
        )


def _check_mask_and_bias(
    query: Tensor, key: Tensor, mask: Tensor | None, score_bias: Tensor | None
) -> None:
    scores = (*query.shape[:-1], key.shape[-2])
    if mask is not None:
        if mask.dtype != torch.bool:
            raise ValueError(
                f"mask must be boolean, True = may attend; it is {mask.dtype}. "
                "Compare to make it one, for example `mask != 0`."
            )
        _check_broadcast("mask", mask, scores)
        _check_device("mask", mask, query)
    if score_bias is not None:
        _check_floating("score_bias", score_bias)
        _check_same_kind("score_bias", score_bias, "query", query)
        _check_broadcast("score_bias", score_bias, scores)


def _check_broadcast(name: str, tensor: Tensor, scores: tuple[int, ...]) -> None:
    # Ranks must be equal: a (batch, key) mask would otherwise pass for (query, key) whenever the
    # batch happens to be as large as the number of queries.
    if tensor.dim() != len(scores):
        raise ValueError(
            f"{name} must have as many axes as the scores {scores}: it has {tensor.dim()}, "
            f"{_shape(tensor)}. Add axes of size 1 where it is the same for all, "
            "for example `mask[:, None, None, :]`."
        )
    if any(mine not in (1, theirs) for mine, theirs in zip(tensor.shape, scores, strict=True)):
        raise ValueError(
            f"{name} must fit the scores {scores} (…, query, key), with size 1 where it is the same "
            f"for all; its shape is {_shape(tensor)}."
        )


def _check_floating(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; it is a {type(tensor).__name__}.")
    if not tensor.is_floating_point():
        raise ValueError(
            f"{name} must hold floating-point numbers; it holds {tensor.dtype}. "
            "Token ids have to be embedded first."
        )


def _check_same_kind(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.dtype != other.dtype:
        raise ValueError(
            f"{name} and {other_name} must have one dtype: {name} has {tensor.dtype}, "
            f"{other_name} has {other.dtype}. Convert one with `.to(...)`."
        )
    if tensor.dim() < 2 and name != "score_bias":
        raise ValueError(
            f"{name} needs at least two axes (…, positions, features); it has shape {_shape(tensor)}."
        )
    _check_device(name, tensor, other)


def _check_device(name: str, tensor: Tensor, query: Tensor) -> None:
    if tensor.device != query.device:
        raise ValueError(
            f"all inputs must be on one device: {name} is on {tensor.device}, another on {query.device}."
        )


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
