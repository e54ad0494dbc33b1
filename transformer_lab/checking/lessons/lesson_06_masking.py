"""Exercises of lesson 06: four masks, and a test that finds looks into the future."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from transformer_lab.checking.exercise import (
    Answer,
    Exercise,
    Probe,
    Wrong,
    numbers,
    other_device,
    twice,
)

LESSON = "06_masking"

Model = Callable[[Tensor], Tensor]


def _i(n: int) -> Tensor:
    return torch.arange(n)[:, None]


def _j(n: int) -> Tensor:
    return torch.arange(n)[None, :]


def _additive(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, -math.inf)


def _wrong_dtypes(right: Answer) -> tuple[Wrong, ...]:
    """What goes wrong with the kind of numbers in any mask."""
    return (
        Wrong(
            "floats 1 and 0",
            lambda *args: right(*args).float(),
            "Your mask says the right thing in floats, 1 and 0; it should be boolean. Torch adds a float "
            "mask to the scores, and adding 1 or 0 blocks nothing, without an error. A comparison such as "
            "`j <= i` is boolean by itself; else make ones with dtype=torch.bool, or end with `!= 0`.",
        ),
        Wrong(
            "integers 1 and 0",
            lambda *args: right(*args).long(),
            "Your mask says the right thing in integers, 1 and 0; it should be boolean. On integers `~` "
            "flips bits, so ~1 is -2 and not 0. A comparison such as `j <= i` is boolean by itself; else "
            "end with `!= 0`.",
        ),
        Wrong(
            "additive",
            lambda *args: _additive(right(*args)),
            "Your mask is the additive one, 0 where a look is allowed and -inf where it is blocked. Attention "
            "makes that from a boolean mask by itself. Return the booleans, True = may attend: they can "
            "be joined with & and |.",
        ),
    )


_ONE_TRUTH_VALUE = (
    "It asks a whole table for a single yes or no. `and`, `or`, `if` and chained comparisons such as a < b <= "
    "c do that. Compare twice, put each comparison in parentheses, and join them with "
)


def _wrong_axes_of_a_table(right: Answer) -> tuple[Wrong, ...]:
    """What goes wrong with the axes of a mask that is the same for each sentence and head."""
    return (
        Wrong(
            "two axes",
            lambda *args: right(*args)[0, 0],
            "Your table is right, but it has two axes, (query, key). All masks of the course have four, "
            "(batch, heads, query, key): add two of size 1 in front, `[None, None]`.",
        ),
        Wrong(
            "three axes",
            lambda *args: right(*args)[0],
            "Your table is right, but it has three axes. All masks of the course have four, (batch, heads, "
            "query, key): add one more of size 1 in front.",
        ),
        Wrong(
            "two axes of floats",
            lambda *args: right(*args)[0, 0].float(),
            "Your table allows the right looks, but two things are missing: it holds floats and should be "
            "boolean, and it has two axes and should have four. Make ones with dtype=torch.bool, and add "
            "the axes for batch and heads with `[None, None]`.",
        ),
    )


# ---------------------------------------------------------------------------- causal_mask


def _causal_by_loop(n: int) -> Tensor:
    mask = torch.zeros(1, 1, n, n, dtype=torch.bool)
    for query in range(n):
        for key in range(query + 1):
            mask[0, 0, query, key] = True
    return mask


def _causal(n: int) -> Tensor:
    return (_j(n) <= _i(n))[None, None]


def _causal_from_inf(n: int) -> Tensor:
    return torch.full((1, 1, n, n), -math.inf).triu(1) == 0


def _all_true(n: int) -> Tensor:
    return torch.ones(1, 1, n, n, dtype=torch.bool)


_TABLE = (
    "The last two axes are the table, batch and heads have size 1. In the table row i is query i, column j is "
    "key j, and True means may attend."
)
_ANY_SIZE = "The table has n rows and n columns for every n: is a size written into the code?"

causal_mask = Exercise(
    name="causal_mask",
    lesson=LESSON,
    signature="causal_mask(n)",
    reference=_causal_by_loop,
    probes=(
        # Three first, not one: with one position most mistakes look the same.
        Probe("three positions", (3,), explain=_TABLE),
        Probe("one position, which may look at itself", (1,), explain=_ANY_SIZE),
        Probe("two positions", (2,), explain=_ANY_SIZE),
        Probe(
            "five positions",
            (5,),
            explain=_ANY_SIZE,
        ),
        twice(4),
    ),
    wrong_answers=(
        Wrong(
            "inverted",
            lambda n: ~_causal(n),
            "Your mask is True where a look is blocked: it is the right one inverted. Torch's nn.Transformer "
            "wants it so; in this course True means may attend. Turn it round: `j <= i`, or `~` in front.",
        ),
        Wrong(
            "transposed",
            lambda n: _all_true(n).triu(),
            "Your mask is the upper triangle: each query sees itself and the future. Rows are queries and "
            "columns are keys, so allowed is j <= i, the lower triangle (tril).",
        ),
        Wrong(
            "without itself",
            lambda n: _all_true(n).tril(-1),
            "Your mask blocks the diagonal: no query sees itself, and the first sees nothing at all. A "
            "position may look at itself, since it predicts the next one: j <= i, not j < i.",
        ),
        Wrong(
            "one ahead",
            lambda n: _all_true(n).tril(1),
            "Your mask lets each query see one position ahead, the very one it has to predict. The last key "
            "allowed is the query's own: j <= i.",
        ),
        *_wrong_dtypes(_causal),
        *_wrong_axes_of_a_table(_causal),
        Wrong(
            "additive, two axes",
            lambda n: _additive(_causal(n))[0, 0],
            "Your table is the additive one of nn.Transformer: 0 and -inf, with two axes. Here a mask is "
            "boolean, True = may attend, and has four axes: compare `j <= i`, then add `[None, None]`.",
        ),
        Wrong(
            "inverted, two axes",
            lambda n: ~_causal(n)[0, 0],
            "Your table is True where a look is blocked, as nn.Transformer wants it, and has two axes. In "
            "this course True means may attend: `j <= i`. Then add the axes for batch and heads: "
            "`[None, None]`.",
        ),
        Wrong(
            "mirrored",
            lambda n: _causal(n).flip(-1),
            "Your triangle is mirrored: its slope runs from bottom left to top right. Row 0 must allow key 0 "
            "and no other. Look for a flip, or for keys counted from the end.",
        ),
        Wrong(
            "all allowed",
            _all_true,
            "Your mask is True everywhere: each query sees the whole future. Keep only the places where the "
            "key's number is at most the query's: j <= i.",
        ),
        Wrong(
            "itself alone",
            lambda n: (_j(n) == _i(n))[None, None],
            "Your mask is the diagonal: each query sees itself alone. It may look at all that stands before "
            "it too: j <= i, not j == i.",
        ),
    ),
    correct_alternatives=(
        _causal,
        lambda n: _all_true(n).tril(),
        lambda n: ~_all_true(n).triu(1),
        lambda n: torch.tensor([[[[key <= query for key in range(n)] for query in range(n)]]]),
        lambda n: torch.eye(n).cumsum(dim=0).T.flip(0, 1).view(1, 1, n, n) > 0,
        _causal_from_inf,
    ),
    hints=(
        "Give the queries numbers i and the keys numbers j. For which pairs is the look allowed? Write the "
        "condition down before you write any code.",
        "torch.arange(n)[:, None] is a column of query numbers, torch.arange(n)[None, :] a row of key "
        "numbers. A comparison of the two broadcasts to a table (n, n).",
        "i = torch.arange(n)[:, None]; j = torch.arange(n)[None, :]; then (j <= i), with two axes of size 1 "
        "put in front by [None, None].",
    ),
)

# ---------------------------------------------------------------------------- padding_mask


def _padding_by_loop(lengths: Tensor, max_len: int) -> Tensor:
    mask = torch.zeros(len(lengths), 1, 1, max_len, dtype=torch.bool)
    for sentence, length in enumerate(lengths.tolist()):
        for key in range(length):
            mask[sentence, 0, 0, key] = True
    return mask


def _real(lengths: Tensor, max_len: int) -> Tensor:
    return torch.arange(max_len, device=lengths.device) < lengths[:, None]  # (batch, key)


def _padding(lengths: Tensor, max_len: int) -> Tensor:
    return _real(lengths, max_len)[:, None, None, :]


def _padding_by_slices(lengths: Tensor, max_len: int) -> Tensor:
    mask = torch.zeros(len(lengths), 1, 1, max_len, dtype=torch.bool, device=lengths.device)
    for b, length in enumerate(lengths):
        mask[b, :, :, : int(length)] = True
    return mask


def _padding_one_more(lengths: Tensor, max_len: int) -> Tensor:
    return (torch.arange(max_len, device=lengths.device) <= lengths[:, None])[:, None, None, :]


def _padding_left(lengths: Tensor, max_len: int) -> Tensor:
    keys = torch.arange(max_len, device=lengths.device)
    return (keys >= max_len - lengths[:, None])[:, None, None, :]


def _padding_of_both(lengths: Tensor, max_len: int) -> Tensor:
    real = _real(lengths, max_len)
    return (real[:, :, None] & real[:, None, :])[:, None]


padding_mask = Exercise(
    name="padding_mask",
    lesson=LESSON,
    signature="padding_mask(lengths, max_len)",
    reference=_padding_by_loop,
    probes=(
        Probe(
            "two sentences, of 3 and 1 tokens, padded to 4",
            (torch.tensor([3, 1]), 4),
            explain="Sentence 0 has three real tokens: its keys 0, 1, 2 are True, key 3 is False.",
        ),
        Probe(
            "three sentences, as many as there are keys",
            (torch.tensor([1, 3, 2]), 3),
            explain="Here the batch is as large as the number of keys, so that axes in the wrong order "
            "broadcast without an error.",
        ),
        Probe("one sentence without padding", (torch.tensor([2]), 2)),
        Probe(
            "an empty sentence beside others",
            (torch.tensor([2, 0, 1]), 5),
            explain="A sentence of length 0 allows no key. Every row is max_len = 5 wide, though the longest "
            "sentence has 2.",
        ),
        Probe(
            "lengths in int32",
            (torch.tensor([4, 1, 2, 3], dtype=torch.int32), 6),
            explain="It should work with any dtype of integers.",
        ),
        twice(torch.tensor([3, 1]), 4),
        other_device(torch.tensor([3, 1]), 4),
    ),
    wrong_answers=(
        Wrong(
            "rows that don't fit",
            lambda lengths, max_len: torch.arange(max_len, device=lengths.device) < lengths,
            "The key numbers, (max_len,), and the lengths, (batch,), don't line up: both are rows. Each "
            "sentence needs a row of its own: make the lengths a column, lengths[:, None].",
        ),
        Wrong(
            "one too many",
            _padding_one_more,
            "Your mask allows one key too many in each sentence: the first filler. Keys are counted from 0, so "
            "a sentence of length 3 has the keys 0, 1, 2: j < length, not j <= length.",
        ),
        Wrong(
            "one too few",
            lambda lengths, max_len: _padding(lengths - 1, max_len),
            "Your mask blocks the last real token of each sentence. Keys are counted from 0, so the last one "
            "has the number length - 1, and it is allowed: j < length.",
        ),
        Wrong(
            "inverted",
            lambda lengths, max_len: ~_padding(lengths, max_len),
            "Your mask is True on the filler: it is the right one inverted. Torch's key_padding_mask wants it "
            "so; in this course True means may attend. Turn it round: j < length.",
        ),
        Wrong(
            "two axes",
            _real,
            "Your table is right, but it has two axes, (batch, key). With four, (batch, heads, query, key), it "
            "can't pass for a (query, key) mask by accident: put two of size 1 in the middle, "
            "`[:, None, None, :]`.",
        ),
        Wrong(
            "three axes",
            lambda lengths, max_len: _real(lengths, max_len)[:, None, :],
            "Your table is right, but it has three axes; (batch, heads, query, key) are four. Put two of size "
            "1 between batch and key: `[:, None, None, :]`.",
        ),
        Wrong(
            "sentences on the query axis",
            lambda lengths, max_len: _real(lengths, max_len)[None, None],
            "Your sentences lie on the query axis: the two axes of size 1 stand in front. There they would "
            "make sentence 1's mask that of query 1. The batch comes first: `[:, None, None, :]`.",
        ),
        Wrong(
            "queries instead of keys",
            lambda lengths, max_len: _real(lengths, max_len)[:, None, :, None],
            "Your mask blocks queries, not keys: its table lies on the third axis. Padding has to be unseen, "
            "so the keys are what is blocked, on the last axis: `[:, None, None, :]`.",
        ),
        Wrong(
            "on the heads axis",
            lambda lengths, max_len: _real(lengths, max_len)[:, :, None, None],
            "Your table lies on the heads axis, the second one. The keys are the last axis: "
            "`[:, None, None, :]`.",
        ),
        Wrong(
            "repeated for all queries",
            lambda lengths, max_len: _padding(lengths, max_len).repeat(1, 1, max_len, 1),
            "Your mask is right, but written out for each query. It doesn't depend on who looks, so its query "
            "axis has size 1: broadcasting repeats it, also where there are fewer queries than keys.",
        ),
        Wrong(
            "queries and keys",
            _padding_of_both,
            "Your mask blocks the rows of the padding too, not only its columns. Then these queries may look "
            "at nothing, and a softmax over nothing is NaN. Block the keys alone, with a query axis of size 1.",
        ),
        Wrong(
            "left padding",
            _padding_left,
            "Your mask takes the filler to stand on the left: the last keys are allowed. Here the filler comes "
            "after the sentence: the first `length` keys are real, j < length.",
        ),
        Wrong(
            "as wide as the longest sentence",
            lambda lengths, max_len: _padding(lengths, int(lengths.max())),
            "Your mask is as wide as the longest sentence of the batch. The batch may be padded further: make "
            "`max_len` keys.",
        ),
        *_wrong_dtypes(_padding),
        Wrong(
            "numbers made on the CPU",
            lambda lengths, max_len: (torch.arange(max_len) < lengths[:, None])[:, None, None, :],
            "The values are right, but the key numbers are made on the CPU, so on a GPU the comparison stops. "
            "Make them where the lengths are: torch.arange(max_len, device=lengths.device).",
        ),
    ),
    correct_alternatives=(
        _padding,
        _padding_by_slices,
        lambda lengths, max_len: (
            lengths.view(-1, 1, 1, 1) > torch.arange(max_len, device=lengths.device)
        ),
        lambda lengths, max_len: (
            torch.ones(len(lengths), 1, 1, max_len, device=lengths.device).cumsum(-1)
            <= lengths[:, None, None, None]
        ),
        lambda lengths, max_len: torch.stack(
            [torch.arange(max_len, device=lengths.device) < n for n in lengths]
        )[:, None, None],
    ),
    hints=(
        "In a sentence of length 3, which key numbers are real tokens? Write it as a condition on the key "
        "number j and the length.",
        "Compare a row of key numbers, (max_len,), with a column of lengths, (batch, 1): that gives (batch, "
        "max_len). Where do the two missing axes go?",
        "real = torch.arange(max_len, device=lengths.device) < lengths[:, None]; then put heads and query in "
        "between, each of size 1: real[:, None, None, :].",
    ),
)

# ---------------------------------------------------------------------------- prefix_mask


def _prefix_by_loop(prefix_lengths: Tensor, n: int) -> Tensor:
    mask = torch.zeros(len(prefix_lengths), 1, n, n, dtype=torch.bool)
    for sentence, length in enumerate(prefix_lengths.tolist()):
        for query in range(n):
            for key in range(n):
                mask[sentence, 0, query, key] = key <= query or key < length
    return mask


def _axes(prefix_lengths: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query numbers, key numbers and lengths, each with the four axes."""
    numbers_ = torch.arange(n, device=prefix_lengths.device)
    return numbers_[:, None], numbers_[None, :], prefix_lengths[:, None, None, None]


