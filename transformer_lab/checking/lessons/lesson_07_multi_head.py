"""Exercises of lesson 07: heads split and merged, multi-head attention, cross-attention."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lab.checking.exercise import (
    Answer,
    Exercise,
    Probe,
    Use,
    Wrong,
    gradient,
    numbers,
    other_device,
    twice,
)

LESSON = "07_multi_head"

_INF = float("inf")
_DOUBLE, _HALF = torch.float64, torch.float16
_NAMES = ("query_proj", "key_proj", "value_proj", "out_proj")


# ---------------------------------------------------------------------------- split_heads


def _split_by_loops(x: Tensor, num_heads: int) -> Tensor:
    batch, seq, features = x.shape
    width = features // num_heads
    out = x.new_zeros(batch, num_heads, seq, width)
    for head in range(num_heads):
        for feature in range(width):
            out[:, head, :, feature] = x[:, :, head * width + feature]
    return out


def _split(x: Tensor, num_heads: int) -> Tensor:
    batch, seq, features = x.shape
    return x.reshape(batch, seq, num_heads, features // num_heads).transpose(1, 2)


def _split_reshape_only(x: Tensor, num_heads: int) -> Tensor:
    batch, seq, features = x.shape
    return x.reshape(batch, num_heads, seq, features // num_heads)


def _split_not_transposed(x: Tensor, num_heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], num_heads, x.shape[2] // num_heads)


def _split_interleaved(x: Tensor, num_heads: int) -> Tensor:
    batch, seq, features = x.shape
    return x.reshape(batch, seq, features // num_heads, num_heads).permute(0, 3, 1, 2)


def _split_sizes_swapped(x: Tensor, num_heads: int) -> Tensor:
    batch, seq, features = x.shape
    return x.reshape(batch, seq, features // num_heads, num_heads).transpose(1, 2)


def _split_float_size(x: Tensor, num_heads: int) -> Tensor:
    batch, seq, features = x.shape
    width: Any = features / num_heads
    return x.reshape(batch, seq, num_heads, width).transpose(1, 2)


def _split_float_size_by_view(x: Tensor, num_heads: int) -> Tensor:
    batch, seq, features = x.shape
    width: Any = features / num_heads
    return x.view(batch, seq, num_heads, width).transpose(1, 2)


def _split_without_batch(x: Tensor, num_heads: int) -> Tensor:
    seq, features = x.shape
    return x.reshape(seq, num_heads, features // num_heads).transpose(0, 1)


def _split_views_reshape_only(x: Tensor, num_heads: int) -> Tensor:
    batch, seq, features = x.shape
    return x.view(batch, num_heads, seq, features // num_heads)


_SPLIT_BY_HAND = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]])
_HALVES = (
    "Each head gets a row for each position: head 0 the first part of every position, head 1 the second. "
    "Cut the last axis in (num_heads, d_head), then exchange heads and positions."
)

split_heads = Exercise(
    name="split_heads",
    lesson=LESSON,
    signature="split_heads(x, num_heads)",
    reference=_split_by_loops,
    probes=(
        Probe("two positions of four features, two heads", (_SPLIT_BY_HAND, 2), explain=_HALVES),
        Probe(
            "three positions of four features, two heads",
            (torch.arange(12.0).reshape(1, 3, 4), 2),
            explain=_HALVES,
        ),
        Probe(
            "a batch of two, five positions, three heads of width 4",
            (numbers(2, 5, 12, seed=1), 3),
            explain="The shape is (batch, heads, positions, d_head): (2, 3, 5, 4).",
        ),
        Probe(
            "all sizes 4, four heads of width 1",
            (numbers(4, 4, 4, seed=2), 4),
            explain="Where all sizes are equal nothing stops you from a wrong order of the axes.",
        ),
        Probe(
            "two heads of width 4, four positions",
            (numbers(2, 4, 8, seed=8), 2),
            explain="As many positions as features of a head: their axes can be taken for one another.",
        ),
        Probe(
            "one head",
            (numbers(2, 5, 12, seed=3), 1),
            explain="One head has everything: only an axis of size 1 is added, behind the batch.",
        ),
        Probe("one position", (numbers(3, 1, 6, seed=4), 2)),
        Probe(
            "numbers in float64",
            (numbers(2, 3, 6, seed=5, dtype=_DOUBLE), 3),
            explain="It should keep the dtype: is a new tensor made on the way?",
        ),
        Probe("whole numbers", (torch.arange(24).reshape(2, 3, 4), 2)),
        Probe(
            "transposed, non-contiguous input",
            (numbers(2, 6, 5, seed=6).mT, 2),
            explain="The same numbers in another order of memory: use .reshape where .view refuses.",
        ),
        gradient(numbers(2, 5, 12, seed=1), 3),
        twice(numbers(2, 5, 12, seed=1), 3),
        other_device(numbers(2, 5, 12, seed=1), 3),
    ),
    wrong_answers=(
        Wrong(
            "reshape alone",
            _split_reshape_only,
            "Your numbers are those of a reshape without the transpose: head 0 holds whole positions from the "
            "start of the sequence, and the others never meet them. Cut the last axis first, (batch, seq, "
            "num_heads, d_head), then .transpose(1, 2).",
        ),
        Wrong(
            "view alone",
            _split_views_reshape_only,
            "You view x as (batch, num_heads, seq, d_head) at once. That puts whole positions into one head, and "
            "transposed input stops it. Cut the last axis first, then .transpose(1, 2).",
        ),
        Wrong(
            "not transposed",
            _split_not_transposed,
            "You cut the features into heads, but they still stand behind the positions: (batch, seq, heads, "
            "d_head). Exchange the two axes: .transpose(1, 2).",
        ),
        Wrong(
            "interleaved",
            _split_interleaved,
            "Your heads take turns: head 0 has features 0, h, 2h, … Each head owns neighbouring features. Cut the "
            "last axis into (num_heads, d_head), in this order.",
        ),
        Wrong(
            "sizes swapped",
            _split_sizes_swapped,
            "You cut the features into d_head heads of width num_heads. Write the number of heads before the "
            "width, (batch, seq, num_heads, d_head); and .split takes the size of a piece, .chunk their number.",
        ),
        Wrong(
            "feature before position",
            lambda x, num_heads: _split(x, num_heads).mT,
            "Your last two axes are (d_head, seq): the features stand before the positions. Only heads and "
            "positions change places: .transpose(1, 2).",
        ),
        Wrong(
            "positions first",
            lambda x, num_heads: _split_not_transposed(x, num_heads).transpose(0, 1),
            "You exchange batch and positions, axes 0 and 1. Those to be exchanged are positions and heads, "
            ".transpose(1, 2).",
        ),
        Wrong(
            "heads first of all",
            lambda x, num_heads: _split(x, num_heads).transpose(0, 1),
            "Your heads stand before the batch, (heads, batch, seq, d_head). They belong behind it: "
            "(batch, heads, seq, d_head); with torch.stack, dim=1.",
        ),
        Wrong(
            "batch and heads in one axis",
            lambda x, num_heads: _split(x, num_heads).flatten(0, 1),
            "You join batch and heads into one axis. Some code does so, but masks with four axes then don't fit. "
            "Keep them apart: (batch, heads, seq, d_head).",
        ),
        Wrong(
            "a tuple of heads",
            lambda x, num_heads: x.chunk(num_heads, dim=-1),
            "You return a tuple of heads, as .chunk and .split give it. Put them into one tensor, with the heads "
            "as axis 1: torch.stack(…, dim=1).",
        ),
        Wrong(
            "everything for each head",
            lambda x, num_heads: x[:, None].expand(-1, num_heads, -1, -1),
            "Each of your heads has all features. Each should have a part of them: num_heads parts of width "
            "d_head = features / num_heads.",
        ),
        Wrong(
            "first head only",
            lambda x, num_heads: x[..., : x.shape[-1] // num_heads][:, None].expand(
                -1, num_heads, -1, -1
            ),
            "All your heads hold the first part. Head i begins at feature i · d_head.",
        ),
        Wrong(
            "a size that is no whole number",
            _split_float_size,
            "A size came out as a float: `/` gives floats even where it divides evenly. Use `//`.",
        ),
        Wrong(
            "a size that is no whole number, by view",
            _split_float_size_by_view,
            "A size for .view came out as a float: `/` gives floats even where it divides evenly. Use `//`.",
        ),
        Wrong(
            "no batch",
            _split_without_batch,
            "Your code takes x to have two axes; it has three, (batch, seq, features). The batch stays in front.",
        ),
        Wrong(
            "detached",
            lambda x, num_heads: _split(x, num_heads).detach(),
            "Your values are right, but no gradient reaches x, so the projections could never learn: look for "
            ".detach(), .data, torch.tensor(…) or torch.no_grad().",
        ),
        Wrong(
            "float32",
            lambda x, num_heads: _split(x, num_heads).float(),
            "Your result is float32 whatever comes in. Splitting only moves numbers: leave out .float(), and "
            "give new tensors the dtype of x.",
        ),
    ),
    correct_alternatives=(
        _split,
        lambda x, num_heads: torch.stack(x.chunk(num_heads, dim=-1), dim=1),
        lambda x, num_heads: x.unflatten(-1, (num_heads, -1)).permute(0, 2, 1, 3).contiguous(),
        lambda x, num_heads: torch.stack(
            [x[..., i :: x.shape[-1] // num_heads] for i in range(x.shape[-1] // num_heads)], dim=-1
        ).swapaxes(1, 2),
        lambda x, num_heads: torch.einsum(
            "bnhd->bhnd", x.view(x.size(0), -1, num_heads, x.size(2) // num_heads)
        ),
    ),
    hints=(
        "reshape never moves a number, it only puts the brackets elsewhere. Which axis can it cut into heads "
        "without mixing positions, and which order of axes have you then?",
        "First (batch, seq, features) → (batch, seq, num_heads, d_head), then exchange two axes to get "
        "(batch, num_heads, seq, d_head).",
        "batch, seq, features = x.shape; then x.reshape(batch, seq, num_heads, features // num_heads), and "
        ".transpose(1, 2) behind it.",
    ),
)

# ---------------------------------------------------------------------------- merge_heads


def _merge_by_loops(x: Tensor) -> Tensor:
    batch, heads, seq, width = x.shape
    out = x.new_zeros(batch, seq, heads * width)
    for head in range(heads):
        for feature in range(width):
            out[:, :, head * width + feature] = x[:, head, :, feature]
    return out


def _merge(x: Tensor) -> Tensor:
    batch, heads, seq, width = x.shape
    return x.transpose(1, 2).reshape(batch, seq, heads * width)


def _merge_reshape_only(x: Tensor) -> Tensor:
    batch, heads, seq, width = x.shape
    return x.reshape(batch, seq, heads * width)


def _merge_by_view(x: Tensor) -> Tensor:
    batch, heads, seq, width = x.shape
    return x.transpose(1, 2).view(batch, seq, heads * width)


def _merge_view_only(x: Tensor) -> Tensor:
    batch, heads, seq, width = x.shape
    return x.view(batch, seq, heads * width)


def _merge_features_forward(x: Tensor) -> Tensor:
    batch, heads, seq, width = x.shape
    return x.mT.reshape(batch, seq, heads * width)


def _merge_all_reversed(x: Tensor) -> Tensor:
    batch, heads, seq, width = x.shape
    return x.transpose(1, 3).reshape(batch, seq, heads * width)


_MERGE_BY_HAND = torch.tensor([[[[1.0, 2.0], [5.0, 6.0]], [[3.0, 4.0], [7.0, 8.0]]]])
_SIDE_BY_SIDE = (
    "Row t of the result is what head 0 has at position t, then what head 1 has there, and so on: exchange "
    "heads and positions back, then join the last two axes."
)

merge_heads = Exercise(
    name="merge_heads",
    lesson=LESSON,
    signature="merge_heads(x)",
    reference=_merge_by_loops,
    probes=(
        Probe("two heads of width 2 at two positions", (_MERGE_BY_HAND,), explain=_SIDE_BY_SIDE),
        Probe(
            "two heads of width 2 at three positions",
            (torch.arange(12.0).reshape(1, 2, 3, 2),),
            explain=_SIDE_BY_SIDE,
        ),
        Probe(
            "a batch of two, three heads of width 4 at five positions",
            (numbers(2, 3, 5, 4, seed=11),),
            explain="The shape is (batch, positions, heads · d_head): (2, 5, 12).",
        ),
        Probe(
            "all sizes 3",
            (numbers(3, 3, 3, 3, seed=12),),
            explain="Where all sizes are equal nothing stops you from a wrong order of the axes.",
        ),
        Probe("one head", (numbers(2, 1, 5, 4, seed=13),)),
        Probe("one position", (numbers(3, 2, 1, 4, seed=14),)),
        Probe(
            "numbers in float64",
            (numbers(2, 3, 5, 4, seed=15, dtype=_DOUBLE),),
            explain="It should keep the dtype: is a new tensor made on the way?",
        ),
        Probe("whole numbers", (torch.arange(24).reshape(2, 2, 3, 2),)),
        Probe(
            "heads that come from a transpose (non-contiguous)",
            (numbers(2, 5, 3, 4, seed=16).transpose(1, 2),),
            explain="The same numbers in another order of memory: use .reshape or .flatten.",
        ),
        gradient(numbers(2, 3, 5, 4, seed=11)),
        twice(numbers(2, 3, 5, 4, seed=11)),
        other_device(numbers(2, 3, 5, 4, seed=11)),
    ),
    wrong_answers=(
        Wrong(
            "reshape alone",
            _merge_reshape_only,
            "Your numbers are those of a reshape without the transpose: row 0 holds what *one* head has at several "
            "positions, so positions get mixed, behind the back of any mask. Exchange heads and positions "
            "first, .transpose(1, 2).",
        ),
        Wrong(
            "view alone",
            _merge_view_only,
            "You view the heads as (batch, seq, heads · d_head) at once: that mixes positions, and transposed input "
            "stops it. Exchange heads and positions first, then .reshape.",
        ),
        Wrong(
            "view after the transpose",
            _merge_by_view,
            "The order is right, but .view refuses: after a transpose the numbers don't lie in memory in the order "
            "of the axes. Use .reshape (or .contiguous() before .view).",
        ),
        Wrong(
            "not joined",
            lambda x: x.transpose(1, 2),
            "Heads and positions are exchanged, but the heads are not joined: (batch, seq, heads, d_head). Join "
            "the last two axes, as .flatten(2) does.",
        ),
        Wrong(
            "joined along the positions",
            lambda x: x.flatten(1, 2),
            "You lay the heads one below the other, (batch, heads · seq, d_head). They belong side by side, along "
            "the features: dim=-1.",
        ),
        Wrong(
            "interleaved",
            lambda x: x.permute(0, 2, 3, 1).flatten(2),
            "Your heads take turns along the features. First all of head 0, then all of head 1: the axes must be "
            "(batch, seq, heads, d_head) when you join the last two.",
        ),
        Wrong(
            "features and positions exchanged",
            _merge_features_forward,
            "You exchange positions and features, the last two axes. Exchange heads and positions: "
            ".transpose(1, 2).",
        ),
        Wrong(
            "heads and features exchanged",
            _merge_all_reversed,
            "You exchange heads and features, axes 1 and 3. Exchange heads and positions: .transpose(1, 2).",
        ),
        Wrong(
            "added up",
            lambda x: x.sum(dim=1),
            "You add the heads up, so nobody can tell any more what each has found. Lay them side by side; adding "
            "is left to W_O.",
        ),
        Wrong(
            "averaged",
            lambda x: x.to(_DOUBLE).mean(dim=1).to(x.dtype),
            "You average the heads. Lay them side by side: (batch, seq, heads · d_head).",
        ),
        Wrong(
            "first head only",
            lambda x: x[:, 0],
            "You return head 0 alone. All heads belong side by side.",
        ),
        Wrong(
            "last head first",
            lambda x: _merge(x.flip(1)),
            "Your heads stand in the wrong order, the last one first. Head 0 comes first: W_O's rows are in that "
            "order.",
        ),
        Wrong(
            "positions joined too",
            lambda x: _merge(x).flatten(1),
            "You join the positions as well: (batch, everything). Each position keeps its row: (batch, seq, heads "
            "· d_head).",
        ),
        Wrong(
            "detached",
            lambda x: _merge(x).detach(),
            "Your values are right, but no gradient reaches the heads: look for .detach(), .data, "
            "torch.tensor(…) or torch.no_grad().",
        ),
        Wrong(
            "float32",
            lambda x: _merge(x).float(),
            "Your result is float32 whatever comes in. Merging only moves numbers: leave out .float(), and give "
            "new tensors the dtype of x.",
        ),
    ),
    correct_alternatives=(
        _merge,
        lambda x: x.transpose(1, 2).contiguous().view(x.size(0), x.size(2), -1),
        lambda x: torch.cat(x.unbind(1), dim=-1),
        lambda x: torch.cat([x[:, i] for i in range(x.shape[1])], dim=2),
        lambda x: x.permute(0, 2, 1, 3).flatten(start_dim=-2),
    ),
    hints=(
        "It is split_heads run backwards: what was done last has to be undone first.",
        "First exchange heads and positions, (batch, heads, seq, d_head) → (batch, seq, heads, d_head). Only then "
        "may the last two axes become one.",
        "x.transpose(1, 2), then .flatten(2) or .reshape(batch, seq, heads * d_head).",
    ),
)

# ---------------------------------------------------------------------------- ways to attend


def _softmax(scores: Tensor) -> Tensor:
    return torch.softmax(scores, -1)


def _as_it_is(table: Tensor, mask: Tensor) -> Tensor:
    return table


def _fill(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, -_INF)


def _naive_softmax(scores: Tensor) -> Tensor:
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


@dataclass(frozen=True)
class _Ways:
    """How the step between the projections is done, each part replaceable by a mistake.

    Attributes:
        split: (batch, seq, features), heads → (batch, heads, seq, d_head).
        turn: What is done to the keys before the product with the queries.
        divisor: Of the scores, from d_head and the number of heads.
        lay: Lays the mask on the scores.
        softmax: Of the scores.
        lay_after: Lays the mask on the weights.
        merge: (batch, heads, seq, d_head) → (batch, seq, features).
        keys_as_values: Whether the mean runs over the keys.
    """

    split: Callable[[Tensor, int], Tensor] = _split
    turn: Callable[[Tensor], Tensor] = lambda key: key.mT
    divisor: Callable[[int, int], float] = lambda width, heads: math.sqrt(width)
    lay: Callable[[Tensor, Tensor], Tensor] = _fill
    softmax: Callable[[Tensor], Tensor] = _softmax
    lay_after: Callable[[Tensor, Tensor], Tensor] = _as_it_is
    merge: Callable[[Tensor], Tensor] = _merge
    keys_as_values: bool = False

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None) -> Tensor:
        query, key, value = (self.split(each, heads) for each in (q, k, v))
        scores = query @ self.turn(key) / self.divisor(q.shape[-1] // heads, heads)
        weights = self.softmax(scores if mask is None else self.lay(scores, mask))
        weights = weights if mask is None else self.lay_after(weights, mask)
        return self.merge(weights @ (key if self.keys_as_values else value))


def _truth_of_mask(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    return _Ways().attend(q, k, v, heads, mask if mask else None)


def _fused(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    query, key, value = (_split(each, heads) for each in (q, k, v))
    return _merge(F.scaled_dot_product_attention(query, key, value, attn_mask=mask))


def _over_heads(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention among the heads of one position: the transpose is forgotten before and after."""
    query, key, value = (_split_not_transposed(each, heads) for each in (q, k, v))
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    return (torch.softmax(scores if mask is None else _fill(scores, mask), -1) @ value).flatten(2)


