"""One id for each character."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_lab.tokenizers import CharacterTokenizer


@settings(deadline=None)
@given(st.text(min_size=1), st.data())
def test_ids_count_the_sorted_characters(text, data):
    tokenizer = CharacterTokenizer.train(text)
    expected = []
    for character in text:  # its rank: how many smaller characters there are
        expected.append(len({other for other in text if other < character}))
    assert tokenizer.encode(text) == expected
    assert tokenizer.decode(expected) == text
    assert tokenizer.vocab_size == max(expected) + 1
    other = data.draw(st.text(st.sampled_from(text)))
    assert tokenizer.decode(tokenizer.encode(other)) == other


def test_what_is_unknown_gets_the_last_id():
    tokenizer = CharacterTokenizer.train("cab", unknown="<?>")
    assert tokenizer.encode("abcdA") == [0, 1, 2, 3, 3]
    assert tokenizer.decode([0, 3, 2]) == "a<?>c"
    assert tokenizer.vocab_size == 4
    assert tokenizer.unknown == "<?>"


def test_ids_may_be_a_row_of_any_kind():
    tokenizer = CharacterTokenizer("abc")
    for row in ([2, 0], (2, 0), torch.tensor([2, 0]), np.array([2, 0]), iter([2, 0]),
                [torch.tensor(2), np.int64(0)]):  # fmt: skip
        assert tokenizer.decode(row) == "ca"
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("unknown", [None, "<?>"])
def test_saved_and_loaded(tmp_path, unknown):
    text = 'a\u2028b\n\r\t\x00é\ud800😀\\"'
    tokenizer = CharacterTokenizer(text, unknown)
    tokenizer.save(tmp_path / "new" / "folder")
    loaded = CharacterTokenizer.load(tmp_path / "new" / "folder")
    assert (loaded.characters, loaded.unknown) == (text, unknown)
    assert loaded.encode(text) == list(range(len(text)))


ABC = CharacterTokenizer("abc")


@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (lambda: ABC.encode("abéc"), ValueError, r"'é' \(U\+00E9\) at position 2 is not one of the 3 "),
        (lambda: ABC.encode(b"ab"), TypeError, "text must be a str; it is a bytes"),
        (lambda: ABC.encode(["a"]), TypeError, "it is a list"),
        (lambda: ABC.decode([0, 3]), ValueError, "between 0 and 2; at position 1 there is 3. Do "),
        (lambda: ABC.decode([-1]), ValueError, "at position 0 there is -1"),
        (lambda: ABC.decode([1.0]), TypeError, "whole numbers; at position 0 it has 1.0"),
        (lambda: ABC.decode([True]), TypeError, "it has True"),
        (lambda: ABC.decode(torch.tensor([[1]])), TypeError, r"has \[1\]. Decode one row"),
        (lambda: ABC.decode(1), TypeError, r"a row of whole numbers such as \[3, 1\]; it is 1 "),
        (lambda: ABC.decode("abc"), TypeError, "it is 'abc'"),
        (lambda: ABC.decode(torch.tensor(1)), TypeError, "it is 1 "),
        (lambda: CharacterTokenizer.train(""), ValueError, "at least one character"),
        (lambda: CharacterTokenizer.train(3), TypeError, "it is a int"),
        (lambda: CharacterTokenizer("aba"), ValueError, "once; 'a' is there more"),
        (lambda: CharacterTokenizer(["a", "bc"]), ValueError, "length 1; one is 'bc'"),
        (lambda: CharacterTokenizer(["a", 1]), ValueError, "length 1; one is 1"),
        (lambda: CharacterTokenizer("ab", "b"), ValueError, "'b' is. Take one"),
        (lambda: CharacterTokenizer("ab", ""), ValueError, "unknown must be a text or None; it is ''"),
        (lambda: CharacterTokenizer("ab", 3), ValueError, "it is 3"),
    ],
)  # fmt: skip
def test_bad_input_is_answered_in_words(use, error, says):
    with pytest.raises(error, match=says):
        use()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"characters": "ab', r"characters.json must be JSON; .*Unterminated .* cut off"),
        (b'{"characters": "ab"}', "characters.json must hold 'characters' and 'unknown'; it doesn't"),
        (b"[]", "characters.json must hold 'characters' and"),
        (b'{"characters": ["ab"], "unknown": null}', "characters.json must hold the characters as one"),
        (b'{"characters": "aa", "unknown": null}', "characters.json is damaged: .*'a' is there more"),
        (b'{"characters": "a", "unknown": 5}', "characters.json is damaged: unknown must be"),
        (b'{"characters": "a", "characters": "b"}', "each name once; it has 'characters' twice"),
        (b'{"characters": "\xc3', "characters.json must be UTF-8; it has other bytes at 16"),
        (b"[" * 100_000, "characters.json must be JSON"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(tmp_path, content, says):
    (tmp_path / "characters.json").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        CharacterTokenizer.load(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*characters.json; the folder must"):
        CharacterTokenizer.load(tmp_path)
