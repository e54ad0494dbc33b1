"""Multi-head attention against torch's own, and each of its parts against the long way round."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transformer_lab import attention as module
from transformer_lab.attention import MultiHeadAttention
from transformer_lab.cache import KVCache
from transformer_lab.masks import CausalMask, causal_mask, padding_mask, token_mask


def tokens(*shape: int, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def made(d_model=12, num_heads=4, dtype=torch.float64, **options):
    torch.manual_seed(1)
    return MultiHeadAttention(d_model, num_heads, **options).to(dtype).eval()


def like_torchs(mine: MultiHeadAttention, d_model: int, num_heads: int) -> nn.MultiheadAttention:
    theirs = nn.MultiheadAttention(d_model, num_heads, batch_first=True, dtype=torch.float64).eval()
    projections = (mine.query_proj, mine.key_proj, mine.value_proj)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([each.weight for each in projections]))
        theirs.in_proj_bias.copy_(torch.cat([each.bias for each in projections]))
        theirs.out_proj.load_state_dict(mine.out_proj.state_dict())
    return theirs


@pytest.mark.parametrize("cross", [False, True])
def test_equals_torchs_forward_weights_and_gradients(cross):
    mine = made(qkv_bias=True, out_bias=True)
    theirs = like_torchs(mine, 12, 4)
    x, memory = tokens(2, 5, 12).requires_grad_(), tokens(2, 7, 12, seed=2)
    memory = memory if cross else x
    mask = padding_mask(torch.tensor([3, 5]), memory.shape[1])
    output = mine(x, memory if cross else None, mask=mask)
    expected, weights = theirs(
        x, memory, memory, key_padding_mask=~mask[:, 0, 0], average_attn_weights=False
    )
    torch.testing.assert_close(output, expected, atol=1e-12, rtol=1e-12)
    mine_weights = mine.weights(x, memory if cross else None, mask=mask)
    torch.testing.assert_close(mine_weights, weights, atol=1e-12, rtol=1e-12)
    factor = torch.randn_like(output)
    (one,) = torch.autograd.grad((output * factor).sum(), x)
    (two,) = torch.autograd.grad((expected * factor).sum(), x)
    torch.testing.assert_close(one, two, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_grouped_queries_equal_heads_that_repeat(num_kv_heads):
    grouped = made(num_kv_heads=num_kv_heads)
    full = made()
    full.load_state_dict(
        grouped.state_dict()
        | {
            f"{name}.weight": getattr(grouped, name)
            .weight.unflatten(0, (num_kv_heads, 3))
            .repeat_interleave(4 // num_kv_heads, dim=0)
            .flatten(0, 1)
            for name in ("key_proj", "value_proj")
        }
    )
    x = tokens(4, 5, 12)  # as many sequences as heads
    torch.testing.assert_close(grouped(x), full(x))
    assert grouped.key_proj.out_features == 3 * num_kv_heads


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_weights_of_grouped_queries_by_loops(num_kv_heads):
    mine, x = made(num_kv_heads=num_kv_heads), tokens(2, 5, 12)
    queries = (x @ mine.query_proj.weight.T).unflatten(2, (4, 3)).tolist()
    keys = (x @ mine.key_proj.weight.T).unflatten(2, (num_kv_heads, 3)).tolist()
    expected = torch.empty(2, 4, 5, 5, dtype=torch.float64)
    for b, head, i in itertools.product(range(2), range(4), range(5)):
        query, shared = queries[b][i][head], head * num_kv_heads // 4
        scores = [sum(q * k for q, k in zip(query, key[shared], strict=True)) for key in keys[b]]
        powers = [math.exp(score / math.sqrt(3)) for score in scores]
        expected[b, head, i] = torch.tensor(powers, dtype=torch.float64) / sum(powers)
    torch.testing.assert_close(mine.weights(x), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("masked", ["by nothing", "for all heads", "head by head"])
@pytest.mark.parametrize("biased", [False, True])
def test_a_single_query_of_grouped_heads(num_kv_heads, masked, biased):
    mine, x = made(num_kv_heads=num_kv_heads), tokens(3, 1, 12)
    memory, chance = tokens(3, 6, 12, seed=1), torch.Generator().manual_seed(2)
    mask = bias = None
    if masked != "by nothing":
        mask = torch.rand(3, 4 if masked == "head by head" else 1, 1, 6, generator=chance) < 0.6
        mask[0, :, :] = False  # a query without any key
    if biased:
        bias = torch.randn(1, 4, 1, 6, generator=chance, dtype=torch.float64)
    weights = mine.weights(x, memory, mask=mask, score_bias=bias)  # the readable path
    values = mine.value_proj(memory).unflatten(2, (num_kv_heads, 3)).transpose(1, 2)
    values = values.repeat_interleave(4 // num_kv_heads, dim=1)
    expected = mine.out_proj((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mine(x, memory, mask=mask, score_bias=bias), expected)


@pytest.mark.parametrize("queries", [1, 2])
def test_a_batch_of_no_sequences(queries):
    mine = made(num_kv_heads=2)
    assert mine(tokens(0, queries, 12), tokens(0, 3, 12)).shape == (0, queries, 12)


def test_stored_keys_and_values_stand_for_their_memory():
    mine = made(qkv_bias=True, out_bias=True)
    theirs = like_torchs(mine, 12, 4)
    x, memory = tokens(2, 5, 12), tokens(2, 7, 12, seed=2)
    expected, weights = theirs(x, memory, memory, average_attn_weights=False)
    stored = mine.keys_values(memory)
    torch.testing.assert_close(mine(x, stored), expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(mine.weights(x, stored), weights, atol=1e-12, rtol=1e-12)


def test_keys_are_turned_where_there_are_both_rotary_and_positions():
    memory, positions = tokens(2, 5, 12), torch.arange(5) + 2
    for rotary, where, factor in (
        (None, None, 1),
        (None, positions, 1),
        (Shift(), None, 1),
        (Shift(), positions, torch.tensor([3.0, 4, 5, 6, 7]).double()[:, None]),
    ):
        mine = made(rotary=rotary)
        key, value = mine.keys_values(memory, where)
        heads = (memory @ mine.key_proj.weight.T).view(2, 5, 4, 3).permute(0, 2, 1, 3)
        torch.testing.assert_close(key, heads * factor)
        heads = (memory @ mine.value_proj.weight.T).view(2, 5, 4, 3).permute(0, 2, 1, 3)
        torch.testing.assert_close(value, heads)


def test_heads_do_not_see_each_other():
    """Changing one head's query matrix changes that head's weights alone."""
    mine, x = made(), tokens(1, 5, 12)
    before = mine.weights(x)
    with torch.no_grad():
        mine.query_proj.weight[3:6] += 1.0  # head 1: features 3, 4, 5
    changed = (mine.weights(x) - before).abs().amax(dim=(0, 2, 3)) > 1e-9
    assert changed.tolist() == [False, True, False, False]


@pytest.mark.parametrize("num_kv_heads", [2, 4])
@pytest.mark.parametrize("pieces", [(7,), (3, 4), (1,) * 7, (4, 1, 2)])
def test_with_a_cache_piece_by_piece_equals_all_at_once(num_kv_heads, pieces):
    mine, x = made(num_kv_heads=num_kv_heads), tokens(2, 7, 12)
    whole = mine(x, mask=causal_mask(7))
    cache = KVCache(2, 7, num_kv_heads, 3, dtype=torch.float64)
    outputs = [
        mine(piece, mask=causal_mask(piece.shape[1], cache.length + piece.shape[1]), cache=cache)
        for piece in x.split(pieces, dim=1)
    ]
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole, atol=1e-12, rtol=1e-12)


class Shift(nn.Module):
    """A stand-in for RoPE that shows where it is told that the positions are."""

    def forward(self, x, positions):
        return x * (1 + positions[..., :, None])


def test_rotary_gets_positions_counted_on_from_the_cache():
    mine = made(rotary=Shift())
    x = tokens(1, 5, 12)
    whole = mine(x, mask=causal_mask(5))
    given = mine(x, mask=causal_mask(5), positions=torch.arange(5))
    torch.testing.assert_close(whole, given)
    cache = KVCache(1, 5, 4, 3, dtype=torch.float64)
    first = mine(x[:, :2], mask=causal_mask(2), cache=cache)
    rest = mine(x[:, 2:], mask=causal_mask(3, 5), cache=cache)
    torch.testing.assert_close(torch.cat([first, rest], dim=1), whole)
    moved = mine(x, mask=causal_mask(5), positions=torch.arange(5) + 1)
    assert not torch.allclose(moved, whole)


def test_rotary_turns_queries_and_keys_and_leaves_values():
    plain, turned = made(), made(rotary=Shift())
    x = tokens(1, 5, 12)
    queries = turned._project(x, None, None, None)
    expected = plain._project(x, None, None, None)
    factor = 1 + torch.arange(5.0, dtype=torch.float64)[:, None]
    torch.testing.assert_close(queries[0], expected[0] * factor)
    torch.testing.assert_close(queries[1], expected[1] * factor)
    torch.testing.assert_close(queries[2], expected[2])


def test_scale_and_bias_reach_the_scores():
    x, bias = tokens(2, 5, 12), tokens(1, 4, 5, 5, seed=3)
    mine = made(scale=1.0)
    query, key, _ = mine._project(x, None, None, None)
    expected = (query @ key.mT + bias).softmax(-1)
    torch.testing.assert_close(mine.weights(x, score_bias=bias), expected)
    assert not torch.allclose(made().weights(x, score_bias=bias), expected)
    by_hand = mine.out_proj(
        (expected @ mine._project(x, None, None, None)[2]).transpose(1, 2).flatten(2)
    )
    torch.testing.assert_close(mine(x, score_bias=bias), by_hand)


def test_d_head_may_differ_from_d_model_over_heads():
    assert made(d_model=10, d_head=5)(tokens(1, 3, 10)).shape == (1, 3, 10)
    mine = made(d_head=5)
    assert mine.query_proj.out_features == 20
    assert mine(tokens(1, 3, 12)).shape == (1, 3, 12)
    assert mine.weights(tokens(1, 3, 12)).shape == (1, 4, 3, 3)


def test_dropout_acts_in_training_alone():
    mine, x = made(dropout=0.5), tokens(2, 5, 12)
    torch.testing.assert_close(mine(x), mine(x))
    mine.train()
    outputs = torch.stack([mine(x) for _ in range(400)])
    assert not torch.allclose(outputs[0], outputs[1])
    error = (outputs.mean(0) - mine.eval()(x)).abs() / (outputs.std(0) / 20 + 1e-9)
    assert error.max() < 5  # of its standard error: kept weights grow to make up for dropped ones


@pytest.fixture
def calls(monkeypatch):
    """What torch's function is called with."""
    seen = []

    def watched(query, key, value, bias=None, dropout=0.0, is_causal=False, **more):
        seen.append((bias, is_causal))
        return torch_function(query, key, value, bias, dropout, is_causal, **more)

    torch_function = F.scaled_dot_product_attention
    monkeypatch.setattr(module.F, "scaled_dot_product_attention", watched)
    return seen