def _prefix(prefix_lengths: Tensor, n: int) -> Tensor:
    i, j, p = _axes(prefix_lengths, n)
    return (j <= i) | (j < p)


def _prefix_and(prefix_lengths: Tensor, n: int) -> Tensor:
    i, j, p = _axes(prefix_lengths, n)
    return (j <= i) & (j < p)


def _prefix_with_pythons_or(prefix_lengths: Tensor, n: int) -> Tensor:
    i, j, p = _axes(prefix_lengths, n)
    return (j <= i) or (j < p)


def _prefix_columns(prefix_lengths: Tensor, n: int) -> Tensor:
    i, j, p = _axes(prefix_lengths, n)
    return (j < p) & (i >= 0)


def _prefix_causal_alone(prefix_lengths: Tensor, n: int) -> Tensor:
    i, j, p = _axes(prefix_lengths, n)
    return (j <= i) & (p >= 0)


def _prefix_square_alone(prefix_lengths: Tensor, n: int) -> Tensor:
    i, j, p = _axes(prefix_lengths, n)
    return (i < p) & (j < p)


def _prefix_two_blocks(prefix_lengths: Tensor, n: int) -> Tensor:
    i, j, p = _axes(prefix_lengths, n)
    return ((i < p) & (j < p)) | ((i >= p) & (j >= p) & (j <= i))


