"""Exact probabilities against enumeration of all short texts, and the entropy rate against two other ways."""

import itertools
import math
import random
import time
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_lab.data import Grammar, Rule, agreement, brackets

# a x b: x is written n times; c closes. Long memory: what began with a ends with b, and c with d.
RULES = {
    "S": [Rule(0.3, "a", ("X", "B")), Rule(0.5, "c", ("D",)), Rule(0.2, "x")],
    "X": [Rule(0.4, "x", ("X",)), Rule(0.6, "c")],
    "B": [Rule(1.0, "b")],
    "D": [Rule(0.7, "a", ("B", "B")), Rule(0.3, "b")],
}
SMALL = Grammar(RULES, "S")


def texts(rules, start, length):
    """Every text of a length with its probability, by writing out the leftmost symbol again and again."""
    open_ = {((), (start,)): 1.0}
    for _ in range(length):
        longer = Counter()
        for (words, left), probability in open_.items():
            for rule in rules[left[0]]:
                rest = rule.then + left[1:]
                longer[(*words, rule.token), rest or (start,)] += probability * rule.probability
        open_ = longer
    found = Counter()
    for (words, _), probability in open_.items():
        found[words] += probability
    return found


def rate_by_sentences(rules, start):
    """Entropy of a sentence over its mean length: sentences are independent of each other.

    Both follow from the rules alone: x(symbol) = x(rule) + Σ probability · x(symbols behind).
    """
    place = {symbol: number for number, symbol in enumerate(rules)}
    behind = np.zeros((len(rules), len(rules)))
    own = np.zeros((len(rules), 2))
    for symbol, each in rules.items():
        for rule in each:
            own[place[symbol], 0] -= rule.probability * math.log(rule.probability)
            own[place[symbol], 1] += rule.probability
            for other in rule.then:
                behind[place[symbol], place[other]] += rule.probability
    entropy, length = np.linalg.solve(np.eye(len(rules)) - behind, own)[place[start]]
    return entropy / length


@st.composite
def grammars(draw):
    """Random rules: symbol n may write itself last, and symbols after n anywhere."""
    count = draw(st.integers(1, 4))
    rules = {}
    for number in range(count):
        tokens = draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=4, unique=True))
        weights = [draw(st.integers(1, 9)) for _ in tokens]
        later = (
            st.lists(st.integers(number + 1, count - 1), max_size=2)
            if number < count - 1
            else st.just([])
        )
        each = []
        for place, (token, weight) in enumerate(zip(tokens, weights, strict=True)):
            then = [f"S{n}" for n in draw(later)]
            if place and draw(st.booleans()):
                then.append(f"S{number}")
            each.append(Rule(weight / sum(weights), token, tuple(then)))
        rules[f"S{number}"] = each
    return rules


@pytest.mark.parametrize("length", range(1, 7))
def test_probability_of_every_short_text(length):
    known = texts(RULES, "S", length)
    assert math.isclose(sum(known.values()), 1)
    for words in itertools.product(SMALL.vocabulary, repeat=length):
        found = SMALL.log_prob(SMALL.encode(" ".join(words)))
        if words in known:
            assert math.isclose(found, math.log(known[words]), rel_tol=1e-12)
        else:
            assert found == -math.inf


def test_next_token_after_every_short_prefix():
    known = {length: texts(RULES, "S", length) for length in range(6)}
    for length in range(5):
        for prefix, probability in known[length].items():
            after = SMALL.next_token(SMALL.encode(" ".join(prefix)))
            expected = [
                known[length + 1][(*prefix, word)] / probability for word in SMALL.vocabulary
            ]
            torch.testing.assert_close(after, torch.tensor(expected, dtype=torch.float64))


def test_log_probs_are_those_of_the_next_token():
    ids = SMALL.sample(60, seed=3).tolist()
    expected = [SMALL.next_token(ids[:place])[token].log() for place, token in enumerate(ids)]
    torch.testing.assert_close(SMALL.log_probs(ids), torch.stack(expected))
    found = SMALL.log_probs(SMALL.encode("c b b a x"))
    assert found[:2].isfinite().all() and found[2:].eq(-math.inf).all()
    assert len(found) == 5


@settings(max_examples=50, deadline=None)
@given(grammars())
def test_entropy_rate_is_that_of_independent_sentences(rules):
    grammar = Grammar(rules, "S0")
    assert math.isclose(
        grammar.entropy_rate(), rate_by_sentences(rules, "S0"), rel_tol=1e-9, abs_tol=1e-12
    )


