"""GPT-2's words are those of the library, for every character that Python knows."""

import pytest
from hypothesis import given, settings

from tests.tokenizers.library import ASSIGNED, ENGLISH, ODD, pre_tokenizers, texts
from transformer_lab.tokenizers import gpt2_words
from transformer_lab.tokenizers.words import BYTE_LETTERS, spelled, unspelled

LIBRARY = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def theirs(text):
    return [text[start:end] for _, (start, end) in LIBRARY.pre_tokenize_str(text)]


@settings(deadline=None)
@given(texts)
def test_words_are_the_librarys(text):
    assert gpt2_words(text) == theirs(text)
    assert "".join(gpt2_words(text)) == text


def test_every_character_is_of_the_right_kind():
    # Between a letter, a digit, a sign and a space it joins just those of its own kind.
    text = "".join(f"a{each}1{each}!{each} {each}" for each in [*ASSIGNED, "\ue000", "\U00100000"])
    assert gpt2_words(text) == theirs(text)


def test_every_pair_of_odd_characters():
    for first in ODD:
        text = "".join(f"x{first}{second}" for second in ODD)
        assert gpt2_words(text) == theirs(text)


def test_words_of_a_real_text():
    assert gpt2_words(ENGLISH) == theirs(ENGLISH)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("we'll  go\n\n now ", ["we", "'ll", " ", " go", "\n\n", " now", " "]),
        ("IT'S", ["IT", "'", "S"]),
        ("a_1 ½²", ["a", "_", "1", " ½²"]),
        ("\x1c \x1c", ["\x1c", " \x1c"]),  # white space for `re`, a sign for GPT-2
    ],
)
def test_words_known_by_hand(text, words):
    assert gpt2_words(text) == words


def test_bytes_are_spelled_as_in_gpt2s_files():
    # The library writes the alphabet in no order; GPT-2's ids follow the letters' code points.
    assert list(BYTE_LETTERS.values()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert list(BYTE_LETTERS.values())[220] == spelled(b" ") == "Ġ"  # 220 is the space in GPT-2
    assert unspelled(spelled(bytes(range(256)))) == bytes(range(256))
    for text in ("é", "中 ", "\x00\xad", "😀"):
        assert [spelled(word.encode()) for word in gpt2_words(text)] == [
            word for word, _ in LIBRARY.pre_tokenize_str(text)
        ]
    with pytest.raises(ValueError, match="'a中' has '中', which stands for no byte"):
        unspelled("a中")


@pytest.mark.parametrize("wrong", [b"ab", ["ab"], None])
def test_what_is_no_text_is_answered_in_words(wrong):
    with pytest.raises(TypeError, match=r"text must be a str; it is a .*Give one text at a time"):
        gpt2_words(wrong)
