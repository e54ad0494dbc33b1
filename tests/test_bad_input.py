"""Every public function of the blocks answers a right call rightly, and refuses a wrong one in words."""

import math

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn
from torch.nn import functional as F

from tests.bad_input import (
    CPU,
    DEVICE,
    FLAG,
    JUNK,
    PROBABILITY,
    SEEDS,
    SETTINGS,
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
    public,
    whole,
)
from transformer_lab import attention, blocks, feedforward, masks, norms, positions
from transformer_lab.cache import KeysValues, KVCache

pytestmark = pytest.mark.usefixtures("as_a_user")

MODULES = ("attention", "blocks", "cache", "feedforward", "masks", "norms", "positions")
# Public, but with nothing to check: records, checks, and a class that only `causal_mask` makes.
EXEMPT = {
    "blocks.DeepNormConstants",
    "blocks.DeepNormScales",
    "cache.KeysValues",
    "cache.KeysValues.check",
    "masks.CausalMask",
    "masks.CausalMask.numpy",
    "positions.Turns",
}


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
    if 0 in (x.dim(), cos.dim()):
        return False
    try:
        shape = torch.broadcast_shapes(x.shape[:-1], cos.shape[:-1])
    except RuntimeError:
        return False
    pairs = x.shape[-1] == 2 * cos.shape[-1]
    return pairs and cos.shape == sin.shape and shape == x.shape[:-1]


def fits_lengths(lengths, longest) -> bool:
    return lengths.is_meta or all(0 <= length <= longest for length in lengths.tolist())


def padding(lengths, max_len) -> Tensor:
    out = torch.zeros(len(lengths), 1, 1, max_len, dtype=torch.bool)
    for row, length in enumerate(lengths.tolist()):
        out[row, :, :, :length] = True
    return out


def prefixes(prefix_lengths, n) -> Tensor:
    out = torch.zeros(len(prefix_lengths), 1, n, n, dtype=torch.bool)
    for row, length in enumerate(prefix_lengths.tolist()):
        for query in range(n):
            out[row, :, query, : max(query + 1, length)] = True
    return out


def slid(n, window, device) -> Tensor:
    seen = [[query - window < key <= query for key in range(n)] for query in range(n)]
    return torch.tensor(seen, dtype=torch.bool).view(1, 1, n, n)


def fits_positions(x, positions) -> bool:
    if not isinstance(positions, Tensor):
        return x.shape[-1] >= 2 and is_whole(positions, 0)
    seq = x.shape[-2:-1]
    rows = [seq, x.shape[:1] + seq, torch.Size([1]) + seq] if x.dim() > 2 else [seq]
    whole_numbers = positions.dtype in (torch.int64, torch.int32)
    return (
        x.shape[-1] >= 2
        and positions.shape in rows
        and whole_numbers
        and positions.device == x.device
    )


def fits_buckets(num_buckets, max_distance, bidirectional, **rest) -> bool:
    each = num_buckets / (2 if bidirectional else 1)
    return each >= 2 and each == int(each) and max_distance > each // 2


class Angles(Numbers):
    """A cosine or sine for each pair, with axes of which `fits_pairs` decides."""

    def fits(self, value, axes):
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return floating and axes.setdefault("device", value.device) == value.device


class Positions(Numbers):
    """A row of places, one for each sequence, or the first place as a number."""

    def __init__(self) -> None:
        super().__init__("s", "int", within=(0, 9))

    def make(self, random, axes):
        kind = random.choice(["number", "row", "rows"])
        if kind == "number":
            return random.randint(0, 9)
        rows = axes["*"][:1] if kind == "rows" else ()
        return torch.randint(0, 9, (*rows, axes["s"]))

    def fits(self, value, axes):
        return True  # `fits_positions` decides


class Places(Numbers):
    """The same where it may be left out: for attention, whose rotary positions read them."""

    def __init__(self) -> None:
        super().__init__("q", "int", none=True)

    def fits(self, value, axes):
        if value is None or is_whole(value, 0):
            return True
        rows = {(axes["q"],), (1, axes["q"]), (axes["b"], axes["q"])}
        right = isinstance(value, Tensor) and value.dtype in (torch.int64, torch.int32)
        return right and tuple(value.shape) in rows and value.device == axes["device"]


