"""Each filter against loops over the definition and against Hugging Face's."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_lab.generation import MinP, RepetitionPenalty, Temperature, TopK, TopP

FEW = settings(max_examples=20, deadline=None)
LOGITS = st.lists(st.integers(-40, 40), min_size=2, max_size=9).map(
    lambda numbers: torch.tensor(numbers, dtype=torch.float64) / 8
)


def kept(filtered):
    return {index for index, logit in enumerate(filtered.tolist()) if logit > -math.inf}


def probabilities(logits):
    sizes = [math.exp(logit) for logit in logits.tolist()]
    return [size / sum(sizes) for size in sizes]


def unchanged_where_kept(filtered, logits):
    return all(filtered[index] == logits[index] for index in kept(filtered))


@FEW
@given(LOGITS, st.integers(1, 12))
def test_top_k_keeps_what_fewer_than_k_surpass(logits, k):
    numbers = logits.tolist()
    expected = {i for i, n in enumerate(numbers) if sum(other > n for other in numbers) < k}
    filtered = TopK(k)(logits)
    assert kept(filtered) == expected
    assert unchanged_where_kept(filtered, logits)


@FEW
@given(LOGITS, st.sampled_from([0.01, 0.2, 0.5, 0.77, 0.95, 0.999, 1.0]))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits, p):
    chances = probabilities(logits)
    filtered = TopP(p)(logits)
    nucleus = kept(filtered)
    inside = sum(chances[i] for i in nucleus)
    assert nucleus and unchanged_where_kept(filtered, logits)
    assert inside >= p - 1e-9
    assert inside - min(chances[i] for i in nucleus) < p + 1e-9
    left = [chances[i] for i in range(len(chances)) if i not in nucleus]
    assert max(left, default=0) <= min(chances[i] for i in nucleus)


def test_top_p_keeps_the_token_that_crosses_p():
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    assert kept(TopP(0.39)(logits)[0]) == {1}
    assert kept(TopP(0.41)(logits)[0]) == {1, 3}
    assert kept(TopP(0.71)(logits)[0]) == {1, 2, 3}


def test_top_p_of_a_vocabulary_too_large_to_sort_at_first():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5000, generator=draw, dtype=torch.float64)
    logits[1] *= 6  # a small nucleus beside one of thousands
    for p in (0.3, 0.9, 0.99):
        filtered = TopP(p)(logits)
        for row in range(2):
            order = sorted(range(5000), key=lambda i: -logits[row, i].item())
            chances, reached, expected = probabilities(logits[row]), 0.0, set()
            for i in order:
                expected.add(i)
                reached += chances[i]
                if reached >= p:
                    break
            assert kept(filtered[row]) == expected
            assert unchanged_where_kept(filtered[row], logits[row])


def test_a_p_of_1_keeps_all():
    logits = torch.tensor([0.0, -30.0, -60.0, -90.0])
    assert kept(TopP(1.0)(logits)) == {0, 1, 2, 3}


@FEW
@given(LOGITS, st.sampled_from([0.03, 0.3, 0.9, 1.0]))
def test_min_p_compares_with_the_likeliest(logits, p):
    chances = probabilities(logits)
    near = any(abs(chance / max(chances) - p) < 1e-9 for chance in chances)
    filtered = MinP(p)(logits)
    if p == 1 or not near:
        assert kept(filtered) == {i for i, c in enumerate(chances) if c >= p * max(chances)}
    assert unchanged_where_kept(filtered, logits)


@FEW
@given(LOGITS, st.floats(0.1, 5))
def test_temperature_sharpens_or_flattens(logits, temperature):
    warmed = [chance ** (1 / temperature) for chance in probabilities(logits)]
    found = Temperature(temperature)(logits).softmax(-1).tolist()
    assert found == pytest.approx([w / sum(warmed) for w in warmed], abs=1e-9)


@FEW
@given(
    LOGITS, st.lists(st.integers(0, 1), min_size=1, max_size=6), st.sampled_from([1.0, 1.5, 3.0])
)
def test_repetition_penalty(logits, past, penalty):
    expected = logits.tolist()
    for token in set(past):
        expected[token] *= 1 / penalty if expected[token] > 0 else penalty
    found = RepetitionPenalty(penalty)(logits[None], torch.tensor([past]))
    assert found[0].tolist() == pytest.approx(expected)


def test_filters_are_hugging_faces():
    transformers = pytest.importorskip("transformers")
    draw = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(3, 40, generator=draw)
    past = torch.randint(40, (3, 9), generator=draw)
    theirs = {
        Temperature(0.7): transformers.TemperatureLogitsWarper(0.7),
        TopK(6): transformers.TopKLogitsWarper(6),
        TopP(0.8): transformers.TopPLogitsWarper(0.8),
        MinP(0.1): transformers.MinPLogitsWarper(0.1),
        RepetitionPenalty(1.3): transformers.RepetitionPenaltyLogitsProcessor(1.3),
    }
    for mine, their in theirs.items():
        torch.testing.assert_close(mine(logits, past), their(past, logits.clone()))


def test_filters_leave_their_input_alone():
    logits, past = torch.randn(2, 9), torch.zeros(2, 1, dtype=torch.int64)
    before = logits.clone()
    for each in (Temperature(0.5), TopK(2), TopP(0.5), MinP(0.5), RepetitionPenalty(2.0)):
        each(logits, past)
    assert torch.equal(logits, before)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Temperature(0), ValueError, r"above 0 and finite; it is 0\. .* choose=greedy"),
        (
            lambda: Temperature(-1.0),
            ValueError,
            "temperature must be above 0 and finite; it is -1.0",
        ),
        (lambda: Temperature(math.nan), ValueError, "it is nan"),
        (lambda: Temperature(math.inf), ValueError, "temperature must be above 0 and finite"),
        (lambda: TopK(0), ValueError, "k must be at least 1; it is 0"),
        (lambda: TopK(2.0), TypeError, "k must be a whole number; it is 2.0"),
        (lambda: TopP(0), ValueError, "p must be above 0 and at most 1, .* it is 0"),
        (lambda: TopP(1.1), ValueError, "p must be above 0 and at most 1, .* it is 1.1"),
        (lambda: TopP(math.nan), ValueError, "p must be above 0 and at most 1, .* it is nan"),
        (lambda: MinP(0.0), ValueError, "p must be above 0 and at most 1, .* it is 0.0"),
        (lambda: MinP(50), ValueError, "p must be above 0 and at most 1, .* it is 50"),
        (lambda: RepetitionPenalty(0), ValueError, "penalty must be above 0"),
        (lambda: RepetitionPenalty(-1.2), ValueError, "penalty must be above 0"),
    ],
)
def test_bad_settings_are_answered_in_words(make, error, says):
    with pytest.raises(error, match=says):
        make()