_WAYS: tuple[tuple[str, _Ways, str], ...] = (
    (
        "transpose lost in both places",
        _Ways(split=_split_reshape_only, merge=_merge_reshape_only),
        "Your heads are reshaped without the transpose, before attention and after it. All shapes fit, but a "
        "head then holds a piece of the sequence, and the pieces never see each other. Cut the last axis "
        "into (num_heads, d_head), then .transpose(1, 2); back in reverse order.",
    ),
    (
        "transpose lost when splitting",
        _Ways(split=_split_reshape_only),
        "Your heads are split by a reshape without the transpose: each holds a piece of the sequence in place "
        "of a part of the features. Cut the last axis into (num_heads, d_head), then .transpose(1, 2).",
    ),
    (
        "transpose lost when merging",
        _Ways(merge=_merge_reshape_only),
        "What the heads bring is merged by a reshape without the transpose: outputs land at other positions, "
        "behind the back of the mask. .transpose(1, 2) first, then join the last two axes.",
    ),
    (
        "heads interleaved",
        _Ways(split=_split_interleaved, merge=lambda x: x.permute(0, 2, 3, 1).flatten(2)),
        "Your heads take turns along the features. Head i owns d_head neighbouring features: cut the last axis "
        "into (num_heads, d_head), in this order.",
    ),
    (
        "heads interleaved when splitting",
        _Ways(split=_split_interleaved),
        "You split so that the heads take turns along the features, and merge them one after the other. Cut the "
        "last axis into (num_heads, d_head), in this order, in both.",
    ),
    (
        "one wide head",
        _Ways(split=lambda x, heads: x[:, None], merge=lambda x: x[:, 0]),
        "Your numbers are those of a single head of full width. Split queries, keys and values into num_heads "
        "heads before the scores.",
    ),
    (
        "not merged",
        _Ways(merge=lambda x: x),
        "What the heads bring isn't merged before W_O. Exchange heads and positions back, then join the last two "
        "axes: (batch, seq, heads · d_head).",
    ),
    (
        "merged by view",
        _Ways(merge=_merge_by_view),
        "The order is right, but .view refuses behind a transpose. Use .reshape, or .contiguous() before .view.",
    ),
    (
        "keys not transposed",
        _Ways(turn=lambda key: key),
        "You multiply query by key as it stands. Every query meets every key: query @ key.transpose(-2, -1).",
    ),
    (
        "all axes of the keys reversed",
        _Ways(turn=lambda key: key.permute(3, 2, 1, 0)),
        "You turn round all axes of the keys, as `.T` does, batch and heads as well. Only the last two change "
        "places: key.transpose(-2, -1).",
    ),
    (
        "scaled by the full width",
        _Ways(divisor=lambda width, heads: math.sqrt(width * heads)),
        "Your scores are divided by the root of the full width of all heads. The dot product runs over one head: "
        "divide by √d_head, query.shape[-1] *after* the split.",
    ),
    (
        "not scaled",
        _Ways(divisor=lambda width, heads: 1.0),
        "Your scores aren't scaled. Divide them by √d_head before the softmax.",
    ),
    (
        "divided by d_head",
        _Ways(divisor=lambda width, heads: float(width)),
        "Your scores are divided by d_head. Divide by its square root.",
    ),
    (
        "divided by the root of the heads",
        _Ways(divisor=lambda width, heads: math.sqrt(heads)),
        "Your scores are divided by the root of the number of heads. Divide by √d_head, the width of one head.",
    ),
    (
        "multiplied by the root",
        _Ways(divisor=lambda width, heads: 1 / math.sqrt(width)),
        "Your scores are multiplied by √d_head. Divide by it.",
    ),
    (
        "softmax over the queries",
        _Ways(softmax=lambda scores: torch.softmax(scores, -2)),
        "Your softmax runs over the queries. Each query shares its 1 among the keys, the last axis: dim=-1.",
    ),
    (
        "softmax over the heads",
        _Ways(softmax=lambda scores: torch.softmax(scores, 1)),
        "Your softmax runs over the heads, dim=1. Each head has weights of its own over the keys: dim=-1.",
    ),
    (
        "no softmax",
        _Ways(softmax=lambda scores: scores),
        "Your weights are the scores themselves: the softmax over the keys is missing.",
    ),
    (
        "naive softmax",
        _Ways(softmax=_naive_softmax),
        "Your softmax overflows: exp of a large score is inf. Subtract the largest score of each row first, or "
        "use torch.softmax.",
    ),
    (
        "keys as values",
        _Ways(keys_as_values=True),
        "Your output is a mean of the keys. The weights are for the values.",
    ),
    (
        "heads added up",
        _Ways(merge=lambda x: x.sum(1).repeat(1, 1, x.shape[1])),
        "You add the heads up before W_O. Lay them side by side: W_O mixes them, each with rows of its own.",
    ),
    (
        "heads averaged",
        _Ways(merge=lambda x: x.mean(1).repeat(1, 1, x.shape[1])),
        "You average the heads before W_O. Lay them side by side, head 0 first.",
    ),
    (
        "mask ignored",
        _Ways(lay=_as_it_is),
        "Your numbers are those without the mask. Where it is False the key must get the weight 0: give it the "
        "score -inf before the softmax.",
    ),
    (
        "mask inverted",
        _Ways(lay=lambda scores, mask: scores.masked_fill(mask, -_INF)),
        "Your mask works the wrong way round, as in nn.MultiheadAttention: here True means may attend. Fill where "
        "it is False: masked_fill(~mask, …).",
    ),
    (
        "mask after the softmax",
        _Ways(lay=_as_it_is, lay_after=lambda weights, mask: weights * mask),
        "Your mask comes after the softmax: the forbidden weights are 0, but the others don't add up to 1. Set "
        "the forbidden scores to -inf before the softmax.",
    ),
    (
        "mask multiplied into the scores",
        _Ways(lay=lambda scores, mask: scores * mask),
        "A forbidden score becomes 0 in yours, and exp(0) is 1. It has to be -inf: masked_fill(~mask, "
        "float('-inf')).",
    ),
    (
        "mask added as numbers",
        _Ways(lay=lambda scores, mask: scores + mask),
        "You add the mask as it is: True counts as 1, so nothing is shut out. A forbidden score has to be -inf.",
    ),
    (
        "0 times -inf",
        _Ways(lay=lambda scores, mask: scores + (1 - mask.to(scores.dtype)) * -_INF),
        "As soon as there is a mask your numbers are NaN, as from a product with -inf: 0 · (-inf) is NaN. Use "
        "masked_fill(~mask, float('-inf')).",
    ),
    (
        "mask with one more axis",
        _Ways(lay=lambda scores, mask: _fill(scores, mask[:, None])),
        "You add an axis to the mask. It has four already, (batch, heads, query, key), as the scores have: use it "
        "as it is.",
    ),
)

