"""Every public function of the blocks answers a right call rightly, and refuses a wrong one in words."""

import importlib
import inspect
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.bad_input import (
    CPU,
    DEVICE,
    FLAG,
    JUNK,
    PROBABILITY,
    WEIGHTS,
    Caches,
    Call,
    Numbers,
    One,
    Room,
    Size,
    above,
    finite,
    function,
    is_function,
    is_number,
    is_whole,
    module,
    whole,
)
from transformer_lab import attention, blocks, cache, feedforward, masks, norms, positions
from transformer_lab.cache import KeysValues, KVCache

pytestmark = pytest.mark.usefixtures("as_a_user")

MODULES = ("attention", "blocks", "cache", "feedforward", "masks", "norms", "positions")
# Public, but with nothing to check: records, and a class that only `causal_mask` makes.
EXEMPT = {"blocks.DeepNormConstants", "blocks.DeepNormScales", "cache.KeysValues", "masks.CausalMask"}


def attend(query, key, value=None, mask=None, score_bias=None, scale=None, **rest) -> Tensor:
    """Attention by its formula; a query that may attend to nothing gets zeros."""
    scores = torch.einsum("...qd,...kd->...qk", query.double(), key.double())
    scores *= 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if score_bias is not None:
        scores += score_bias
    if mask is not None:
        scores = torch.where(mask, scores, -math.inf)
    weights = scores.softmax(-1).nan_to_num(0)
    return weights if value is None else weights @ value.double()


def turned(x, cos, sin, pairs) -> Tensor:
    """x, with each pair of features turned: (a, b) becomes (a cos - b sin, b cos + a sin)."""
    out = x.clone()
    for i, (a, b) in enumerate(pairs):
        out[..., a] = x[..., a] * cos[..., i] - x[..., b] * sin[..., i]
        out[..., b] = x[..., b] * cos[..., i] + x[..., a] * sin[..., i]
    return out


def fits_heads(d_model, num_heads, num_kv_heads=None, d_head=None, **rest) -> bool:
    divided = d_head is not None or d_model % num_heads == 0
    return divided and num_heads % (num_kv_heads or num_heads) == 0


def fits_pairs(x, cos, sin) -> bool:
    try:
        shape = torch.broadcast_shapes(x.shape[:-1], cos.shape[:-1])
    except RuntimeError:
        return False
    pairs = x.dim() > 1 and cos.dim() > 1 and x.shape[-1] == 2 * cos.shape[-1]
    return pairs and cos.shape == sin.shape and shape == x.shape[:-1]


def fits_lengths(lengths, longest) -> bool:
    return lengths.is_meta or all(0 <= length <= longest for length in lengths.tolist())


def fits_positions(x, positions) -> bool:
    if not isinstance(positions, Tensor):
        return x.shape[-1] >= 2 and is_whole(positions, 0)
    seq = x.shape[-2:-1]
    rows = [seq, x.shape[:1] + seq, torch.Size([1]) + seq] if x.dim() > 2 else [seq]
    whole_numbers = positions.dtype in (torch.int64, torch.int32)
    return x.shape[-1] >= 2 and positions.shape in rows and whole_numbers and positions.device == x.device


def fits_buckets(num_buckets, max_distance, bidirectional, **rest) -> bool:
    each = num_buckets / (2 if bidirectional else 1)
    return each >= 2 and each == int(each) and max_distance > each // 2


TENSORS = {"query": Numbers("* q d"), "key": Numbers("* k d"), "value": Numbers("* k v")}
MASK, BIAS = Numbers("*? q? k?", "bool", none=True), Numbers("*? q? k?", none=True)
EXTRAS = {"mask": MASK, "score_bias": BIAS, "scale": finite(None, 0.5, 2)}
HEADS = {
    "d_model": whole(4, 8), "num_heads": whole(2, 4), "num_kv_heads": whole(None, 1, 2),
    "d_head": whole(None, 2), "rotary": One((None, nn.Tanh()), lambda v: v is None or isinstance(v, nn.Module)),
    "scale": finite(None, 0.5), "dropout": PROBABILITY,
}  # fmt: skip
VECTORS = {"x": Numbers("* d")}
FREQUENCIES = Numbers("p")
WIDTHS = {"d_model": whole(4, 8), "d_ff": whole(3), "activation": function(F.relu, nn.ReLU())}
NORM = {"norm": module(nn.Identity(), nn.LayerNorm(4)), "dropout": PROBABILITY}
SUBLAYER = One(
    (F.tanh, torch.clone), lambda v: v in (F.tanh, torch.clone),
    (*(v for v in JUNK if v is not object), lambda x: x[..., :1], lambda x: x[None], lambda x: None),
)  # fmt: skip
RESIDUAL = One(
    (lambda: blocks.PreNorm(nn.Identity()),), is_function,
    (*(v for v in JUNK if v is not object), nn.Identity(), blocks.PreNorm(nn.Identity())),
)  # fmt: skip
BUCKETS = {"num_buckets": whole(4, 8), "max_distance": whole(5, 9), "bidirectional": FLAG}
FACTOR, BASE = above(1, 2.0, bound=1 - 1e-9), above(10.0, 10_000, bound=1)
EVEN = One((2, 8), lambda v: is_whole(v, 2) and v % 2 == 0, (*JUNK, 1, 3, 4))

