"""Residual wrappers and blocks against formulas written out, and torch's own layers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from transformer_lab.attention import MultiHeadAttention
from transformer_lab.blocks import (
    DecoderBlock,
    DeepNorm,
    PostNorm,
    PreNorm,
    SandwichNorm,
    TransformerBlock,
    deep_norm_constants,
    deep_norm_init_,
)


class Scale(nn.Module):
    """Stands for a norm: its product tells which one was passed, and how often."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


class Attend(nn.Module):
    """Stands for an attention layer: keeps what it was called with."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.calls = factor, []

    def forward(self, x, *memory, **named):
        self.calls.append((x, memory, named))
        return self.factor * x + sum(memory)


X = torch.tensor([[[1.0, -2.0, 3.0]]])


@pytest.mark.parametrize(
    ("wrapper", "expected"),
    [
        (PreNorm(Scale(3)), lambda f: X + f(3 * X)),
        (PostNorm(Scale(3)), lambda f: 3 * (X + f(X))),
        (SandwichNorm(Scale(3), Scale(5)), lambda f: X + 5 * f(3 * X)),
        (DeepNorm(Scale(3), alpha=7.0), lambda f: 3 * (7 * X + f(X))),
    ],
    ids=["pre", "post", "sandwich", "deep"],
)
def test_formula(wrapper, expected):
    torch.testing.assert_close(wrapper(X, torch.square), expected(torch.square))


@pytest.mark.parametrize(
    "make",
    [
        PreNorm,
        PostNorm,
        lambda norm, p=0.0: SandwichNorm(norm, nn.Identity(), p),
        lambda norm, p=0.0: DeepNorm(norm, 1.0, p),
    ],
    ids=["pre", "post", "sandwich", "deep"],
)
def test_dropout_falls_on_what_the_sublayer_adds(make):
    wrapper = make(nn.Identity(), 1.0)
    torch.testing.assert_close(wrapper(X, torch.square), X)
    torch.testing.assert_close(wrapper.eval()(X, torch.square), X + X.square())
    torch.testing.assert_close(make(nn.Identity())(X, torch.square), X + X.square())
    torch.manual_seed(0)
    ones = torch.zeros(1000, 1)
    kept = make(nn.Identity(), 0.25)(ones, lambda x: x + 1)
    assert sorted(set(kept.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert 0.2 < (kept == 0).float().mean() < 0.3


def test_dropout_of_a_sandwich_comes_after_both_norms():
    assert (SandwichNorm(nn.Identity(), nn.Sigmoid(), 1.0)(X, torch.square) == X).all()


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    "wrapper",
    [
        PreNorm(nn.Identity()),
        PostNorm(nn.Identity()),
        SandwichNorm(nn.Identity(), nn.Identity()),
        DeepNorm(nn.Identity(), 1.0),
    ],
    ids=["pre", "post", "sandwich", "deep"],
)
def test_a_sublayer_that_changes_the_shape_is_not_broadcast(wrapper):
    with pytest.raises(
        ValueError, match=r"keep the shape of x, \(1, 1, 3\); it returned \(1, 1, 1\)"
    ):
        wrapper(X, lambda x: x[..., :1])
    with pytest.raises(
        TypeError, match=r"a sublayer returns must be a torch\.Tensor; it is a tuple"
    ):
        wrapper(X, lambda x: (x, None))


def assert_scales(scales, alpha, beta):
    assert scales == pytest.approx((alpha, beta))
    assert (scales.alpha, scales.beta) == scales


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 1000), st.integers(1, 1000))
def test_constants_of_deep_norm(n, m):
    encoder, decoder = deep_norm_constants(n, 0), deep_norm_constants(0, m)
    assert encoder.decoder is None
    assert decoder.encoder is None
    assert_scales(encoder.encoder, math.sqrt(math.sqrt(2 * n)), 1 / math.sqrt(math.sqrt(8 * n)))
    assert_scales(decoder.decoder, math.sqrt(math.sqrt(2 * m)), 1 / math.sqrt(math.sqrt(8 * m)))
    both = deep_norm_constants(n, m)
    root = math.exp((4 * math.log(n) + math.log(m)) / 16)
    assert_scales(both.encoder, 0.81 * root, 0.87 / root)
    assert_scales(both.decoder, math.sqrt(math.sqrt(3 * m)), 1 / math.sqrt(math.sqrt(12 * m)))


def test_constants_can_not_be_changed():
    with pytest.raises(AttributeError):
        deep_norm_constants(2, 0).encoder = None


NAMES = ("query_proj", "key_proj", "value_proj", "out_proj", "up_proj", "gate_proj", "down_proj")


@pytest.mark.parametrize(("beta", "scaled"), [(0.25, NAMES[2:]), (3.0, NAMES[2:])])
def test_initialisation_of_deep_norm(beta, scaled):
    torch.manual_seed(0)
    linear = {name: nn.Linear(300, 100) for name in NAMES}
    block = nn.ModuleDict({"attention": nn.ModuleDict(linear)})
    parts = nn.ModuleDict({"block": block, "norm": nn.LayerNorm(4)})
    biases = {name: each.bias.clone() for name, each in linear.items()}
    assert deep_norm_init_(parts, beta) is parts
    for name, each in linear.items():
        gain = beta if name in scaled else 1.0
        weight = each.weight.flatten()
        assert weight.std().item() == pytest.approx(gain * math.sqrt(2 / 400), rel=0.02)
        kurtosis = (weight / weight.std()).pow(4).mean().item()
        assert kurtosis == pytest.approx(
            3, abs=0.2
        )  # 3 for a normal distribution, 1.8 for a uniform one
        assert torch.equal(each.bias, biases[name])
    assert parts["norm"].weight.tolist() == [1] * 4


def test_initialisation_changes_nothing_when_it_refuses():
    parts = nn.ModuleDict({"up_proj": nn.Linear(3, 3), "c_attn": nn.Linear(3, 3)})
    before = parts["up_proj"].weight.clone()
    with pytest.raises(
        ValueError, match=f"named {', '.join(sorted(NAMES))}; there is c_attn\\. Nothing"
    ):
        deep_norm_init_(parts, 0.5)
    assert torch.equal(parts["up_proj"].weight, before)


def test_transformer_block_goes_through_attention_then_feed_forward():
    attention = Attend(2)
    factors = iter((3, 5))
    block = TransformerBlock(attention, Scale(7), residual=lambda: PostNorm(Scale(next(factors))))
    mask, cache = object(), object()
    torch.testing.assert_close(block(X, mask=mask, cache=cache), 3 * (1 + 2) * 5 * (1 + 7) * X)
    ((x, memory, named),) = attention.calls
    assert x is X
    assert memory == ()
    assert named == {"mask": mask, "cache": cache}
    assert block.attention_residual.norm.factor == 3
    assert block.feed_forward_residual.norm.factor == 5


@pytest.mark.usefixtures("as_a_user")
def test_decoder_block_needs_a_memory():
    """Attention without one would attend to the target itself."""
    attentions = [MultiHeadAttention(4, 2) for _ in range(2)]
    block = DecoderBlock(*attentions, nn.Linear(4, 4), lambda: PreNorm(nn.LayerNorm(4)))
    with pytest.raises(TypeError, match=r"memory must be a .*KeysValues; it is a None"):
        block(torch.ones(1, 2, 4), None)


def test_decoder_block_asks_the_memory_in_between():
    attention, cross = Attend(2), Attend(4)
    factors = iter((3, 5, 7))
    block = DecoderBlock(attention, cross, Scale(6), lambda: PostNorm(Scale(next(factors))))
    memory, mask = torch.ones(1, 1, 3), torch.ones(1, 1, 1, 1).bool()
    out = block(X, memory, memory_mask=mask, mask="own", positions="own")
    h = 3 * (X + 2 * X)
    expected = 7 * (1 + 6) * 5 * (h + 4 * h + memory)
    torch.testing.assert_close(out, expected)
    ((_, none, named),) = attention.calls
    assert none == ()
    assert named == {"mask": "own", "positions": "own"}
    ((_, (handed,), named),) = cross.calls
    assert handed is memory
    assert named == {"mask": mask}
    block.cross_attention.calls.clear()
    factors_of = (
        block.attention_residual,
        block.cross_attention_residual,
        block.feed_forward_residual,
    )
    assert [each.norm.factor for each in factors_of] == [3, 5, 7]
    block(X, memory)
    assert cross.calls[0][2] == {"mask": None}


class TorchAttention(nn.Module):
    """torch's own attention, called as ours is."""

    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x, memory=None, *, mask=None, cache=None):
        memory = x if memory is None else memory
        return self.inner(x, memory, memory, attn_mask=mask)[0]


