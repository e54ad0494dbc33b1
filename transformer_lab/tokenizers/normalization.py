"""How BERT cleans a text and cuts it into words before word pieces are looked up."""

import unicodedata
from collections.abc import Callable

from transformer_lab.tokenizers.common import checked_str

# Scripts of ideographs, each of which is a word of its own. Japanese kana and Korean are none.
_IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class _Table(dict[int, str]):
    """A table for `str.translate` that asks a rule for each character once."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code: int) -> str:
        self[code] = self._rule(chr(code))
        return self[code]


def _clean(character: str) -> str:
    if character in "\t\n\r":
        return " "
    if character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs"):
        return ""
    if character.isspace():
        return " "
    if any(first <= ord(character) <= last for first, last in _IDEOGRAPHS):
        return f" {character} "
    return character


def _fold(character: str) -> str:
    return "" if unicodedata.category(character) == "Mn" else character.lower()


def _set_apart(character: str) -> str:
    # Of ASCII all signs count, also those like $ and + that aren't punctuation in Unicode.
    is_sign = character.isascii() and character.isprintable() and not character.isalnum()
    if character != " " and (is_sign or unicodedata.category(character).startswith("P")):
        return f" {character} "
    return character


_CLEANED, _FOLDED, _APART = _Table(_clean), _Table(_fold), _Table(_set_apart)


def cased(text: str) -> str:
    """Clean a text as a BERT does that tells capitals and accents apart.

    Control characters vanish, white space becomes spaces, ideographs get spaces around them.

    Args:
        text: Any text.

    Raises: TypeError if text is no str.

    >>> cased("Été\\t2 中文")
    'Été 2  中  文 '
    """
    return checked_str(text).translate(_CLEANED)


def uncased(text: str) -> str:
    """Clean a text as an uncased BERT does: as `cased`, then accents off, then lower case.

    Characters are taken apart (Unicode's NFD) and marks without width dropped. Lower case is taken character
    by character: Σ gives σ at the end of a word too.

    Args:
        text: Any text.

    Raises: TypeError if text is no str.
    Source: Devlin et al. 2019; the steps stand in BERT's published code. Differs: lower case after the accents
        and by character, as the library `tokenizers` does it.

    >>> uncased("Été")
    'ete'
    """
    return unicodedata.normalize("NFD", cased(text)).translate(_FOLDED)


def bert_words(text: str) -> list[str]:
    """Cut a cleaned text at white space and around each sign of punctuation.

    Args:
        text: As `cased` or `uncased` gives it.

    >>> bert_words("don't stop")
    ['don', "'", 't', 'stop']
    """
    return text.translate(_APART).split()