def test_causal_attention_reaches_the_kernel_that_needs_no_mask(calls):
    x = tokens(1, 5, 12)
    made()(x, mask=causal_mask(5))
    assert calls == [(None, True)]
    assert isinstance(causal_mask(5), CausalMask)


def test_heads_are_looked_up_only_where_they_serve_a_group(monkeypatch):
    """With enable_gqa torch leaves out kernels that it could else take."""
    seen, torch_function = [], F.scaled_dot_product_attention

    def watched(*arguments, enable_gqa, **more):
        seen.append(enable_gqa)
        return torch_function(*arguments, enable_gqa=enable_gqa, **more)

    monkeypatch.setattr(module.F, "scaled_dot_product_attention", watched)
    cases = (
        ((2, 4, 5, 3), (2, 2, 7, 3), None, True),
        ((2, 4, 5, 1), (2, 2, 7, 1), None, True),  # one feature is not one query
        ((2, 4, 5, 3), (2, 4, 7, 3), None, False),
        ((2, 5, 3), (2, 7, 3), None, False),
        ((2, 4, 1, 3), (2, 2, 7, 3), None, False),  # a group's single queries stand side by side
        ((2, 4, 1, 3), (2, 2, 7, 3), torch.ones(2, 1, 1, 7).bool(), False),
        ((2, 4, 1, 3), (2, 2, 7, 3), torch.ones(2, 4, 1, 7).bool(), True),
    )
    for query, key, mask, _ in cases:
        query, key = tokens(*query), tokens(*key, seed=1)
        module._fused(query, key, key, mask, None, None, 0.0)
    assert seen == [expected for *_, expected in cases]