def torch_feed_forward():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))


def assert_same_gradients(mine, theirs, x, *more):
    out = torch.randn_like(mine)
    inputs = (x, *more)
    for a, b in zip(
        torch.autograd.grad((mine * out).sum(), inputs),
        torch.autograd.grad((theirs * out).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("wrapper", "norm_first"), [(PreNorm, True), (PostNorm, False)])
def test_transformer_block_equals_torch_s_layer(wrapper, norm_first):
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=norm_first)
    mine = TransformerBlock(
        TorchAttention(), torch_feed_forward(), lambda: wrapper(nn.LayerNorm(8))
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    mine.attention.inner.load_state_dict(theirs.self_attn.state_dict())
    mine.feed_forward[0].load_state_dict(theirs.linear1.state_dict())
    mine.feed_forward[2].load_state_dict(theirs.linear2.state_dict())
    mine.attention_residual.norm.load_state_dict(theirs.norm1.state_dict())
    mine.feed_forward_residual.norm.load_state_dict(theirs.norm2.state_dict())
    x = torch.randn(2, 5, 8, requires_grad=True)
    blocked = ~torch.ones(5, 5).tril().bool()
    ours, reference = mine(x, mask=blocked), theirs(x, src_mask=blocked)
    torch.testing.assert_close(ours, reference)
    assert_same_gradients(ours, reference, x)


@pytest.mark.parametrize(("wrapper", "norm_first"), [(PreNorm, True), (PostNorm, False)])
def test_decoder_block_equals_torch_s_layer(wrapper, norm_first):
    torch.manual_seed(0)
    theirs = nn.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=norm_first)
    mine = DecoderBlock(
        TorchAttention(),
        TorchAttention(),
        torch_feed_forward(),
        lambda: wrapper(nn.LayerNorm(8)),
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    mine.attention.inner.load_state_dict(theirs.self_attn.state_dict())
    mine.cross_attention.inner.load_state_dict(theirs.multihead_attn.state_dict())
    mine.feed_forward[0].load_state_dict(theirs.linear1.state_dict())
    mine.feed_forward[2].load_state_dict(theirs.linear2.state_dict())
    mine.attention_residual.norm.load_state_dict(theirs.norm1.state_dict())
    mine.cross_attention_residual.norm.load_state_dict(theirs.norm2.state_dict())
    mine.feed_forward_residual.norm.load_state_dict(theirs.norm3.state_dict())
    x, memory = torch.randn(2, 5, 8, requires_grad=True), torch.randn(2, 3, 8, requires_grad=True)
    blocked, hidden = ~torch.ones(5, 5).tril().bool(), torch.tensor([[False, False, True]] * 5)
    ours = mine(x, memory, memory_mask=hidden, mask=blocked)
    reference = theirs(x, memory, tgt_mask=blocked, memory_mask=hidden)
    torch.testing.assert_close(ours, reference)
    assert_same_gradients(ours, reference, x, memory)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_stay_what_they_are(dtype):
    block = TransformerBlock(Attend(2), nn.Linear(3, 3), lambda: DeepNorm(nn.LayerNorm(3), 1.5))
    assert block.to(dtype)(X.to(dtype)).dtype == dtype


def test_runs_where_its_input_is():
    with torch.device("meta"):
        block = TransformerBlock(Attend(2), nn.Linear(3, 3), lambda: PreNorm(nn.LayerNorm(3)))
        assert block(torch.empty(1, 2, 3)).device.type == "meta"


A, B, C = nn.Identity(), nn.Identity(), nn.Identity()


def fresh():
    return PreNorm(nn.Identity())


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: PreNorm(torch.tanh), TypeError, r"norm must be an nn\.Module; it is a builtin"),
        (lambda: PostNorm(A, 1.5), ValueError, "dropout probability.* got 1.5"),
        (lambda: SandwichNorm(A, torch.tanh), TypeError, "norm_out must be"),
        (lambda: SandwichNorm(A, A), ValueError, "norm, norm_out must be different modules"),
        (lambda: DeepNorm(A, 0.0), ValueError, "alpha must be above 0 and finite; it is 0.0"),
        (lambda: DeepNorm(A, math.inf), ValueError, "alpha must be above 0 and finite"),
        (lambda: deep_norm_constants(0, 0), ValueError, "an encoder or a decoder; both"),
        (lambda: deep_norm_constants(-1, 2), ValueError, "encoder_layers .* 0; it is -1"),
        (lambda: deep_norm_constants(2, -1), ValueError, "decoder_layers .* 0; it is -1"),
        (lambda: deep_norm_constants(2.0, 1), TypeError, "encoder_layers .* whole .* 2.0"),
        (lambda: deep_norm_constants(2, True), TypeError, "decoder_layers .* True"),
        (lambda: deep_norm_init_("block", 0.5), TypeError, "block must be an .* it is a str"),
        (lambda: deep_norm_init_(A, 0.5), ValueError, "there are none"),
        (lambda: deep_norm_init_(A, 0.0), ValueError, "beta must be above 0"),
        (lambda: deep_norm_init_(A, math.nan), ValueError, "beta must be above 0.* nan"),
        (lambda: TransformerBlock(A, B, fresh()), TypeError, "makes a wrapper.* is a PreNorm"),
        (lambda: TransformerBlock(A, B, None), TypeError, "residual .* is a NoneType"),
        (lambda: TransformerBlock(A, B, lambda: C), ValueError, "wrapper 1, .*wrapper 2 must be"),
        (lambda: TransformerBlock(A, B, lambda: 1), TypeError, "wrapper 1 must be .* is a int"),
        (lambda: TransformerBlock(abs, B, fresh), TypeError, "attention must be an"),
        (lambda: TransformerBlock(A, abs, fresh), TypeError, "feed_forward must be an"),
        (lambda: TransformerBlock(A, A, fresh), ValueError, "attention, feed_forward must be"),
        (lambda: DecoderBlock(A, A, B, fresh), ValueError, "cross_attention, .* be different"),
        (lambda: DecoderBlock(abs, A, B, fresh), TypeError, "attention must be an"),
        (lambda: DecoderBlock(A, abs, B, fresh), TypeError, "cross_attention must be an"),
        (lambda: DecoderBlock(A, B, abs, fresh), TypeError, "feed_forward must be an"),
    ],
)
def test_bad_input_is_answered_in_words(make, error, says):
    with pytest.raises(error, match=says):
        make()
