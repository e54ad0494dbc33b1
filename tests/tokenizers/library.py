"""What the tests of the tokenizers share: the library that they are compared with, and texts."""

import json
import unicodedata
from pydoc_data.topics import topics

import pytest
from hypothesis import strategies as st

tokenizers = pytest.importorskip(
    "tokenizers", reason="tokenizers are compared with the library: pip install -e '.[hf]'"
)

from tokenizers import decoders, models, pre_tokenizers, trainers  # noqa: E402

ENGLISH = "\n".join(topics[name] for name in sorted(topics))

# One of each kind that a rule speaks of, and neighbours that are easily taken for them.
ODD = (
    " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u180e\u2003\u200b\u200d\u2028\u202f\u3000\ufeff\x00\x7f\xad"
    "'’sSdmtTlvreRE09aZéÉßıİΣσςǅ٣五五〇Ⅷ½²①_-$+^`|<>~€…„«。，!?#.,؟\u0301\u0308\u0345\u20dd\u0903"
    "中文字\u3400\uf900\U00020000\U0002b81f\U0002b820\U0002b91fかナ한ㄱกำनि한😀👩🏽🇩\ufffd\ue000\U0001d7d8\U00010400"
)
# All that Python's Unicode knows, but of the long rows of ideographs and Hangul each 16th.
ASSIGNED = [
    character
    for character in map(chr, range(0x110000))
    if unicodedata.category(character) not in ("Cs", "Cn", "Co")
    and (ord(character) % 16 == 0 or not unicodedata.name(character, "").startswith(("CJK U", "HANGUL S")))
]  # fmt: skip

# The library knows newer Unicode than Python does, so what is unassigned for Python is left out.
characters = st.sampled_from(ODD) | st.characters(exclude_categories=("Cs", "Cn"))
texts = st.text(characters, max_size=40) | st.lists(
    st.sampled_from(
        ["'s", "'ll", "'S", " ", "  ", "\n", "it", "don't", " 12", "½", "...", "é", "中"]
    )
    | characters,
    max_size=20,
).map("".join)


def byte_level(model):
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def trained(texts, vocab_size, special_tokens=()):
    """The library's tokenizer, and its merges as two spelled tokens each."""
    tokenizer = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special_tokens),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return tokenizer, [tuple(merge) for merge in merges]