PLAIN = attention.MultiHeadAttention(4, 2, num_kv_heads=1, out_bias=True)
TURNING = attention.MultiHeadAttention(
    4, 2, rotary=positions.RotaryEmbedding(positions.rope_frequencies(2))
)
HEAD_AXES = WEIGHTS | {"d": 4, "h": 2, "e": 2}
SCORES = {
    "mask": Numbers("b? h? q? t?", "bool", none=True), "score_bias": Numbers("b? h? q? t?", none=True)
}  # fmt: skip
ASKING = {"x": "query|scores|sequences", "memory": "key|scores", "cache": "cache|scores|key"}


def attention_calls(name: str, result: str) -> dict[str, Call]:
    """For `forward` and `weights`: self-attention with a cache, cross-attention, and stored keys and values."""
    plain, turning = getattr(PLAIN, name), getattr(TURNING, name)
    x, key = Numbers("b q d"), Numbers("b g t e")
    method = f"attention.MultiHeadAttention.{name}"
    return {
        method: Call(
            turning, {"x": x, "cache": Caches(2, 2), **SCORES, "positions": Numbers("q", "int", none=True)},
            result, HEAD_AXES, words=ASKING,
        ),
        f"{method} memory": Call(
            plain, {"x": x, "memory": Numbers("b t d"), **SCORES}, result, HEAD_AXES, words=ASKING
        ),
        f"{method} keys": Call(
            lambda x, key, value, **rest: plain(x, KeysValues(key, value), **rest),
            {"x": x, "key": key, "value": key, **SCORES}, result, HEAD_AXES | {"g": 1},
            words=ASKING | {"key": "memory", "value": "memory"},
        ),
    }  # fmt: skip


CALLS = {
    "attention.attention_weights": Call(
        attention.attention_weights, {k: TENSORS[k] for k in ("query", "key")} | EXTRAS, attend
    ),
    "attention.scaled_dot_product_attention": Call(
        attention.scaled_dot_product_attention, TENSORS | EXTRAS, attend
    ),
    "attention.scaled_dot_product_attention dropout": Call(
        attention.scaled_dot_product_attention, TENSORS | {"dropout": PROBABILITY}, "* q v"
    ),
    "attention.MultiHeadAttention": Call(attention.MultiHeadAttention, HEADS, rule=fits_heads),
    **attention_calls("forward", "b q d"),
    **attention_calls("weights", "b h q t"),
    "attention.MultiHeadAttention.keys_values": Call(
        TURNING.keys_values,
        {"memory": Numbers("b q d"), "positions": Numbers("q", "int", none=True)},
        "b h q e", HEAD_AXES, words={"memory": r"\bx\b"},
    ),
    "cache.KVCache": Call(
        KVCache, {n: whole(1, 2) for n in ("batch", "max_len", "num_kv_heads", "d_head")}
    ),
    "cache.KVCache.append": Call(
        lambda key, value: Room(2, 1, 4, 3, 2).build().append(key, value),
        {"key": Numbers("b g n e"), "value": Numbers("b g n e")}, "b g t e",
        WEIGHTS | {"b": 2, "g": 3, "e": 2}, lambda key, value: key.shape[2] <= 3, {"key": "positions|value"},
    ),
    "cache.KVCache.select": Call(
        lambda rows: Room(3, 1, 4, 3, 2, source=2).build().select(rows),
        {"rows": Numbers("b", "int", within=(0, 2), ids=True)}, known=CPU | {"b": 3},
    ),
    "masks.causal_mask": Call(
        masks.causal_mask, {"query_len": whole(0, 2, least=0), "key_len": whole(None, 2, 3, least=0), "device": DEVICE},
        rule=lambda query_len, key_len, **_: key_len is None or query_len <= key_len,
    ),
    "masks.padding_mask": Call(
        masks.padding_mask, {"lengths": Numbers("b", "int", within=(0, 2)), "max_len": whole(2, 3, least=0)},
        lambda lengths, max_len: torch.tensor([[[[j < n for j in range(max_len)]]] for n in lengths.tolist()])
        if lengths.numel() and not lengths.is_meta else torch.zeros(len(lengths), 1, 1, max_len, dtype=torch.bool),
        rule=fits_lengths_of("lengths", "max_len"), words={"max_len": "padded length"},
    ),
}  # fmt: skip
