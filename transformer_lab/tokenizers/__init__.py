"""From text to ids and back: by characters, by byte pairs as GPT-2, by word pieces as BERT."""

from transformer_lab.tokenizers.bpe import BytePairTokenizer
from transformer_lab.tokenizers.bpe_training import learn_merges
from transformer_lab.tokenizers.characters import CharacterTokenizer
from transformer_lab.tokenizers.normalization import cased, uncased
from transformer_lab.tokenizers.wordpiece import WordPieceBatch, WordPieceTokenizer
from transformer_lab.tokenizers.words import gpt2_words

__all__ = [
    "BytePairTokenizer",
    "CharacterTokenizer",
    "WordPieceBatch",
    "WordPieceTokenizer",
    "cased",
    "gpt2_words",
    "learn_merges",
    "uncased",
]
