"""Byte pairs: the same ids as the library's, and the same text back."""

import json
import pickle
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizers.library import ENGLISH, byte_level, models, texts, tokenizers, trained
from transformer_lab.tokenizers import BytePairTokenizer
from transformer_lab.tokenizers.words import spelled

SPECIAL = ("<|endoftext|>", "<|end|>", "<|end|>of")
LIBRARY, _ = trained([ENGLISH], 1000)
MINE = BytePairTokenizer.train(ENGLISH, 1000)
# Learned from odd characters, so that parts of characters are merged too.
UNICODE = "é中文字 naïve 😀😁😀 Привет мир 中文é ½½ \n\n\n  '' ß" * 3
SMALL_LIBRARY, _ = trained([UNICODE], 300)
SMALL = BytePairTokenizer.train(UNICODE, 303, SPECIAL)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_ids_are_the_librarys_and_the_text_comes_back(text):
    for mine, library in ((MINE, LIBRARY), (SMALL, SMALL_LIBRARY)):
        ids = mine.encode(text)
        assert ids == library.encode(text).ids
        assert mine.encode(text) == ids  # the words are kept by now
        assert mine.decode(ids) == text


def test_ids_of_a_real_text_are_the_librarys():
    ids = MINE.encode(ENGLISH)
    assert ids == LIBRARY.encode(ENGLISH).ids
    assert MINE.decode(ids) == ENGLISH
    assert all(type(each) is int for each in ids)
    assert len(ids) < len(ENGLISH) / 2


@settings(deadline=None)
@given(st.lists(st.integers(0, 299), max_size=30))
def test_any_ids_are_decoded_as_the_library_does(ids):
    assert SMALL.decode(ids) == SMALL_LIBRARY.decode(ids)
    assert SMALL.decode_bytes(ids) == b"".join(SMALL.tokens[each] for each in ids)


@settings(max_examples=30, deadline=None)
@given(st.text(st.sampled_from("etaoin"), min_size=100, max_size=400))
def test_long_words(word):
    assert MINE.encode(word) == LIBRARY.encode(word).ids


@pytest.mark.parametrize("word", ["a" * 50_000, "the" * 20_000, "ate" * 20_000])
def test_very_long_words_take_no_squared_time(word):
    start = time.process_time()
    ids = MINE.encode(word)
    assert time.process_time() - start < 5
    assert ids == LIBRARY.encode(word).ids


def test_what_is_kept_does_not_grow_without_end(monkeypatch):
    monkeypatch.setattr("transformer_lab.tokenizers.bpe._MOST_KEPT", 3)
    mine = BytePairTokenizer.train(ENGLISH, 300)
    words = "one two three four five six seven"
    assert mine.encode(words) == mine.encode(words)
    assert mine.decode(mine.encode(words)) == words
    assert len(mine._kept) == 3


def test_special_tokens_are_text_unless_allowed():
    text = "a<|endoftext|> b<|end|>of<|end|>"
    end_of_text, end, end_of = (SMALL.special_tokens[name] for name in SPECIAL)
    plain = SMALL.encode(text)
    assert not {end_of_text, end, end_of} & set(plain)
    assert SMALL.decode(plain) == text
    one = SMALL.encode(text, allowed_special=["<|endoftext|>"])
    assert one == [*SMALL.encode("a"), end_of_text, *SMALL.encode(" b<|end|>of<|end|>")]
    every = SMALL.encode(text, allowed_special=SMALL.special_tokens)
    assert every == [*SMALL.encode("a"), end_of_text, *SMALL.encode(" b"), end_of, end]
    assert SMALL.decode(one) == SMALL.decode(every) == text


@settings(deadline=None)
@given(st.lists(st.sampled_from([*SPECIAL, "<|end", "|>", "a", " ", "中", "of"])).map("".join))
def test_special_tokens_are_found_where_the_library_finds_them(text):
    library = tokenizers.Tokenizer.from_str(SMALL_LIBRARY.to_str())
    library.add_special_tokens(list(SPECIAL))
    ids = SMALL.encode(text, allowed_special=SPECIAL)
    assert ids == library.encode(text).ids
    assert SMALL.decode(ids) == text


