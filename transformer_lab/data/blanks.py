"""Blanks to fill in, the task that GLM is trained on."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


class BlankInfilling(NamedTuple):
    """A text with blanks, and what to write into them: part A, then part B.

    Args:
        tokens: What the model reads.
        targets: The next token within a span of part B; -100 in part A, where nothing is to be told.
        positions: Place in part A; all of a span have that of their blank.
        span_positions: 0 in part A, 1, 2, … within each span.
        prefix_length: Length of part A, in tokens.
    """

    tokens: Int[Tensor, " seq"]
    targets: Int[Tensor, " seq"]
    positions: Int[Tensor, " seq"]
    span_positions: Int[Tensor, " seq"]
    prefix_length: int


def blank_infilling(
    tokens: Int[Tensor, " text"],
    spans: Sequence[tuple[int, int]],
    *,
    mask_id: int,
    start_id: int,
    end_id: int,
) -> BlankInfilling:
    """Cuts spans out of a text, puts a single mask in the place of each, and sets them behind it.

    Args:
        tokens: Token ids of the text.
        spans: First place of each span and the one after its last, in the order in which they are to
            be written; the paper shuffles them.
        mask_id: Stands for a blank in part A.
        start_id: Read before the first token of a span.
        end_id: Told after its last.

    Raises: ValueError if a span is empty, overlaps another or leaves the text.
    Source: Du et al. 2022, section 2.1 and figure 2; positions are counted from 0 here.

    >>> filled = blank_infilling(torch.arange(6), [(4, 6), (2, 3)], mask_id=90, start_id=91, end_id=92)
    >>> filled.tokens.tolist(), filled.positions.tolist()
    ([0, 1, 90, 3, 90, 91, 4, 5, 91, 2], [0, 1, 2, 3, 4, 4, 4, 4, 2, 2])
    """
    if tokens.dim() != 1 or tokens.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"tokens must be a row of integers; it has shape {tuple(tokens.shape)} and holds {tokens.dtype}."
        )
    text, part_a, blank, reached = tokens.tolist(), [], {}, 0
    for start, end in sorted(spans):
        if not reached <= start < end <= len(text):
            raise ValueError(
                f"spans must lie within the {len(text)} tokens, hold one each and not overlap; "
                f"({start}, {end}) doesn't, after those up to {reached}."
            )
        part_a += text[reached:start]
        blank[start], reached = len(part_a), end
        part_a.append(mask_id)
    part_a += text[reached:]
    read, told = list(part_a), [-100] * len(part_a)
    positions, span_positions = list(range(len(part_a))), [0] * len(part_a)
    for start, end in spans:
        read += [start_id, *text[start:end]]
        told += [*text[start:end], end_id]
        positions += [blank[start]] * (end - start + 1)
        span_positions += range(1, end - start + 2)
    row = tokens.new_tensor
    return BlankInfilling(
        row(read), row(told), row(positions), row(span_positions), prefix_length=len(part_a)
    )