def _prefix_in_front_of_full(prefix_lengths: Tensor, n: int) -> Tensor:
    i, j, p = _axes(prefix_lengths, n)
    return (j < p) | (i >= p)


def _prefix_rows(prefix_lengths: Tensor, n: int) -> Tensor:
    i, j, p = _axes(prefix_lengths, n)
    return (j <= i) | (i < p)


def _prefix_at_the_end(prefix_lengths: Tensor, n: int) -> Tensor:
    i, j, p = _axes(prefix_lengths, n)
    return (j <= i) | (j >= n - p)


def _prefix_at_the_end_square(prefix_lengths: Tensor, n: int) -> Tensor:
    i, j, p = _axes(prefix_lengths, n)
    return (j <= i) | ((i >= n - p) & (j >= n - p))


def _prefix_strict(prefix_lengths: Tensor, n: int) -> Tensor:
    i, j, p = _axes(prefix_lengths, n)
    return (j < i) | (j < p)


def _prefix_upper(prefix_lengths: Tensor, n: int) -> Tensor:
    i, j, p = _axes(prefix_lengths, n)
    return (j >= i) | (j < p)


def _prefix_on_cpu(prefix_lengths: Tensor, n: int) -> Tensor:
    return (_j(n) <= _i(n)) | (_j(n) < prefix_lengths[:, None, None, None])


def _prefix_row_by_row(prefix_lengths: Tensor, n: int) -> Tensor:
    mask = torch.ones(len(prefix_lengths), 1, n, n, dtype=torch.bool).tril()
    for table, length in zip(mask, prefix_lengths.tolist(), strict=True):
        table[..., :length] = True
    return mask


def _prefix_by_later_of_both(prefix_lengths: Tensor, n: int) -> Tensor:
    # Query i sees the first max(i + 1, p) keys.
    i, j, p = _axes(prefix_lengths, n)
    return j < torch.maximum(i + 1, p)