# ---------------------------------------------------------------------------- MultiHeadAttention


def _raise_unless_divisible(d_model: int, num_heads: int) -> None:
    if d_model % num_heads:
        raise ValueError(f"{num_heads} heads for {d_model} features")


def _assert_divisible(d_model: int, num_heads: int) -> None:
    if d_model % num_heads:  # what `assert` does
        raise AssertionError("d_model must be a multiple of num_heads")


class _ByTorch(nn.Module):
    """The whole layer by torch's own function, with the attributes that are asked for."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        _raise_unless_divisible(d_model, num_heads)
        self.heads = num_heads
        for name in _NAMES:
            setattr(self, name, nn.Linear(d_model, d_model))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, seq, width = x.shape
        layers = [getattr(self, name) for name in _NAMES]
        blocked = None
        if mask is not None:
            blocked = ~mask.expand(batch, self.heads, seq, seq).flatten(0, 1)
        by_position = x.transpose(0, 1)
        out, _ = F.multi_head_attention_forward(
            by_position, by_position, by_position, width, self.heads,
            torch.cat([layer.weight for layer in layers[:3]]),
            torch.cat([layer.bias for layer in layers[:3]]),
            None, None, False, 0.0, layers[3].weight, layers[3].bias, attn_mask=blocked,
        )  # fmt: skip
        return out.transpose(0, 1)


Attend = Callable[[Tensor, Tensor, Tensor, int, Tensor | None], Tensor]


def _layer(
    attend: Attend | None = None,
    finish: Callable[[Any, Tensor, Tensor], Any] = lambda layer, out, x: layer.out_proj(out),
    make: Callable[[int, int], nn.Module] = lambda d_model, heads: nn.Linear(d_model, d_model),
    sources: tuple[int, int, int] = (0, 1, 2),
    names: tuple[str, ...] = _NAMES,
    guard: Callable[[int, int], None] = _raise_unless_divisible,
) -> Answer:
    """A layer as a learner may write it, with one part replaced.

    Args:
        attend: The step between the projections; the right one when None.
        finish: From the layer, what attend gave and x to the output.
        make: Makes a projection.
        sources: Which of the projections gives query, key and value.
        names: Of the four projections.
        guard: Looks at d_model and the number of heads.
    """

    class MultiHeadAttention(nn.Module):
        def __init__(self, d_model: int, num_heads: int) -> None:
            super().__init__()
            guard(d_model, num_heads)
            self.num_heads = num_heads
            for name in names:
                setattr(self, name, make(d_model, num_heads))

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
            q, k, v = (getattr(self, names[i])(x) for i in sources)
            out = (attend or _Ways().attend)(q, k, v, self.num_heads, mask)
            return finish(self, out, x)

    return MultiHeadAttention


def _without_super(d_model: int, num_heads: int) -> nn.Module:
    class MultiHeadAttention(nn.Module):
        def __init__(self) -> None:
            self.query_proj = nn.Linear(d_model, d_model)

    return MultiHeadAttention()


def _parameters_for_layers(d_model: int, heads: int) -> Any:
    return nn.Parameter(torch.zeros(d_model, d_model))


class _FixedHeads(_ByTorch):
    """Two heads, whatever num_heads says."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__(d_model, num_heads)
        self.heads = 2


