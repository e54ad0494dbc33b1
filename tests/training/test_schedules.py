"""Schedules at their corners, against torch's own, and as properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_lab.training import Constant, Cosine, Linear, Noam, WarmupStableDecay

ALL = [
    Constant(warmup=3),
    Linear(steps=10, warmup=3, end=0.2),
    Cosine(steps=10, warmup=3, end=0.2),
    WarmupStableDecay(steps=10, warmup=3, decay=4, end=0.2),
]


@pytest.mark.parametrize("schedule", ALL, ids=lambda each: type(each).__name__)
def test_warm_up_is_a_straight_line_that_no_step_spends_at_zero(schedule):
    assert [schedule(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("schedule", ALL[1:], ids=lambda each: type(each).__name__)
def test_the_end_is_reached_one_step_after_the_last(schedule):
    assert schedule(10) == schedule(1000) == pytest.approx(0.2)
    assert schedule(9) > 0.2


@pytest.mark.parametrize("schedule", ALL[1:], ids=lambda each: type(each).__name__)
def test_it_falls_after_the_warm_up(schedule):
    values = [schedule(step) for step in range(3, 11)]
    assert values == sorted(values, reverse=True)


def torch_rates(make, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_cosine_is_torchs():
    theirs = torch_rates(
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=20, eta_min=0.1), 21
    )
    assert [Cosine(steps=20)(step) for step in range(21)] == pytest.approx(theirs)


def test_linear_is_torchs():
    theirs = torch_rates(
        lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.25, total_iters=8), 12
    )
    assert [Linear(steps=8, end=0.25)(step) for step in range(12)] == pytest.approx(theirs)


def test_cosine_is_half_way_in_the_middle():
    assert Cosine(steps=13, warmup=3, end=0.0)(8) == pytest.approx(0.5)


def test_warmup_stable_decay_stays_and_then_falls_evenly():
    schedule = WarmupStableDecay(steps=10, warmup=2, decay=4)
    assert [schedule(step) for step in range(2, 11)] == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]


@given(st.integers(1, 5000), st.integers(1, 100), st.integers(0, 20_000))
@settings(max_examples=50)
def test_noam_is_equation_3(d_model, warmup, step):
    number = step + 1
    expected = 1 / math.sqrt(d_model) * min(1 / math.sqrt(number), number / warmup**1.5)
    assert Noam(d_model=d_model, warmup=warmup, scale=2.0)(step) == pytest.approx(2 * expected)


def test_noam_is_highest_at_the_end_of_the_warm_up():
    schedule = Noam(d_model=512, warmup=40)
    assert max(range(200), key=schedule) == 39
    assert schedule(39) == pytest.approx(512**-0.5 * 40**-0.5)


@given(st.integers(1, 300), st.data())
@settings(max_examples=50)
def test_factors_lie_between_0_and_1(steps, data):
    warmup = data.draw(st.integers(0, steps - 1))
    for schedule in (Cosine(steps=steps, warmup=warmup, end=0), Linear(steps=steps, warmup=warmup)):
        values = [schedule(step) for step in range(steps)]
        assert min(values) > 0
        assert max(values) == values[warmup] == 1


@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (lambda: Constant(warmup=-1), ValueError, "warmup must be at least 0; it is -1"),
        (lambda: Constant(warmup=1.5), TypeError, "warmup must be a whole number; it is 1.5"),
        (lambda: Constant()(-1), ValueError, "step must be at least 0"),
        (lambda: Noam(d_model=8)(-1), ValueError, "step must be at least 0"),
        (lambda: Linear(steps=0), ValueError, "steps must be at least 1"),
        (lambda: Cosine(steps=5, warmup=5), ValueError, "shorter than the training; .* 5 of 5"),
        (lambda: Cosine(steps=5, end=2), ValueError, "end is a factor from 0 to 1; it is 2"),
        (lambda: WarmupStableDecay(steps=5, decay=0), ValueError, "decay must be at least 1"),
        (
            lambda: WarmupStableDecay(steps=5, decay=3, warmup=3),
            ValueError,
            "they take 3 and 3 of 5 steps",
        ),
        (lambda: Noam(d_model=0), ValueError, "d_model must be at least 1"),
        (lambda: Noam(d_model=1, warmup=0), ValueError, "warmup must be at least 1"),
        (lambda: Noam(d_model=1, scale=0), ValueError, "scale must be a number above 0; it is 0"),
    ],
)
def test_bad_input_is_answered_in_words(use, error, says):
    with pytest.raises(error, match=says):
        use()
