"""The arithmetic of the benchmarks; nothing is timed here."""

import pytest

from benchmarks.growth import exponent
from benchmarks.measure import OURS, Figure, in_turns


def test_contestants_take_turns_in_an_order_that_shifts():
    order = []
    contestants = {
        name: lambda name=name: order.append(name) or float(len(order)) for name in "abc"
    }
    samples = in_turns(contestants, rounds=3, warmup=1)
    rounds = [order[i : i + 3] for i in range(0, 12, 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert [each[0] for each in rounds[1:]] == ["a", "b", "c"]
    assert {name: len(values) for name, values in samples.items()} == {"a": 3, "b": 3, "c": 3}
    assert samples["a"][0] == 4.0  # the round before doesn't count


def test_ratio_is_to_the_best_peer_round_by_round():
    figure = Figure(
        "task", "tokens/s", {OURS: [4.0, 6.0], "slow": [1.0, 1.0], "quick": [2.0, 4.0]}, 1.7
    )
    assert figure.best_peer == "quick"
    assert figure.ratios == [2.0, 1.5]
    assert figure.holds is True
    assert figure.to_json()["medians"] == {OURS: 5.0, "slow": 1.0, "quick": 3.0}
    assert Figure("task", "tokens/s", {OURS: [4.0]}, 1.0).holds is None


def test_short_of_the_aim_is_said():
    assert Figure("task", "tokens/s", {OURS: [1.0], "peer": [1.1]}, aim=1.0).holds is False


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_exponent_of_a_power(power):
    sizes = [1.0, 3.0, 10.0]
    assert exponent(sizes, [7 * size**power for size in sizes]) == pytest.approx(power)