@pytest.mark.parametrize(
    "grammar",
    [SMALL, brackets(1), brackets(5, 3), agreement(0), agreement(3)],
    ids=["small", "brackets 1", "brackets 5", "agreement 0", "agreement 3"],
)
def test_entropy_rate_of_these(grammar):
    rate = grammar.entropy_rate()
    assert math.isclose(rate, rate_by_sentences(grammar.rules, grammar.start), rel_tol=1e-10)
    surprise = -grammar.log_probs(grammar.sample(200_000, seed=1))
    means = surprise.reshape(200, 1000).mean(1)
    assert abs(surprise.mean() - rate) <= 5 * means.std() / math.sqrt(200) + 1e-12


def test_rates_known_in_closed_form():
    die = Grammar({"S": [Rule(1 / 6, str(n)) for n in range(6)]}, "S")
    assert math.isclose(die.entropy_rate(), math.log(6))
    certain = Grammar({"S": [Rule(1.0, "tick", ("T",))], "T": [Rule(1.0, "tock")]}, "S")
    assert certain.entropy_rate() == 0
    assert certain.decode(certain.sample(5)) == "tick tock tick tock tick"
    # Every second token is a fair toss.
    half = Grammar({"S": [Rule(1.0, "x", ("T",))], "T": [Rule(0.5, "h"), Rule(0.5, "t")]}, "S")
    assert math.isclose(half.entropy_rate(), math.log(2) / 2)


def test_windows_have_the_probability_with_which_they_occur():
    def of_all(length):
        rows = torch.cartesian_prod(*[torch.arange(4)] * length).reshape(-1, length)
        return rows, SMALL.window_log_probs(rows).sum(1).exp().reshape([4] * length)

    rows, longer = of_all(4)
    _, shorter = of_all(3)
    assert math.isclose(longer.sum(), 1)
    torch.testing.assert_close(longer.sum(3), shorter)  # what follows adds up
    torch.testing.assert_close(
        longer.sum(0), shorter
    )  # and what goes before: the text has no begin
    text = SMALL.sample(200_000, seed=2)
    counts = Counter(map(tuple, text.unfold(0, 4, 4).tolist()))
    for row, probability in zip(rows.tolist(), longer.flatten().tolist(), strict=True):
        spread = math.sqrt(50_000 * probability * (1 - probability))
        assert abs(counts[tuple(row)] - 50_000 * probability) <= 5 * spread + 1e-6


def test_the_last_token_of_longer_windows_comes_down_to_the_rate():
    conditional = []
    for length in range(1, 8):
        rows = torch.cartesian_prod(*[torch.arange(4)] * length).reshape(-1, length)
        found = SMALL.window_log_probs(rows)
        possible = found.isfinite().all(1)
        found = found[possible]
        conditional.append(-(found.sum(1).exp() * found[:, -1]).sum().item())
    assert conditional == sorted(conditional, reverse=True)
    assert SMALL.entropy_rate() < conditional[-1] < SMALL.entropy_rate() + 0.03


def test_windows_that_cannot_be():
    rows = torch.tensor([SMALL.encode("a a a a"), SMALL.encode("a b b x")])
    found = SMALL.window_log_probs(rows)
    assert found[0].tolist()[2:] == [-math.inf] * 2  # after a stands x, c or b
    assert found[1].isfinite().all()


def test_the_share_of_states_is_that_of_a_long_walk():
    shares = SMALL.stationary
    assert math.isclose(shares.sum(), 1)
    # State 0 is the begin of a sentence: once every mean length.
    mean = sum(
        length * probability for length, probability in lengths_of_sentences(RULES, "S").items()
    )
    assert math.isclose(shares[0], 1 / mean, rel_tol=1e-9)


def lengths_of_sentences(rules, start, most=80):
    lengths = Counter()
    left = {(start,): 1.0}
    for length in range(1, most):
        longer = Counter()
        for stack, probability in left.items():
            for rule in rules[stack[0]]:
                longer[rule.then + stack[1:]] += probability * rule.probability
        lengths[length] = longer.pop((), 0.0)
        left = longer
    return lengths


def test_samples_have_their_probabilities():
    known = texts(RULES, "S", 3)
    counts = Counter(tuple(SMALL.decode(SMALL.sample(3, seed=n)).split()) for n in range(3000))
    assert set(counts) <= set(known)
    for words, probability in known.items():
        spread = math.sqrt(3000 * probability * (1 - probability))
        assert abs(counts[words] - 3000 * probability) < 5 * spread


