"""GLM against a loop over single numbers, and blank infilling against the paper's example."""

import math

import pytest
import torch
from torch.testing import assert_close

from tests.parity.tools import VOCAB, close, perturbed, tokens
from transformer_lab.data import blank_infilling
from transformer_lab.models.glm import GLM, GLMConfig

CONFIG = GLMConfig(
    vocab_size=VOCAB,
    max_positions=16,
    max_span=8,
    d_model=12,
    num_layers=2,
    num_heads=3,
    d_ff=20,
    norm_eps=1e-4,
)
MASK, START, END = 47, 48, 49


def example():
    """The paper's: x1 … x6, of which x3 and x5 x6 are cut out, the latter to be written first."""
    text = torch.arange(1, 7)
    return blank_infilling(text, [(4, 6), (2, 3)], mask_id=MASK, start_id=START, end_id=END)


def test_blank_infilling_as_in_the_papers_figure_2():
    filled = example()
    assert filled.tokens.tolist() == [1, 2, MASK, 4, MASK, START, 5, 6, START, 3]
    assert filled.targets.tolist() == [-100] * 5 + [5, 6, END, 3, END]
    assert (filled.positions + 1).tolist() == [1, 2, 3, 4, 5, 5, 5, 5, 3, 3]
    assert filled.span_positions.tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 1, 2]
    assert filled.prefix_length == 5


def test_blanks_after_a_longer_one_move_to_the_left():
    text = torch.arange(1, 7)
    filled = blank_infilling(text, [(1, 3), (4, 6)], mask_id=MASK, start_id=START, end_id=END)
    assert filled.tokens.tolist() == [1, MASK, 4, MASK, START, 2, 3, START, 5, 6]
    assert filled.positions.tolist() == [0, 1, 2, 3, 1, 1, 1, 3, 3, 3]


def test_neighbouring_blanks_and_the_whole_text():
    text = torch.arange(1, 4)
    filled = blank_infilling(text, [(0, 1), (1, 3)], mask_id=MASK, start_id=START, end_id=END)
    assert filled.tokens.tolist() == [MASK, MASK, START, 1, START, 2, 3]
    assert filled.positions.tolist() == [0, 1, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("spans", [[(2, 2)], [(0, 3), (2, 4)], [(5, 7)], [(-1, 1)], [(3, 2)]])
def test_bad_spans_are_refused(spans):
    with pytest.raises(ValueError, match="must lie within the 6 tokens"):
        blank_infilling(torch.arange(6), spans, mask_id=MASK, start_id=START, end_id=END)


def naive(model, ids, positions, span_positions, prefix_length):
    """Every number of a single sequence's logits, by loops and in float64."""
    w = {name: p.detach().double() for name, p in model.state_dict().items()}
    n, heads, d = len(ids), CONFIG.num_heads, CONFIG.d_model
    width = d // heads

    def norm(x, name):
        mean = sum(x) / d
        variance = sum((v - mean) ** 2 for v in x) / d
        return (x - mean) / math.sqrt(variance + 1e-4) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    def gelu(x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    xs = [
        w["token_embedding.weight"][ids[i]]
        + w["position_embedding.weight"][positions[i]]
        + w["span_embedding.weight"][span_positions[i]]
        for i in range(n)
    ]
    for layer in range(CONFIG.num_layers):
        at = f"blocks.{layer}"
        hs = [norm(x, f"{at}.attention_residual.norm") for x in xs]
        q, k, v = (
            [linear(h, f"{at}.attention.{name}_proj") for h in hs]
            for name in ("query", "key", "value")
        )
        new = []
        for i in range(n):
            out = torch.zeros(d, dtype=torch.float64)
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                # Part A is seen by all; of part B each sees itself and what stands before it.
                seen = [j for j in range(n) if j < prefix_length or j <= i]
                scores = [math.exp(q[i][part] @ k[j][part] / math.sqrt(width)) for j in seen]
                for j, score in zip(seen, scores, strict=True):
                    out[part] += score / sum(scores) * v[j][part]
            new.append(xs[i] + linear(out, f"{at}.attention.out_proj"))
        xs = []
        for x in new:
            h = norm(x, f"{at}.feed_forward_residual.norm")
            h = gelu(linear(h, f"{at}.feed_forward.up_proj"))
            xs.append(x + linear(h, f"{at}.feed_forward.down_proj"))
    return torch.stack([w["token_embedding.weight"] @ norm(x, "final_norm") for x in xs]).float()


@pytest.fixture
def model():
    return perturbed(GLM(CONFIG))


def batch():
    """Two sequences of ten tokens with different prefixes: one of seven, one of five."""
    one = example()
    two = blank_infilling(tokens(1, 10)[0], [(3, 7)], mask_id=MASK, start_id=START, end_id=END)
    rows = [torch.stack([one[i], two[i][:10]]) for i in (0, 2, 3)]
    return rows, torch.tensor([one.prefix_length, two.prefix_length])


@torch.no_grad()
def test_logits(model):
    rows, prefix_lengths = batch()
    out = model(*rows, prefix_lengths)
    for i in range(2):
        close(out[i], naive(model, *[row[i] for row in rows], int(prefix_lengths[i])))


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_cache_and_left_padding(model, padded):
    (ids, positions, span_positions), prefix_lengths = batch()
    expected = [
        naive(model, ids[i], positions[i], span_positions[i], int(prefix_lengths[i]))
        for i in range(2)
    ]
    pad = 3 if padded else 0
    ids, positions, span_positions = (
        torch.nn.functional.pad(rows, (pad, 0)) for rows in (ids, positions, span_positions)
    )
    is_token = torch.arange(10 + pad).expand(2, -1) >= pad
    prefix_lengths = prefix_lengths + pad
    caches, outs, start = model.new_caches(2, 10 + pad), [], 0
    for end in (int(prefix_lengths.max()), *range(int(prefix_lengths.max()) + 1, 11 + pad)):
        new = slice(start, end)
        outs.append(
            model(
                ids[:, new],
                positions[:, new],
                span_positions[:, new],
                prefix_lengths,
                is_token=is_token[:, :end] if padded else None,
                caches=caches,
            )
        )
        start = end
    out = torch.cat(outs, dim=1)[:, pad:]
    for i in range(2):
        close(out[i], expected[i])


def test_who_sees_whom(model):
    """By gradient: what the logits at each place depend on."""
    rows, prefix_lengths = batch()
    x = model.token_embedding(rows[0]).detach().requires_grad_()
    model.token_embedding.forward = lambda _: x
    out = model(*rows, prefix_lengths)
    for i in range(2):
        for place in range(10):
            (grad,) = torch.autograd.grad(out[i, place].square().sum(), x, retain_graph=True)
            seen = grad[i].abs().sum(-1) > 0
            expected = [j < prefix_lengths[i] or j <= place for j in range(10)]
            assert seen.tolist() == expected


def test_gradient_against_differences(model):
    model = model.double()
    rows, prefix_lengths = batch()
    weight = torch.randn(2, 10, VOCAB, dtype=torch.float64)

    def loss():
        return (model(*rows, prefix_lengths) * weight).mean()

    loss().backward()
    for name, parameter in model.named_parameters():
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            start = parameter.clone()
            parameter.copy_(start + 1e-5 * direction)
            above = loss()
            parameter.copy_(start - 1e-5 * direction)
            difference = (above - loss()) / 2e-5
            parameter.copy_(start)
        slope = (parameter.grad * direction).sum()
        assert_close(slope, difference, atol=1e-8, rtol=1e-4, msg=lambda t, n=name: f"{n}: {t}")
