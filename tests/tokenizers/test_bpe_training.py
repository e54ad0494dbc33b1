"""Merges are the greedy ones, and the library's."""

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizers.library import ENGLISH, trained
from transformer_lab.tokenizers import BytePairTokenizer, learn_merges
from transformer_lab.tokenizers.words import spelled


def by_counting_anew(words, num_tokens):
    """The definition: count all pairs, merge the best, begin again."""
    order = sorted((bytes([byte]) for byte in range(256)), key=spelled)
    words = [([bytes([byte]) for byte in word], count) for word, count in words.items()]
    merges = []
    while len(order) < 256 + num_tokens:
        counts = Counter()
        for word, count in words:
            for place in range(len(word) - 1):
                counts[word[place], word[place + 1]] += count
        if not counts:
            return None
        best = max(counts.values())
        _, _, left, right = min(
            (order.index(a), order.index(b), a, b) for (a, b), n in counts.items() if n == best
        )
        merges.append((left, right))
        if left + right not in order:
            order.append(left + right)
        for word, _ in words:
            place = 0
            while place < len(word) - 1:
                if word[place : place + 2] == [left, right]:
                    word[place : place + 2] = [left + right]
                place += 1
    return merges


letters = st.sampled_from([b"a", b"b", b"c", b"\x00", b" "])
counted = st.dictionaries(
    st.lists(letters, min_size=1, max_size=14).map(b"".join), st.integers(1, 4), max_size=12
)


@settings(max_examples=200, deadline=None)
@given(counted, st.integers(0, 25))
def test_merges_are_the_greedy_ones(words, num_tokens):
    expected = by_counting_anew(words, num_tokens)
    if expected is None:
        with pytest.raises(ValueError, match=f"pairs for {num_tokens} new tokens; after "):
            learn_merges(words, num_tokens)
    else:
        assert learn_merges(words, num_tokens) == expected


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("abé' \n"), min_size=1, max_size=200))
def test_merges_of_a_small_text_are_the_librarys(text):
    library, merges = trained([text], 256 + 20)
    mine = BytePairTokenizer.train(text, library.get_vocab_size())
    assert [(spelled(left), spelled(right)) for left, right in mine.merges] == merges


def test_merges_of_a_real_text_are_the_librarys():
    library, merges = trained([ENGLISH], 1000)
    start = time.process_time()
    mine = BytePairTokenizer.train(ENGLISH, 1000)
    assert time.process_time() - start < 5
    assert [(spelled(left), spelled(right)) for left, right in mine.merges] == merges
    assert {spelled(token): number for number, token in enumerate(mine.tokens)} == (
        library.get_vocab()
    )


def test_overlaps_count_and_are_merged_from_the_left():
    assert learn_merges({b"aaa": 1, b"bc": 1}, 2) == [(b"a", b"a"), (b"b", b"c")]
    assert learn_merges({b"aaaaa": 1}, 3) == [(b"a", b"a"), (b"aa", b"a"), (b"aa", b"aaa")]


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("ab"), min_size=30, max_size=120))
def test_no_two_merges_spell_the_same_token(text):
    try:
        merges = learn_merges({text.encode(): 1}, 12)
    except ValueError:
        return
    assert len({left + right for left, right in merges}) == 12


def test_nothing_is_learned_of_special_tokens():
    text = "one <|end|>two<|end|> three three<|end|>" * 3
    _, merges = trained(text.split("<|end|>"), 262)
    mine = BytePairTokenizer.train(text, 263, ["<|end|>"])
    assert [(spelled(left), spelled(right)) for left, right in mine.merges] == merges
    assert mine.special_tokens == {"<|end|>": 262}
    assert mine.vocab_size == 263
    assert BytePairTokenizer.train(text, 262).merges != mine.merges


@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (lambda: learn_merges({b"ab": 1}, 2), ValueError, "for 2 new tokens; after 1 .* 257 is the most"),
        (lambda: learn_merges({"ab": 1}, 1), TypeError, r"bytes; one is 'ab'. Write word.encode\(\)"),
        (lambda: learn_merges({b"ab": 0}, 1), ValueError, "the count of b'ab' must be at least 1"),
        (lambda: learn_merges({b"ab": 1.5}, 1), TypeError, "of b'ab' must be a whole number; it is 1.5"),
        (lambda: learn_merges({}, -1), ValueError, "num_tokens must be at least 0; it is -1"),
        (lambda: BytePairTokenizer.train("", 257), ValueError, "for 1 new tokens; after 0"),
        (lambda: BytePairTokenizer.train("a", 257, "ab"), TypeError, r"is the text 'ab'. Write \('ab',\)"),
        (lambda: BytePairTokenizer.train("a", 256, ["x"]), ValueError, "at least 257, .* 1 special"),
        (lambda: BytePairTokenizer.train("a", 300.0), TypeError, "vocab_size must be a whole number"),
        (lambda: BytePairTokenizer.train(["a"], 300), TypeError, "text must be a str; it is a list"),
        (lambda: BytePairTokenizer.train("a", 300, [""]), ValueError, "must not hold the empty text"),
        (lambda: BytePairTokenizer.train("a", 300, ["<a>"] * 2), ValueError, "'<a>' is there 2 times"),
        (lambda: BytePairTokenizer.train("a", 300, [1]), TypeError, "must hold texts; it holds 1"),
        (lambda: BytePairTokenizer.train("a", 300, ["\ud800"]), ValueError, "must be valid Unicode"),
        (lambda: BytePairTokenizer.train("a", 257, ["a"]), ValueError, "'a' is spelled like an ordinary"),
        (lambda: BytePairTokenizer.train("ab ab", 258, ["ab"]), ValueError, "nothing is left"),
    ],
)  # fmt: skip
def test_bad_input_is_answered_in_words(use, error, says):
    with pytest.raises(error, match=says):
        use()