@pytest.mark.usefixtures("as_a_user")  # the check of shapes draws itself
def test_a_sample_is_quick_and_the_same_again():
    grammar = agreement()
    begin = time.perf_counter()
    text = grammar.sample(200_000, seed=4)
    assert time.perf_counter() - begin < 2
    assert text.dtype == torch.int64 and text.shape == (200_000,)
    before = random.getstate(), torch.get_rng_state()
    assert torch.equal(grammar.sample(200_000, seed=4), text)
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert not torch.equal(grammar.sample(200_000, seed=5), text)
    assert torch.equal(grammar.sample(100, seed=4), text[:100])


def test_words_and_ids():
    assert SMALL.vocabulary == ("a", "b", "c", "x")
    assert SMALL.vocab_size == 4
    assert SMALL.encode(" a  x\nc") == [0, 3, 2]
    assert SMALL.decode(torch.tensor([0, 3, 2])) == "a x c"
    assert SMALL.encode("") == []
    assert SMALL.log_prob([]) == 0
    assert SMALL.num_states == 5  # S, XB, B, D, BB


def one(*rules, **more):
    return Grammar({"S": list(rules), **more}, "S")


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (
            lambda: Grammar(RULES, "T"),
            ValueError,
            "start must be a symbol with rules; 'T' has none",
        ),
        (lambda: one(), ValueError, "every symbol needs a rule; 'S' has none"),
        (
            lambda: one((1.0, "a")),
            TypeError,
            r"must be a Rule\(probability, token, then\); 'S' has",
        ),
        (lambda: one(Rule(1.0, "a b")), ValueError, "one word without spaces; 'a b' of 'S' isn't"),
        (lambda: one(Rule(1.0, "")), ValueError, "one word without spaces; '' of 'S'"),
        (lambda: one(Rule(0.0, "b"), Rule(1.0, "a")), ValueError, "above 0 and at most 1; 'b'"),
        (lambda: one(Rule(1.5, "a"), Rule(-0.5, "b")), ValueError, "at most 1; 'a' of 'S' has 1.5"),
        (lambda: one(Rule(float("nan"), "a")), ValueError, "'a' of 'S' has nan"),
        (
            lambda: one(Rule(0.5, "a"), Rule(0.4, "b")),
            ValueError,
            "add up to 1; those of 'S' give 0.9",
        ),
        (lambda: one(Rule(1.0, "a", "S")), TypeError, "must be a tuple.* stands 'S'"),
        (
            lambda: one(Rule(1.0, "a", ("T",))),
            ValueError,
            "needs rules; 'T', after 'a' of 'S', has none",
        ),
        (
            lambda: one(Rule(0.5, "a"), Rule(0.5, "a", ("S",))),
            ValueError,
            "two of 'S' begin with 'a'. Join them",
        ),
        (
            lambda: one(Rule(0.5, "a"), Rule(0.5, "b", ("S", "S"))),
            ValueError,
            "at most 4096 stacks .* nest without bound",
        ),
        (
            lambda: one(Rule(1.0, "a", ("T",)), T=[Rule(1.0, "b", ("T",))]),
            ValueError,
            "every sentence must be able to end",
        ),
        (lambda: SMALL.encode("a z"), ValueError, "in the vocabulary, a, b, c, x; 'z' isn't"),
        (lambda: SMALL.decode([4]), ValueError, "between 0 and 3; 4 is among them"),
        (lambda: SMALL.decode([-1]), ValueError, "between 0 and 3; -1 is among them"),
        (lambda: SMALL.decode(["a"]), TypeError, "whole numbers; 'a' is in it"),
        (lambda: SMALL.sample(0), ValueError, "length must be at least 1; it is 0"),
        (lambda: SMALL.sample(1, seed=-1), ValueError, "seed must be at least 0"),
        (lambda: SMALL.log_probs([9]), ValueError, "between 0 and 3; 9"),
        (lambda: SMALL.log_prob([0.5]), TypeError, "whole numbers; 0.5 is in it"),
        (lambda: SMALL.next_token([0, 1]), ValueError, "'b' can't stand at place 1"),
        (lambda: SMALL.window_log_probs([[0]]), ValueError, r"axes \(batch, length\)"),
        (
            lambda: SMALL.window_log_probs(torch.zeros(3).long()),
            ValueError,
            r"axes \(batch, length\)",
        ),
        (lambda: SMALL.window_log_probs(torch.zeros(1, 3)), ValueError, "tensor of token ids"),
        (lambda: SMALL.window_log_probs(torch.tensor([[4]])), ValueError, "between 0 and 3; 4"),
    ],
)
def test_bad_input_is_answered_in_words(use, error, says):
    with pytest.raises(error, match=says):
        use()