def test_a_bias_takes_up_the_causal_mask(calls):
    """torch's function documents an error for a bias together with is_causal."""
    bias = tokens(1, 4, 5, 5, seed=3)
    made()(tokens(1, 5, 12), mask=causal_mask(5), score_bias=bias)
    (handed, is_causal) = calls[0]
    assert is_causal is False
    later = torch.tensor([[j > i for j in range(5)] for i in range(5)])
    assert torch.equal(handed, torch.where(later, -math.inf, bias))


def test_one_query_with_a_cache_needs_no_mask(calls):
    mine, cache = made(), KVCache(1, 5, 4, 3, dtype=torch.float64)
    mine(tokens(1, 4, 12), mask=causal_mask(4), cache=cache)
    mine(tokens(1, 1, 12, seed=1), mask=causal_mask(1, 5), cache=cache)
    assert calls[1] == (None, False)


def test_joined_masks_are_tensors_and_go_the_general_way(calls):
    both = causal_mask(5) & padding_mask(torch.tensor([3]), 5)
    assert not isinstance(both, CausalMask)
    made()(tokens(1, 5, 12), mask=both)
    assert torch.equal(calls[0][0], both)
    assert calls[0][1] is False


@pytest.mark.parametrize("lengths", [(5, 5), (1, 5), (3, 5)])
def test_causal_mask_equals_its_dense_form_on_every_way(lengths):
    queries, keys = lengths
    query, key, value = (tokens(2, 3, n, 4, seed=n) for n in (queries, keys, keys))
    bias = tokens(1, 3, queries, keys, seed=9)
    mask = causal_mask(queries, keys)
    for score_bias in (None, bias):
        fused = module.scaled_dot_product_attention(query, key, value, mask, score_bias)
        weights = module.attention_weights(query, key, mask.dense(), score_bias)
        torch.testing.assert_close(fused, weights @ value, atol=1e-12, rtol=1e-12)


