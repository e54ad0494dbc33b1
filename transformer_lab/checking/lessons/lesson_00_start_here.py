"""Exercise of lesson 00: one that shows how a check answers."""

import torch
from torch import Tensor

from transformer_lab.checking.exercise import Exercise, Probe, Wrong, other_device, twice


def _row_by_row(counts: Tensor) -> Tensor:
    return torch.stack([torch.stack([count / sum(row) for count in row]) for row in counts])


def _through_the_transpose(counts: Tensor) -> Tensor:
    return (counts.T / counts.sum(dim=1)).T


def _in_place(counts: Tensor) -> Tensor:
    counts /= counts.sum(dim=1, keepdim=True)
    return counts


def _printed(counts: Tensor) -> None:
    print(counts / counts.sum(dim=1, keepdim=True))


proportions = Exercise(
    name="proportions",
    lesson="00_start_here",
    signature="proportions(counts)",
    reference=_row_by_row,
    probes=(
        Probe("one row of two equal counts", (torch.tensor([[1.0, 1.0]]),)),
        Probe("one row of three counts", (torch.tensor([[2.0, 1.0, 1.0]]),)),
        Probe(
            "two rows of three counts",
            (torch.tensor([[2.0, 1.0, 1.0], [0.0, 3.0, 7.0]]),),
            explain="Each row must add up to 1 by itself.",
        ),
        Probe(
            "two rows of two counts",
            (torch.tensor([[1.0, 3.0], [4.0, 1.0]]),),
            explain="Each row must add up to 1 by itself.",
        ),
        Probe(
            "whole numbers",
            (torch.tensor([[2, 1, 1], [5, 0, 5]]),),
            explain="Use `/`, which gives fractions for whole numbers too.",
        ),
        twice(torch.tensor([[3.0, 1.0]])),
        other_device(torch.tensor([[3.0, 1.0]])),
    ),
    wrong_answers=(
        Wrong(
            "divided by the total of the whole table",
            lambda counts: counts / counts.sum(),
            "Your numbers are those of dividing by the total of the whole table: all numbers together add up "
            "to 1. Each row has to: sum along the last axis.",
        ),
        Wrong(
            "columns instead of rows",
            lambda counts: counts / counts.sum(dim=0, keepdim=True),
            "Your numbers are shares of the columns: yours add up to 1 downwards. Each row has to: "
            "sum along dim=1, the axis that runs through a row.",
        ),
        Wrong(
            "divided by the largest",
            lambda counts: counts / counts.amax(dim=1, keepdim=True),
            "Your numbers are the counts divided by the largest of their row: the largest becomes 1. "
            "Divide by the sum of the row, so that the row adds up to 1.",
        ),
        Wrong(
            "percent",
            lambda counts: 100 * counts / counts.sum(dim=1, keepdim=True),
            "Your numbers are percentages: a row adds up to 100. It has to add up to 1.",
        ),
        Wrong(
            "floor division",
            lambda counts: counts // counts.sum(dim=1, keepdim=True),
            "Your numbers are those of `//`, which rounds down to whole numbers. Use `/`.",
        ),
        Wrong(
            "keepdim forgotten",
            lambda counts: counts / counts.sum(dim=1),
            "Your sum has lost its axis, so the totals line up with the columns and not with the rows. "
            "Keep the axis: `counts.sum(dim=1, keepdim=True)`.",
        ),
        Wrong(
            "in place",
            _in_place,
            "Your numbers would be right, but `counts /= …` writes into the caller's table. "
            "Make a new one: `counts / …`.",
        ),
        Wrong(
            "printed instead of returned",
            _printed,
            "Your function prints the numbers and returns None. Hand them back with `return`.",
        ),
        Wrong(
            "the counts themselves",
            lambda counts: counts,
            "Your function returns the counts unchanged. Divide each by the sum of its row.",
        ),
        Wrong(
            "the totals",
            lambda counts: counts.sum(dim=1, keepdim=True),
            "Your function returns the totals of the rows. Divide the counts by them.",
        ),
    ),
    correct_alternatives=(
        lambda counts: counts / counts.sum(dim=-1, keepdim=True),
        lambda counts: counts / counts.sum(dim=1)[:, None],
        _through_the_transpose,
        lambda counts: torch.div(counts, counts.sum(1).unsqueeze(1)),
    ),
    hints=(
        "What does one row have to be divided by, so that it adds up to 1?",
        "`counts.sum(dim=1)` is one total for each row. Its shape is (rows,), that of counts (rows, columns): "
        "how do you make them fit?",
        "`keepdim=True` keeps the summed axis with size 1: the totals then have shape (rows, 1), and the "
        "division repeats them along each row.",
    ),
)

EXERCISES = (proportions,)
