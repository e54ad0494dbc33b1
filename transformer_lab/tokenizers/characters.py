"""One id for each character: the shortest vocabulary and the longest sequences."""

import json
from collections.abc import Iterable
from pathlib import Path

from transformer_lab.tokenizers.common import checked_ids, checked_str, read_json

FILE = "characters.json"


class CharacterTokenizer:
    """Numbers the characters of a text, one id for each Unicode code point.

    Args:
        characters: The characters, in the order of their ids.
        unknown: What stands for a character that isn't among them, and how it is decoded, such as "\ufffd".
            It gets the last id. With None such a character is an error.

    Attributes:
        characters: The characters, in the order of their ids.
        unknown: As given.

    Raises: ValueError if there is no character, one is there twice or is longer than one.

    >>> tokenizer = CharacterTokenizer.train("banana")
    >>> tokenizer.characters, tokenizer.encode("nab")
    ('abn', [2, 0, 1])
    """

    def __init__(self, characters: Iterable[str], unknown: str | None = None) -> None:
        listed = list(characters)
        if not listed:
            raise ValueError("there must be at least one character; train on a text that has some.")
        for each in listed:
            if not isinstance(each, str) or len(each) != 1:
                raise ValueError(f"each character must be a str of length 1; one is {each!r}.")
        self._ids = {character: number for number, character in enumerate(listed)}
        if len(self._ids) != len(listed):
            twice = next(each for each in listed if listed.count(each) > 1)
            raise ValueError(f"each character must be there once; {twice!r} is there more often.")
        if unknown is not None and (not isinstance(unknown, str) or not unknown):
            raise ValueError(f"unknown must be a text or None; it is {unknown!r}.")
        if unknown in self._ids:
            raise ValueError(
                f"unknown must not be one of the characters; {unknown!r} is. Take one that the "
                "text doesn't have."
            )
        self.characters = "".join(listed)
        self.unknown = unknown
        self._tokens = [*listed] if unknown is None else [*listed, unknown]

    @classmethod
    def train(cls, text: str, *, unknown: str | None = None) -> "CharacterTokenizer":
        """Take the characters of a text, sorted by code point.

        Args:
            text: Any text with at least one character.
            unknown: As for the class.

        Raises: TypeError if text is no str; ValueError if it is empty.
        """
        checked_str(text)
        return cls(sorted(set(text)), unknown)

    @property
    def vocab_size(self) -> int:
        """Number of ids, that of `unknown` included."""
        return len(self._tokens)

    def encode(self, text: str) -> list[int]:
        """Turn each character into its id.

        Args:
            text: Any text.

        Raises: ValueError if a character has no id and there is no `unknown`.
        """
        checked_str(text)
        if self.unknown is not None:
            unknown = len(self._tokens) - 1
            return [self._ids.get(character, unknown) for character in text]
        try:
            return [self._ids[character] for character in text]
        except KeyError:
            place = next(place for place, each in enumerate(text) if each not in self._ids)
            raise ValueError(
                f"{text[place]!r} (U+{ord(text[place]):04X}) at position {place} is not one of "
                f"the {len(self.characters)} characters of this tokenizer. Train it on a text that "
                "has it, or give an unknown token."
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids back into text.

        Args:
            ids: A row of ids.

        Raises: ValueError if an id is out of range.
        """
        return "".join([self._tokens[each] for each in checked_ids(ids, self.vocab_size)])

    def save(self, folder: str | Path) -> None:
        """Write characters.json.

        Args:
            folder: Made if it isn't there.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {"characters": self.characters, "unknown": self.unknown}
        (folder / FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "CharacterTokenizer":
        """Read what `save` wrote.

        Args:
            folder: Has characters.json.

        Raises: FileNotFoundError if it hasn't; ValueError if the file is damaged.
        """
        path = Path(folder) / FILE
        content = read_json(path, "the folder must be one that save() wrote.")
        if not isinstance(content, dict) or set(content) != {"characters", "unknown"}:
            raise ValueError(
                f"{path} must hold 'characters' and 'unknown'; it doesn't. Save the tokenizer anew."
            )
        if not isinstance(content["characters"], str):
            raise ValueError(f"{path} must hold the characters as one text; save them anew.")
        try:
            return cls(content["characters"], content["unknown"])
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