class _WithoutMask(_ByTorch):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)

    forward.__qualname__ = "MultiHeadAttention.forward"  # as the learner's is called in the error


class _AlwaysCausal(_ByTorch):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        triangle = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        return super().forward(x, triangle[None, None] if mask is None else mask & triangle)


class _ByEinsum(_ByTorch):
    """Right: one small matrix for each head, and the sum of what the heads add."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        def small(layer: Any) -> Tensor:
            weight = layer.weight.unflatten(0, (self.heads, -1))
            bias = layer.bias.unflatten(0, (self.heads, -1))
            return torch.einsum("bnm,hdm->bhnd", x, weight) + bias[:, None]

        q, k, v = (small(getattr(self, name)) for name in _NAMES[:3])
        out: Any = getattr(self, "out_proj")  # noqa: B009 - set by name
        if mask is not None:
            mask = mask.expand(x.shape[0], self.heads, x.shape[1], x.shape[1])
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return (
            torch.einsum("bhnd,mhd->bnm", heads, out.weight.unflatten(1, (self.heads, -1)))
            + out.bias
        )


class _ByLoop(nn.Module):
    """Right: a loop over heads, cut out of the projections, with a large negative fill."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        _raise_unless_divisible(d_model, num_heads)
        self.h, self.d = num_heads, d_model // num_heads
        self.query_proj, self.key_proj = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.value_proj, self.out_proj = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.query_proj(x), self.key_proj(x), self.value_proj(x)
        heads = []
        for i in range(self.h):
            part = slice(i * self.d, (i + 1) * self.d)
            scores = q[..., part] @ k[..., part].mT / self.d**0.5
            if mask is not None:
                own = mask[:, i if mask.shape[1] > 1 else 0]
                scores = torch.where(own, scores, torch.finfo(scores.dtype).min)
            heads.append(torch.softmax(scores, -1) @ v[..., part])
        out: Tensor = self.out_proj(torch.cat(heads, -1))
        return out


