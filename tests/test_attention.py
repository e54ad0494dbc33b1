"""Attention against torch's kernel, loops in float64, and finite cases by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from transformer_lab.attention import attention_weights, scaled_dot_product_attention
from transformer_lab.masks import causal_mask


def inputs(*batch: int, n_q=3, n_k=5, d_k=4, d_v=6, dtype=torch.float32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shapes = ((*batch, n_q, d_k), (*batch, n_k, d_k), (*batch, n_k, d_v))
    return [torch.randn(shape, generator=draw, dtype=dtype) for shape in shapes]


def by_loops(query, key, mask=None, bias=None, scale=None):
    """Attention weights with Python's own arithmetic, for tensors without batch axes."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    rows = []
    for i, q in enumerate(query.tolist()):
        powers = []
        for j, k in enumerate(key.tolist()):
            score = scale * sum(a * b for a, b in zip(q, k, strict=True))
            score += 0.0 if bias is None else float(bias[i, j])
            powers.append(math.exp(score) if mask is None or bool(mask[i, j]) else 0.0)
        total = sum(powers) or 1.0
        rows.append([power / total for power in powers])
    return torch.tensor(rows, dtype=torch.float64)


def test_weights_equal_plain_arithmetic():
    query, key, _ = inputs(dtype=torch.float64)
    bias = torch.linspace(-1, 2, 15, dtype=torch.float64).reshape(3, 5)
    mask = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) > 0.4
    mask[1] = False
    for each in ({}, {"mask": mask}, {"score_bias": bias}, {"mask": mask, "score_bias": bias}):
        for scale in (None, 1.0, 0.3):
            expected = by_loops(query, key, each.get("mask"), each.get("score_bias"), scale)
            mine = attention_weights(query, key, **each, scale=scale)
            torch.testing.assert_close(mine, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_both_paths_agree_forward_and_backward(batch, with_mask, with_bias):
    tensors = [each.requires_grad_() for each in inputs(*batch, dtype=torch.float64)]
    query, key, value = tensors
    mask = torch.rand(*batch, 3, 5, generator=torch.Generator().manual_seed(1)) > 0.4
    mask[..., 1, :] = False  # a query that may attend to nothing
    bias = torch.randn(*batch, 3, 5, dtype=torch.float64)
    given_ = {"mask": mask if with_mask else None, "score_bias": bias if with_bias else None}
    readable = attention_weights(query, key, **given_) @ value
    fused = scaled_dot_product_attention(query, key, value, **given_)
    torch.testing.assert_close(fused, readable, atol=1e-12, rtol=1e-12)
    weights = torch.randn_like(fused)
    for mine, theirs in zip(
        torch.autograd.grad((readable * weights).sum(), tensors),
        torch.autograd.grad((fused * weights).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-12)


def test_row_with_nothing_to_attend_to_is_zero_and_has_no_nan_in_its_gradient():
    query, key, value = (each.requires_grad_() for each in inputs(1, 2))
    mask = torch.ones(1, 1, 3, 5, dtype=torch.bool)
    mask[..., 0, :] = False
    for output in (
        attention_weights(query, key, mask) @ value,
        scaled_dot_product_attention(query, key, value, mask),
    ):
        assert (output[..., 0, :] == 0).all()
        assert (output[..., 1:, :] != 0).all()
        for gradient in torch.autograd.grad(output.sum(), (query, key, value)):
            assert gradient.isfinite().all()


def test_scale_given_replaces_the_default():
    query, key, value = inputs(2)
    expected = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    torch.testing.assert_close(scaled_dot_product_attention(query, key, value, scale=1.0), expected)
    assert not torch.allclose(scaled_dot_product_attention(query, key, value), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_stay_what_they_are(dtype):
    query, key, value = inputs(2, dtype=torch.float64)
    expected = scaled_dot_product_attention(query, key, value)
    mine = scaled_dot_product_attention(query.to(dtype), key.to(dtype), value.to(dtype))
    assert mine.dtype == dtype
    torch.testing.assert_close(mine.double(), expected, atol=3e-2, rtol=0)
    assert attention_weights(query.to(dtype), key.to(dtype)).dtype == dtype


def test_runs_where_its_inputs_are():
    query, key, value = (each.to("meta") for each in inputs(2, 3))
    mask = torch.ones(1, 1, 3, 5, dtype=torch.bool, device="meta")
    assert attention_weights(query, key, mask).device.type == "meta"
    assert scaled_dot_product_attention(query, key, value, mask).shape == (2, 3, 3, 6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 10_000))
def test_prefix_of_a_causal_sequence_does_not_depend_on_what_follows(n, more, seed):
    query, key, value = inputs(1, 2, n_q=n + more, n_k=n + more, d_v=4, seed=seed)
    whole = scaled_dot_product_attention(query, key, value, causal_mask(n + more))
    part = scaled_dot_product_attention(
        query[..., :n, :], key[..., :n, :], value[..., :n, :], causal_mask(n)
    )
    torch.testing.assert_close(whole[..., :n, :], part, atol=1e-6, rtol=1e-5)


Q, K, V = inputs(2, 3)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            (Q, K[..., :2], V),
            r"query has 4 \(shape \(2, 3, 3, 4\)\), key has 2 \(shape \(2, 3, 5, 2\)\)",
        ),
        ((Q, K[:1], V[:1]), "same leading axes: query has .2, 3, 3, 4., key has .1, 3, 5, 4."),
        (
            (Q, K, V[..., :4, :]),
            r"one value for each key: key has shape \(2, 3, 5, 4\), value \(2, 3, 4, 6\)",
        ),
        ((Q, K, V, torch.ones(2, 3, 3, 5)), "mask must be boolean.*torch.float32"),
        (
            (Q, K, V, torch.ones(2, 5, dtype=torch.bool)),
            r"as many axes as the scores \(2, 3, 3, 5\): it has 2, \(2, 5\)",
        ),
        (
            (Q, K, V, torch.ones(1, 1, 3, 4, dtype=torch.bool)),
            r"mask must fit the scores \(2, 3, 3, 5\).*its shape is \(1, 1, 3, 4\)",
        ),
        ((Q, K, V, None, torch.ones(3, 5)), "score_bias must have as many axes"),
        (
            (Q, K, V, None, torch.ones(1, 1, 3, 5).double()),
            "score_bias has torch.float64, query torch.float32",
        ),
        ((Q.long(), K, V), "query must hold floating-point numbers; it holds torch.int64"),
        ((Q, K.double(), V), "key and query must have one dtype: key has torch.float64"),
        ((Q, K, V.to("meta")), "^value and query must be .*: value is on meta, query on cpu"),
        (
            (Q, K, V, torch.ones(1, 1, 3, 5, dtype=torch.bool, device="meta")),
            "mask is on meta, query on cpu",
        ),
        ((Q[0, 0, 0], K[0, 0, 0], V[0, 0, 0]), r"^query needs at least two axes .* is \(4,\)"),
    ],
)
def test_bad_input_is_answered_in_words(arguments, says):
    with pytest.raises(ValueError, match=says):
        scaled_dot_product_attention(*arguments)
    if "value" not in says:
        with pytest.raises(ValueError, match=says):
            attention_weights(*arguments[:2], *arguments[3:])


