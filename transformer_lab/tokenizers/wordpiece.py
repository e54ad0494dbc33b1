"""Word pieces, as BERT reads them: the longest piece of the vocabulary first, from the left."""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from transformer_lab import checks
from transformer_lab.tokenizers.common import (
    checked_ids,
    checked_str,
    checked_text,
    read_text,
    split_at_special,
)
from transformer_lab.tokenizers.normalization import bert_words, uncased

FILE = "vocab.txt"
PAD, UNKNOWN, CLASSIFY, SEPARATE, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
_MOST_KEPT = 2**16  # words whose ids are kept, so that memory stays bounded


class WordPieceBatch(NamedTuple):
    """What a BERT takes: texts of one length, padded on the right."""

    tokens: Int[Tensor, "batch seq"]
    segments: Int[Tensor, "batch seq"]  # 0 for the first text and padding, 1 for the second
    is_token: Bool[Tensor, "batch seq"]  # True = a token, False = padding


class WordPieceTokenizer:
    """Cuts words into the longest pieces that a vocabulary has; a word that can't be cut so is unknown.

    Args:
        vocab: The pieces in the order of their ids; ## begins a piece that goes on inside a word. [UNK] must be
            among them; `batch` needs [PAD], [CLS] and [SEP].
        normalize: What is done to a text before it is cut: `uncased`, `cased`, or any function.
        max_characters: A word with more characters is unknown.

    Attributes:
        vocab: As given.
        special_tokens: Those of BERT's five special tokens that the vocabulary has, and their ids.

    Raises: ValueError if a piece is empty, longer than a line or twice there, or [UNK] is missing.
    Source: Devlin et al. 2019, section 3; Schuster and Nakajima 2012.

    >>> tokenizer = WordPieceTokenizer(["[UNK]", "play", "##ing", "##ed"])
    >>> tokenizer.encode("Playing, played"), tokenizer.decode([1, 2])
    ([1, 2, 0, 1, 3], 'playing')
    """

    def __init__(
        self,
        vocab: Sequence[str],
        *,
        normalize: Callable[[str], str] = uncased,
        max_characters: int = 100,
    ) -> None:
        if isinstance(vocab, str):
            raise TypeError("vocab must be a list of pieces; it is a text. load() reads a folder.")
        self.vocab = tuple(vocab)
        self._ids: dict[str, int] = {}
        for number, piece in enumerate(self.vocab):
            if not isinstance(piece, str):
                raise TypeError(f"each piece must be a str; number {number} is {piece!r}.")
            if not piece or "\n" in piece or "\r" in piece:
                raise ValueError(
                    f"each piece must be one line with something in it; number {number} is "
                    f"{piece!r}."
                )
            checked_text(piece)
            if piece in self._ids:
                raise ValueError(
                    f"each piece must be there once; {piece!r} is number {self._ids[piece]} and "
                    f"number {number}."
                )
            self._ids[piece] = number
        if UNKNOWN not in self._ids:
            raise ValueError(
                f"the vocabulary must have {UNKNOWN}; it hasn't among {len(self.vocab)} pieces."
            )
        if not callable(normalize):
            raise TypeError(f"normalize must be a function such as uncased; it is {normalize!r}.")
        self.special_tokens = {
            name: self._ids[name]
            for name in (PAD, UNKNOWN, CLASSIFY, SEPARATE, MASK)
            if name in self._ids
        }
        self._normalize = normalize
        checks.whole("max_characters", max_characters)
        self._max_characters = max_characters
        self._longest = max(map(len, self.vocab))
        self._kept: dict[str, list[int]] = {}

    @property
    def vocab_size(self) -> int:
        """Number of pieces, the special tokens included."""
        return len(self.vocab)

    def encode(self, text: str, *, allowed_special: Collection[str] = ()) -> list[int]:
        """Turn text into ids, without [CLS] and [SEP].

        Args:
            text: Any text.
            allowed_special: The special tokens that become one id each where the text has them, such as
                ("[MASK]",); the others are ordinary text.

        Raises: ValueError if a token in allowed_special isn't a special one.
        """
        checked_str(text)
        ids: list[int] = []
        for part, is_special in split_at_special(text, allowed_special, self.special_tokens):
            if is_special:
                ids.append(self.special_tokens[part])
                continue
            for word in bert_words(self._normalize(part)):
                found = self._kept.get(word)
                if found is None:
                    found = self._encode_word(word)
                    if len(self._kept) < _MOST_KEPT:
                        self._kept[word] = found
                ids.extend(found)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Put pieces together to words, with a space between two words.

        The text comes back only nearly: case, accents and spaces around signs are lost.

        Args:
            ids: A row of ids; special tokens are shown as they are.

        Raises: ValueError if an id is out of range.
        """
        pieces = [self.vocab[each] for each in checked_ids(ids, self.vocab_size)]
        inside = [place > 0 and piece.startswith("##") for place, piece in enumerate(pieces)]
        shown = [
            piece[2:] if joined else f" {piece}"
            for piece, joined in zip(pieces, inside, strict=True)
        ]
        return "".join(shown).removeprefix(" ")

    def with_special_tokens(
        self, first: Sequence[int], second: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]:
        """Put [CLS] and [SEP] around the ids of one text or two.

        [CLS] first [SEP], segments all 0; or [CLS] first [SEP] second [SEP], segments 1 from the second on.

        Args:
            first: Ids of the first text.
            second: Ids of the second text, or None.

        Returns: The ids, and the segment of each.
        Raises: ValueError if the vocabulary has no [CLS] or [SEP], or an id is out of range.
        """
        start, end = self._special(CLASSIFY), self._special(SEPARATE)
        tokens = [start, *checked_ids(first, self.vocab_size), end]
        segments = [0] * len(tokens)
        if second is not None:
            more = [*checked_ids(second, self.vocab_size), end]
            tokens, segments = tokens + more, segments + [1] * len(more)
        return tokens, segments

    def batch(
        self,
        texts: Sequence[str | tuple[str, str]],
        *,
        max_len: int | None = None,
        allowed_special: Collection[str] = (),
        device: torch.device | str | None = None,
    ) -> WordPieceBatch:
        """Make the tensors that a BERT takes of texts or of pairs of texts.

        Args:
            texts: At least one; a pair is a tuple of two texts.
            max_len: Most tokens of a row, [CLS] and [SEP] included. What is longer loses tokens at its end,
                a pair always at the longer text, or at the second of two equal ones. None keeps all.
            allowed_special: As for `encode`.
            device: Where the tensors are made.

        Raises: ValueError if there is no text, max_len leaves no room or a special token is missing.

        >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b"])
        >>> tokenizer.batch(["a", ("b", "b a")]).tokens
        tensor([[2, 4, 3, 0, 0, 0],
                [2, 5, 3, 5, 4, 3]])
        """
        if isinstance(texts, str):
            raise TypeError(f"texts must be a list; it is the text {texts!r}. Write [{texts!r}].")
        if not texts:
            raise ValueError("texts must hold at least one text; it is empty.")
        pad = self._special(PAD)
        rows = []
        for place, each in enumerate(texts):
            pair = (each,) if isinstance(each, str) else each
            if not isinstance(pair, tuple) or (pair is each and len(pair) != 2):
                raise TypeError(
                    f"each of texts must be a str or a tuple of two; number {place} is {each!r}."
                )
            ids = [self.encode(text, allowed_special=allowed_special) for text in pair]
            if max_len is not None:
                checks.whole("max_len", max_len, 1 + 2 * len(ids))
                _cut(ids, max_len - 1 - len(ids))
            rows.append(self.with_special_tokens(*ids))
        longest = max(len(tokens) for tokens, _ in rows)

        def padded(filled: list[list[int]], padding: int) -> Tensor:
            full = [row + [padding] * (longest - len(row)) for row in filled]
            return torch.tensor(full, dtype=torch.int64, device=device)

        return WordPieceBatch(
            padded([tokens for tokens, _ in rows], pad),
            padded([segments for _, segments in rows], 0),
            padded([[1] * len(tokens) for tokens, _ in rows], 0).bool(),
        )

    def save(self, folder: str | Path) -> None:
        """Write vocab.txt, one piece a line. What `normalize` does isn't saved.

        Args:
            folder: Made if it isn't there.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text("\n".join(self.vocab) + "\n", encoding="utf-8")

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        normalize: Callable[[str], str] = uncased,
        max_characters: int = 100,
    ) -> "WordPieceTokenizer":
        """Read vocab.txt, of `save` or of a published BERT.

        Args:
            folder: Has vocab.txt.
            normalize: As for the class; `cased` for a BERT that tells capitals apart.
            max_characters: As for the class.

        Raises: FileNotFoundError if there is none; ValueError if it is damaged.
        """
        path = Path(folder) / FILE
        text = read_text(path, "the folder must be one of a BERT, or one that save() wrote.")
        try:
            return cls(
                text.removesuffix("\n").split("\n"),
                normalize=normalize,
                max_characters=max_characters,
            )
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged (line 1 is number 0): {error} Copy it anew."
            ) from None

    def _special(self, name: str) -> int:
        if name not in self.special_tokens:
            raise ValueError(
                f"the vocabulary must have {name} for this; it hasn't among {self.vocab_size} "
                "pieces. Add it to the vocabulary."
            )
        return self.special_tokens[name]

    def _encode_word(self, word: str) -> list[int]:
        unknown = [self.special_tokens[UNKNOWN]]
        if len(word) > self._max_characters:
            return unknown
        ids, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                found = self._ids.get(prefix + word[start:end])
                if found is not None:
                    break
            else:
                return unknown
            ids.append(found)
            start = end
        return ids


def _cut(ids: list[list[int]], room: int) -> None:
    """Shorten one row of ids or two in place, so that together they have at most `room`."""
    if len(ids) == 1:
        del ids[0][room:]
        return
    first, second = map(len, ids)
    if first + second > room:
        # Taking from the longer one ends when the lengths differ by at most one.
        half = (room + 1) // 2
        first = min(first, max(half, room - second))
        del ids[0][first:]
        del ids[1][room - first :]
