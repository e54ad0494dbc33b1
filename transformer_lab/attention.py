"""Scaled dot-product attention and multi-head attention (Vaswani et al. 2017, section 3.2)."""

import math
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lab import checks
from transformer_lab.cache import KeysValues, KVCache
from transformer_lab.masks import CausalMask

# With size 1 where they are the same for all: True = may attend; what is added to the scaled scores.
Mask: TypeAlias = Bool[Tensor, "*#batch #query #key"] | None
ScoreBias: TypeAlias = Float[Tensor, "*#batch #query #key"] | None
Positions: TypeAlias = Int[Tensor, "*rows query"] | tuple[Tensor, Tensor] | None


def attention_weights(
    query: Float[Tensor, "*batch query d_key"],
    key: Float[Tensor, "*batch key d_key"],
    mask: Mask = None,
    score_bias: ScoreBias = None,
    scale: float | None = None,
) -> Float[Tensor, "*batch query key"]:
    """How much each query attends to each key: every row is non-negative and sums to 1.

    weights = softmax(query keyᵀ · scale + score_bias), taken over the keys that the mask allows. The row
    of a query that may attend to nothing is zero.

    Args:
        query: What each position looks for.
        key: What each position offers to be found by.
        mask: True = may attend. Has the axes of the scores, with size 1 where it is the same for all.
        score_bias: Added to the scaled scores (ALiBi, T5's relative positions). Axes as for the mask.
        scale: Factor of the scores; 1/√d_key when None.

    Raises: ValueError if shapes, dtypes or devices don't fit together.
    Source: Vaswani et al. 2017, equation 1, the part before the product with V.

    >>> attention_weights(torch.zeros(1, 4), torch.zeros(2, 4))
    tensor([[0.5000, 0.5000]])
    """
    checks.above("scale", 1.0 if scale is None else scale, -math.inf)
    checks.attended(query, key)
    checks.mask_and_bias(query, key.shape[-2], mask, score_bias)
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
    mask: Mask = None,
    score_bias: ScoreBias = None,
    scale: float | None = None,
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "*batch query d_value"]:
    """For each query the mean of the values, weighted by how well their keys match.

    output = softmax(query keyᵀ · scale + score_bias) value. Calls torch's own function, which takes a
    fused kernel where there is one; that never stores the weights. Who wants to look at them calls
    `attention_weights`. The output of a query that may attend to nothing is zero.

    Args:
        query: What each position looks for.
        key: What each position offers to be found by.
        value: What each position hands over when it is found.
        mask: True = may attend. Has the axes of the scores, with size 1 where it is the same for all.
        score_bias: Added to the scaled scores (ALiBi, T5's relative positions). Axes as for the mask.
        scale: Factor of the scores; 1/√d_key when None.
        dropout: Probability with which a weight is set to zero, the others growing to make up for it.

    Raises: ValueError if shapes, dtypes or devices don't fit together.
    Source: Vaswani et al. 2017, equation 1.

    >>> value = torch.tensor([[1.0], [3.0]])
    >>> scaled_dot_product_attention(torch.zeros(1, 4), torch.zeros(2, 4), value)
    tensor([[2.]])
    """
    checks.above("scale", 1.0 if scale is None else scale, -math.inf)
    checks.attended(query, key, value)
    checks.mask_and_bias(query, key.shape[-2], mask, score_bias)
    checks.probability("dropout", dropout)
    return _fused(query, key, value, mask, score_bias, scale, dropout)