def test_causal_mask_behaves_like_a_tensor():
    mask, dense = causal_mask(2, 3), causal_mask(2, 3).dense()
    assert torch.equal(mask, dense)
    assert mask.tolist() == dense.tolist()
    assert mask.numpy().tolist() == dense.tolist()
    assert repr(mask) == repr(dense)
    assert torch.equal(~mask, ~dense)
    assert type(mask[0, 0]) is torch.Tensor
    assert (mask.shape, mask.dtype, mask.device) == (dense.shape, dense.dtype, dense.device)


def test_left_padding_changes_nothing_for_the_tokens():
    mine, x = made(), tokens(1, 4, 12)
    alone = mine(x, mask=causal_mask(4))
    padded = torch.cat([tokens(1, 2, 12, seed=5), x], dim=1)
    is_token = torch.tensor([[False, False, True, True, True, True]])
    output = mine(padded, mask=causal_mask(6) & token_mask(is_token))
    torch.testing.assert_close(output[:, 2:], alone, atol=1e-12, rtol=1e-12)
    assert output.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x = tokens(2, 5, 12)
    output = made(dtype=dtype)(x.to(dtype), mask=causal_mask(5))
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), made()(x, mask=causal_mask(5)), atol=3e-2, rtol=0)


def test_meta_device():
    mine = made().to("meta")
    x = tokens(2, 5, 12).to("meta")
    assert mine(x, mask=causal_mask(5, device="meta")).shape == (2, 5, 12)
    assert made(rotary=Shift()).to("meta")(x).device == x.device


def test_parameters_are_four_matrices():
    count = sum(each.numel() for each in made(d_model=12, num_heads=4).parameters())
    assert count == 4 * 12 * 12


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda: made(d_model=10), "d_model must be a multiple of num_heads; they are 10 and 4"),
        (lambda: made(num_kv_heads=3), "multiple of num_kv_heads.* 4 and 3"),
        (lambda: made(d_model=10, num_kv_heads=2), "they are 10 and 4. Or give d_head"),
        (lambda: made(num_heads=0), "^num_heads must be at least 1; it is 0"),
        (lambda: made(num_heads=0, num_kv_heads=2), "^num_heads must be at least 1; it is 0"),
        (lambda: made(num_kv_heads=0), "^num_kv_heads must be at least 1; it is 0"),
        (lambda: made(d_model=0, d_head=3), "^d_model must be at least 1; it is 0"),
        (lambda: made(d_head=0), "^d_head must be at least 1; it is 0"),
        (lambda: made(dropout=1.0), "^dropout is a probability"),
        (lambda: made()(tokens(5, 12)), r"axes \(batch, seq, d_model\); it is \(5, 12\)"),
        (lambda: made()(tokens(2, 1, 5, 12)), r"axes \(batch, seq, d_model\); it is \(2, 1, 5"),
        (lambda: made()(tokens(2, 5, 11)), r"^x must hold vectors of 12 features.*\(2, 5, 11\)"),
        (
            lambda: made()(tokens(2, 5, 12), tokens(2, 7, 11)),
            r"^memory must hold vectors of 12 features.*\(2, 7, 11\)",
        ),
        (
            lambda: made()(tokens(2, 5, 12), mask=torch.ones(2, 5).bool()),
            "as many axes as the scores",
        ),
        (
            lambda: made()(tokens(3, 5, 12), tokens(1, 5, 12)),
            r"key must have shape .*= \(3, .*; its shape is \(1, ",
        ),
        (lambda: token_mask(torch.ones(2, 5)), "must be boolean .* torch.float32"),
        (lambda: token_mask(torch.ones(2).bool()), r"axes \(batch, key\)"),
    ],
)
def test_bad_input_is_answered_in_words(use, says):
    with pytest.raises(ValueError, match=says):
        use()