prefix_mask = Exercise(
    name="prefix_mask",
    lesson=LESSON,
    signature="prefix_mask(prefix_lengths, n)",
    reference=_prefix_by_loop,
    probes=(
        Probe(
            "one text of four tokens, the first two are the prefix",
            (torch.tensor([2]), 4),
            explain="Queries 0 and 1 see keys 0 and 1; query 2 sees keys 0 to 2; query 3 sees all four.",
        ),
        Probe(
            "two texts of three tokens, with prefixes of 2 and 1",
            (torch.tensor([2, 1]), 3),
            explain="Each text has its own prefix length, so the batch axis is as long as prefix_lengths.",
        ),
        Probe(
            "one text of three tokens without a prefix: the causal mask",
            (torch.tensor([0]), 3),
            explain="Without a prefix the causal mask is left.",
        ),
        Probe(
            "one text of three tokens, all of them prefix: everything is allowed",
            (torch.tensor([3]), 3),
            explain="When all is prefix, nothing is blocked.",
        ),
        Probe(
            "three texts of five tokens, with prefixes of 3, 0 and 5",
            (torch.tensor([3, 0, 5]), 5),
            explain="Each text has its own prefix length.",
        ),
        Probe(
            "as many texts as tokens",
            (torch.tensor([0, 3, 1, 2]), 4),
            explain="Here the batch is as large as the text is long, so that axes in the wrong order broadcast "
            "without an error. Give the lengths the shape (batch, 1, 1, 1).",
        ),
        Probe("prefix lengths in int32", (torch.tensor([4, 1, 2], dtype=torch.int32), 6)),
        twice(torch.tensor([2, 1]), 3),
        other_device(torch.tensor([2, 1]), 3),
    ),
    wrong_answers=(
        Wrong(
            "and in place of or",
            _prefix_and,
            "You join the two conditions with &: a look is allowed only into the past and only at the prefix, "
            "so what follows the prefix is never seen. One of the two is enough: |.",
        ),
        Wrong(
            "Python's or",
            _prefix_with_pythons_or,
            _ONE_TRUTH_VALUE + "|, which goes place by place.",
        ),
        Wrong(
            "prefix alone",
            _prefix_columns,
            "Your mask allows the prefix and nothing else: tokens after it don't see themselves or each other. "
            "The causal part is missing: j < prefix length or j <= i.",
        ),
        Wrong(
            "padding mask",
            lambda prefix_lengths, n: _padding(prefix_lengths, n),
            "Your mask is the padding mask: it allows the prefix and nothing else, for all queries alike. Join "
            "it with the causal mask by |, which also gives it its n rows.",
        ),
        Wrong(
            "causal alone",
            _prefix_causal_alone,
            "Your mask is the causal one: within the prefix nobody looks ahead. The prefix is known from the "
            "start, so each query may see all of it: j <= i or j < prefix length.",
        ),
        Wrong(
            "causal alone, one for all",
            lambda prefix_lengths, n: _causal(n),
            "Your mask is the causal one, the same for all texts: `prefix_lengths` plays no part. Each query "
            "may see the whole prefix of its text too: j <= i or j < prefix length.",
        ),
        Wrong(
            "square alone",
            _prefix_square_alone,
            "Your mask is the square of the prefix: prefix tokens see each other, and all later queries see "
            "nothing. These see the prefix and, causally, each other: j <= i or j < prefix length.",
        ),
        Wrong(
            "later tokens cut off from the prefix",
            _prefix_two_blocks,
            "In your mask the tokens after the prefix don't see the prefix: it is made of two separate blocks. "
            "What is written must see the prompt. There is no condition on the query: j < prefix length or j "
            "<= i.",
        ),
        Wrong(
            "the rest isn't causal",
            _prefix_in_front_of_full,
            "In your mask the tokens after the prefix see everything, the future included. Only the prefix is "
            "open to all; after it j <= i must hold.",
        ),
        Wrong(
            "queries in place of keys",
            _prefix_rows,
            "Your mask lets the queries of the prefix see everything: it asks whether the query is in the "
            "prefix. Ask it of the key, j < prefix length, or the prefix sees the text that is still to be "
            "written.",
        ),
        Wrong(
            "the last tokens",
            _prefix_at_the_end,
            "Your mask opens the last keys to all, as if the prefix stood at the end. It stands in front: "
            "j < prefix length.",
        ),
        Wrong(
            "square of the last tokens",
            _prefix_at_the_end_square,
            "In your mask the last tokens look both ways, as if the prefix stood at the end. It stands in "
            "front: j < prefix length.",
        ),
        Wrong(
            "one key too many",
            lambda prefix_lengths, n: _prefix(prefix_lengths + 1, n),
            "Your prefix is one token too long: the first token after it is open to all. Keys are counted from "
            "0: j < prefix length, not j <= prefix length.",
        ),
        Wrong(
            "one key too few",
            lambda prefix_lengths, n: _prefix(prefix_lengths - 1, n),
            "Your prefix is one token too short: its last token isn't open to those before it. Keys are "
            "counted from 0: j < prefix length.",
        ),
        Wrong(
            "after the prefix without itself",
            _prefix_strict,
            "In your mask the tokens after the prefix don't see themselves. The causal part includes the "
            "diagonal: j <= i, not j < i.",
        ),
        Wrong(
            "upper triangle",
            _prefix_upper,
            "Your causal part is the upper triangle: tokens see the future. Rows are queries, columns are "
            "keys: j <= i.",
        ),
        Wrong(
            "inverted",
            lambda prefix_lengths, n: ~_prefix(prefix_lengths, n),
            "Your mask is True where a look is blocked: it is the right one inverted. In this course True "
            "means may attend.",
        ),
        Wrong(
            "three axes",
            lambda prefix_lengths, n: _prefix(prefix_lengths, n)[:, 0],
            "Your values are right, but there are three axes, (batch, query, key). Four are needed: add the "
            "heads axis of size 1 after the batch, `[:, None]`.",
        ),
        Wrong(
            "texts on the heads axis",
            lambda prefix_lengths, n: _prefix(prefix_lengths, n).transpose(0, 1),
            "Your texts lie on the second axis, which is that of the heads. The batch comes first: give the "
            "lengths the shape (batch, 1, 1, 1).",
        ),
        Wrong(
            "one prefix for all",
            lambda prefix_lengths, n: _prefix(
                prefix_lengths.max() * torch.ones_like(prefix_lengths), n
            ),
            "Your mask gives every text the same prefix, though their lengths differ. Each text has its own: "
            "compare with lengths of shape (batch, 1, 1, 1).",
        ),
        *_wrong_dtypes(_prefix),
        Wrong(
            "numbers made on the CPU",
            _prefix_on_cpu,
            "The values are right, but the token numbers are made on the CPU, so on a GPU the comparison "
            "stops. Make them where the lengths are: torch.arange(n, device=prefix_lengths.device).",
        ),
    ),
    correct_alternatives=(
        _prefix,
        _prefix_row_by_row,
        _prefix_by_later_of_both,
        lambda prefix_lengths, n: (
            _causal(n).to(prefix_lengths.device) + _padding(prefix_lengths, n)
        ),
    ),
    hints=(
        "There are two reasons for which query i may see key j. Write each as a condition on i, j and the "
        "prefix length. Must both hold, or is one enough?",
        "You have written both parts: causal_mask(n) has the shape (1, 1, n, n), padding_mask(prefix_lengths, "
        "n) the shape (batch, 1, 1, n). Look at what broadcasting makes of the two.",
        "With i a column and j a row of torch.arange(n, device=prefix_lengths.device): "
        "(j <= i) | (j < prefix_lengths[:, None, None, None]).",
    ),
)

