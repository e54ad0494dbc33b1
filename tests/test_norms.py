"""Norms against Python's own arithmetic and torch's kernels."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from transformer_lab.norms import LayerNorm, RMSNorm


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rms_by_loops(x, weight, eps):
    rows = []
    for row in x.tolist():
        root = math.sqrt(sum(value * value for value in row) / len(row) + eps)
        rows.append([value / root * w for value, w in zip(row, weight.tolist(), strict=True)])
    return torch.tensor(rows, dtype=torch.float64)


def norm_with(weight, eps=1e-6):
    norm = RMSNorm(len(weight), eps).to(weight.dtype)
    norm.weight.data.copy_(weight)
    return norm


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.sampled_from([1e-6, 1e-2, 3.0]), st.integers(0, 10_000))
def test_rms_norm_equals_plain_arithmetic(d_model, eps, seed):
    x, weight = randn(3, d_model, seed=seed), randn(d_model, seed=seed + 1)
    expected = rms_by_loops(x, weight, eps)
    torch.testing.assert_close(norm_with(weight, eps)(x), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rms_norm_equals_torch_s_forward_and_backward(dtype):
    x, weight = (each.to(dtype).requires_grad_() for each in (randn(2, 3, 8), randn(8, seed=1)))
    mine = torch.func.functional_call(RMSNorm(8, 1e-5), {"weight": weight}, x)
    theirs = nn.functional.rms_norm(x, (8,), weight, 1e-5)
    torch.testing.assert_close(mine, theirs)
    assert mine.dtype == dtype
    out = randn(2, 3, 8, seed=2).to(dtype)
    gradients = [torch.autograd.grad((y * out).sum(), (x, weight)) for y in (mine, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 48), (48,), (2, 3, 48), (0, 48), (3, 2048)])
@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (1e-3, 0), (30, 300)])
def test_rms_norm_without_gradients(dtype, shape, scale, shift):
    """One kernel for a few vectors; 300² is beyond float16."""
    x = (randn(*shape) * scale + shift).to(dtype)
    norm = norm_with(randn(shape[-1], seed=1).to(dtype), 1e-3)
    normalised = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-3).rsqrt()
    with torch.inference_mode():
        mine = norm(x)
    assert mine.dtype == dtype
    # Rounded to dtype before it is weighted.
    rtol = {2: torch.finfo(dtype).eps, 4: 2e-6, 8: 1e-12}[dtype.itemsize]
    torch.testing.assert_close(mine, normalised.to(dtype) * norm.weight, rtol=rtol, atol=0)


def test_one_kernel_serves_a_few_vectors_without_gradients(monkeypatch):
    seen, torch_function = [], nn.functional.layer_norm
    monkeypatch.setattr(
        nn.functional,
        "layer_norm",
        lambda x, *rest, **more: seen.append(len(x)) or torch_function(x, *rest, **more),
    )
    norm = RMSNorm(64)
    with torch.no_grad():
        norm(torch.ones(64, 64))
        norm(torch.ones(65, 64))
    norm(torch.ones(1, 64))
    assert seen == [64]


def test_rms_norm_starts_with_ones_and_the_eps_of_llama():
    norm = RMSNorm(4)
    assert norm.weight.tolist() == [1, 1, 1, 1]
    torch.testing.assert_close(norm(torch.full((1, 4), 1e-3)), torch.full((1, 4), 1 / math.sqrt(2)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rms_norm_takes_its_statistics_in_float32(dtype):
    # 300² is beyond float16; and 4,096 squares summed in half precision would be far off.
    x, weight = (300 * randn(2, 4096)).to(dtype), randn(4096, seed=1).to(dtype)
    mine = norm_with(weight)(x)
    # LLaMA's order: widened, normalised, cast back, weighted. Exactly so, not nearly.
    wide = x.float()
    expected = weight * (wide / (wide.pow(2).mean(-1, True) + 1e-6).sqrt()).to(dtype)
    assert mine.dtype == dtype
    torch.testing.assert_close(mine, expected, atol=0, rtol=torch.finfo(dtype).eps)
    assert (mine == expected).float().mean() > 0.99
    once_less = nn.functional.rms_norm(x, (4096,), weight, 1e-6)
    assert (mine == once_less).float().mean() < 0.95


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rms_norm_takes_its_gradient_in_float32(dtype):
    """Against torch's in float64; the squares alone are beyond float16."""
    x, weight, out = (300 * randn(2, 4096)).to(dtype), randn(4096, seed=1), randn(2, 4096, seed=2)
    weight, out = weight.to(dtype), out.to(dtype)
    theirs = [each.double().requires_grad_() for each in (x, weight)]
    expected = nn.functional.rms_norm(theirs[0], (4096,), theirs[1], 1e-6)
    expected = torch.autograd.grad((expected * out).sum(), theirs)
    norm = norm_with(weight)
    found = torch.autograd.grad(norm(x.requires_grad_()), (x, norm.weight), out)
    for mine, wanted in zip(found, expected, strict=True):
        assert mine.dtype == dtype
        within = 2 * torch.finfo(dtype).eps * wanted.abs().max().item()
        torch.testing.assert_close(mine.double(), wanted, atol=within, rtol=0)