class Asked(Numbers):
    """The positions that are asked; those that ask when None."""

    def fits(self, value, axes):
        if value is None:
            axes["t"] = axes["q"]
        return value is None or super().fits(value, axes)


def has_features(query, **_) -> bool:
    return query.shape[-1] > 0


TENSORS = {"query": Numbers("* q d"), "key": Numbers("* k d"), "value": Numbers("* k v")}
ROTATED = {
    "x": Numbers("* s d"),
    "cos": Angles("s p", any_dtype=True),
    "sin": Angles("s p", any_dtype=True),
}
MASK, BIAS = Numbers("*? q? k?", "bool", none=True), Numbers("*? q? k?", none=True)
EXTRAS = {"mask": MASK, "score_bias": BIAS, "scale": finite(None, 0.5, 2)}
HEADS = {
    "d_model": whole(4, 8),
    "num_heads": whole(2, 4),
    "num_kv_heads": whole(None, 1, 2),
    "d_head": whole(None, 2),
    "rotary": One((None, nn.Tanh()), lambda v: v is None or isinstance(v, nn.Module)),
    "scale": finite(None, 0.5),
    "dropout": PROBABILITY,
}
VECTORS = {"x": Numbers("* d")}
FREQUENCIES = Numbers("p")
WIDTHS = {"d_model": whole(4, 8), "d_ff": whole(3), "activation": function(F.relu, nn.ReLU())}
NORM = {
    "norm": module(nn.Identity(), nn.LayerNorm(4)),
    # As nn.Dropout: with 1 nothing of the sublayer is left, but x.
    "dropout": One((0.0, 0.25, 1.0), lambda v: is_number(v) and 0 <= v <= 1, (*JUNK, 1, 0.5, -0.1)),
}
SUBLAYER = One(
    (F.tanh, torch.clone),
    lambda v: v is F.tanh or v is torch.clone,
    (*JUNK[:-1], lambda x: torch.ones(1, 2, 3, 4, 5, 6), lambda x: None),
)
RESIDUAL = One(
    (lambda: blocks.PreNorm(nn.Identity()),),
    lambda v: is_function(v) and not isinstance(v, nn.Module),
    (*JUNK[:-1], nn.Identity(), blocks.PreNorm(nn.Identity())),
)
BUCKETS = {"num_buckets": whole(4, 8), "max_distance": whole(5, 9), "bidirectional": FLAG}
FACTOR, BASE = above(1, 2.0, bound=1 - 1e-9), above(10.0, 10_000, bound=1)
EVEN = One((2, 8), lambda v: is_whole(v, 2) and v % 2 == 0, (*JUNK, 1, 3, 4))

PLAIN = attention.MultiHeadAttention(4, 2, num_kv_heads=1, out_bias=True)
TURNING = attention.MultiHeadAttention(
    4, 2, rotary=positions.RotaryEmbedding(positions.rope_frequencies(2))
)
HEAD_AXES = WEIGHTS | {"d": 4, "h": 2, "e": 2}
SCORES = {
    "mask": Numbers("b? h? q? t?", "bool", none=True),
    "score_bias": Numbers("b? h? q? t?", none=True),
}
ASKING = {
    "x": "key|query|scores|sequences|cache holds",
    "memory": "key|scores",
    "cache": "cache|scores|key",
}


def attention_calls(name: str, result: str) -> dict[str, Call]:
    """For `forward` and `weights`: self-attention with a cache, cross-attention, and stored keys and values."""
    plain, turning = getattr(PLAIN, name), getattr(TURNING, name)
    x, key = Numbers("b q d"), Numbers("b g t e")
    method = f"attention.MultiHeadAttention.{name}"
    return {
        method: Call(
            turning,
            {"x": x, "cache": Caches(2, 2), **SCORES, "positions": Places()},
            result,
            HEAD_AXES,
            words=ASKING,
        ),
        f"{method} memory": Call(
            plain, {"x": x, "memory": Asked("b t d"), **SCORES}, result, HEAD_AXES, words=ASKING
        ),
        f"{method} keys": Call(
            lambda x, key, value=..., **rest: plain(
                x, KeysValues(key, key if value is ... else value), **rest
            ),
            {"x": x, "key": key, "value": key, **SCORES}
            if name == "forward"
            else {"x": x, "key": key, **SCORES},
            result,
            HEAD_AXES | {"g": 1},
            words=ASKING | {"key": "memory|value", "value": "memory"},
        ),
    }


