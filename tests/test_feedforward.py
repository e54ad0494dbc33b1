"""Feed-forward networks against loops over single features."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transformer_lab.feedforward import FeedForward, GatedFeedForward, llama_ffn_width


def by_loops(x, projection):
    """A linear layer, one product at a time."""
    weight = projection.weight.tolist()
    bias = [0.0] * len(weight) if projection.bias is None else projection.bias.tolist()
    return [
        sum(w * v for w, v in zip(row, x, strict=True)) + b
        for row, b in zip(weight, bias, strict=True)
    ]


def silu(value):
    return value / (1 + math.exp(-value))


def relu(value):
    return max(value, 0.0)


@pytest.fixture
def vectors():
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("activation", "by_hand"), [(F.silu, silu), (F.relu, relu)])
def test_feed_forward_equals_plain_arithmetic(vectors, bias, activation, by_hand):
    torch.manual_seed(1)
    network = FeedForward(4, 7, activation, bias=bias).double()
    expected = [
        by_loops([by_hand(value) for value in by_loops(x, network.up_proj)], network.down_proj)
        for x in vectors.flatten(0, 1).tolist()
    ]
    torch.testing.assert_close(network(vectors), torch.tensor(expected).double().view(2, 3, 4))


@pytest.mark.parametrize("bias", [False, True])
def test_gated_feed_forward_equals_plain_arithmetic(vectors, bias):
    torch.manual_seed(1)
    network = GatedFeedForward(4, 7, F.silu, bias=bias).double()
    expected = []
    for x in vectors.flatten(0, 1).tolist():
        gate, up = by_loops(x, network.gate_proj), by_loops(x, network.up_proj)
        hidden = [silu(g) * u for g, u in zip(gate, up, strict=True)]
        expected.append(by_loops(hidden, network.down_proj))
    torch.testing.assert_close(network(vectors), torch.tensor(expected).double().view(2, 3, 4))


@pytest.mark.parametrize(("kind", "projections"), [(FeedForward, 2), (GatedFeedForward, 3)])
def test_parameters(kind, projections):
    counts = {
        bias: sum(p.numel() for p in kind(4, 7, F.relu, bias=bias).parameters())
        for bias in (False, True)
    }
    assert counts[False] == projections * 28
    assert counts[True] - counts[False] == (projections - 1) * 7 + 4
    assert sum(p.numel() for p in kind(4, 7, F.relu).parameters()) == counts[False]


def test_an_activation_may_be_a_module_with_dropout(vectors):
    drop_all = FeedForward(4, 7, nn.Sequential(nn.ReLU(), nn.Dropout(1.0))).double()
    assert (drop_all(vectors) == 0).all()
    assert (drop_all.eval()(vectors) != 0).any()


@pytest.mark.parametrize("kind", [FeedForward, GatedFeedForward])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(vectors, kind, dtype):
    network = kind(4, 7, F.gelu).double()
    expected = network(vectors)
    mine = network.to(dtype)(vectors.to(dtype))
    assert mine.dtype == dtype
    torch.testing.assert_close(mine.double(), expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize("kind", [FeedForward, GatedFeedForward])
def test_runs_where_its_input_is(kind):
    with torch.device("meta"):
        assert kind(4, 7, F.gelu)(torch.empty(2, 3, 4)).device.type == "meta"


@pytest.mark.parametrize(
    ("arguments", "width"),
    [
        ((4096,), 11_008),  # LLaMA 7B
        ((5120,), 13_824),  # 13B
        ((6656,), 17_920),  # 33B
        ((8192,), 22_016),  # 65B
        ((8192, 4096, 1.3), 28_672),  # LLaMA-2-70B, Llama-3-70B
        ((4096, 1024, 1.3), 14_336),  # Llama-3-8B
        ((2048, 256, 1.5), 8192),  # Llama-3.2-1B
        ((3, 1), 8),
        ((4, 1), 10),
        ((1, 1), 2),
        ((3, 8), 8),
        ((3, 7), 14),
        ((3, 1, 0.5), 4),
    ],
)
def test_widths_of_llama(arguments, width):
    assert llama_ffn_width(*arguments) == width


NETWORK = FeedForward(4, 7, F.relu)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: FeedForward(0, 7, F.relu), ValueError, "d_model must be at least 1; it is 0"),
        (lambda: FeedForward(4, 0, F.relu), ValueError, "d_ff must be at least 1; it is 0"),
        (lambda: FeedForward(4, 8 / 2, F.relu), TypeError, r"d_ff .* whole number; it is 4.0"),
        (lambda: FeedForward(True, 7, F.relu), TypeError, r"d_model .* it is True \(bool\)"),
        (lambda: FeedForward(4, 7, "gelu"), TypeError, "activation must be a function .* is a str"),
        (lambda: GatedFeedForward(0, 7, F.relu), ValueError, "d_model must be at least 1"),
        (lambda: GatedFeedForward(4, 7, None), TypeError, "activation must be a function"),
        (lambda: NETWORK([1.0]), TypeError, r"x must be a torch\.Tensor; it is a list"),
        (
            lambda: NETWORK(torch.ones(2, 3)),
            ValueError,
            r"x must hold vectors of 4 features.*\(2, 3\)",
        ),
        (lambda: NETWORK(torch.ones(())), ValueError, r"x must hold vectors of 4 features.*\(\)"),
        (lambda: NETWORK(torch.ones(4).long()), ValueError, "floating-point.*torch.int64"),
        (lambda: NETWORK(torch.ones(4).to("meta")), ValueError, "x is on meta.*weights on cpu"),
        (
            lambda: GatedFeedForward(4, 7, F.relu)(torch.ones(3)),
            ValueError,
            "^x must .* vectors of 4",
        ),
        (lambda: llama_ffn_width(0), ValueError, "d_model must be at least 1; it is 0"),
        (lambda: llama_ffn_width(8, 0), ValueError, "multiple_of must be at least 1; it is 0"),
        (lambda: llama_ffn_width(8.0), TypeError, "d_model must be a whole number; it is 8.0"),
        (lambda: llama_ffn_width(8, 8, 0.0), ValueError, "multiplier must be above 0"),
        (lambda: llama_ffn_width(8, 8, math.inf), ValueError, "multiplier .* finite; it is inf"),
        (lambda: llama_ffn_width(8, 8, math.nan), ValueError, "multiplier .* it is nan"),
    ],
)
def test_bad_input_is_answered_in_words(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize("kind", [FeedForward, GatedFeedForward])
def test_smallest_sizes_do(kind):
    assert kind(1, 1, F.relu)(torch.ones(2, 1)).shape == (2, 1)