def test_tokens_say_what_each_id_means():
    assert SMALL.vocab_size == len(SMALL.tokens) == 303
    assert SMALL.tokens[220] == b" "
    assert SMALL.tokens[256:300] == tuple(left + right for left, right in SMALL.merges)
    assert SMALL.tokens[300:] == tuple(name.encode() for name in SPECIAL)


def test_a_tokenizer_can_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(SMALL)).encode(UNICODE) == SMALL.encode(UNICODE)


def test_saved_and_loaded(tmp_path):
    SMALL.save(tmp_path / "new" / "folder")
    loaded = BytePairTokenizer.load(tmp_path / "new" / "folder")
    assert loaded.tokens == SMALL.tokens
    assert loaded.merges == SMALL.merges
    assert loaded.special_tokens == SMALL.special_tokens
    assert loaded.encode(UNICODE, allowed_special=SPECIAL) == SMALL.encode(UNICODE)


def test_the_library_reads_what_is_saved(tmp_path):
    SMALL.save(tmp_path)
    model = models.BPE.from_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    library = byte_level(model)
    assert library.encode(UNICODE).ids == SMALL.encode(UNICODE)
    assert library.token_to_id("<|end|>") == SMALL.special_tokens["<|end|>"]


def test_what_the_library_saves_is_read(tmp_path):
    # Its special tokens come first, so all other ids are shifted.
    library, _ = trained([UNICODE], 300, ["<|endoftext|>", "<pad>"])
    library.model.save(str(tmp_path))
    mine = BytePairTokenizer.from_gpt2_files(tmp_path, ["<pad>", "<|endoftext|>"])
    assert mine.encode(UNICODE) == library.encode(UNICODE).ids
    assert mine.special_tokens == {"<pad>": 1, "<|endoftext|>": 0}
    assert mine.encode("<pad>é<|endoftext|>", allowed_special=mine.special_tokens) == (
        library.encode("<pad>é<|endoftext|>").ids
    )
    mine.save(tmp_path / "again")
    again = BytePairTokenizer.load(tmp_path / "again")
    assert (again.tokens, again.special_tokens) == (mine.tokens, mine.special_tokens)


def test_ids_of_gpt2_that_are_known():
    # In GPT-2 the bytes come first, then " t" and " a": the first merges of its file.
    merges = [(b" ", b"t"), (b" ", b"a"), (b"h", b"e"), (b"i", b"n"), (b"r", b"e"), (b"o", b"n")]
    tokens = [*MINE.tokens[:256], *(left + right for left, right in merges)]
    mine = BytePairTokenizer({token: number for number, token in enumerate(tokens)}, merges)
    assert mine.encode(" the!") == [256, 258, 0]
    assert mine.encode("\n ") == [198, 220]


def test_two_merges_may_spell_one_token():
    merges = [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"a", b"bc")]
    tokens = [*MINE.tokens[:256], b"ab", b"bc", b"abc"]
    mine = BytePairTokenizer({token: number for number, token in enumerate(tokens)}, merges)
    assert mine.encode("abcbc") == [258, 257]


BYTES = {spelled(bytes([byte])): number for number, byte in enumerate(range(256))}


def write(folder, vocab=None, merges="#version: 0.2\na b\nab c\n", special='["<|end|>"]'):
    if vocab is None:
        vocab = BYTES | {"ab": 256, "abc": 257, "<|end|>": 258}
    vocab = vocab if isinstance(vocab, (str, bytes)) else json.dumps(vocab)
    for name, content in (("vocab.json", vocab), ("merges.txt", merges), ("special_tokens.json", special)):  # fmt: skip
        if content is not None:
            content = content if isinstance(content, bytes) else content.encode()
            (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "merges",
    ["#version: 0.2\na b\nab c\n", "a b\nab c\n", "a b\nab c", "#version: 0.2\r\na b\r\nab c\r\n"],
)
def test_small_differences_between_files_are_read(tmp_path, merges):
    write(tmp_path, merges=merges)
    assert BytePairTokenizer.load(tmp_path).encode("abcab") == [257, 256]


