"""How GPT-2 cuts a text into words before byte pairs are merged, and how its files spell bytes."""

import functools
import re

from transformer_lab.tokenizers.common import checked_str

# Unicode's white space. \s of `re` has U+001C to U+001F besides, which GPT-2 takes for signs.
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


@functools.cache
def _pattern() -> re.Pattern[str]:
    r"""GPT-2's 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ for `re`.

    `re` has no \p{L} and \p{N}. But its \w is \p{L}, \p{N} and the underscore, and its \d is a part of
    \p{N}; so only the rest of \p{N} (½, ², Ⅷ …) has to be listed.
    """
    codes = [
        code
        for code in range(0x80, 0x110000)
        if (character := chr(code)).isnumeric()
        and not character.isalpha()
        and not character.isdecimal()
    ]
    # As ranges, because `re` tries each item of a class that isn't in its table.
    starts = [code for code in codes if code - 1 not in codes]
    ends = [code for code in codes if code + 1 not in codes]
    rest = "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(starts, ends, strict=True))
    letter, number = rf"[^\W\d_{rest}]", rf"[\d{rest}]"
    sign = rf"(?:[^\w{_SPACE}]|_)"
    return re.compile(
        rf"'s|'t|'re|'ve|'m|'ll|'d| ?{letter}+| ?{number}+| ?{sign}+"
        rf"|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]+"
    )


def gpt2_words(text: str) -> list[str]:
    """Cut a text into words, each with the space before it; joined they are the text again.

    A word is a run of letters, of digits, of other signs or of white space, or an English ending such as 's.
    What is a letter says the Unicode of this Python, so characters of the last years may be cut in another
    way by another Python.

    Args:
        text: Any text.

    Raises: TypeError if text is no str.
    Source: Radford et al. 2019, section 2.2; the pattern stands in GPT-2's published code.

    >>> gpt2_words("We'll see  2 cats.")
    ['We', "'ll", ' see', ' ', ' 2', ' cats', '.']
    """
    return _pattern().findall(checked_str(text))


def _byte_letters() -> dict[int, str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    return letters | {byte: chr(256 + place) for place, byte in enumerate(others)}


# A letter for each byte, in the order of GPT-2's ids: what can be printed stands for itself.
BYTE_LETTERS = _byte_letters()
_BYTES = {letter: byte for byte, letter in BYTE_LETTERS.items()}


def spelled(token: bytes) -> str:
    """Write bytes as GPT-2's files do, one printable letter for each.

    Args:
        token: Any bytes.

    >>> spelled(b" the\\n")
    'ĠtheĊ'
    """
    return "".join([BYTE_LETTERS[byte] for byte in token])


def unspelled(letters: str) -> bytes:
    """Read the bytes that `spelled` wrote.

    Args:
        letters: One letter for each byte.

    Raises: ValueError if a letter stands for no byte.
    """
    try:
        return bytes([_BYTES[letter] for letter in letters])
    except KeyError as error:
        raise ValueError(
            f"{letters!r} has {error.args[0]!r}, which stands for no byte in GPT-2's spelling."
        ) from None