# ---------------------------------------------------------------------------- sliding_window_mask


def _window_by_loop(n: int, window: int) -> Tensor:
    mask = torch.zeros(1, 1, n, n, dtype=torch.bool)
    for query in range(n):
        for key in range(max(0, query - window + 1), query + 1):
            mask[0, 0, query, key] = True
    return mask


def _where(n: int, condition: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    return condition(_i(n), _j(n)).expand(n, n)[None, None]


def _window(n: int, window: int) -> Tensor:
    return _where(n, lambda i, j: (j <= i) & (j > i - window))


def _window_negative_slice(n: int, window: int) -> Tensor:
    mask = torch.zeros(1, 1, n, n, dtype=torch.bool)
    for i in range(n):
        mask[..., i, i - window + 1 : i + 1] = True
    return mask


sliding_window_mask = Exercise(
    name="sliding_window_mask",
    lesson=LESSON,
    signature="sliding_window_mask(n, window)",
    reference=_window_by_loop,
    probes=(
        Probe(
            "four positions, a window of 2: itself and the one before",
            (4, 2),
            explain="Query 3 sees keys 2 and 3; query 0 sees key 0, since nothing stands before it.",
        ),
        Probe(
            "four positions, a window of 3: itself and the two before",
            (4, 3),
            explain="Query 3 sees keys 1, 2 and 3.",
        ),
        Probe("three positions, a window of 1: itself alone", (3, 1)),
        Probe(
            "three positions, a window as wide as the text: the causal mask",
            (3, 3),
            explain="A window that reaches back to the start blocks nothing of the past.",
        ),
        Probe(
            "two positions, a window wider than the text: the causal mask",
            (2, 5),
            explain="A window that reaches beyond the start blocks nothing of the past. Is a number below 0 taken "
            "as counted from the end?",
        ),
        Probe("seven positions, a window of 3", (7, 3)),
        Probe("eight positions, a window of 4", (8, 4)),
        twice(4, 2),
    ),
    wrong_answers=(
        Wrong(
            "one key too many",
            lambda n, window: _window(n, window + 1),
            "Your window holds one key too many: itself and `window` before it. It counts itself, so there are "
            "window - 1 before it: j > i - window.",
        ),
        Wrong(
            "one key too few",
            lambda n, window: _window(n, window - 1),
            "Your window holds one key too few: a window of 1 would see nothing. It holds the query's own "
            "position and window - 1 before it: j > i - window.",
        ),
        Wrong(
            "always 3",
            lambda n, window: _window(n, 3),
            "Your window is 3 wide, whatever `window` is. Put the parameter where the number stands: j > i - "
            "window.",
        ),
        Wrong(
            "always 2",
            lambda n, window: _window(n, 2),
            "Your window is 2 wide, whatever `window` is. Put the parameter where the number stands: j > i - "
            "window.",
        ),
        Wrong(
            "chained comparison",
            lambda n, window: _where(n, lambda i, j: i - window < j <= i),
            _ONE_TRUTH_VALUE + "&, which goes place by place.",
        ),
        Wrong(
            "slice from a negative number",
            _window_negative_slice,
            "The first queries of your mask see too little: their window would begin before the text. If you "
            "cut with a slice, a negative start counts from the end: take max(0, i - window + 1).",
        ),
        Wrong(
            "both sides",
            lambda n, window: _where(n, lambda i, j: (i - j).abs() < window),
            "Your window reaches to both sides: each query sees the future too. Add the causal condition: "
            "j <= i and j > i - window.",
        ),
        Wrong(
            "both sides and one too many",
            lambda n, window: _where(n, lambda i, j: (i - j).abs() <= window),
            "Your window reaches to both sides, `window` keys each. It should reach back only, and hold "
            "`window` keys with the query's own: j <= i and j > i - window.",
        ),
        Wrong(
            "half to each side",
            lambda n, window: _where(n, lambda i, j: (i - j).abs() <= window // 2),
            "Your window is centred on the query, half of it in the future. It should end at the query: "
            "j <= i and j > i - window.",
        ),
        Wrong(
            "the future",
            lambda n, window: _window(n, window).mT,
            "Your window lies in the future: each query sees itself and what comes after. Rows are queries, "
            "columns are keys: j <= i and j > i - window.",
        ),
        Wrong(
            "causal alone",
            lambda n, window: _causal(n),
            "Your mask is the causal one: each query sees the whole past, and `window` plays no part. Block "
            "what lies too far back: j > i - window.",
        ),
        Wrong(
            "all recent and all future",
            lambda n, window: _where(n, lambda i, j: j > i - window),
            "Your mask blocks what lies too far back, but not the future. Both conditions must hold: "
            "j <= i and j > i - window.",
        ),
        Wrong(
            "or in place of and",
            lambda n, window: _where(n, lambda i, j: (j <= i) | (j > i - window)),
            "Your mask allows everything: each key is in the past or recent enough. Both conditions must "
            "hold at once: &, not |.",
        ),
        Wrong(
            "what lies outside",
            lambda n, window: _where(n, lambda i, j: j <= i - window),
            "Your mask allows just what lies before the window and blocks the window itself. Turn the second "
            "condition round: j > i - window.",
        ),
        Wrong(
            "inverted",
            lambda n, window: ~_window(n, window),
            "Your mask is True where a look is blocked: it is the right one inverted. In this course True "
            "means may attend.",
        ),
        Wrong(
            "without itself",
            lambda n, window: _where(n, lambda i, j: (j < i) & (j >= i - window)),
            "Your window ends before the query: it doesn't see itself. The window holds its own position and "
            "window - 1 before it: j <= i and j > i - window.",
        ),
        Wrong(
            "window at the start",
            lambda n, window: _where(n, lambda i, j: (j <= i) & (j < window)),
            "Your window stays at the start of the text: it allows the first `window` keys. It has to move "
            "with the query: j > i - window.",
        ),
        Wrong(
            "window at the end",
            lambda n, window: _where(n, lambda i, j: (j <= i) & (j >= n - window)),
            "Your window stays at the end of the text: it allows the last `window` keys. It has to move with "
            "the query: j > i - window.",
        ),
        Wrong(
            "steps",
            lambda n, window: _where(n, lambda i, j: (j <= i) & ((i - j) % window == 0)),
            "Your mask takes one key in every `window`, a strided pattern. The window is a run of neighbours: "
            "j <= i and j > i - window.",
        ),
        Wrong(
            "blocks",
            lambda n, window: _where(n, lambda i, j: (j <= i) & (i // window == j // window)),
            "Your mask cuts the text into fixed blocks: the first token of a block sees nothing of the one "
            "before. The window slides with each query: j > i - window.",
        ),
        Wrong(
            "sign of the diagonal",
            lambda n, window: _causal(n).triu(window - 1),
            "Your mask blocks every look here. If you cut it out with triu: diagonals below the main one have "
            "negative numbers, and the last one that is allowed is 1 - window.",
        ),
        *_wrong_dtypes(_window),
        *_wrong_axes_of_a_table(_window),
    ),
    correct_alternatives=(
        _window,
        lambda n, window: _causal(n).triu(1 - window),
        lambda n, window: _causal(n) & ~_all_true(n).tril(-window),
        lambda n, window: _where(n, lambda i, j: (i - j >= 0) & (i - j < window)),
        lambda n, window: torch.tensor(
            [[[[0 <= i - j < window for j in range(n)] for i in range(n)]]]
        ),
        lambda n, window: _all_true(n).float().tril().triu(1 - window) == 1,
    ),
    hints=(
        "Which keys may query 5 see with a window of 3? Write the first and the last of them in terms of i and "
        "window.",
        "Two conditions must hold at once: the key isn't in the future, and it isn't too far back. "
        "Comparisons of a column i with a row j are joined with &.",
        "i = torch.arange(n)[:, None]; j = torch.arange(n)[None, :]; ((j <= i) & (j > i - window)), with "
        "[None, None] for the axes of batch and heads.",
    ),
)

# ---------------------------------------------------------------------------- leaks
#
# Models of the probes. Their names are shown to the learner. None has a rounding error that could
# pass for a leak, and each keeps the dtype of its input.

_TO_VALUE = numbers(4, 6, seed=8)
_IN_FLOAT64 = numbers(2, 3, seed=9, dtype=torch.float64)


def next_token(x: Tensor) -> Tensor:
    return torch.cat([x[1:], torch.zeros_like(x[:1])])


def previous_token(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def minus_the_token_two_ahead(x: Tensor) -> Tensor:
    return -next_token(next_token(x))


def running_mean(x: Tensor) -> Tensor:
    return x.cumsum(dim=0) / torch.arange(1, len(x) + 1, dtype=x.dtype)[:, None]


def mean_of_all(x: Tensor) -> Tensor:
    return x.mean(dim=0, keepdim=True) + torch.zeros_like(x)


def next_token_and_its_negative(x: Tensor) -> Tensor:
    return torch.cat([next_token(x), -next_token(x)], dim=1)


def difference_of_features_of_next_token(x: Tensor) -> Tensor:
    return next_token(x)[:, :1] - next_token(x)[:, 1:]


def last_token_in_last_feature_of_first_output(x: Tensor) -> Tensor:
    return torch.cat([x, torch.cat([x[-1:, :1], torch.zeros_like(x[:-1, :1])])], dim=1)


def last_feature_of_next_token(x: Tensor) -> Tensor:
    return next_token(x)[:, -1:]


def itself_plus_a_thousandth_of_the_next(x: Tensor) -> Tensor:
    return x + next_token(x) / 1000


def next_token_projected_in_float64(x: Tensor) -> Tensor:
    return next_token(x) @ _IN_FLOAT64


def _attention(x: Tensor, finish: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    scores = x @ x.mT / math.sqrt(x.shape[-1])
    return finish(scores, _causal(len(x))[0, 0]).softmax(dim=-1) @ (x @ _TO_VALUE.to(x.dtype))


def causal_attention(x: Tensor) -> Tensor:
    return _attention(x, lambda scores, mask: scores.masked_fill(~mask, -math.inf))


def attention_without_mask(x: Tensor) -> Tensor:
    return _attention(x, lambda scores, mask: scores)


def attention_with_multiplied_mask(x: Tensor) -> Tensor:
    return _attention(x, lambda scores, mask: scores * mask)


def _leaks_by_perturbation(model: Model, tokens: Tensor) -> Tensor:
    x, generator = tokens.double(), torch.Generator().manual_seed(0)
    before, found = model(x), torch.zeros(len(x), len(x), dtype=torch.bool)
    for s in range(len(x)):
        for _ in range(3):
            moved = x.clone()
            moved[s] += torch.randn(x.shape[1], generator=generator, dtype=torch.float64)
            change = (model(moved) - before).abs().amax(dim=1)
            for t in range(s):
                found[t, s] |= change[t] > 1e-10
    return found


def _jacobian(model: Model, tokens: Tensor) -> Tensor:
    """Of each output feature by each input feature: (n, d_out, n, d)."""
    return torch.autograd.functional.jacobian(model, tokens)


def _depends(model: Model, tokens: Tensor) -> Tensor:
    return (_jacobian(model, tokens) != 0).any(dim=3).any(dim=1)


def _leaks(model: Model, tokens: Tensor) -> Tensor:
    return _depends(model, tokens).triu(1)


def _leaks_feature_by_feature(model: Model, tokens: Tensor) -> Tensor:
    x = tokens.clone().requires_grad_()
    out, found = model(x), torch.zeros(len(x), len(x), dtype=torch.bool)
    for t in range(len(x)):
        for feature in out[t]:
            (grad,) = torch.autograd.grad(feature, x, retain_graph=True)
            found[t, t + 1 :] |= (grad != 0).any(dim=1)[t + 1 :]
    return found


def _leaks_by_random_weights(model: Model, tokens: Tensor) -> Tensor:
    rows = []
    for t in range(len(tokens)):
        x = tokens.detach().clone().requires_grad_()
        out = model(x)[t]
        (out * torch.randn_like(out)).sum().backward()
        rows.append(x.grad.abs().sum(dim=1))  # type: ignore[union-attr]
    return torch.stack(rows).triu(1) > 0


def _leaks_by_squares(model: Model, tokens: Tensor) -> Tensor:
    found = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    for t in range(len(tokens)):
        x = tokens.clone().requires_grad_()
        (grad,) = torch.autograd.grad((model(x)[t] ** 2).sum(), x)
        found[t] = grad.norm(dim=1) > 0
    return found & (_j(len(tokens)) > _i(len(tokens)))


def _leaks_by_one_random_step(model: Model, tokens: Tensor) -> Tensor:
    columns = []
    for s in range(len(tokens)):
        moved = tokens.clone()
        moved[s] = torch.randn(tokens.shape[1]) * 3
        columns.append((model(moved) != model(tokens)).any(dim=1))
    return torch.stack(columns, dim=1).triu(1)


def _leaks_by_step(model: Model, tokens: Tensor) -> Tensor:
    found = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    for s in range(len(tokens)):
        moved = tokens.clone()
        moved[s] += 1
        found[:s, s] = (model(moved) - model(tokens)).abs().amax(dim=1)[:s] > 1e-6
    return found


def _leaks_from_all_at_once(model: Model, tokens: Tensor) -> Tensor:
    moved = tokens + torch.randn(tokens.shape, dtype=tokens.dtype)
    changed = (model(moved) != model(tokens)).any(dim=1, keepdim=True)
    return changed.expand(len(tokens), len(tokens)).triu(1)


def _leaks_of_summed_outputs(model: Model, tokens: Tensor) -> Tensor:
    x = tokens.clone().requires_grad_()
    model(x).sum().backward()
    hit = (x.grad != 0).any(dim=1)  # type: ignore[union-attr]
    return hit.expand(len(x), len(x)).triu(1)


def _leaks_of_shorter_texts(model: Model, tokens: Tensor) -> Tensor:
    full, n = model(tokens), len(tokens)
    looks = [not torch.allclose(model(tokens[: t + 1])[t], full[t]) for t in range(n)]
    return torch.tensor(looks)[:, None].expand(n, n).triu(1)


def _leaks_with_nan(model: Model, tokens: Tensor) -> Tensor:
    columns = []
    for s in range(len(tokens)):
        moved = tokens.clone()
        moved[s] = math.nan
        columns.append(model(moved).isnan().any(dim=1))
    return torch.stack(columns, dim=1).triu(1)


def _leaks_grad_adds_up(model: Model, tokens: Tensor) -> Tensor:
    x, rows = tokens.clone().requires_grad_(), []
    for t in range(len(x)):
        for feature in model(x)[t]:
            feature.backward()
        rows.append((x.grad != 0).any(dim=1))  # type: ignore[union-attr]
    return torch.stack(rows).triu(1)


def _leaks_graph_gone(model: Model, tokens: Tensor) -> Tensor:
    x = tokens.clone().requires_grad_()
    out, found = model(x), torch.zeros(len(x), len(x), dtype=torch.bool)
    for t in range(len(x)):
        for feature in out[t]:
            (grad,) = torch.autograd.grad(feature, x)
            found[t, t + 1 :] |= (grad != 0).any(dim=1)[t + 1 :]
    return found


def _leaks_marks_tokens(model: Model, tokens: Tensor) -> Tensor:
    return _leaks_feature_by_feature(model, tokens.requires_grad_()).detach()


def _leaks_moves_callers_tokens(model: Model, tokens: Tensor) -> Tensor:
    before, columns = model(tokens).clone(), []
    for s in range(len(tokens)):
        tokens[s] += torch.randn(tokens.shape[1])
        columns.append((model(tokens) != before).any(dim=1))
        before = model(tokens).clone()
    return torch.stack(columns, dim=1).triu(1)


def _state_of_tokens(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    tokens = args[1]
    answer(*args, **kwargs)
    return (
        f"tokens.requires_grad is {tokens.requires_grad}, "
        f"tokens.grad is {'None' if tokens.grad is None else 'set'}"
    )


leaks = Exercise(
    name="leaks",
    lesson=LESSON,
    signature="leaks(model, tokens)",
    reference=_leaks_by_perturbation,
    probes=(
        Probe(
            "a model whose output t is token t + 1 (the last output is 0)",
            (next_token, numbers(3, 2, seed=1)),
            explain="Output 0 is token 1 and output 1 is token 2: True at [0, 1] and [1, 2].",
        ),
        Probe(
            "a model whose output t is the mean of tokens 0 to t: nothing leaks",
            (running_mean, numbers(4, 2, seed=2)),
            explain="To look at itself and at the past is allowed.",
        ),
        Probe(
            "a model whose every output is the mean of all tokens: everything leaks",
            (mean_of_all, numbers(3, 2, seed=3)),
            explain="True at all places above the diagonal.",
        ),
        Probe(
            "a model whose output t is token t - 1: nothing leaks",
            (previous_token, numbers(4, 2, seed=4)),
        ),
        Probe(
            "a model whose output t is minus token t + 2",
            (minus_the_token_two_ahead, numbers(5, 2, seed=5)),
            explain="Here all derivatives are negative, and output t sees token t + 2 but not token t + 1.",
        ),
        Probe(
            "a model whose output t is token t + 1 and, beside it, the same with a minus",
            (next_token_and_its_negative, numbers(3, 2, seed=6)),
            explain="The features of each output add up to 0: in their sum the leak cancels. "
            "Look at each feature.",
        ),
        Probe(
            "a model whose output t is feature 0 minus feature 1 of token t + 1",
            (difference_of_features_of_next_token, numbers(4, 2, seed=7)),
            explain="A step that is the same in all features of a token changes nothing here, and the derivatives by "
            "its features add up to 0. Look at each feature.",
        ),
        Probe("causal attention", (causal_attention, numbers(5, 4, seed=8))),
        Probe("attention without a mask", (attention_without_mask, numbers(5, 4, seed=9))),
        Probe(
            "attention whose scores are multiplied by the mask",
            (attention_with_multiplied_mask, numbers(5, 4, seed=10)),
        ),
        Probe(
            "a model that hides one number of the last token in the first output",
            (last_token_in_last_feature_of_first_output, numbers(4, 2, seed=11)),
            explain="Only [0, 3] leaks, and only in the last feature of the output.",
        ),
        Probe(
            "a model whose output t is the last feature of token t + 1",
            (last_feature_of_next_token, numbers(4, 3, seed=15)),
            explain="Only the last feature of a token has an effect: look at all features.",
        ),
        Probe(
            "a model whose output t is token t plus a thousandth of token t + 1",
            (itself_plus_a_thousandth_of_the_next, numbers(4, 3, seed=12)),
            explain="A weak leak is a leak. Take the gradient and compare it with 0: where nothing leaks, it is "
            "exactly 0.",
        ),
        Probe(
            "a model in float64",
            (next_token_projected_in_float64, numbers(3, 2, seed=13, dtype=torch.float64)),
            explain="Keep the dtype of `tokens`: the model has weights in float64.",
        ),
        Probe("a text of one token", (running_mean, numbers(1, 3, seed=14))),
        twice(next_token, numbers(3, 2, seed=1)),
        Probe(
            "the caller's tokens, looked at after the call",
            (next_token, numbers(3, 2, seed=1)),
            explain="The caller's `tokens` should be as they were. Work on a copy: tokens.clone().",
            use=_state_of_tokens,
        ),
    ),
    wrong_answers=(
        Wrong(
            "the past too",
            _depends,
            "Your table says which output depends on which token, the past included. A leak is a look ahead: "
            "keep only s > t, what lies above the diagonal.",
        ),
        Wrong(
            "the diagonal too",
            lambda model, tokens: _depends(model, tokens).triu(),
            "Your table counts an output's look at its own token as a leak. That one is allowed: keep only "
            "s > t, without the diagonal.",
        ),
        Wrong(
            "the past",
            lambda model, tokens: _depends(model, tokens).tril(-1),
            "Your table shows looks into the past: it keeps what lies below the diagonal. With outputs as rows "
            "and tokens as columns the future lies above it, s > t.",
        ),
        Wrong(
            "nothing found",
            lambda model, tokens: _leaks(model, tokens) & False,
            "Your table is False everywhere: no leak is found, though there are some. Look at one pair: does "
            "anything in output 0 change when token 1 does, and does your code write that to [0, 1]?",
        ),
        Wrong(
            "transposed",
            lambda model, tokens: _leaks(model, tokens).T,
            "Your table is transposed: rows must be outputs t, columns tokens s. Where you write [s, t], "
            "write [t, s].",
        ),
        Wrong(
            "inverted",
            lambda model, tokens: ~_leaks(model, tokens),
            "Your table is inverted: True must stand where there is a leak.",
        ),
        Wrong(
            "outputs summed over features",
            lambda model, tokens: (_jacobian(model, tokens).sum(dim=1) != 0).any(dim=-1).triu(1),
            "Your function adds up the features of an output before it looks: what one gains and another loses "
            "cancels, and such a leak goes unseen. Take the gradient of each feature, then ask whether any "
            "isn't 0.",
        ),
        Wrong(
            "features of a token together",
            _leaks_by_step,
            "Your function treats the features of a token as one: derivatives by them are added up, or all of "
            "them move by the same step. Effects that oppose each other cancel then. Ask each feature, or move "
            "by a random step.",
        ),
        Wrong(
            "positive only",
            lambda model, tokens: (_jacobian(model, tokens) > 0).any(dim=3).any(dim=1).triu(1),
            "Your function counts positive derivatives only. A negative one is a leak as well: compare with != "
            "0, or take abs() first.",
        ),
        Wrong(
            "first output feature",
            lambda model, tokens: (_jacobian(model, tokens)[:, 0] != 0).any(dim=-1).triu(1),
            "Your function looks at the first feature of each output only. The leak may be in any: go through "
            "all.",
        ),
        Wrong(
            "first token feature",
            lambda model, tokens: (_jacobian(model, tokens)[..., 0] != 0).any(dim=1).triu(1),
            "Your function looks at the first feature of each token only. An output may see any of them: take "
            "all.",
        ),
        Wrong(
            "one gradient for all outputs",
            _leaks_of_summed_outputs,
            "All your rows come from one gradient, that of all outputs together: it doesn't tell which output "
            "looks at token s. Each output t needs a gradient of its own.",
        ),
        Wrong(
            "all tokens moved",
            _leaks_from_all_at_once,
            "Your function moves all tokens at once, so it can't tell at which token an output looks, nor "
            "whether in the past or the future. Move one token at a time.",
        ),
        Wrong(
            "shorter texts",
            _leaks_of_shorter_texts,
            "Your table tells which outputs look ahead, but not at which token: a whole row is True. Ask about "
            "each token s by itself, by a gradient or by moving that token alone.",
        ),
        Wrong(
            "NaN as a marker",
            _leaks_with_nan,
            "Your function reports leaks in causal attention, which has none. If you mark a token with NaN or "
            "inf: a weight of exactly 0 times NaN is NaN. Use gradients or a finite step.",
        ),
        Wrong(
            "gradients add up",
            _leaks_grad_adds_up,
            "Your rows contain what earlier rows have found: x.grad adds up from one backward() to the next. "
            "Reset it, x.grad = None, for each output, or use torch.autograd.grad.",
        ),
        Wrong(
            "graph used up",
            _leaks_graph_gone,
            "It takes several gradients through one run of the model, but the first throws the run's records "
            "away. Pass retain_graph=True, or run the model anew for each gradient.",
        ),
        Wrong(
            "nothing recorded",
            lambda model, tokens: torch.autograd.grad(model(tokens).sum(), tokens)[0],
            "No gradient was recorded: the tokens that went into the model don't ask for one, or a .detach() "
            "has cut it off. Make a copy that asks, x = tokens.clone().requires_grad_(), and call model(x).",
        ),
        Wrong(
            "gradient of a row",
            lambda model, tokens: torch.autograd.grad(
                model(x := tokens.clone().requires_grad_()), x
            )[0],
            "A gradient starts from one number, and an output is a row of them. Go through its features one by "
            "one: summing them first would hide leaks that cancel.",
        ),
        Wrong(
            "threshold",
            lambda model, tokens: (_jacobian(model, tokens).abs().amax(dim=(1, 3)) > 0.01).triu(1),
            "Your function finds strong leaks but misses a weak one: a threshold is too high, or a step too "
            "small. Where nothing leaks the gradient is exactly 0, so compare it with 0.",
        ),
        Wrong(
            "strength in place of yes or no",
            lambda model, tokens: _jacobian(model, tokens).abs().amax(dim=(1, 3)).triu(1),
            "Your table tells how strong each look ahead is, in floats. Yes or no is asked for: end with `!= "
            "0`.",
        ),
        Wrong(
            "one answer for all",
            lambda model, tokens: bool(_leaks(model, tokens).any()),
            "You answer with one bool, whether anything leaks. A table (n, n) is asked for, True at [t, s] "
            "where output t sees the later token s: leave out any().",
        ),
        Wrong(
            "tokens marked",
            _leaks_marks_tokens,
            "The table is right, but the caller's `tokens` are left marked: their requires_grad is now True. "
            "Work on a copy: x = tokens.clone().requires_grad_().",
        ),
        Wrong(
            "tokens moved",
            _leaks_moves_callers_tokens,
            "Your function moves the caller's `tokens` themselves. Copy them before each step: "
            "moved = tokens.clone(), then change moved[s].",
        ),
    ),
    correct_alternatives=(
        _leaks,
        _leaks_feature_by_feature,
        _leaks_by_random_weights,
        _leaks_by_squares,
        _leaks_by_one_random_step,
        lambda model, tokens: (
            torch.func.jacrev(model)(tokens).abs().amax(dim=(1, 3)).triu(1) > 1e-6
        ),
        lambda model, tokens: (
            torch.func.jacfwd(model)(tokens).norm(dim=(1, 3)).triu(diagonal=1) != 0
        ),
    ),
    hints=(
        "Output t depends on token s if some derivative of output t by token s isn't 0. How many derivatives "
        "are there for one pair (t, s)?",
        "torch.autograd.functional.jacobian(model, tokens) has the shape (n, d_out, n, d). Which two axes do "
        "you have to get rid of, and why would a sum be dangerous?",
        "Take abs() of the Jacobian, then the largest over the two axes of features, amax(dim=(1, 3)): a table "
        "(n, n) with outputs as rows. Compare with 0 and keep what lies above the diagonal, .triu(1).",
    ),
)

EXERCISES = (causal_mask, padding_mask, prefix_mask, sliding_window_mask, leaks)
