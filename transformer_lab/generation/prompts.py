"""From rows of token ids to one tensor, padded on the left, and the checks of all that is asked for."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from transformer_lab import checks

Rows = Tensor | Sequence[int] | Sequence[Sequence[int]]


def as_rows(name: str, rows: Rows) -> list[list[int]]:
    """Token ids as a list for each row.

    Args:
        name: What to call them in a message.
        rows: A tensor (batch, seq), a list of lists, or a single list.

    Raises: ValueError or TypeError if they aren't whole numbers, or a row is empty.
    """
    if isinstance(rows, Tensor):
        if rows.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"{name} must hold int64 or int32; it holds {rows.dtype}.")
        if rows.dim() != 2:
            raise ValueError(
                f"{name} must have the axes (batch, seq); its shape is {tuple(rows.shape)}."
            )
        rows = rows.tolist()
    if isinstance(rows, str) or not isinstance(rows, Sequence):
        raise TypeError(
            f"{name} must be token ids: a list, a list of lists or a tensor; "
            f"it is a {type(rows).__name__}. A tokenizer's encode makes them of text."
        )
    many: list[Any] = list(rows)
    if not any(isinstance(each, Sequence) for each in many):
        many = [many]
    for row in many:
        if not isinstance(row, Sequence) or any(type(each) is not int for each in row):
            raise TypeError(f"{name} must hold token ids, whole numbers; a row is {row!r}.")
        if not row:
            raise ValueError(
                f"{name} is empty; each row needs one token at least, such as a start token."
            )
    return [list(row) for row in many]


def check_vocabulary(name: str, ids: Collection[int], vocab_size: int | None) -> None:
    """Refuse ids that the model has no logit for.

    Args:
        name: What to call them in the message.
        ids: Token ids.
        vocab_size: Number of tokens that the model knows; nothing is checked when None.

    Raises: ValueError if one is out of range.
    """
    outside = [each for each in ids if each < 0 or each >= (vocab_size or each + 1)]
    if outside:
        below = "from 0" if vocab_size is None else f"between 0 and {vocab_size - 1}"
        raise ValueError(f"{name} must hold ids {below}; one is {outside[0]}.")


def stop_ids(stop: Collection[int]) -> list[int]:
    """The stop tokens, each once.

    Args:
        stop: Token ids.

    Raises: TypeError if they are no collection of whole numbers.
    """
    if isinstance(stop, str) or not isinstance(stop, Collection):
        raise TypeError(f"stop must be a list of token ids, such as [0]; it is {stop!r}.")
    if any(type(each) is not int for each in stop):
        raise TypeError(f"stop must hold token ids, whole numbers; it is {stop!r}.")
    return list(dict.fromkeys(stop))


def left_padded(
    rows: Sequence[Sequence[int]], room: int, device: torch.device | None
) -> tuple[Tensor, Tensor | None]:
    """All rows in one tensor, padded on the left to the longest, with room on the right.

    Args:
        rows: Token ids. A row's padding repeats its first token: so no token stands there that
            the row doesn't hold.
        room: Number of places on the right, for tokens to come.
        device: Where the tensor is made.

    Returns: The tokens, and is_token, which is None when all rows are equally long.
    """
    longest = max(len(row) for row in rows)
    missing = [longest - len(row) for row in rows]
    padded = [[row[0]] * gap + list(row) for row, gap in zip(rows, missing, strict=True)]
    tokens = torch.zeros(len(rows), longest + room, dtype=torch.int64, device=device)
    tokens[:, :longest] = torch.tensor(padded, device=device)
    if not any(missing):
        return tokens, None
    places = torch.arange(longest + room, device=device)
    return tokens, places >= torch.tensor(missing, device=device)[:, None]


def check_length(name: str, length: int, max_positions: int | None) -> None:
    """Refuse sequences that are longer than the model's context.

    Args:
        name: What is that long.
        length: Tokens.
        max_positions: Most tokens that the model takes; any number when None.

    Raises: ValueError if it is longer.
    """
    if max_positions is not None and length > max_positions:
        raise ValueError(
            f"{name} must fit the model's {max_positions} positions (max_positions); "
            f"there are {length} tokens. Shorten the prompt or ask for fewer."
        )


def check_request(
    prompt: Rows, source: Rows | None, model: Callable[..., Any], max_new_tokens: int
) -> tuple[list[list[int]], list[list[int]] | None]:
    """The rows of the prompt and of the source, once everything is known to fit.

    Args:
        prompt: What the texts begin with; a single row serves all sources.
        source: What an encoder-decoder reads.
        model: The model; its config, where there is one, tells the vocabulary and the context.
        max_new_tokens: Most tokens to add.

    Raises: ValueError or TypeError if something doesn't fit.
    """
    checks.whole("max_new_tokens", max_new_tokens)
    reads = hasattr(model, "encode") and hasattr(model, "decode")
    if reads and source is None:
        raise ValueError("an encoder-decoder needs a source; give source=... (token ids).")
    if not callable(model) or (source is not None and not reads):
        kind = "an encoder-decoder, with encode and decode" if source is not None else "a function"
        raise TypeError(f"model must be {kind}; it is a {type(model).__name__}.")
    config = getattr(model, "config", None)
    vocab_size = getattr(config, "vocab_size", None)
    max_positions = getattr(config, "max_positions", None)
    rows = as_rows("prompt", prompt)
    sources = None if source is None else as_rows("source", source)
    for name, each in (("prompt", rows), ("source", sources or [])):
        for row in each:
            check_vocabulary(name, row, vocab_size)
    if sources is not None:
        check_length("the source", max(map(len, sources)), max_positions)
        rows = rows * len(sources) if len(rows) == 1 else rows
        if len(rows) != len(sources):
            raise ValueError(
                f"there must be one prompt for all sources, or one for each; "
                f"there are {len(rows)} for {len(sources)} sources."
            )
    longest = max(map(len, rows))
    check_length("prompt and max_new_tokens together", longest + max_new_tokens, max_positions)
    return rows, sources
