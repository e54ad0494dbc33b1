"""BERT's cleaning and words are those of the library, for every character that both know alike."""

import unicodedata

import pytest
from hypothesis import given, settings

from tests.tokenizers.library import ASSIGNED, ODD, pre_tokenizers, texts, tokenizers
from transformer_lab.tokenizers import cased, uncased
from transformer_lab.tokenizers.normalization import bert_words

CASED = tokenizers.normalizers.BertNormalizer(lowercase=False)
UNCASED = tokenizers.normalizers.BertNormalizer(lowercase=True)
WORDS = pre_tokenizers.BertPreTokenizer()


def their_words(text):
    return [word for word, _ in WORDS.pre_tokenize_str(text)]


def alike(character):
    return (
        cased(character) == CASED.normalize_str(character)
        and uncased(character) == UNCASED.normalize_str(character)
        and bert_words(cased(f"a{character}b"))
        == their_words(CASED.normalize_str(f"a{character}b"))
    )


# The library's tables are those of an older Unicode, so it doesn't know some characters' kinds.
OTHER = {character for character in ASSIGNED if not alike(character)}
WITHOUT_OTHER = str.maketrans(dict.fromkeys(OTHER, ""))


def test_only_newer_characters_differ():
    old = {each for each in OTHER if unicodedata.ucd_3_2_0.category(each) != "Cn"}
    # Signs whose kind Unicode has changed since.
    changed = {each for each in old
               if unicodedata.ucd_3_2_0.category(each) != unicodedata.category(each)}  # fmt: skip
    assert old == changed
    assert len(old) < 10
    assert len(OTHER) < 1000
    assert not OTHER & set(ODD)


@settings(deadline=None)
@given(texts)
def test_texts_are_cleaned_as_the_library_does(text):
    text = text.translate(WITHOUT_OTHER)
    for mine, library in ((cased, CASED), (uncased, UNCASED)):
        assert mine(text) == library.normalize_str(text)
        assert bert_words(mine(text)) == their_words(library.normalize_str(text))


@pytest.mark.parametrize(
    ("text", "clean", "folded"),
    [
        ("Ünïcödé", "Ünïcödé", "unicode"),
        ("a\u200bb\x00c\ufffd\ue000", "abc", "abc"),
        ("a\tb\u3000c\x0bd", "a b cd", "a b cd"),
        ("x中y", "x 中 y", "x 中 y"),
        ("かな", "かな", "かな"),
        ("が", "が", "か"),  # the sign of voice is a mark without width
        ("ΟΔΟΣ İ ẞ", "ΟΔΟΣ İ ẞ", "οδοσ i ß"),
        ("\ud800a", "a", "a"),
    ],
)
def test_texts_known_by_hand(text, clean, folded):
    assert cased(text) == clean
    assert uncased(text) == folded


def test_words_known_by_hand():
    assert bert_words("it's $5.50_x, «so»") == (
        ["it", "'", "s", "$", "5", ".", "50", "_", "x", ",", "«", "so", "»"]
    )
    assert bert_words(" \n ") == []


@pytest.mark.parametrize("clean", [cased, uncased])
def test_what_is_no_text_is_answered_in_words(clean):
    with pytest.raises(TypeError, match="text must be a str; it is a bytes"):
        clean(b"ab")
