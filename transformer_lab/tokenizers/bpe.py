"""Byte-level byte-pair encoding, as GPT-2 does it: any text has ids, and they give the same text back."""

import heapq
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformer_lab import checks
from transformer_lab.tokenizers.bpe_training import learn_merges
from transformer_lab.tokenizers.common import (
    checked_ids,
    checked_special,
    checked_text,
    read_json,
    read_text,
    special_pattern,
    split_at_special,
)
from transformer_lab.tokenizers.words import BYTE_LETTERS, gpt2_words, spelled, unspelled

VOCAB_FILE, MERGES_FILE, SPECIAL_FILE = "vocab.json", "merges.txt", "special_tokens.json"
_MOST_KEPT = 2**16  # words whose ids are kept, so that memory stays bounded


class BytePairTokenizer:
    """Cuts words into tokens by merging bytes, in the order in which the merges were learned.

    Usually made by `train`, `load` or `from_gpt2_files`.

    Args:
        vocab: The id of each token; all 256 bytes are among them.
        merges: Which two tokens become one, the first learned first.
        special_tokens: Tokens that no text is merged to, such as <|endoftext|>, and their ids.

    Attributes:
        tokens: The bytes of each token, in the order of ids.
        merges: As given.
        special_tokens: As given.

    Raises: ValueError if they don't fit each other.
    Source: Radford et al. 2019, section 2.2.

    >>> tokenizer = BytePairTokenizer.train("low lower lowest", 259)
    >>> ids = tokenizer.encode("slow")
    >>> [tokenizer.tokens[each] for each in ids], tokenizer.decode(ids)
    ([b's', b'low'], 'slow')
    """

    def __init__(
        self,
        vocab: Mapping[bytes, int],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Mapping[str, int] | None = None,
    ) -> None:
        special_tokens = special_tokens or {}
        checked_special("special_tokens", special_tokens.keys())
        _check_numbers([*vocab.values(), *special_tokens.values()])
        for byte in range(256):
            if bytes([byte]) not in vocab:
                raise ValueError(
                    f"the vocabulary must have all 256 bytes; {BYTE_LETTERS[byte]!r} "
                    f"(byte {byte}) is missing."
                )
        spellings = {spelled(token) for token in vocab}
        for name in special_tokens:
            if name in spellings:
                raise ValueError(
                    f"the special token {name!r} is spelled like an ordinary token, and a file "
                    f"couldn't tell them apart. Call it <|{name}|>, for example."
                )
        self.merges = tuple(merges)
        self.special_tokens = dict(special_tokens)
        self._merges = _numbered(vocab, self.merges)
        in_order = {number: token for token, number in vocab.items()}
        in_order |= {number: name.encode() for name, number in special_tokens.items()}
        self.tokens = tuple(in_order[number] for number in range(len(in_order)))
        self._bytes = [vocab[bytes([byte])] for byte in range(256)]
        self._kept: dict[str, list[int]] = {}

    @classmethod
    def train(
        cls, text: str, vocab_size: int, special_tokens: Collection[str] = ()
    ) -> "BytePairTokenizer":
        """Learn the merges of a text.

        Ids 0 to 255 are the bytes in GPT-2's order, then come the new tokens in the order in which they were
        learned, then the special ones. Where the text has a special token, nothing of it is learned.

        Args:
            text: Any text.
            vocab_size: Number of tokens, the bytes and the special ones included.
            special_tokens: Such as ("<|endoftext|>",).

        Raises: ValueError if vocab_size is too small, or too large for this text.
        """
        checked_text(text)
        special_tokens = checked_special("special_tokens", special_tokens)
        for name in special_tokens:
            checked_text(name)
        least = 256 + len(special_tokens)
        checks.whole("vocab_size", vocab_size, 0)
        if vocab_size < least:
            raise ValueError(
                f"vocab_size must be at least {least}, for 256 bytes and {len(special_tokens)} "
                f"special tokens; it is {vocab_size}."
            )
        parts = [text]
        if special_tokens:
            parts = re.split(special_pattern(special_tokens), text)[::2]
        words = Counter(word for part in parts for word in gpt2_words(part))
        counts = {word.encode(): count for word, count in words.items()}
        merges = learn_merges(counts, vocab_size - least)
        tokens = [*(bytes([byte]) for byte in BYTE_LETTERS), *(a + b for a, b in merges)]
        vocab = {token: number for number, token in enumerate(tokens)}
        special = {name: len(vocab) + place for place, name in enumerate(special_tokens)}
        return cls(vocab, merges, special)

    @property
    def vocab_size(self) -> int:
        """Number of ids, the special tokens included."""
        return len(self.tokens)

    def encode(self, text: str, *, allowed_special: Collection[str] = ()) -> list[int]:
        """Turn text into ids.

        What looks like a special token is ordinary text unless it is allowed, so that a stranger's text
        can't end a document or open a system's turn.

        Args:
            text: Any text.
            allowed_special: The special tokens that become one id each; all of them with
                `allowed_special=tokenizer.special_tokens`.

        Raises: ValueError if the text is no valid Unicode or a token in allowed_special isn't a special one.
        """
        checked_text(text)
        ids: list[int] = []
        kept = self._kept
        for part, is_special in split_at_special(text, allowed_special, self.special_tokens):
            if is_special:
                ids.append(self.special_tokens[part])
                continue
            for word in gpt2_words(part):
                found = kept.get(word)
                if found is None:
                    found = self._encode_word(word.encode())
                    if len(kept) < _MOST_KEPT:
                        kept[word] = found
                ids.extend(found)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids back into text.

        Ids that end inside a character give U+FFFD for it, as GPT-2 does; `decode_bytes` gives what is there.

        Args:
            ids: A row of ids.

        Raises: ValueError if an id is out of range.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Turn ids back into the bytes of the text.

        Args:
            ids: A row of ids.

        Raises: ValueError if an id is out of range.
        """
        return b"".join([self.tokens[each] for each in checked_ids(ids, self.vocab_size)])

    def save(self, folder: str | Path) -> None:
        """Write vocab.json and merges.txt as GPT-2 has them, and special_tokens.json.

        Args:
            folder: Made if it isn't there.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        special = {number: name for name, number in self.special_tokens.items()}
        vocab = {
            special[number] if number in special else spelled(token): number
            for number, token in enumerate(self.tokens)
        }
        lines = ["#version: 0.2", *(f"{spelled(a)} {spelled(b)}" for a, b in self.merges)]
        for name, content in (
            (VOCAB_FILE, json.dumps(vocab)),
            (MERGES_FILE, "\n".join(lines)),
            (SPECIAL_FILE, json.dumps(list(self.special_tokens))),
        ):
            (folder / name).write_text(content + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "BytePairTokenizer":
        """Read what `save` wrote.

        Args:
            folder: Has vocab.json, merges.txt and special_tokens.json.

        Raises: FileNotFoundError if a file is missing; ValueError if one is damaged or they don't fit.
        """
        path = Path(folder) / SPECIAL_FILE
        special_tokens = read_json(
            path, "from_gpt2_files reads folders without it and is told the special tokens."
        )
        if not isinstance(special_tokens, list):
            raise ValueError(f"{path} must hold a list of texts; save the tokenizer anew.")
        try:
            checked_special("the list", special_tokens)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        return cls.from_gpt2_files(folder, special_tokens)

    @classmethod
    def from_gpt2_files(
        cls, folder: str | Path, special_tokens: Collection[str] = ("<|endoftext|>",)
    ) -> "BytePairTokenizer":
        """Read the files of GPT-2, or of another tokenizer made like it.

        Args:
            folder: Has vocab.json and merges.txt.
            special_tokens: The tokens of vocab.json that no merge makes.

        Raises: FileNotFoundError if a file is missing; ValueError if one is damaged or they don't fit.
        """
        special_tokens = checked_special("special_tokens", special_tokens)
        hint = "the folder must hold vocab.json and merges.txt."
        vocab_path, merges_path = Path(folder) / VOCAB_FILE, Path(folder) / MERGES_FILE
        numbers = _checked_numbers(vocab_path, read_json(vocab_path, hint))
        for name in special_tokens:
            if name not in numbers:
                raise ValueError(
                    f"{vocab_path} must have the special token {name!r}; it hasn't. "
                    "Give the ones that it has as special_tokens."
                )
        merges = _read_merges(merges_path, hint)
        special = {name: numbers.pop(name) for name in special_tokens}
        try:
            vocab = {unspelled(letters): number for letters, number in numbers.items()}
            return cls(vocab, merges, special)
        except ValueError as error:
            raise ValueError(f"{vocab_path} and {merges_path.name} don't fit: {error}") from None

    def _encode_word(self, word: bytes) -> list[int]:
        """Merge the pair that was learned first, the leftmost of equal ones, until there is none.

        A heap of places, and links to the neighbours that are left, keep long words from taking n² steps.
        """
        merges, end = self._merges, len(word)
        ids = [
            *(self._bytes[byte] for byte in word),
            -1,
        ]  # -1: the end, or merged into the left one
        before, after = list(range(-1, end)), list(range(1, end + 2))
        heap = [
            (merges[pair][0], place) for place, pair in enumerate(pairwise(ids)) if pair in merges
        ]
        heapq.heapify(heap)
        while heap:
            rank, left = heapq.heappop(heap)
            right = after[left]
            found = merges.get((ids[left], ids[right]))
            if found is None or found[0] != rank:  # a neighbour has changed since
                continue
            ids[left], ids[right] = found[1], -1
            after[left] = after[right]
            before[after[left]] = left
            for place in (before[left], left):
                if place >= 0:
                    pair = (ids[place], ids[after[place]])
                    if pair in merges:
                        heapq.heappush(heap, (merges[pair][0], place))
        return [each for each in ids if each >= 0]


def _numbered(
    vocab: Mapping[bytes, int], merges: Sequence[tuple[bytes, bytes]]
) -> dict[tuple[int, int], tuple[int, int]]:
    """The rank of each pair of ids, and the id that it is merged to."""
    made = {bytes([byte]) for byte in range(256)}
    numbered: dict[tuple[int, int], tuple[int, int]] = {}
    for rank, (left, right) in enumerate(merges):
        shown = f"merge {rank + 1}, {spelled(left)!r} with {spelled(right)!r},"
        for part in (left, right):
            if part not in made:
                raise ValueError(f"{shown} needs {spelled(part)!r}, which nothing before it makes.")
        if left + right not in vocab:
            raise ValueError(
                f"{shown} makes {spelled(left + right)!r}, which the vocabulary lacks."
            )
        pair = (vocab[left], vocab[right])
        if pair in numbered:
            raise ValueError(f"{shown} is there a second time.")
        numbered[pair] = (rank, vocab[left + right])
        made.add(left + right)
    for token, number in vocab.items():
        if token not in made:
            raise ValueError(
                f"no merge makes {spelled(token)!r} (id {number}). Either merges are missing, "
                "or it is a special token and must be given as one."
            )
    return numbered


def _check_numbers(numbers: Iterable[int]) -> None:
    counts = Counter(numbers)
    for number, count in counts.items():
        if count > 1:
            raise ValueError(f"each id must be given once; {number} is given {count} times.")
    for number in range(len(counts)):
        if number not in counts:
            raise ValueError(
                f"the ids of {len(counts)} tokens must be 0 to {len(counts) - 1}; {number} is "
                "missing."
            )


def _checked_numbers(path: Path, content: Any) -> dict[str, int]:
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an id for each token; it holds something else.")
    for token, number in content.items():
        if type(number) is not int:
            raise ValueError(f"{path} must give whole numbers; {token!r} has {number!r}.")
    return content


def _read_merges(path: Path, hint: str) -> list[tuple[bytes, bytes]]:
    lines = read_text(path, hint).split("\n")
    merges = []
    for number, line in enumerate(lines, start=1):
        if (number == 1 and line.startswith("#version")) or (number == len(lines) and not line):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise ValueError(
                f"{path} must have two tokens with a space between them in each line; line {number} "
                f"is {line!r}. It may be cut off: copy it anew."
            )
        try:
            merges.append((unspelled(parts[0]), unspelled(parts[1])))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return merges
