"""AdamW and Muon against torch's own, singular values and steps worked out in float64."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.training.small import batches, by_hand, same, tiny
from transformer_lab.training import (
    BFLOAT16,
    Muon,
    Together,
    adamw,
    by_shape,
    hidden_matrices,
    like_adamw,
    muon,
    orthogonalise,
)


def learn(model, optimizer, steps=3):
    for step in range(steps):
        by_hand(model, batches(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_matrices_decay_and_nothing_else():
    model = tiny()
    groups = adamw(model, 1e-3, weight_decay=0.3).param_groups
    decay = {id(weight): group["weight_decay"] for group in groups for weight in group["params"]}
    decayed = {name for name, weight in model.named_parameters() if decay[id(weight)] == 0.3}
    inner = {f"blocks.{block}.{layer}.weight" for block in (0, 1) for layer in (1, 4)}
    assert decayed == inner | {"embedding.weight", "head.weight"}
    assert {decay[id(w)] for n, w in model.named_parameters() if n not in decayed} == {0.0}


def test_adamw_is_adamw():
    """Written out in float64; the decay is decoupled and comes first."""
    model = tiny()
    expected = copy.deepcopy(model).double()
    moments = {name: (0.0, 0.0) for name, _ in expected.named_parameters()}
    for step in range(3):
        by_hand(expected, batches(step)).backward()
        with torch.no_grad():
            for name, w in expected.named_parameters():
                first, second = moments[name]
                moments[name] = first, second = (
                    0.9 * first + 0.1 * w.grad,
                    0.95 * second + 0.05 * w.grad**2,
                )
                w *= 1 - 0.01 * (0.3 if w.dim() == 2 else 0)
                first, second = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.95 ** (step + 1))
                w -= 0.01 * first / (second.sqrt() + 1e-8)
                w.grad = None
    learn(model, adamw(model, 0.01, weight_decay=0.3))
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)


def test_adamw_is_the_fused_one():
    assert adamw(tiny(), 1e-3).defaults["fused"]


def test_frozen_weights_stay_out():
    model = tiny()
    model.embedding.requires_grad_(False)
    trained = [w for group in adamw(model, 1e-3).param_groups for w in group["params"]]
    assert all(w is not model.embedding.weight for w in trained)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_orthogonalised_matrices_have_singular_values_about_1(rows, columns, seed):
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    u, values, vt = torch.linalg.svd(matrix, full_matrices=False)
    # Five steps lift what is above about 1/100 of the norm; below, there is less to say.
    large = values > 0.02 * matrix.norm()
    turned = u.mT @ orthogonalise(matrix) @ vt.mT
    assert torch.allclose(turned, turned.diagonal().diag(), atol=1e-9)
    assert ((turned.diagonal() > 0.6) & (turned.diagonal() < 1.25))[large].all()


def test_each_singular_value_goes_through_the_polynomial():
    matrix = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, values, vt = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert torch.allclose(orthogonalise(matrix), u @ values.diag() @ vt, atol=1e-12)


def test_many_matrices_at_once_are_each_by_itself():
    many = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    single = torch.stack([orthogonalise(m) for m in many.flatten(0, 1)]).view_as(many)
    assert torch.allclose(orthogonalise(many), single, atol=1e-12)


def test_a_gradient_of_zero_stays_zero():
    assert orthogonalise(torch.zeros(3, 2)).abs().max() == 0


def matrices():
    draw = torch.Generator().manual_seed(0)
    shapes = [(6, 4), (4, 6), (6, 4), (5, 5)]
    weights = [nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=draw)
    return weights


@pytest.mark.parametrize(
    ("scale", "name"), [(like_adamw, "match_rms_adamw"), (by_shape, "original")]
)
def test_muon_is_torchs_but_for_its_rounding(scale, name):
    ours, theirs = matrices(), matrices()
    own = Muon(ours, 0.02, weight_decay=0.3, scale=scale, precision=BFLOAT16)
    reference = torch.optim.Muon(theirs, 0.02, weight_decay=0.3, adjust_lr_fn=name)
    for _ in range(4):
        own.step()
        reference.step()
        for mine, other in zip(ours, theirs, strict=True):
            other.grad = other.grad.flip(0) * 1.5
            mine.grad = mine.grad.flip(0) * 1.5
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=2e-3)


def test_muons_step_worked_out():
    (weight, *_) = matrices()
    start, gradient = weight.detach().double(), weight.grad.double()
    optimizer = Muon([weight], 0.1, weight_decay=0.5, momentum=0.9)
    expected, memory = start, 0
    for _ in range(2):
        memory = 0.9 * memory + 0.1 * gradient
        update = orthogonalise(0.9 * memory + 0.1 * gradient)
        expected = (1 - 0.1 * 0.5) * expected - 0.1 * 0.2 * 6**0.5 * update
        optimizer.step()
    torch.testing.assert_close(weight.double(), expected, rtol=0, atol=1e-5)


def test_muons_step_is_as_long_as_adamws():
    weight = nn.Parameter(torch.zeros(40, 60))
    weight.grad = torch.randn(40, 60, generator=torch.Generator().manual_seed(0))
    Muon([weight], 1.0).step()
    assert 0.15 < weight.square().mean().sqrt() < 0.25


def test_muon_leaves_weights_without_a_gradient():
    first, *rest = matrices()
    first.grad = None
    before = first.detach().clone()
    Muon([first, *rest], 0.1).step()
    assert torch.equal(first, before)


def test_muon_gets_the_matrices_of_the_blocks_and_adamw_the_rest():
    model = tiny()
    own, rest = muon(model, 1e-3).optimizers
    names = {id(w): name for name, w in model.named_parameters()}

    def of(optimizer):
        return {names[id(w)] for group in optimizer.param_groups for w in group["params"]}

    assert of(own) == {f"blocks.{b}.{layer}.weight" for b in (0, 1) for layer in (1, 4)}
    assert of(own) | of(rest) == set(names.values())
    assert not of(own) & of(rest)
    assert isinstance(own, Muon)
    assert isinstance(rest, torch.optim.AdamW)


def test_hidden_matrices_leave_out_embeddings_within_blocks():
    model = nn.ModuleList([nn.ModuleList([nn.Embedding(3, 2), nn.Linear(2, 4)])])
    assert [tuple(w.shape) for w in hidden_matrices(model)] == [(4, 2)]


def test_other_matrices_can_be_named():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    own, _ = muon(model, 1e-3, hidden=lambda m: [m[0].weight]).optimizers
    assert own.param_groups[0]["params"][0] is model[0].weight


@pytest.mark.parametrize("make", [adamw, muon])
def test_a_state_taken_up_goes_on_alike(make):
    model = tiny()
    optimizer = make(model, 0.01)
    learn(model, optimizer)
    other = copy.deepcopy(model)
    second = make(other, 0.5)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert same(learn(model, optimizer), learn(other, second))
    assert not same(model, tiny())


def test_learning_rates_set_on_the_group_hold():
    model = tiny()
    optimizer = muon(model, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    assert same(learn(model, optimizer), tiny())


@pytest.mark.parametrize("make", [adamw, muon])
def test_training_lowers_the_loss(make):
    model = tiny()
    before = by_hand(model, batches(0)).item()
    optimizer = make(model, 0.02)
    for _ in range(30):
        by_hand(model, batches(0)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert by_hand(model, batches(0)).item() < before / 2


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (lambda: adamw("model", 1.0), TypeError, "model must be an nn.Module; it is a str"),
        (lambda: adamw(nn.GELU(), 1.0), ValueError, "no weight that requires a gradient"),
        (lambda: adamw(tiny(), -1.0), ValueError, "lr must be a number from 0 up; it is -1.0"),
        (lambda: adamw(tiny(), 1.0, weight_decay=-1), ValueError, "weight_decay must be"),
        (lambda: adamw(tiny(), 1.0, eps=float("nan")), ValueError, "eps must be"),
        (lambda: muon(nn.Linear(2, 2), 1.0), ValueError, "found none in an nn.ModuleList"),
        (lambda: Muon([nn.Parameter(torch.zeros(3))], 1.0), ValueError, r"has shape \(3,\)"),
        (
            lambda: Muon(matrices(), 1.0, momentum=1),
            ValueError,
            "momentum must lie from 0 to below",
        ),
        (lambda: orthogonalise(torch.zeros(3)), ValueError, "at least two axes"),
        (lambda: orthogonalise(torch.zeros(3, 3, dtype=torch.int64)), ValueError, "floating-point"),
        (lambda: orthogonalise(torch.zeros(3, 3), steps=0), ValueError, "steps must be at least 1"),
        (lambda: Together(), ValueError, "there are 0"),
        (
            lambda: Together(*[torch.optim.SGD(tiny_weights, 1.0) for _ in "ab"]),
            ValueError,
            "1 weights twice",
        ),
        (lambda: muon(tiny(), 1.0).load_state_dict({}), ValueError, "of 2 optimizers; it is of 0"),
    ],
)
def test_bad_input_is_answered_in_words(use, error, says):
    with pytest.raises(error, match=says):
        use()


tiny_weights = [nn.Parameter(torch.zeros(2))]