class MultiHeadAttention(nn.Module):
    """Attention in several heads side by side, each with projections of its own.

    head_i = attention(x W_i^Q, memory W_i^K, memory W_i^V); output = concat(head_1, …, head_h) W^O.
    With fewer heads for keys and values, each serves a group of query heads: grouped-query attention,
    and multi-query attention with a single one.

    Args:
        d_model: Features of each position.
        num_heads: Query heads.
        num_kv_heads: Heads of keys and values; num_heads when None.
        d_head: Features of each head; d_model / num_heads when None.
        qkv_bias: Whether the projections to queries, keys and values add a bias.
        out_bias: Whether the projection of the output adds a bias.
        rotary: Turns queries and keys by their positions (RoPE); called as rotary(x, positions).
        scale: Factor of the scores; 1/√d_head when None.
        dropout: Probability of dropping an attention weight while training.

    Raises: ValueError if the heads don't divide as they must.
    Source: Vaswani et al. 2017, section 3.2.2; Shazeer 2019 (multi-query); Ainslie et al. 2023 (grouped).
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        d_head: int | None = None,
        qkv_bias: bool = False,
        out_bias: bool = False,
        rotary: nn.Module | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        checks.heads(d_model, num_heads, num_kv_heads, d_head)
        checks.probability("dropout", dropout)
        checks.above("scale", 1.0 if scale is None else scale, -math.inf)
        checks.kind("rotary", rotary, nn.Module | None, "an nn.Module")
        self.d_head = d_model // num_heads if d_head is None else d_head
        self.scale, self.dropout, self.rotary = scale, dropout, rotary
        self.query_proj = nn.Linear(d_model, num_heads * self.d_head, bias=qkv_bias)
        self.key_proj = nn.Linear(d_model, num_kv_heads * self.d_head, bias=qkv_bias)
        self.value_proj = nn.Linear(d_model, num_kv_heads * self.d_head, bias=qkv_bias)
        self.out_proj = nn.Linear(num_heads * self.d_head, d_model, bias=out_bias)

    def forward(
        self,
        x: Float[Tensor, "batch query d_model"],
        memory: Float[Tensor, "batch key d_model"] | KeysValues | None = None,
        *,
        mask: Mask = None,
        score_bias: ScoreBias = None,
        positions: Positions = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch query d_model"]:
        """Let each position gather from others.

        Args:
            x: The positions that ask.
            memory: The positions that are asked (cross-attention), or their keys and values, from
                `keys_values`; x itself when None.
            mask: True = may attend, over all keys, those in the cache included.
            score_bias: Added to the scaled scores, over all keys.
            positions: Where the positions of x stand in their sequence, for RoPE, or what its `turns`
                makes of that; counted on from what the cache holds when None.
            cache: Keeps keys and values from call to call; new ones are added to it.

        Raises: ValueError if shapes, dtypes or devices don't fit together.
        """
        query, key, value = self._project(x, memory, positions, cache, mask, score_bias)
        dropout = self.dropout if self.training else 0.0
        out = _fused(query, key, value, mask, score_bias, self.scale, dropout)
        return self.out_proj(out.transpose(1, 2).flatten(2))  # (batch, query, heads · d_head)

    def weights(
        self,
        x: Float[Tensor, "batch query d_model"],
        memory: Float[Tensor, "batch key d_model"] | KeysValues | None = None,
        *,
        mask: Mask = None,
        score_bias: ScoreBias = None,
        **where: Any,
    ) -> Float[Tensor, "batch heads query all"]:
        """The attention weights that `forward` would use with the same arguments, for looking at them."""
        query, key, _ = self._project(x, memory, mask=mask, score_bias=score_bias, **where)
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        return attention_weights(query, key, mask, score_bias, self.scale)

    def keys_values(
        self, memory: Float[Tensor, "batch key d_model"], positions: Positions = None
    ) -> KeysValues:
        """The keys and values of these positions, turned by the rotary positions where there are such."""
        checks.sequences("memory", memory, self.key_proj.weight)
        return self._keys_values(memory, positions)

    def _keys_values(self, memory: Tensor, positions: Positions) -> KeysValues:
        key, value = self._heads(self.key_proj(memory)), self._heads(self.value_proj(memory))
        if self.rotary is not None and positions is not None:
            key = self.rotary(key, positions)
        return KeysValues(key, value)

    def _project(
        self,
        x: Tensor,
        memory: Tensor | KeysValues | None,
        positions: Positions = None,
        cache: KVCache | None = None,
        mask: Mask = None,
        score_bias: ScoreBias = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        checks.sequences("x", x, self.query_proj.weight)
        held = 0 if cache is None else checks.kind("cache", cache, KVCache, "a KVCache").length
        query = self._heads(self.query_proj(x))  # (batch, heads, query, d_head)
        if self.rotary is not None:
            if positions is None:
                positions = torch.arange(held, held + x.shape[1], device=x.device)
            query = self.rotary(query, positions)
        if memory is None:
            memory = self._keys_values(x, positions)
        else:
            if not isinstance(memory, KeysValues):
                memory = self.keys_values(memory, positions)
            sizes = (len(x), self.key_proj.out_features // self.d_head, self.d_head)
            checks.keys_values(*memory, sizes, "the query", query)
        # Before the cache takes them up: a call that is refused leaves it as it was.
        checks.mask_and_bias(query, held + memory.key.shape[2], mask, score_bias)
        return (query, *(memory if cache is None else cache.append(*memory)))

    def _heads(self, x: Tensor) -> Tensor:
        heads = x.shape[-1] // self.d_head
        return x.view(*x.shape[:2], heads, self.d_head).transpose(1, 2)


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    score_bias: Tensor | None,
    scale: float | None,
    dropout: float,
) -> Tensor:
    is_causal = False
    if isinstance(mask, CausalMask):
        queries, keys = mask.shape[-2:]
        # torch's triangle starts in the corner top left, ours ends bottom right: one and the same
        # for a square. A single query is the last position, and sees everything.
        is_causal = queries == keys and score_bias is None
        mask = None if is_causal or queries == 1 else mask.dense()
    bias = mask
    if score_bias is not None:
        bias = score_bias if mask is None else score_bias.masked_fill(~mask, float("-inf"))
    # Heads of keys and values that serve a group of query heads are not copied, but looked up.
    grouped = query.dim() == 4 and query.shape[1] != key.shape[1]
    shape = query.shape
    if grouped and shape[2] == 1 and (bias is None or bias.shape[1] == 1):
        # Of one position each, a group's queries stand side by side as if they were positions.
        query, grouped = query.unflatten(1, (key.shape[1], -1)).squeeze(3), False
    out = F.scaled_dot_product_attention(
        query, key, value, bias, dropout, is_causal, scale=scale, enable_gqa=grouped
    )
    return out.reshape(*shape[:-1], out.shape[-1])