@pytest.mark.usefixtures("as_a_user")
def test_a_list_is_no_tensor():
    with pytest.raises(TypeError, match=r"query must be a torch\.Tensor; it is a list"):
        attention_weights([[1.0]], K)
    with pytest.raises(TypeError, match=r"mask must be a torch\.Tensor; it is a list"):
        attention_weights(Q, K, [[True]])


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("dropout", "error", "says"),
    [
        (1.0, ValueError, r"dropout is a probability, from 0 to below 1; it is 1\.0"),
        (-0.1, ValueError, r"dropout is a probability, from 0 to below 1; it is -0\.1"),
        ("0.1", TypeError, "dropout must be a number; it is '0.1'"),
    ],
)
def test_dropout_is_a_probability(dropout, error, says):
    with pytest.raises(error, match=says):
        scaled_dot_product_attention(Q, K, V, dropout=dropout)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("scale", "error", "says"),
    [
        (math.inf, ValueError, "scale must be above -inf and finite; it is inf"),
        (math.nan, ValueError, "scale must be above -inf and finite; it is nan"),
        ("1", TypeError, "scale must be a number; it is '1'"),
    ],
)
def test_scale_is_a_number(scale, error, says):
    with pytest.raises(error, match=says):
        scaled_dot_product_attention(Q, K, V, scale=scale)
    with pytest.raises(error, match=says):
        attention_weights(Q, K, scale=scale)


def test_dropout_sets_weights_to_zero_and_lets_the_others_grow():
    """With equal weights and the values of a unit matrix the output is the weights themselves."""
    torch.manual_seed(0)
    query, key, value = torch.zeros(1, 100, 4), torch.zeros(1, 50, 4), torch.eye(50)[None]
    weights = scaled_dot_product_attention(query, key, value, dropout=0.25)
    assert sorted(set(weights.flatten().tolist())) == pytest.approx([0, 1 / 50 / 0.75])
    assert 0.2 < (weights == 0).float().mean() < 0.3