def _projections(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """What stands in the four attributes, in words."""
    layer = answer(*args, **kwargs)
    said = []
    for name in _NAMES:
        part = getattr(layer, name, None)
        if isinstance(part, nn.Linear):
            bias = "bias" if part.bias is not None else "no bias"
            said.append(f"{name} {part.in_features} to {part.out_features}, {bias}")
        else:
            said.append(f"{name} {'missing' if part is None else type(part).__name__}")
    return "; ".join(said)


def _refusal(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Whether sizes that don't fit are refused."""
    try:
        answer(*args, **kwargs)
    except ValueError:
        return "a ValueError from __init__"
    return "no error from __init__"


def _set(layer: Any, weights: Mapping[str, Tensor], biases: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name in _NAMES:
            projection = getattr(layer, name)
            projection.weight.copy_(weights[name])
            if projection.bias is not None:
                projection.bias.copy_(biases[name])


def _drawn(layer: Any, seed: int, d_model: int, biases: bool) -> None:
    """Put weights into a layer that are the same in every run."""
    weights = {n: numbers(d_model, d_model, seed=seed + i) * 0.6 for i, n in enumerate(_NAMES)}
    shifts = {
        n: numbers(d_model, seed=seed + 10 + i) * (0.5 if biases else 0.0)
        for i, n in enumerate(_NAMES)
    }
    _set(layer, weights, shifts)


def _by_hand(x: Tensor, query_weight: Tensor) -> Use:
    """Use a layer with given weights of the queries, unit matrices elsewhere, no biases."""

    def use(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        layer = answer(*args, **kwargs)
        eye = torch.eye(args[0])
        weights = dict.fromkeys(_NAMES, eye) | {"query_proj": query_weight}
        _set(layer, weights, {name: torch.zeros(args[0]) for name in _NAMES})
        return layer(x.clone())

    return use


def _applied(
    x: Tensor,
    mask: Tensor | None = None,
    *,
    seed: int = 50,
    biases: bool = True,
    to: torch.dtype | str | None = None,
    give: Callable[[Any, Tensor, Any], Any] = lambda layer, x, out: out,
    calls: int = 1,
) -> Use:
    """Use a layer with drawn weights on x, and give back what `give` makes of it."""

    def use(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        layer = answer(*args, **kwargs)
        _drawn(layer, seed, args[0], biases)
        own = x.clone(memory_format=torch.preserve_format)
        own_mask = None if mask is None else mask.clone()
        if to is not None:
            layer = layer.to(to)
            own = own.to(to)
            own_mask = own_mask.to(to) if own_mask is not None and to == "meta" else own_mask
        own.requires_grad_(own.is_floating_point() and to != "meta")
        for _ in range(calls):
            out = layer(own) if own_mask is None else layer(own, mask=own_mask)
        return give(layer, own, out)

    return use


def _gradients(layer: Any, x: Tensor, out: Any) -> Tensor:
    inputs = [x, *(getattr(layer, name).weight for name in _NAMES)]
    steps = torch.arange(out.numel()).reshape(out.shape) + 1.0
    found: tuple[Tensor | None, ...] = (None,) * len(inputs)
    if out.requires_grad:
        found = torch.autograd.grad((out * steps).sum(), inputs, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(tensor) if grad is None else grad).flatten()
            for tensor, grad in zip(inputs, found, strict=True)
        ]
    )


_X = numbers(2, 5, 12, seed=31)
_X_SQUARE = numbers(4, 4, 4, seed=32)
_CAUSAL = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
_PADDING = torch.tensor([[True] * 5, [True, True, True, False, False]])[:, None, None, :]
_BY_HEAD = torch.stack([_CAUSAL[0, 0], torch.ones(5, 5, dtype=torch.bool), _CAUSAL[0, 0].T], dim=0)[
    None
]
_STRUCTURE = (
    "The four attributes query_proj, key_proj, value_proj and out_proj must each be an nn.Linear(d_model, d_model) "
    "with a bias, made in __init__ after super().__init__(). All heads share them: head i owns d_head of the rows."
)
_SHAPES = (
    "Write the shape beside each line: (batch, seq, d_model) projected, (batch, heads, seq, d_head) split, "
    "(batch, heads, seq, seq) scores, and back."
)
_MASKED = (
    "The mask has the four axes of the scores, with size 1 where it is the same for all. Where it is False the "
    "score has to be -inf before the softmax."
)

multi_head_attention = Exercise(
    name="MultiHeadAttention",
    lesson=LESSON,
    signature="MultiHeadAttention(d_model, num_heads)",
    reference=_ByTorch,
    probes=(
        Probe("the four projections of a layer", (6, 2), explain=_STRUCTURE, use=_projections),
        Probe(
            "queries all 0, unit matrices elsewhere, the positions (1, 2) and (3, 6): each output is their mean",
            (2, 2),
            explain="A query of zeros scores all keys alike, so each head's output is the mean of its values, and "
            "the output is (2, 4) for both positions. Numbers such as (1.5, 4.5), (1.5, 1.5) or (2, 2) come from a "
            "reshape without the transpose. " + _SHAPES,
            use=_by_hand(torch.tensor([[[1.0, 2.0], [3.0, 6.0]]]), torch.zeros(2, 2)),
        ),
        Probe(
            "the example: weights of the queries ln 3 times the unit matrix, positions (1, 0) and (0, 1)",
            (2, 2),
            explain="By hand: head 0 has the scores (ln 3, 0) and (0, 0), head 1 (0, 0) and (0, ln 3). "
            + _SHAPES,
            use=_by_hand(torch.eye(2)[None], math.log(3) * torch.eye(2)),
        ),
        Probe(
            "a batch of two, five positions, three heads of width 4, biases 0",
            (12, 3),
            explain=_SHAPES,
            use=_applied(_X, biases=False),
        ),
        Probe(
            "the same with biases",
            (12, 3),
            explain="Use the layers, self.query_proj(x), not their weights alone: the bias belongs to them.",
            use=_applied(_X),
        ),
        Probe(
            "all sizes 4, two heads",
            (4, 2),
            explain="Where sizes are equal nothing stops you from a wrong order of axes. "
            + _SHAPES,
            use=_applied(_X_SQUARE),
        ),
        Probe(
            "one head",
            (12, 1),
            explain="One head of full width is plain attention: is a number of heads or a width written into the "
            "code?",
            use=_applied(_X),
        ),
        Probe(
            "six heads of width 2",
            (12, 6),
            explain="Is a number of heads or a width written into the code?",
            use=_applied(_X),
        ),
        Probe(
            "five positions and a causal mask (1, 1, 5, 5)",
            (12, 3),
            explain=_MASKED,
            use=_applied(_X, _CAUSAL),
        ),
        Probe(
            "a padding mask (2, 1, 1, 5), the second sequence has three tokens",
            (12, 3),
            explain=_MASKED,
            use=_applied(_X, _PADDING),
        ),
        Probe(
            "a mask (1, 3, 5, 5), another for each head",
            (12, 3),
            explain="The second axis of the mask belongs to the heads. " + _MASKED,
            use=_applied(_X, _BY_HEAD),
        ),
        Probe(
            "the example with scores of 200 in place of ln 3",
            (2, 2),
            explain="exp(200) is inf in float32: use torch.softmax, or subtract the largest of each row first.",
            use=_by_hand(torch.eye(2)[None], 200 * torch.eye(2)),
        ),
        Probe(
            "a layer turned to float64",
            (12, 3),
            explain="It should keep the dtype and its precision: is something made or converted on the way?",
            use=_applied(_X, _CAUSAL, to=_DOUBLE),
        ),
        Probe(
            "transposed, non-contiguous x",
            (12, 3),
            explain="The same numbers in another order of memory: use .reshape where .view refuses.",
            use=_applied(numbers(2, 12, 5, seed=33).mT),
        ),
        Probe(
            "the gradients of x and of the four weights",
            (12, 3),
            explain="The values are right, but the gradients aren't: look for .detach(), .data, torch.tensor(…) or "
            "torch.no_grad(), which cut them off.",
            use=_applied(_X, to=_DOUBLE, give=_gradients),
        ),
        Probe(
            "the caller's x, looked at after the call",
            (12, 3),
            explain="The caller's x should be as it was: `x = x + …` in place of `x += …`.",
            use=_applied(_X, _CAUSAL, give=lambda layer, x, out: x),
        ),
        Probe(
            "the same input a second time",
            (12, 3),
            explain="The first call was right, the second isn't: something is kept from one call to the next, or "
            "drawn at random.",
            use=_applied(_X, calls=2),
        ),
        Probe(
            "ten features for three heads",
            (10, 3),
            explain="Three heads can't share ten features evenly. `__init__` should say so with a ValueError.",
            use=_refusal,
        ),
        Probe(
            "a layer and inputs that live on another device than the CPU",
            (12, 3),
            explain="On a GPU this would stop: a tensor is made on the CPU whatever the device of x is.",
            use=_applied(_X, _CAUSAL, to="meta", give=lambda layer, x, out: "runs"),
            seconds=60.0,
        ),
    ),
    wrong_answers=(
        Wrong(
            "no biases",
            _layer(make=lambda d_model, heads: nn.Linear(d_model, d_model, bias=False)),
            "Your projections have no bias. Here all four have one: leave bias=False out. (Some models do without, "
            "LLaMA for example.)",
        ),
        Wrong(
            "width of one head",
            _layer(make=lambda d_model, heads: nn.Linear(d_model, d_model // heads)),
            "Your projections give the width of a single head. One nn.Linear(d_model, d_model) holds the matrices of "
            "all heads side by side; they are separated afterwards.",
        ),
        Wrong(
            "a wide head each",
            _layer(make=lambda d_model, heads: nn.Linear(d_model, heads * d_model)),
            "Your projections give d_model features for each head. The width is split, not multiplied: "
            "nn.Linear(d_model, d_model) for all heads together.",
        ),
        Wrong(
            "a list of layers",
            _layer(
                make=lambda d_model, heads: nn.ModuleList(
                    nn.Linear(d_model, d_model // heads) for _ in range(heads)
                )
            ),
            "You keep a list of small layers, one for each head. It can be right in numbers, but here one "
            "nn.Linear(d_model, d_model) is asked for in each attribute: it holds all heads, and is one product.",
        ),
        Wrong(
            "parameters in place of layers",
            _layer(make=_parameters_for_layers),
            "You keep bare parameters. Each attribute should be an nn.Linear, which holds weight and bias.",
        ),
        Wrong(
            "names with w",
            _layer(names=("w_q", "w_k", "w_v", "w_o")),
            "The four attributes aren't found. Make them in __init__ (layers made in forward are new in each call and "
            "could never learn) and call them query_proj, key_proj, value_proj and out_proj: the check puts its own "
            "weights in by these names.",
        ),
        Wrong(
            "output projection missing",
            _layer(finish=lambda layer, out, x: out, names=_NAMES[:3]),
            "out_proj is missing: the three others alone leave the heads unmixed. Make a fourth layer, and send the "
            "merged heads through it.",
        ),
        Wrong(
            "super().__init__() forgotten",
            _without_super,
            "super().__init__() is missing or comes too late: torch can't keep layers before it has run. It is the "
            "first line of __init__.",
        ),
        *(Wrong(name, _layer(ways.attend), says) for name, ways, says in _WAYS),
        Wrong(
            "attention among the heads",
            _layer(_over_heads),
            "Your positions never see each other: the heads of one position attend to one another. The last two axes "
            "must be (seq, d_head) when you multiply: .transpose(1, 2) after the split.",
        ),
        Wrong(
            "truth of a mask",
            _layer(_truth_of_mask),
            "The mask stands where Python needs one True or False, as in `if mask:`. Write `if mask is not None:`.",
        ),
        Wrong(
            "W_O not applied",
            _layer(finish=lambda layer, out, x: out),
            "Your output lacks the last step: the merged heads have to go through out_proj.",
        ),
        Wrong(
            "W_O without its bias",
            _layer(finish=lambda layer, out, x: out @ layer.out_proj.weight.T),
            "The bias of out_proj is left out: call the layer, self.out_proj(…), instead of multiplying by its "
            "weight.",
        ),
        Wrong(
            "W_O transposed",
            _layer(finish=lambda layer, out, x: out @ layer.out_proj.weight + layer.out_proj.bias),
            "You multiply by out_proj.weight as it is stored, (out, in). Call the layer, self.out_proj(…), which takes "
            "the transpose.",
        ),
        Wrong(
            "input added",
            _layer(finish=lambda layer, out, x: x + layer.out_proj(out)),
            "You add x to the output. That residual connection comes later, around the layer.",
        ),
        Wrong(
            "weights returned too",
            _layer(finish=lambda layer, out, x: (layer.out_proj(out), out)),
            "forward returns a pair, as nn.MultiheadAttention does. Return the output alone.",
        ),
        Wrong(
            "nothing returned",
            _layer(finish=lambda layer, out, x: None),
            "forward returns None: is a `return` missing?",
        ),
        Wrong(
            "queries as keys",
            _layer(sources=(0, 0, 2)),
            "Your keys come from query_proj. They have a projection of their own: self.key_proj(x).",
        ),
        Wrong(
            "keys as queries",
            _layer(sources=(1, 1, 2)),
            "Your queries come from key_proj. They have a projection of their own: self.query_proj(x).",
        ),
        Wrong(
            "query and key exchanged",
            _layer(sources=(1, 0, 2)),
            "Query and key have changed places. The rows of the scores are queries: query @ key.transpose(-2, -1).",
        ),
        Wrong(
            "one projection for all",
            _layer(sources=(0, 0, 0)),
            "Queries, keys and values all come from query_proj. Each has a projection of its own.",
        ),
        Wrong(
            "sizes not checked",
            _layer(guard=lambda d_model, heads: None),
            "Three heads can't share ten features evenly, and your class makes such a layer without a word; only "
            "forward would stumble. In __init__: if d_model % num_heads, raise a ValueError with both numbers.",
        ),
        Wrong(
            "sizes checked by assert",
            _layer(guard=_assert_divisible),
            "You check the sizes with `assert`, which Python leaves out under -O. What a caller may do wrong is "
            "answered with an exception: if d_model % num_heads: raise ValueError(…).",
        ),
        Wrong(
            "two heads always",
            _FixedHeads,
            "The number of heads is written into your code. Keep what __init__ is given: self.num_heads = num_heads.",
        ),
        Wrong(
            "no mask",
            _WithoutMask,
            "forward takes no parameter called `mask`; the check passes it by this name. Its first line should be "
            "`def forward(self, x, mask=None):`.",
        ),
        Wrong(
            "always causal",
            _AlwaysCausal,
            "Your layer hides the future even when no mask is given. Who may look at whom is the caller's choice: use "
            "the mask that is passed, and none when it is None.",
        ),
        Wrong(
            "detached",
            _layer(finish=lambda layer, out, x: layer.out_proj(out).detach()),
            "Your values are right, but no gradient comes back, so the layer could never learn: look for .detach(), "
            ".data or torch.no_grad().",
        ),
        Wrong(
            "gradient only through W_O",
            _layer(finish=lambda layer, out, x: layer.out_proj(out.detach())),
            "Your values are right, but the gradient stops at out_proj: queries, keys and values could never learn. "
            "Look for .detach(), .data or torch.tensor(…) before it.",
        ),
    ),
    correct_alternatives=(
        _layer(),
        _ByEinsum,
        _ByLoop,
        _layer(_fused),
    ),
    hints=(
        "Five steps: project, split, attend, merge, project. Write the shape of the tensor after each; which of them "
        "do the two functions that you have already written?",
        "In __init__: the ValueError, four nn.Linear(d_model, d_model) and self.num_heads. In forward the scores are "
        "query @ key.transpose(-2, -1) / √d_head, with d_head the last size of the split query; the mask is laid on "
        "them.",
        "query, key, value = split_heads of self.query_proj(x), self.key_proj(x), self.value_proj(x); scores, "
        "masked_fill(~mask, -inf) if mask is not None, softmax(dim=-1), @ value; return "
        "self.out_proj(merge_heads(…)).",
    ),
)

# ---------------------------------------------------------------------------- cross_attention


def _cross_by_loops(
    x: Tensor,
    memory: Tensor,
    w_q: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    w_o: Tensor,
    num_heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    q, k, v = (
        x.double() @ w_q.double(),
        memory.double() @ w_k.double(),
        memory.double() @ w_v.double(),
    )
    width = w_q.shape[1] // num_heads
    shape = (x.shape[0], num_heads, x.shape[1], memory.shape[1])
    allowed = (
        torch.ones(shape, dtype=torch.bool, device=x.device) if mask is None else mask.expand(shape)
    )
    out = torch.zeros(*x.shape[:2], w_o.shape[1], dtype=_DOUBLE, device=x.device)
    for head in range(num_heads):
        own = slice(head * width, (head + 1) * width)
        scores = (q[:, :, None, own] * k[:, None, :, own]).sum(-1) / math.sqrt(width)
        scores = torch.where(allowed[:, head], scores, -_INF)
        powers = (scores - scores.amax(-1, keepdim=True)).exp()
        found = torch.einsum("bqk,bkd->bqd", powers / powers.sum(-1, keepdim=True), v[:, :, own])
        out = out + found @ w_o.double()[own]
    return out.to(x.dtype)


def _cross(
    attend: Attend | None = None,
    project: Callable[[Tensor, Tensor], Tensor] = lambda x, w: x @ w,
    finish: Callable[[Tensor, Tensor], Tensor] = lambda out, w_o: out @ w_o,
    sources: tuple[int, int, int] = (0, 1, 1),
    matrices: tuple[int, int, int] = (0, 1, 2),
) -> Answer:
    """Cross-attention as a learner may write it, with one part replaced.

    Args:
        attend: The step between the projections; the right one when None.
        project: Product of a sequence with a matrix.
        finish: The last product.
        sources: Where query, key and value come from: 0 is x, 1 the memory.
        matrices: Which of w_q, w_k, w_v makes query, key and value.
    """

    def answer(
        x: Tensor,
        memory: Tensor,
        w_q: Tensor,
        w_k: Tensor,
        w_v: Tensor,
        w_o: Tensor,
        num_heads: int,
        mask: Tensor | None = None,
    ) -> Tensor:
        sequences, ws = (x, memory), (w_q, w_k, w_v)
        q, k, v = (project(sequences[s], ws[m]) for s, m in zip(sources, matrices, strict=True))
        return finish((attend or _Ways().attend)(q, k, v, num_heads, mask), w_o)

    return answer


def _cross_with_width_of_x(
    x: Tensor,
    memory: Tensor,
    w_q: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    w_o: Tensor,
    num_heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    batch, _, d_model = x.shape
    width = d_model // num_heads

    def heads(projected: Tensor) -> Tensor:
        return projected.reshape(batch, -1, num_heads, width).transpose(1, 2)

    query, key, value = heads(x @ w_q), heads(memory @ w_k), heads(memory @ w_v)
    scores = query @ key.mT / math.sqrt(width)
    weights = torch.softmax(scores if mask is None else _fill(scores, mask), -1)
    return (weights @ value).transpose(1, 2).reshape(batch, -1, d_model) @ w_o


def _cross_one_length(
    x: Tensor,
    memory: Tensor,
    w_q: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    w_o: Tensor,
    num_heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    batch, seq, _ = x.shape

    def heads(projected: Tensor) -> Tensor:
        return projected.reshape(batch, seq, num_heads, -1).transpose(1, 2)

    query, key, value = heads(x @ w_q), heads(memory @ w_k), heads(memory @ w_v)
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    weights = torch.softmax(scores if mask is None else _fill(scores, mask), -1)
    return (weights @ value).transpose(1, 2).reshape(batch, seq, -1) @ w_o


def _cross_by_torch(
    x: Tensor,
    memory: Tensor,
    w_q: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    w_o: Tensor,
    num_heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    q, k, v = (_split(each, num_heads) for each in (x @ w_q, memory @ w_k, memory @ w_v))
    return _merge(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)) @ w_o


def _cross_fused(
    x: Tensor,
    memory: Tensor,
    w_q: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    w_o: Tensor,
    num_heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    k, v = (memory @ torch.cat([w_k, w_v], dim=1)).chunk(2, dim=-1)
    return _Ways().attend(x @ w_q, k, v, num_heads, mask) @ w_o


_EYE = torch.eye(2)
_ASK_ZERO = (
    torch.zeros(1, 1, 2),
    torch.tensor([[[1.0, 2.0], [3.0, 6.0]]]),
    *(_EYE,) * 4,
    2,
)
_ASK_LN3 = (
    torch.tensor([[[math.log(3), 0.0]]]),
    torch.tensor([[[1.0, 0.0], [0.0, 4.0]]]),
    *(_EYE,) * 4,
    2,
)


def _matrices(d_model: int, inner: int, seed: int, dtype: torch.dtype = torch.float32) -> Any:
    into = tuple(numbers(d_model, inner, seed=seed + i, dtype=dtype) * 0.6 for i in range(3))
    return (*into, numbers(inner, d_model, seed=seed + 3, dtype=dtype) * 0.6)


def _cross_input(dtype: torch.dtype = torch.float32) -> Any:
    x, memory = numbers(2, 3, 8, seed=71, dtype=dtype), numbers(2, 5, 8, seed=72, dtype=dtype)
    return (x, memory, *_matrices(8, 8, 73, dtype), 2)


_CROSS = _cross_input()
_CROSS_PADDING = _PADDING
_T5_LIKE = (numbers(2, 3, 8, seed=71), numbers(2, 5, 8, seed=72), *_matrices(8, 12, 80), 3)

cross_attention = Exercise(
    name="cross_attention",
    lesson=LESSON,
    signature="cross_attention(x, memory, w_q, w_k, w_v, w_o, num_heads, mask=None)",
    reference=_cross_by_loops,
    probes=(
        Probe(
            "a query of zeros, a memory of (1, 2) and (3, 6), unit matrices: the output is their mean, (2, 4)",
            _ASK_ZERO,
            explain="A query of zeros scores all keys alike. The mean runs over the memory.",
        ),
        Probe(
            "the query (ln 3, 0), a memory of (1, 0) and (0, 4), unit matrices, two heads of width 1",
            _ASK_LN3,
            explain="Head 0 has the scores (ln 3, 0), so the weights 3/4 and 1/4, and finds 3/4. Head 1 asks with 0 "
            "and finds the mean, 2.",
        ),
        Probe(
            "three positions ask five, batch of two, two heads of width 4",
            _CROSS,
            explain="Queries have n_q rows, keys and values n_k. The output has one row for each query.",
        ),
        Probe(
            "four ask four, all sizes 4",
            (numbers(4, 4, 4, seed=90), numbers(4, 4, 4, seed=91), *_matrices(4, 4, 92), 2),
            explain="Where all sizes are equal nothing stops you from a wrong order of axes.",
        ),
        Probe(
            "three heads of width 4 in a model of width 8",
            _T5_LIKE,
            explain="heads · d_head is 12 here, d_model is 8. Take the width of a head from the matrices, "
            "w_q.shape[1] // num_heads.",
        ),
        Probe("one head", (*_CROSS[:6], 1), explain="One head of full width is plain attention."),
        Probe(
            "one query and a memory of one key: the weight is 1",
            (numbers(1, 1, 4, seed=96), numbers(1, 1, 4, seed=97), *_matrices(4, 4, 98), 2),
        ),
        Probe(
            "the query of zeros again, the second key hidden by a mask: the output is (1, 2)",
            _ASK_ZERO,
            {"mask": torch.tensor([[[[True, False]]]])},
            _MASKED,
        ),
        Probe(
            "a mask (2, 1, 1, 5), padding of the memory",
            (*_CROSS, _CROSS_PADDING),
            explain=_MASKED,
        ),
        Probe(
            "a mask (1, 1, 3, 5), another row for each query",
            (*_CROSS, torch.ones(1, 1, 3, 5, dtype=torch.bool).tril(1)),
            explain=_MASKED,
        ),
        Probe(
            "the query (200, 0)",
            (torch.tensor([[[200.0, 0.0]]]), *_ASK_LN3[1:]),
            explain="exp(200) is inf in float32: use torch.softmax, or subtract the largest of each row first.",
        ),
        Probe(
            "numbers in float64 and a mask",
            (*_cross_input(_DOUBLE), _CROSS_PADDING),
            explain="It should keep the dtype and its precision: is something made or converted on the way?",
        ),
        Probe(
            "transposed, non-contiguous inputs",
            (numbers(2, 8, 3, seed=71).mT, numbers(2, 8, 5, seed=72).mT, *_CROSS[2:]),
            explain="The same numbers in another order of memory: use .reshape where .view refuses.",
        ),
        gradient(*_cross_input(_DOUBLE)),
        twice(*_CROSS),
        other_device(*_CROSS),
        other_device(*_CROSS, _CROSS_PADDING),
    ),
    wrong_answers=(
        Wrong(
            "self-attention of x",
            _cross(sources=(0, 0, 0)),
            "Your keys and values come from x: that is self-attention. They come from the memory: memory @ w_k, "
            "memory @ w_v.",
        ),
        Wrong(
            "self-attention of the memory",
            _cross(sources=(1, 1, 1)),
            "Your queries come from the memory: it attends to itself. x asks: x @ w_q.",
        ),
        Wrong(
            "x and memory exchanged",
            _cross(sources=(1, 0, 0)),
            "x and memory have changed places: the memory asks in yours. x gives the queries, the memory keys and "
            "values, so the output has the length of x.",
        ),
        Wrong(
            "values from x",
            _cross(sources=(0, 1, 0)),
            "Your values come from x. Each key of the memory brings its own value: memory @ w_v.",
        ),
        Wrong(
            "keys from x",
            _cross(sources=(0, 0, 1)),
            "Your keys come from x, the values from the memory. Keys and values belong together: memory @ w_k.",
        ),
        Wrong(
            "w_q for the keys",
            _cross(matrices=(0, 0, 2)),
            "Your keys are made with w_q. They have a matrix of their own, w_k.",
        ),
        Wrong(
            "w_k for the values",
            _cross(matrices=(0, 1, 1)),
            "Your values are made with w_k. They have a matrix of their own, w_v.",
        ),
        Wrong(
            "w_q and w_k exchanged",
            _cross(matrices=(1, 0, 2)),
            "w_q and w_k have changed places: queries are x @ w_q, keys memory @ w_k.",
        ),
        Wrong(
            "matrices transposed",
            _cross(project=lambda x, w: x @ w.mT, finish=lambda out, w_o: out @ w_o.mT),
            "You multiply by the transposed matrices, as F.linear does. Here they are written as in mathematics: "
            "x @ w_q.",
        ),
        Wrong(
            "first three matrices transposed",
            _cross(project=lambda x, w: x @ w.mT),
            "You multiply by w_q, w_k and w_v transposed, as F.linear does. Here the product is x @ w_q.",
        ),
        Wrong(
            "w_o transposed",
            _cross(finish=lambda out, w_o: out @ w_o.mT),
            "You multiply by w_o transposed, as F.linear does. Here the product is heads @ w_o.",
        ),
        Wrong(
            "w_o forgotten",
            _cross(finish=lambda out, w_o: out),
            "Your output lacks the last step: the merged heads times w_o.",
        ),
        Wrong(
            "width of x",
            _cross_with_width_of_x,
            "Your heads take their width from x, d_model // num_heads. heads · d_head need not be d_model: take it "
            "from the matrices, w_q.shape[1] // num_heads, or let reshape find it with -1.",
        ),
        Wrong(
            "one length for both",
            _cross_one_length,
            "You reshape keys and values with the length of x. The memory has its own, memory.shape[1].",
        ),
        *(
            Wrong(name, _cross(ways.attend), says)
            for name, ways, says in _WAYS
            if not ways.keys_as_values  # the same numbers as with w_k for the values
        ),
        Wrong(
            "truth of a mask",
            _cross(_truth_of_mask),
            "The mask stands where Python needs one True or False, as in `if mask:`. Write `if mask is not None:`.",
        ),
        Wrong(
            "nothing returned",
            _cross(finish=lambda out, w_o: None),  # type: ignore[arg-type, return-value]
            "Your function returns None: is a `return` missing?",
        ),
        Wrong(
            "detached",
            _cross(finish=lambda out, w_o: (out @ w_o).detach()),
            "Your values are right, but no gradient reaches the inputs, so nothing could learn: look for .detach(), "
            ".data, torch.tensor(…) or torch.no_grad().",
        ),
        Wrong(
            "computed in float32",
            _cross(finish=lambda out, w_o: (out.float() @ w_o.float()).to(out.dtype)),
            "Your numbers are computed in float32 on the way, so float64 loses half of its digits. Leave out .float() "
            "and dtype=torch.float32.",
        ),
    ),
    correct_alternatives=(
        _cross(),
        _cross_by_torch,
        _cross_fused,
        _cross(
            project=lambda x, w: F.linear(x, w.T), finish=lambda out, w_o: torch.matmul(out, w_o)
        ),
        _cross(
            _Ways(
                lay=lambda scores, mask: scores + mask.to(scores.dtype).log(),
                merge=lambda x: torch.cat(x.unbind(1), dim=-1),
            ).attend
        ),
    ),
    hints=(
        "It is multi-head attention in which only the origin of keys and values differs. Which of the tensors have n_q "
        "rows, which n_k?",
        "q = x @ w_q, k = memory @ w_k, v = memory @ w_v; each split into heads with its own length. The scores are "
        "(batch, heads, n_q, n_k).",
        "With q, k, v split: scores = q @ k.transpose(-2, -1) / √d_head, d_head = q.shape[-1] after the split; "
        "masked_fill(~mask, -inf) if there is a mask; softmax over dim=-1; @ v; merge the heads; @ w_o.",
    ),
)

EXERCISES = (split_heads, merge_heads, multi_head_attention, cross_attention)