def test_float64_is_not_rounded_to_float32():
    x = randn(2, 8)
    assert not torch.equal(norm_with(torch.ones(8).double())(x), RMSNorm(8)(x.float()).double())


def test_layer_norm_divides_by_the_biased_deviation():
    out = LayerNorm(4)(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    assert f"{out.max().item():.4f}" == "1.7320"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_layer_norm_takes_its_statistics_in_float32(dtype):
    x = (200 + 30 * randn(8, 512)).to(dtype)
    mine = LayerNorm(512, dtype=dtype)(x)
    mean, variance = x.double().mean(-1, True), x.double().var(-1, correction=0, keepdim=True)
    expected = (x.double() - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(mine.double(), expected, atol=1e-5, rtol=torch.finfo(dtype).eps)


def test_runs_where_its_input_is():
    with torch.device("meta"):
        assert RMSNorm(4)(torch.empty(2, 3, 4)).device.type == "meta"


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: RMSNorm(0), ValueError, "d_model must be at least 1; it is 0"),
        (lambda: RMSNorm(4.0), TypeError, r"d_model must be a whole number; it is 4.0 \(float\)"),
        (lambda: RMSNorm(True), TypeError, "whole number; it is True"),
        (lambda: RMSNorm(4, 0.0), ValueError, "eps must be above 0 and finite; it is 0.0"),
        (lambda: RMSNorm(4, math.nan), ValueError, "eps must be .* it is nan"),
        (lambda: RMSNorm(4, math.inf), ValueError, "eps must be .* it is inf"),
        (lambda: RMSNorm(4)([1.0]), TypeError, r"x must be a torch\.Tensor; it is a list"),
        (lambda: RMSNorm(4)(torch.ones(2, 3)), ValueError, r"of 4 features.*\(2, 3\)"),
        (lambda: RMSNorm(4)(torch.ones(2, 1)), ValueError, r"of 4 features.*\(2, 1\)"),
        (lambda: RMSNorm(1)(torch.ones(2, 3)), ValueError, r"of 1 features.*\(2, 3\)"),
        (lambda: RMSNorm(4)(torch.ones(())), ValueError, r"of 4 features.*\(\)"),
        (lambda: RMSNorm(4)(torch.ones(4).long()), ValueError, "it holds torch.int64"),
        (lambda: RMSNorm(4)(torch.ones(4, device="meta")), ValueError, "x is on meta.* on cpu"),
    ],
)
def test_bad_input_is_answered_in_words(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_smallest_sizes_do():
    torch.testing.assert_close(RMSNorm(1)(torch.tensor([[-3.0]])), torch.tensor([[-1.0]]))


def test_backward_pass_is_that_of_the_formula():
    torch.manual_seed(0)
    norm = RMSNorm(5, eps=0.1).double()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)

    def of(x, weight):
        return torch.func.functional_call(norm, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(of, (x, norm.weight))
    assert torch.autograd.gradgradcheck(of, (x, norm.weight))
    rows = torch.func.vmap(torch.func.jacrev(norm))(x[0].detach())
    by_row = [torch.autograd.functional.jacobian(norm, row) for row in x[0]]
    torch.testing.assert_close(rows, torch.stack(by_row))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_half_precision_are_those_of_float32_rounded(dtype):
    torch.manual_seed(0)
    norm, x = RMSNorm(64).to(dtype), torch.randn(4, 64).to(dtype).requires_grad_()
    grad = torch.randn(4, 64).to(dtype)
    norm(x).backward(grad)
    wide = x.detach().double().requires_grad_()
    weight = norm.weight.detach().double().requires_grad_()
    torch.nn.functional.rms_norm(wide, (64,), weight, 1e-6).backward(grad.double())
    for mine, reference in ((x, wide), (norm.weight, weight)):
        assert mine.grad.dtype == dtype
        torch.testing.assert_close(mine.grad.double(), reference.grad, rtol=2e-2, atol=2e-2)
