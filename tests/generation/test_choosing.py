"""The likeliest token is taken, and drawing follows the probabilities."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_lab.generation import Sampling, Temperature, TopK, greedy
from transformer_lab.generation.choosing import chances

NO_PAST = torch.zeros(1, 1, dtype=torch.int64)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(any))
def test_each_token_gets_its_share_of_the_chances(sizes):
    """With the chances 0, 1/n, 2/n … each token comes as often as its probability says."""
    n = 100 * sum(sizes)
    logits = torch.tensor(sizes, dtype=torch.float64).log().expand(n, -1)
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n  # never on an edge between two tokens
    drawn = Sampling()(logits, NO_PAST.expand(n, 1), grid)
    assert torch.bincount(drawn, minlength=len(sizes)).tolist() == [100 * size for size in sizes]


def test_tokens_of_no_probability_are_never_drawn():
    ends = torch.tensor([0.0, 1 - 2**-23])
    for scale in (0.0, 0.1, 3.0):
        for seed in range(30):
            draw = torch.Generator().manual_seed(seed)
            logits = scale * torch.randn(2, 1000, generator=draw)
            logits[:, :3] = logits[:, -3:] = -torch.inf
            drawn = Sampling()(logits, NO_PAST.expand(2, 1), ends)
            assert 3 <= drawn[0] < drawn[1] < 997


def test_filters_act_in_their_order():
    seen = []

    def note(name):
        return lambda logits, past: seen.append((name, past.tolist())) or logits + 1

    Sampling([note("a"), note("b")])(torch.zeros(1, 3), NO_PAST, torch.tensor([0.5]))
    assert seen == [("a", [[0]]), ("b", [[0]])]
    # Half of the tokens above 0 remain; sharpened beforehand or not, they share alike.
    logits = torch.tensor([[2.0, 1.0, 2.0, 0.0]]).expand(2, -1)
    chance = torch.tensor([0.49, 0.51])
    both = Sampling([Temperature(0.1), TopK(2)])(logits, NO_PAST.expand(2, 1), chance)
    assert both.tolist() == [0, 2]


def test_greedy_takes_the_largest():
    logits = torch.tensor([[0.0, 2.0, -1.0], [-3.0, -2.0, -1.0]])
    assert greedy(logits).tolist() == [1, 2]


def test_chances_depend_on_seed_row_and_step_alone():
    many = chances(5, 6, 40)
    assert torch.equal(chances(5, 2, 3), many[:2, :3])
    assert torch.equal(chances(5, 6, 40), many)
    rows = [tuple(row) for seed in range(20) for row in chances(seed, 8, 4).tolist()]
    assert len(set(rows)) == len(rows)  # no row of one seed is a row of another
    long = chances(0, 4, 20_000)
    assert long.min() >= 0 and long.max() <= 1 - 2**-23
    assert torch.equal((long * 2**23).round(), long * 2**23)
    tenths = torch.histc(long, 10, 0, 1) / long.numel()
    assert (tenths - 0.1).abs().max() < 0.005


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("filters", "says"),
    [
        (TopK(5), r"filters must be a list, such as \[TopK\(50\)\]; it is TopK\(k=5\)"),
        ([TopK], "each filter must be a function .* one is <class"),
        ([50], "each filter must be a function .* one is 50"),
    ],
)
def test_what_is_no_list_of_filters_is_refused(filters, says):
    with pytest.raises(TypeError, match=says):
        Sampling(filters)