CALLS = {
    "attention.attention_weights": Call(
        attention.attention_weights,
        {k: TENSORS[k] for k in ("query", "key")} | EXTRAS,
        attend,
        rule=has_features,
    ),
    "attention.scaled_dot_product_attention": Call(
        attention.scaled_dot_product_attention, TENSORS | EXTRAS, attend, rule=has_features
    ),
    "attention.scaled_dot_product_attention dropout": Call(
        attention.scaled_dot_product_attention,
        TENSORS | {"dropout": PROBABILITY},
        "* q v",
        rule=has_features,
    ),
    "attention.MultiHeadAttention": Call(attention.MultiHeadAttention, HEADS, rule=fits_heads),
    **attention_calls("forward", "b q d"),
    **attention_calls("weights", "b h q t"),
    "attention.MultiHeadAttention.keys_values": Call(
        TURNING.keys_values,
        {"memory": Numbers("b q d"), "positions": Places()},
        "b h q e",
        HEAD_AXES,
        words={"memory": r"\bx\b"},
    ),
    "cache.KVCache": Call(
        KVCache, {n: whole(1, 2) for n in ("batch", "max_len", "num_kv_heads", "d_head")}
    ),
    "cache.KVCache.append": Call(
        lambda key, value: Room(2, 1, 4, 3, 2).build().append(key, value),
        {"key": Numbers("b g n e"), "value": Numbers("b g n e")},
        "b g t e",
        WEIGHTS | {"b": 2, "g": 3, "e": 2},
        lambda key, value: key.shape[2] <= 3,
        {"key": "positions|value", "value": "positions"},
    ),
    "cache.KVCache.select": Call(
        lambda rows: Room(3, 1, 4, 3, 2, source=2).build().select(rows),
        {"rows": Numbers("b", "int", within=(0, 2), ids=True)},
        known=CPU | {"b": 3},
    ),
    "masks.causal_mask": Call(
        masks.causal_mask,
        {
            "query_len": whole(0, 2, least=0),
            "key_len": whole(None, 2, 3, least=0),
            "device": DEVICE,
        },
        rule=lambda query_len, key_len, device: key_len is None or query_len <= key_len,
    ),
    "masks.padding_mask": Call(
        masks.padding_mask,
        {"lengths": Numbers("b", "int", within=(0, 2)), "max_len": whole(2, 3, least=0)},
        padding,
        rule=lambda **given: fits_lengths(*given.values()),
        words={"max_len": "padded length"},
    ),
    "masks.token_mask": Call(
        masks.token_mask,
        {"is_token": Numbers("b k", "bool")},
        lambda is_token: (
            is_token.view(len(is_token), 1, 1, -1) if is_token.numel() else is_token[:, None, None]
        ),
    ),
    "masks.prefix_mask": Call(
        masks.prefix_mask,
        {"prefix_lengths": Numbers("b", "int", within=(0, 2)), "n": whole(2, 3, least=0)},
        prefixes,
        rule=lambda **given: fits_lengths(*given.values()),
        words={"n": "padded length"},
    ),
    "masks.sliding_window_mask": Call(
        masks.sliding_window_mask,
        {
            "n": whole(0, 3, least=0),
            "window": whole(1, 2),
            "device": One((None, "cpu"), lambda v: True, ("cpu",)),
        },
        slid,
    ),
    "positions.sinusoidal_positions": Call(
        positions.sinusoidal_positions,
        {"num_positions": Size("n"), "d_model": EVEN, "device": DEVICE},
        "n d",
    ),
    "positions.rotate_half": Call(
        positions.rotate_half,
        ROTATED,
        lambda x, cos, sin: turned(
            x, cos, sin, [(i, i + x.shape[-1] // 2) for i in range(x.shape[-1] // 2)]
        ),
        rule=fits_pairs,
        sizes=lambda axes: {"d": 2 * axes["p"]},
    ),
    "positions.rotate_interleaved": Call(
        positions.rotate_interleaved,
        ROTATED,
        lambda x, cos, sin: turned(x, cos, sin, [(i, i + 1) for i in range(0, x.shape[-1], 2)]),
        rule=fits_pairs,
        sizes=lambda axes: {"d": 2 * axes["p"]},
    ),
    "positions.RotaryEmbedding": Call(
        positions.RotaryEmbedding,
        {
            "frequencies": FREQUENCIES,
            "rotate": function(positions.rotate_half),
            "attention_factor": above(1, 1.5),
        },
        known={"dtype": torch.float32},
        rule=lambda frequencies, **_: len(frequencies) > 0,
    ),
    "positions.RotaryEmbedding.forward": Call(
        positions.RotaryEmbedding(torch.tensor([0.5])),
        {"x": Numbers("* s d"), "positions": Positions()},
        "* s d",
        {},
        fits_positions,
        sizes=lambda axes: {"d": axes["d"] + 1},
    ),
    "positions.RotaryEmbedding.turns": Call(
        positions.RotaryEmbedding(torch.tensor([0.5])).turns,
        {"positions": Numbers("*", "int", within=(0, 9))},
    ),
    "positions.rope_frequencies": Call(
        positions.rope_frequencies, {"d_rotary": EVEN, "base": BASE}
    ),
    "positions.interpolated": Call(
        positions.interpolated,
        {"frequencies": FREQUENCIES, "factor": FACTOR},
        lambda frequencies, factor: frequencies / factor,
        {"dtype": torch.float32},
        lambda frequencies, factor: len(frequencies) > 0,
    ),
    "positions.ntk_aware": Call(
        positions.ntk_aware,
        {
            "d_rotary": One((4, 8), lambda v: is_whole(v, 4) and v % 2 == 0, (*JUNK, 1, 2, 3)),
            "base": BASE,
            "factor": FACTOR,
        },
    ),
    "positions.yarn": Call(
        positions.yarn,
        {
            "d_rotary": EVEN,
            "base": BASE,
            "factor": FACTOR,
            "original_length": whole(8, 64),
            "beta_fast": above(4.0, 32),
            "beta_slow": above(1.0, 2),
        },
        rule=lambda beta_fast, beta_slow, **_: beta_fast > beta_slow,
    ),
    "positions.yarn_attention_factor": Call(positions.yarn_attention_factor, {"factor": FACTOR}),
    "positions.llama3_frequencies": Call(
        positions.llama3_frequencies,
        {
            "frequencies": FREQUENCIES,
            "factor": FACTOR,
            "low": above(1, 2.0),
            "high": above(4.0, 8),
            "original_length": whole(8, 64),
        },
        "p",
        {"dtype": torch.float32},
        lambda frequencies, low, high, **_: high > low and len(frequencies) > 0,
    ),
    "positions.alibi_slopes": Call(
        positions.alibi_slopes, {"num_heads": Size("h", 1), "device": DEVICE}, "h"
    ),
    "positions.alibi_bias": Call(
        positions.alibi_bias,
        {"num_heads": Size("h", 1), "query_len": Size("q"), "key_len": Size("k"), "device": DEVICE},
        "a h q k",
        {"a": 1},
        lambda query_len, key_len, **_: query_len <= key_len,
        {"query_len": "key_len"},
        lambda axes: {"k": axes["q"] + axes["k"]},
    ),
    "positions.relative_position_bucket": Call(
        positions.relative_position_bucket,
        {"distance": Numbers("*", "int", within=(-9, 9)), **BUCKETS},
        "*",
        rule=fits_buckets,
    ),
    "positions.RelativePositionBias": Call(
        positions.RelativePositionBias, {"num_heads": whole(1, 2), **BUCKETS}, rule=fits_buckets
    ),
    "positions.RelativePositionBias.forward": Call(
        positions.RelativePositionBias(2, bidirectional=True),
        {"query_len": Size("q"), "key_len": Size("k")},
        "a h q k",
        {"a": 1, "h": 2},
        lambda query_len, key_len: query_len <= key_len,
        {"query_len": "key_len"},
        lambda axes: {"k": axes["q"] + axes["k"]},
    ),
    "norms.RMSNorm": Call(norms.RMSNorm, {"d_model": whole(1, 4), "eps": above(1e-6, 1)}),
    "norms.RMSNorm.forward": Call(
        norms.RMSNorm(4),
        VECTORS,
        lambda x: x * (x.double().square().mean(-1, keepdim=True) + 1e-6).rsqrt(),
        CPU | {"d": 4},
    ),
    **{
        f"feedforward.{kind.__name__}": Call(kind, WIDTHS)
        for kind in (feedforward.FeedForward, feedforward.GatedFeedForward)
    },
    **{
        f"feedforward.{kind.__name__}.forward": Call(
            kind(4, 3, F.relu), VECTORS, "* d", WEIGHTS | {"d": 4}
        )
        for kind in (feedforward.FeedForward, feedforward.GatedFeedForward)
    },
    "feedforward.llama_ffn_width": Call(
        feedforward.llama_ffn_width,
        {
            "d_model": whole(4, 8, huge=True),
            "multiple_of": whole(1, 4, huge=True),
            "multiplier": above(1, 1.3),
        },
    ),
    **{
        f"blocks.{kind.__name__}": Call(kind, NORM)
        for kind in (blocks.Residual, blocks.PreNorm, blocks.PostNorm)
    },
    "blocks.SandwichNorm": Call(
        blocks.SandwichNorm,
        NORM | {"norm_out": module(nn.ReLU(), nn.LayerNorm(4))},
        rule=lambda norm, norm_out, **_: norm is not norm_out,
    ),
    "blocks.DeepNorm": Call(blocks.DeepNorm, NORM | {"alpha": above(1, 2.0)}),
    **{
        f"blocks.{kind.__name__}.forward": Call(
            make, {"x": Numbers("*"), "sublayer": SUBLAYER}, "*", words={"x": "shape"}
        )
        for kind, make in {
            blocks.PreNorm: blocks.PreNorm(nn.Identity()),
            blocks.PostNorm: blocks.PostNorm(nn.Identity()),
            blocks.SandwichNorm: blocks.SandwichNorm(nn.Identity(), nn.ReLU()),
            blocks.DeepNorm: blocks.DeepNorm(nn.Identity(), 2.0),
        }.items()
    },
    "blocks.deep_norm_constants": Call(
        blocks.deep_norm_constants,
        {
            "encoder_layers": whole(0, 2, least=0, huge=True),
            "decoder_layers": whole(0, 2, least=0, huge=True),
        },
        rule=lambda encoder_layers, decoder_layers: encoder_layers + decoder_layers > 0,
        words={"encoder_layers": "encoder", "decoder_layers": "decoder"},
    ),
    "blocks.deep_norm_init_": Call(
        blocks.deep_norm_init_,
        {
            "block": One(
                (feedforward.FeedForward(2, 3, F.relu),),
                lambda v: isinstance(v, feedforward.FeedForward),
                (*JUNK, nn.ReLU(), nn.Linear(2, 2)),
            ),
            "beta": above(1, 0.5),
        },
    ),
    "blocks.TransformerBlock": Call(
        blocks.TransformerBlock,
        {
            "attention": module(nn.Tanh(), PLAIN),
            "feed_forward": module(nn.ReLU()),
            "residual": RESIDUAL,
        },
    ),
    # Without a norm, for RMSNorm takes half precision to its weight's, and attention then finds no fault.
    "blocks.TransformerBlock.forward": Call(
        blocks.TransformerBlock(
            PLAIN, feedforward.FeedForward(4, 3, F.relu), lambda: blocks.PreNorm(nn.Identity())
        ),
        {"x": Numbers("b q d"), "mask": Numbers("b? h? q? q?", "bool", none=True)},
        "b q d",
        HEAD_AXES,
        words=ASKING,
    ),
    "blocks.DecoderBlock": Call(
        blocks.DecoderBlock,
        {
            "attention": module(nn.Tanh()),
            "cross_attention": module(nn.GELU(), PLAIN),
            "feed_forward": module(nn.ReLU()),
            "residual": RESIDUAL,
        },
    ),
    "blocks.DecoderBlock.forward": Call(
        blocks.DecoderBlock(
            TURNING,
            PLAIN,
            feedforward.FeedForward(4, 3, F.relu),
            lambda: blocks.PreNorm(nn.Identity()),
        ),
        {
            "x": Numbers("b q d"),
            "memory": Numbers("b s d"),
            "memory_mask": Numbers("b? h? q? s?", "bool", none=True),
        },
        "b q d",
        HEAD_AXES,
        words=ASKING | {"memory_mask": "mask"},
    ),
}


@pytest.mark.parametrize("name", CALLS)
@SETTINGS
@given(random=SEEDS)
def test_a_changed_call(name, random):
    CALLS[name].check(random)


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_left_out(name):
    assert set(public(name)) - EXEMPT <= {entry.split()[0] for entry in CALLS}
