"""Text to learn from: one that every Python brings along, and the reader's own."""

import os
from pathlib import Path
from pydoc_data.topics import topics


def python_topics() -> str:
    """Return what Python's own `help()` says on its topics, such as "LOOPING" or "SLICINGS".

    It is real English with code in it, about 465,000 characters, and needs no download. It changes a
    little from one version of Python to the next.

    Returns: The topics in alphabetical order, an empty line between them.

    >>> print(python_topics()[:22])
    The "assert" statement
    """
    return "\n".join(topics[name] for name in sorted(topics))


def read_text(path: str | os.PathLike[str]) -> str:
    r"""Read a text file in UTF-8.

    Args:
        path: Where it is; `~` stands for the home folder.

    Returns: Its text without a byte-order mark; every end of line is "\n".
    Raises: TypeError if path is no path; ValueError if there is no such file, it is a folder, has no
        text in it, or isn't UTF-8.

    >>> read_text("no_such_file.txt")
    Traceback (most recent call last):
    ...
    ValueError: there is no file no_such_file.txt; check its name and folder.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or a Path; it is a {type(path).__name__}.")
    file = Path(path).expanduser()
    if file.is_dir():
        raise ValueError(f"{file} is a folder; give the path of one text file.")
    if not file.exists():
        raise ValueError(f"there is no file {file}; check its name and folder.")
    raw = file.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file} must be UTF-8; byte {error.start} (line {line}) is 0x{raw[error.start]:02x}, which "
            "can't stand there. Save the file as UTF-8 in an editor."
        ) from error
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise ValueError(f"{file} has no text in it; give a file with some.")
    return text