GOOD = BYTES | {"ab": 256, "abc": 257, "<|end|>": 258}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"vocab": json.dumps(GOOD)[:-40]}, r"vocab.json must be JSON; .* cut off"),
        ({"vocab": b'{"\xff": 1}'}, "vocab.json must be UTF-8; it has other bytes at 2"),
        ({"vocab": '{"a": 1, "a": 2}'}, "vocab.json must have each name once; it has 'a' twice"),
        ({"vocab": "[]"}, "vocab.json must hold an id for each token; it holds something else"),
        ({"vocab": GOOD | {"ab": "256"}}, "vocab.json must give whole numbers; 'ab' has '256'"),
        ({"vocab": GOOD | {"ab": True}}, "'ab' has True"),
        ({"vocab": GOOD | {"ab": 257}}, "vocab.json and merges.txt don't fit: each id .*; 257 is given 2"),
        ({"vocab": GOOD | {"<|end|>": 300}}, "don't fit: the ids of 259 tokens must be 0 to 258; 258"),
        ({"vocab": GOOD | {"ab": -1, "abc": 256}}, "257 is missing"),
        ({"vocab": {k: v for k, v in GOOD.items() if k != "<|end|>"}}, "special token '<|end|>'; it hasn't"),
        ({"vocab": {("<x>" if k == "Ġ" else k): v for k, v in GOOD.items()}, "special": '["<x>", "<|end|>"]'},
         r"must have all 256 bytes; 'Ġ' \(byte 32\) is missing"),
        ({"vocab": GOOD | {"中": 259}}, "'中' has '中', which stands for no byte"),
        ({"vocab": GOOD | {"abd": 259}}, r"no merge makes 'abd' \(id 259\). Either merges are"),
        ({"merges": "#version: 0.2\na b\n"}, r"no merge makes 'abc' \(id 257\)"),
        ({"merges": "#version: 0.2\na b\nab"}, "merges.txt must have two tokens .*; line 3 is 'ab'. It"),
        ({"merges": "a b\n\nab c\n"}, "line 2 is ''"),
        ({"merges": "a b c\nab c\n"}, "line 1 is 'a b c'"),
        ({"merges": "a b\nab  c\n"}, "line 2 is 'ab  c'"),
        ({"merges": "a b\nab 中\n"}, "merges.txt, line 2: '中' has '中'"),
        ({"merges": b"a b\nab \xff\n"}, "merges.txt must be UTF-8; it has other bytes at 7"),
        ({"merges": "ab c\na b\n"}, "merge 1, 'ab' with 'c', needs 'ab', which nothing before it makes"),
        ({"merges": "a b\nab c\nb c\n"}, "merge 3, 'b' with 'c', makes 'bc', which the vocabulary lacks"),
        ({"merges": "a b\nab c\na b\n"}, "merge 3, 'a' with 'b', is there a second time"),
        ({"merges": ""}, "no merge makes 'ab'"),
        ({"special": "[]"}, r"no merge makes '<\|end\|>' .* special token and must be given as one"),
        ({"special": "{}"}, r"special_tokens.json must hold a list of texts"),
        ({"special": "[1]"}, r"special_tokens.json is damaged: .* it holds 1"),
        ({"special": '["<|end|>", "<|end|>"]'}, "special_tokens.json is damaged: .* there 2 times"),
        ({"special": '["<|end|>"'}, "special_tokens.json must be JSON"),
        ({"special": '["<|end|>", "ab"]'}, "merge 1, 'a' with 'b', makes 'ab', which the vocabulary lacks"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(tmp_path, files, says):
    write(tmp_path, **files)
    with pytest.raises(ValueError, match=says.replace("<|end|>", r"<\|end\|>")) as error:
        BytePairTokenizer.load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    SMALL.save(tmp_path)
    for name in ("vocab.json", "merges.txt", "special_tokens.json"):
        whole = (tmp_path / name).read_bytes()
        # The last byte is the end of the line, which may be missing.
        for length in [0, 1, *range(2, len(whole) - 2, len(whole) // 37 + 1), len(whole) - 2]:
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(ValueError, match=name):
                BytePairTokenizer.load(tmp_path)
        (tmp_path / name).write_bytes(whole)
    BytePairTokenizer.load(tmp_path)


@pytest.mark.parametrize("missing", ["vocab", "merges", "special"])
def test_a_missing_file_is_named(tmp_path, missing):
    write(tmp_path, **{missing: "{}"})
    name = {"vocab": "vocab.json", "merges": "merges.txt", "special": "special_tokens.json"}[
        missing
    ]
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"there is no .*{name}"):
        BytePairTokenizer.load(tmp_path)


def test_gpt2s_own_special_token_is_expected(tmp_path):
    write(tmp_path)
    with pytest.raises(
        ValueError, match=r"'<\|endoftext\|>'; it hasn't. Give the ones that it has"
    ):
        BytePairTokenizer.from_gpt2_files(tmp_path)
    with pytest.raises(TypeError, match="special_tokens must be a collection of tokens; it is the"):
        BytePairTokenizer.from_gpt2_files(tmp_path, "<|end|>")
    assert BytePairTokenizer.from_gpt2_files(tmp_path, ["<|end|>"]).encode("abc") == [257]


ID = {token: number for number, token in enumerate(MINE.tokens[:256])}


@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (lambda: MINE.encode("ab\ud800c"), ValueError, r"at position 2 it has '\\ud800', one half"),
        (lambda: MINE.encode(b"ab"), TypeError, "text must be a str; it is a bytes"),
        (lambda: MINE.encode(["ab"]), TypeError, "it is a list. Give one text at a time"),
        (lambda: MINE.encode("a", allowed_special=["<x>"]), ValueError, "'<x>' .*; it has none"),
        (lambda: SMALL.encode("a", allowed_special=["x"]), ValueError, r"'x' .*; it has '<\|endof"),
        (lambda: SMALL.encode("a", allowed_special="<|end|>"), TypeError, "allowed_special must be a coll"),
        (lambda: MINE.decode([5, 1000]), ValueError, "between 0 and 999; at position 1 there is 1000"),
        (lambda: MINE.decode([-1]), ValueError, "at position 0 there is -1"),
        (lambda: MINE.decode_bytes([1000]), ValueError, "there is 1000"),
        (lambda: MINE.decode("ab"), TypeError, "ids must be a row of whole numbers"),
        (lambda: BytePairTokenizer({b"a": 0}, []), ValueError, "all 256 bytes; 'Ā'"),
        (lambda: BytePairTokenizer({}, []), ValueError, "all 256 bytes"),
        (lambda: BytePairTokenizer(ID | {b"ab": 256, b"ac": 256}, []), ValueError, "256 is given 2 times"),
        (lambda: BytePairTokenizer(ID, [], {"x": 256}), ValueError, "'x' is spelled like .*<|x|>"),
        (lambda: BytePairTokenizer(ID, [], {"": 256}), ValueError, "must not hold the empty text"),
        (lambda: BytePairTokenizer(ID, [(b"a", b"b")]), ValueError, "makes 'ab', which the vocabulary"),
        (lambda: BytePairTokenizer(ID, [(b"ab", b"c")]), ValueError, "needs 'ab', which nothing"),
        (lambda: BytePairTokenizer(ID | {b"ab": 256}, [(b"a", b"b"), (b"ba", b"c")]), ValueError,
         "merge 2, 'ba' with 'c', needs 'ba'"),
    ],
)  # fmt: skip
def test_bad_input_is_answered_in_words(use, error, says):
    with pytest.raises(error, match=says):
        use()
