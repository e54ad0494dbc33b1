"""What all tokenizers check, and how they read their files."""

import json
import operator
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any


def checked_str(text: str) -> str:
    """Give the text back if it is one.

    Args:
        text: What is to be cut or encoded.

    Raises: TypeError if it is no str.
    """
    if not isinstance(text, str):
        raise TypeError(
            f"text must be a str; it is a {type(text).__name__}. Give one text at a time, "
            "and decode bytes first."
        )
    return text


def checked_text(text: str) -> str:
    """Give the text back if it is one that can be written to a file.

    Args:
        text: What is to be encoded.

    Raises: TypeError if it is no str; ValueError if it holds half of a surrogate pair.
    """
    checked_str(text)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text must be valid Unicode; at position {error.start} it has "
            f"{text[error.start]!r}, one half of a surrogate pair. "
            "Read the text anew with its right encoding."
        ) from None
    return text


def checked_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
    """Give ids back as a list of whole numbers if each is one of the vocabulary.

    Args:
        ids: A row of whole numbers; a tensor or an array with one axis will do.
        vocab_size: Number of tokens.

    Raises: TypeError if it is no row of whole numbers; ValueError if an id is out of range.
    """
    if hasattr(ids, "tolist"):
        ids = ids.tolist()
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise TypeError(
            f"ids must be a row of whole numbers such as [3, 1]; it is {ids!r} "
            f"({type(ids).__name__})."
        )
    checked = []
    for place, each in enumerate(ids):
        if isinstance(each, bool) or not hasattr(each, "__index__"):
            raise TypeError(
                f"ids must be a row of whole numbers; at position {place} it has {each!r}. "
                "Decode one row of a batch at a time."
            )
        number = operator.index(each)
        if not 0 <= number < vocab_size:
            raise ValueError(
                f"ids must lie between 0 and {vocab_size - 1}; at position {place} there is "
                f"{number}. Do these ids come from another tokenizer?"
            )
        checked.append(number)
    return checked


def checked_special(name: str, tokens: Collection[str]) -> list[str]:
    """Give special tokens back as a list if they are different texts with something in them.

    Args:
        name: What the caller calls them.
        tokens: The special tokens.

    Raises: TypeError if they are no collection of str; ValueError if one is empty or twice there.
    """
    if isinstance(tokens, str):
        raise TypeError(
            f"{name} must be a collection of tokens; it is the text {tokens!r}. "
            f"Write ({tokens!r},)."
        )
    listed = list(tokens)
    for token in listed:
        if not isinstance(token, str):
            raise TypeError(f"{name} must hold texts; it holds {token!r}.")
        if not token:
            raise ValueError(f"{name} must not hold the empty text; take that out.")
        if listed.count(token) > 1:
            raise ValueError(f"{name} must differ; {token!r} is there {listed.count(token)} times.")
    return listed


def split_at_special(
    text: str, allowed: Collection[str], known: Collection[str]
) -> Iterator[tuple[str, bool]]:
    """Cut a text at the special tokens that are allowed in it.

    Where two begin at the same place, the longer one counts.

    Args:
        text: The text.
        allowed: The special tokens to look for.
        known: All special tokens of the tokenizer.

    Returns: The parts in their order, each with whether it is a special token.
    Raises: TypeError if allowed is no collection of str; ValueError if one isn't known.
    """
    allowed = checked_special("allowed_special", allowed)
    for token in allowed:
        if token not in known:
            raise ValueError(
                f"{token!r} in allowed_special is no special token of this tokenizer; "
                f"it has {', '.join(map(repr, known)) or 'none'}."
            )
    parts = re.split(special_pattern(allowed), text) if allowed else [text]
    return ((part, place % 2 == 1) for place, part in enumerate(parts) if part)


def special_pattern(tokens: Collection[str]) -> str:
    """Write the pattern, in one group, of any of these tokens; the longer of two goes first.

    Args:
        tokens: At least one token.
    """
    longest_first = sorted(tokens, key=len, reverse=True)
    return f"({'|'.join(map(re.escape, longest_first))})"


def read_text(path: Path, hint: str) -> str:
    """Read a file of a tokenizer.

    Args:
        path: The file.
        hint: What to do when it isn't there.

    Raises: FileNotFoundError if it isn't there; ValueError if it isn't UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path}; {hint}") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be UTF-8; it has other bytes at {error.start} ({error.reason}). "
            "It may be cut off: copy it anew."
        ) from None


def read_json(path: Path, hint: str) -> Any:
    """Read a JSON file of a tokenizer.

    Args:
        path: The file.
        hint: What to do when it isn't there.

    Raises: FileNotFoundError if it isn't there; ValueError if it is no JSON or has a name twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"{path} must have each name once; it has {key!r} twice.")
            found[key] = value
        return found

    text = read_text(path, hint)
    try:
        return json.loads(text, object_pairs_hook=once)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path} must be JSON; reading it ends with: {error}. It may be cut off: copy it anew."
        ) from None
