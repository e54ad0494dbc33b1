"""Exercises of lesson 05: attention, the three projections before it, its backward pass."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from transformer_lab.checking.exercise import (
    Exercise,
    Probe,
    Wrong,
    gradient,
    numbers,
    other_device,
    twice,
)

LESSON = "05_attention"

_INF = float("inf")
_HALF, _DOUBLE = torch.float16, torch.float64

Pair = tuple[Tensor, Tensor]
Triple = tuple[Tensor, Tensor, Tensor]


def _softmax_by_hand(scores: Tensor) -> Tensor:
    powers = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def _softmax_naive(scores: Tensor) -> Tensor:
    return scores.exp() / scores.exp().sum(dim=-1, keepdim=True)


def _softmax_shifted_by_all(scores: Tensor) -> Tensor:
    powers = (scores - scores.max()).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def _softmax_over_everything(scores: Tensor) -> Tensor:
    return torch.softmax(scores.flatten(), -1).reshape(scores.shape)


# ---------------------------------------------------------------------------- attention


def _attention_in_double(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
    q2, k2, v2 = q.double(), k.double(), v.double()
    output = F.scaled_dot_product_attention(q2, k2, v2, attn_mask=mask)
    scores = torch.einsum("...id,...jd->...ij", q2, k2) / math.sqrt(q.shape[-1])
    # On the side of the mask a way of its own: a product with exp(score) in float64, shifted by the
    # largest score that the mask allows.
    allowed = torch.ones_like(scores) if mask is None else mask.double().expand(scores.shape)
    largest = torch.where(allowed > 0, scores, -_INF).amax(dim=-1, keepdim=True)
    powers = allowed * (scores - largest).clamp(max=0).exp()
    return output.to(q.dtype), (powers / powers.sum(-1, keepdim=True)).to(q.dtype)


def _scores(q: Tensor, k: Tensor, divisor: float | None = None) -> Tensor:
    return q @ k.mT / (math.sqrt(q.shape[-1]) if divisor is None else divisor)


def _masked(scores: Tensor, mask: Tensor | None, fill: float = -_INF) -> Tensor:
    return scores if mask is None else scores.masked_fill(~mask, fill)


def _attend(scores: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
    weights = torch.softmax(_masked(scores, mask), -1)
    return weights @ v, weights


def _with_softmax(softmax: Callable[[Tensor], Tensor]) -> Callable[..., Pair]:
    def answer(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
        weights = softmax(_masked(_scores(q, k), mask))
        return weights @ v, weights

    return answer


def _divided_by(divisor: Callable[[Tensor, Tensor, Tensor], float]) -> Callable[..., Pair]:
    def answer(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
        return _attend(_scores(q, k, divisor(q, k, v)), v, mask)

    return answer


def _with_keys_turned(turn: Callable[[Tensor], Tensor]) -> Callable[..., Pair]:
    def answer(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
        return _attend(q @ turn(k) / math.sqrt(q.shape[-1]), v, mask)

    return answer


def _with_mask(apply: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Pair]:
    """Attention whose mask is laid on the scores by `apply`."""

    def answer(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
        scores = _scores(q, k)
        return _attend(scores if mask is None else apply(scores, mask), v)

    return answer


def _with_mask_afterwards(apply: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Pair]:
    """Attention whose mask is laid on the weights by `apply`."""

    def answer(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
        weights = torch.softmax(_scores(q, k), -1)
        weights = weights if mask is None else apply(weights, mask)
        return weights @ v, weights

    return answer


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
    return _attend(_scores(q, k), v, mask)


def _attention_by_einsum(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
    scores = torch.einsum("...qd,...kd->...qk", q * q.shape[-1] ** -0.5, k)
    if mask is not None:
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    weights = _softmax_by_hand(scores)
    return torch.einsum("...qk,...kd->...qd", weights, v), weights


def _attention_in_logarithms(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
    scores = q @ k.transpose(-2, -1) / q.size(-1) ** 0.5
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -_INF)
    weights = (scores - torch.logsumexp(scores, -1, keepdim=True)).exp()
    return weights @ v, weights


def _attention_by_loops(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
    rows = []
    for i in range(q.shape[-2]):
        dots = [(q[..., i, :] * k[..., j, :]).sum(-1) for j in range(k.shape[-2])]
        rows.append(torch.stack(dots, -1) / math.sqrt(q.shape[-1]))
    scores = torch.stack(rows, -2)
    if mask is not None:
        scores = scores.where(mask, -_INF)
    weights = torch.softmax(scores, -1)
    return (weights[..., None] * v[..., None, :, :]).sum(-2), weights


def _attention_mask_by_log(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
    scores = q @ k.mT * (1 / math.sqrt(k.shape[-1]))
    if mask is not None:
        scores = scores + mask.to(scores.dtype).log()
    weights = torch.nn.Softmax(dim=-1)(scores)
    return torch.matmul(weights, v), weights


def _attention_truth_of_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
    return _attend(_scores(q, k), v, mask if mask else None)


def _attention_mask_as_index(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
    scores = _scores(q, k)
    if mask is not None:
        scores[~mask] = -_INF
    return _attend(scores, v)


def _attention_query_and_key_swapped(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> Pair:
    return _attend(_scores(k, q), v, mask)


def _attention_weights_turned_for_values(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> Pair:
    weights = _attention(q, k, v, mask)[1]
    return weights.mT @ v, weights


def _attention_scores_returned(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
    return _attention(q, k, v, mask)[0], _masked(_scores(q, k), mask)


def _attention_unmasked_weights_returned(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> Pair:
    return _attention(q, k, v, mask)[0], torch.softmax(_scores(q, k), -1)


def _attention_scaled_afterwards(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> Pair:
    weights = torch.softmax(_masked(_scores(q, k, 1), mask), -1) / math.sqrt(q.shape[-1])
    return weights @ v, weights


def _attention_best_only(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
    scores = _masked(_scores(q, k), mask)
    weights = F.one_hot(scores.argmax(-1), k.shape[-2]).to(q.dtype)
    return weights @ v, weights


def _attention_in_single(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
    output, weights = _attention(q.float(), k.float(), v.float(), mask)
    return output.to(q.dtype), weights.to(q.dtype)


def _attention_left_in_single(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
    return _attention(q.float(), k.float(), v.float(), mask)


def _attention_detached(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
    output, weights = _attention(q, k, v, mask)
    return output.detach(), weights.detach()


def _attention_weights_cut_off(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
    weights = _attention(q, k, v, mask)[1].detach()
    return weights @ v, weights


def _attention_returned_weights_cut_off(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> Pair:
    output, weights = _attention(q, k, v, mask)
    return output, weights.detach()


def _attention_changes_input(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Pair:
    q /= math.sqrt(q.shape[-1])
    return _attend(q @ k.mT, v, mask)


# Scores 0 and 0 in the first, ln 3 and 0 (after the division by 2) in the second.
_EQUAL = (
    torch.tensor([[2.0, 0.0, 0.0, 0.0]]),
    torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]),
    torch.tensor([[2.0, 4.0], [6.0, 0.0]]),
)
_THREE_TO_ONE = (
    torch.tensor([[2.0, 0.0, 0.0, 0.0]]),
    torch.tensor([[math.log(3), 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]),
    torch.tensor([[4.0, 0.0], [0.0, 8.0]]),
)
_SIZES = (numbers(3, 4, seed=1), numbers(5, 4, seed=2), numbers(5, 6, seed=3))
_SQUARE = (numbers(4, 4, seed=4), numbers(4, 4, seed=5), numbers(4, 4, seed=6))
_BATCH = (numbers(2, 7, 3, seed=7), numbers(2, 5, 3, seed=8), numbers(2, 5, 6, seed=9))
_HEADS = (
    numbers(2, 7, 3, 4, seed=10),
    numbers(2, 7, 5, 4, seed=11),
    numbers(2, 7, 5, 6, seed=12),
)
_MASK = torch.tensor(
    [
        [True, False, True, True, False],
        [False, True, False, False, False],
        [True, True, True, True, True],
    ]
)
_FORBIDDEN = (
    torch.tensor([[2.0, 0.0, 0.0, 0.0]]),
    torch.tensor([[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]),
    torch.tensor([[2.0, 4.0], [9.0, 9.0], [6.0, 0.0]]),
)
_FAR_DOWN = (
    torch.tensor([[1000.0, 0.0, 0.0, 0.0]]),
    torch.tensor([[-40.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]),
    torch.tensor([[1.0, 2.0], [5.0, 5.0]]),
)
_ZERO_WEIGHT = (
    "A key that the mask forbids gets the weight 0, exactly, and the others share the 1 among them: "
    "its score has to be -inf when the softmax comes."
)

attention = Exercise(
    name="attention",
    lesson=LESSON,
    signature="attention(q, k, v, mask=None)",
    reference=_attention_in_double,
    parts=("output", "weights"),
    built_ins=(F.scaled_dot_product_attention, F.multi_head_attention_forward),
    probes=(
        Probe(
            "one query and two keys that match it equally: the output is the mean of the values",
            _EQUAL,
        ),
        Probe(
            "one query and two keys with scores ln 3 and 0: the weights are 3/4 and 1/4",
            _THREE_TO_ONE,
            explain="The dot products are 2 ln 3 and 0. Which number are they divided by? "
            "Here d_k = 4.",
        ),
        Probe(
            "three queries, five keys, d_k = 4, d_v = 6",
            _SIZES,
            explain="Each row of the weights belongs to one query and has to add up to 1.",
        ),
        Probe(
            "four queries, four keys, d_k = d_v = 4",
            _SQUARE,
            explain="Where all sizes are equal nothing stops you from a wrong transpose: "
            "row i of the weights is query i, column j is key j.",
        ),
        Probe(
            "a batch of two, d_k = 3",
            _BATCH,
            explain="Count the axes from the end: -1 is the width of a vector, -2 the position, "
            "whatever stands before. And d_k is another number than before.",
        ),
        Probe(
            "two batch axes",
            _HEADS,
            explain="Count the axes from the end: -1 is the width of a vector, -2 the position.",
        ),
        Probe(
            "scores of 200",
            (
                torch.tensor([[40.0, 0.0, 0.0, 0.0]]),
                torch.tensor([[10.0, 0.0, 0.0, 0.0], [10.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]),
                torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]),
            ),
            explain="exp(200) is inf in float32: subtract the largest score of each row first.",
        ),
        Probe(
            "one query with scores around 200, one with scores around -200",
            (
                torch.tensor([[40.0, 2.0], [-40.0, 2.0]]),
                torch.tensor([[7.0, 0.0], [7.0, 1.0], [7.0, -1.0]]),
                torch.tensor([[1.0], [2.0], [4.0]]),
            ),
            explain="Each row needs its own shift: subtract the largest of each row, not of all.",
        ),
        # The mask by its name, so that other names of parameters are noticed. An allowed score of 0, so that
        # nobody gets away with taking a 0 for "forbidden".
        Probe(
            "one query, scores 0, 1, 0, the middle key forbidden: the weights are 1/2, 0, 1/2",
            _FORBIDDEN,
            {"mask": torch.tensor([[True, False, True]])},
            _ZERO_WEIGHT,
        ),
        Probe("three queries, five keys and a mask", (*_SIZES, _MASK), explain=_ZERO_WEIGHT),
        Probe(
            "a batch of two with a mask of shape (2, 1, 5), the same for all queries",
            (
                *_BATCH,
                torch.tensor(
                    [[[True, True, True, False, False]], [[True, True, True, True, False]]]
                ),
            ),
            explain="The mask has an axis of size 1. masked_fill and torch.where stretch it; "
            "scores[~mask] = … doesn't.",
        ),
        Probe(
            "an allowed score of -20000 and a forbidden one of 0: the weights are 1 and 0",
            (*_FAR_DOWN, torch.tensor([[True, False]])),
            explain="A score that is allowed may be as low as it likes; a forbidden one has to be lower "
            "still. Only -inf always is, and it has to be there before the softmax.",
        ),
        Probe(
            "numbers in float64",
            (
                numbers(3, 4, seed=13, dtype=_DOUBLE),
                numbers(5, 4, seed=14, dtype=_DOUBLE),
                numbers(5, 6, seed=15, dtype=_DOUBLE),
            ),
            explain="It should keep the dtype and its precision: is something added or converted?",
        ),
        Probe(
            "numbers in half precision",
            tuple(tensor.to(_HALF) for tensor in _THREE_TO_ONE),
            explain="It should keep the dtype of its inputs: is a float32 tensor made on the way?",
        ),
        Probe(
            "numbers in half precision and a mask",
            (*(tensor.to(_HALF) for tensor in _FORBIDDEN), torch.tensor([[True, False, True]])),
            explain="float16 ends at 65504, so a fill such as -1e9 doesn't fit; float('-inf') does. "
            "And an additive mask has to be of the dtype of the scores.",
        ),
        Probe(
            "transposed, non-contiguous inputs",
            (numbers(4, 3, seed=16).T, numbers(4, 5, seed=17).T, numbers(6, 5, seed=18).T),
            explain="The same numbers in another order of memory: use .transpose or .mT, and "
            ".reshape where you need .view.",
        ),
        gradient(*_SIZES),
        gradient(*_SIZES, _MASK),
        twice(*_SIZES),
        other_device(*_SIZES),
        other_device(*_SIZES, _MASK),
    ),
    wrong_answers=(
        Wrong(
            "not scaled",
            _divided_by(lambda q, k, v: 1),
            "Your numbers are those of attention without the scale. Divide the scores by √d_k before "
            "the softmax, or they grow with the width of the vectors.",
        ),
        Wrong(
            "divided by d_k",
            _divided_by(lambda q, k, v: q.shape[-1]),
            "Your scores are divided by d_k. Divide them by its square root, once: that brings their "
            "standard deviation back to 1.",
        ),
        Wrong(
            "divided by the root of d_v",
            _divided_by(lambda q, k, v: math.sqrt(v.shape[-1])),
            "Your scores are divided by √d_v, the width of the values. The dot product runs over the "
            "d_k entries of a query and a key: divide by √d_k, `q.shape[-1]`.",
        ),
        Wrong(
            "divided by the root of n_k",
            _divided_by(lambda q, k, v: math.sqrt(k.shape[-2])),
            "Your scores are divided by √n_k, the number of keys. The width of a key belongs there: "
            "d_k = `k.shape[-1]`.",
        ),
        Wrong(
            "divided by the root of the first size",
            _divided_by(lambda q, k, v: math.sqrt(q.shape[0])),
            "Your scores are divided by the root of the size of q's first axis, `q.shape[0]`. d_k is "
            "the size of the last one: `q.shape[-1]`.",
        ),
        Wrong(
            "divided by the root of the second size",
            _divided_by(lambda q, k, v: math.sqrt(q.shape[1])),
            "Your scores are divided by the root of `q.shape[1]`, which is d_k only without a batch. "
            "Count from the end: `q.shape[-1]`.",
        ),
        Wrong(
            "divided by the root of n_q",
            _divided_by(lambda q, k, v: math.sqrt(q.shape[-2])),
            "Your scores are divided by √n_q, the number of queries. The width of a query belongs "
            "there: d_k = `q.shape[-1]`.",
        ),
        Wrong(
            "multiplied by the root",
            _divided_by(lambda q, k, v: q.shape[-1] ** -0.5),
            "Your scores are multiplied by √d_k. Divide them by it: it should make them smaller.",
        ),
        Wrong(
            "d_k ** 1/2 after a division",
            _divided_by(lambda q, k, v: 2 * q.shape[-1]),
            "Your scores are divided by 2·d_k: in Python `scores / d_k ** 1 / 2` divides by d_k and then "
            "by 2. Write `d_k ** 0.5` or math.sqrt(d_k).",
        ),
        Wrong(
            "d_k ** 1/2 in brackets",
            _divided_by(lambda q, k, v: q.shape[-1] / 2),
            "Your scores are divided by d_k / 2, which is √d_k only for d_k = 4: in Python `d_k ** 1/2` "
            "is (d_k ** 1) / 2. Write `d_k ** 0.5` or math.sqrt(d_k).",
        ),
        Wrong(
            "scaled by a fixed 2",
            _divided_by(lambda q, k, v: 2),
            "Your scores are divided by 2 whatever d_k is. Take it from the input: "
            "`math.sqrt(q.shape[-1])`.",
        ),
        Wrong(
            "scaled after the softmax",
            _attention_scaled_afterwards,
            "Your weights are divided by √d_k after the softmax, so a row no longer adds up to 1. "
            "Divide the scores, before the softmax.",
        ),
        Wrong(
            "softmax over the queries",
            _with_softmax(lambda scores: torch.softmax(scores, -2)),
            "Your numbers are those of a softmax over the queries: the rows must add up to 1, yours add "
            "up to 1 by column. Each query shares its 1 among the keys: dim=-1.",
        ),
        Wrong(
            "softmax over the first axis",
            _with_softmax(lambda scores: torch.softmax(scores, 0)),
            "Your softmax runs over the first axis, dim=0. Each query shares its 1 among the keys, "
            "which are the last axis of the scores: dim=-1.",
        ),
        Wrong(
            "softmax over the second axis",
            _with_softmax(lambda scores: torch.softmax(scores, 1)),
            "Your softmax runs over dim=1, which are the keys only without a batch. They are always the "
            "last axis of the scores: dim=-1.",
        ),
        Wrong(
            "softmax over everything",
            _with_softmax(_softmax_over_everything),
            "Your softmax runs over the whole table: all weights together add up to 1. Each row has to: "
            "dim=-1.",
        ),
        Wrong(
            "no softmax",
            _with_softmax(lambda scores: scores),
            "Your weights are the scores themselves: the softmax is missing, so they are neither "
            "positive nor do the rows add up to 1.",
        ),
        Wrong(
            "exp without the division",
            _with_softmax(torch.exp),
            "Your weights are exp(scores): they have to be divided by the sum of their row to add up "
            "to 1.",
        ),
        Wrong(
            "scores divided by their sum",
            _with_softmax(lambda scores: scores / scores.sum(-1, keepdim=True)),
            "Your weights are the scores divided by their sum: exp is missing, so a negative score "
            "gives a negative weight, and a sum of 0 gives NaN.",
        ),
        Wrong(
            "log-softmax",
            _with_softmax(lambda scores: torch.log_softmax(scores, -1)),
            "Your weights are log-probabilities, all 0 or below. Use softmax, not log_softmax.",
        ),
        Wrong(
            "softmax twice",
            _with_softmax(lambda scores: torch.softmax(torch.softmax(scores, -1), -1)),
            "Your weights went through two softmaxes, one after the other, which flattens them. "
            "Apply it once.",
        ),
        Wrong(
            "naive softmax",
            _with_softmax(_softmax_naive),
            "Your softmax overflows: exp of a large score is inf, and inf / inf is NaN. Subtract the "
            "largest score of each row before exp, or use torch.softmax.",
        ),
        Wrong(
            "shifted by the maximum of all",
            _with_softmax(_softmax_shifted_by_all),
            "Your softmax subtracts one maximum of all scores: in a row far below it every exp becomes "
            "0, and 0 / 0 is NaN. Take the maximum of each row.",
        ),
        Wrong(
            "best key only",
            _attention_best_only,
            "Your weights are 1 for the best key and 0 for all others. The softmax gives each key its "
            "share, and a gradient with it.",
        ),
        Wrong(
            "keys not transposed",
            _with_keys_turned(lambda k: k),
            "You multiply q by k as it stands, so its sizes don't fit. Every query meets every key: "
            "q (n_q, d_k) times k transposed (d_k, n_k), `q @ k.transpose(-2, -1)`.",
        ),
        Wrong(
            "keys reshaped",
            _with_keys_turned(lambda k: k.reshape(*k.shape[:-2], k.shape[-1], k.shape[-2])),
            "Your keys are reshaped where they should be transposed: the shape is right, but parts of "
            "different keys end up in one column. Use `k.transpose(-2, -1)`.",
        ),
        Wrong(
            "keys viewed",
            _with_keys_turned(lambda k: k.view(*k.shape[:-2], k.shape[-1], k.shape[-2])),
            "Your keys go through .view where they should be transposed: it keeps the order in memory, "
            "so keys get mixed, and transposed input stops it. Use `k.transpose(-2, -1)`.",
        ),
        Wrong(
            "all axes of the keys reversed",
            _with_keys_turned(lambda k: k.permute(*range(k.dim() - 1, -1, -1))),
            "You turn round all axes of k, as `k.T` does, the batch as well. Only the last two change "
            "places: `k.transpose(-2, -1)` or `k.mT`.",
        ),
        Wrong(
            "t()",
            _with_keys_turned(lambda k: k.t()),
            "`.t()` is for tables of two axes only; here there is a batch before them. Let the last two "
            "change places: `k.transpose(-2, -1)` or `k.mT`.",
        ),
        Wrong(
            "first two axes of the keys transposed",
            _with_keys_turned(lambda k: k.transpose(0, 1)),
            "You transpose axes 0 and 1 of k, which are position and width only without a batch. "
            "Count from the end: `k.transpose(-2, -1)`.",
        ),
        Wrong(
            "axes 1 and 2 of the keys transposed",
            _with_keys_turned(lambda k: k.mT if k.dim() == 2 else k.transpose(1, 2)),
            "You transpose axes 1 and 2 of k, which are position and width only with a single batch "
            "axis. Count from the end: `k.transpose(-2, -1)`.",
        ),
        Wrong(
            "cosine",
            lambda q, k, v, mask=None: _attend(
                _scores(F.normalize(q, dim=-1), F.normalize(k, dim=-1)), v, mask
            ),
            "Your queries and keys are divided by their lengths, so only the angle counts. The score is the "
            "plain dot product, divided by √d_k.",
        ),
        Wrong(
            "cosine, not scaled",
            lambda q, k, v, mask=None: _attend(
                _scores(F.normalize(q, dim=-1), F.normalize(k, dim=-1), 1), v, mask
            ),
            "Your scores are cosines: queries and keys are divided by their lengths. The score is the plain "
            "dot product, divided by √d_k.",
        ),
        Wrong(
            "query and key swapped",
            _attention_query_and_key_swapped,
            "Query and key have changed places in your scores: row i belongs to key i. Rows are "
            "queries, so q stands on the left: `q @ k.transpose(-2, -1)`.",
        ),
        Wrong(
            "weights turned before the values",
            _attention_weights_turned_for_values,
            "Your weights are transposed before they meet the values. Column j belongs to key j and so "
            "to value j: `weights @ v`.",
        ),
        Wrong(
            "keys in place of values",
            lambda q, k, v, mask=None: _attend(_scores(q, k), k, mask),
            "Your output is a mean of the keys. The keys are only for being found; the mean runs over "
            "the values: `weights @ v`.",
        ),
        Wrong(
            "scores with the values",
            lambda q, k, v, mask=None: _attend(_scores(q, v), v, mask),
            "You compare the queries with the values. They are compared with the keys: "
            "`q @ k.transpose(-2, -1)`.",
        ),
        Wrong(
            "weights not returned",
            lambda q, k, v, mask=None: _attention(q, k, v, mask)[0],
            "You return the output alone. The weights are asked for too: `return output, weights`.",
        ),
        Wrong(
            "output not returned",
            lambda q, k, v, mask=None: _attention(q, k, v, mask)[1],
            "You return the weights alone. Multiply them with v and return both: "
            "`return output, weights`.",
        ),
        Wrong(
            "returned in the other order",
            lambda q, k, v, mask=None: _attention(q, k, v, mask)[::-1],
            "You return the weights first. The output comes first: `return output, weights`.",
        ),
        Wrong(
            "scores returned",
            _attention_scores_returned,
            "Your output is right, but you return the scores beside it. Return the weights, which is "
            "what they are after the softmax.",
        ),
        Wrong(
            "weights returned transposed",
            lambda q, k, v, mask=None: (
                _attention(q, k, v, mask)[0],
                _attention(q, k, v, mask)[1].mT,
            ),
            "Your output is right, but the weights come back transposed: rows are queries, columns are "
            "keys.",
        ),
        Wrong(
            "weights without the mask returned",
            _attention_unmasked_weights_returned,
            "Your output is right, but the weights that you return are those without the mask. Return "
            "the ones that made the output.",
        ),
        Wrong(
            "mask ignored",
            lambda q, k, v, mask=None: _attention(q, k, v),
            "Your numbers are those of attention without the mask. Where it is False the key must get "
            "the weight 0: give it the score -inf before the softmax.",
        ),
        Wrong(
            "truth of a mask",
            _attention_truth_of_mask,
            "The mask stands where Python needs one True or False, as in `if mask:` or `not mask`; it "
            "has one for each pair. Write `if mask is not None:`, and `~mask` for its opposite.",
        ),
        Wrong(
            "mask inverted",
            _with_mask(lambda scores, mask: scores.masked_fill(mask, -_INF)),
            "Your mask works the wrong way round: True means that the key may be attended to. "
            "masked_fill fills where its mask is True, so give it `~mask`.",
        ),
        Wrong(
            "mask after the softmax",
            _with_mask_afterwards(lambda weights, mask: weights * mask),
            "Your mask comes after the softmax: the forbidden weights are 0, but the others don't add "
            "up to 1 any more. Set the forbidden scores to -inf before the softmax.",
        ),
        Wrong(
            "mask after the softmax, divided again",
            _with_mask_afterwards(
                lambda weights, mask: weights * mask / (weights * mask).sum(-1, keepdim=True)
            ),
            "Your mask comes after the softmax, and you divide by the sum again. Where a forbidden "
            "score was far above the rest, nothing is left: 0 / 0. Set it to -inf before the softmax.",
        ),
        Wrong(
            "-inf after the softmax",
            _with_mask_afterwards(lambda weights, mask: weights.masked_fill(~mask, -_INF)),
            "Your -inf comes after the softmax, and so is a weight. Put it into the scores, before the "
            "softmax: exp(-inf) is then 0.",
        ),
        Wrong(
            "mask fills 0",
            _with_mask(lambda scores, mask: scores * mask),
            "A forbidden score becomes 0 in yours (filled with 0, or multiplied by the mask), but exp(0) "
            "is 1 and not 0. The score has to be -inf: `scores.masked_fill(~mask, float('-inf'))`.",
        ),
        Wrong(
            "mask fills -1",
            _with_mask(lambda scores, mask: scores.masked_fill(~mask, -1)),
            "A forbidden score becomes -1 in yours, and exp(-1) is still 0.37. Fill with "
            "float('-inf').",
        ),
        Wrong(
            "mask fills -10",
            _with_mask(lambda scores, mask: scores.masked_fill(~mask, -10)),
            "A forbidden score becomes -10 in yours: its key keeps a small weight. Fill with "
            "float('-inf'): exp(-inf) is exactly 0.",
        ),
        Wrong(
            "mask subtracts 10",
            _with_mask(lambda scores, mask: scores - 10 * ~mask),
            "You subtract 10 from a forbidden score: its key keeps a small weight. Fill with "
            "float('-inf'): exp(-inf) is exactly 0.",
        ),
        Wrong(
            "mask adds itself",
            _with_mask(lambda scores, mask: scores + mask),
            "You add the mask itself to the scores: True counts as 1 and False as 0, so an allowed "
            "score is 1 higher and no key is shut out. A forbidden score has to be -inf.",
        ),
        Wrong(
            "mask fills a number that isn't low enough",
            _with_mask(lambda scores, mask: scores.masked_fill(~mask, -1e4)),
            "Your mask puts in a number that isn't low enough: here an allowed score lies below it, and "
            "the forbidden key gets all the weight. Fill with float('-inf').",
        ),
        Wrong(
            "mask fills a number beyond float16",
            _with_mask(lambda scores, mask: scores.masked_fill(~mask, -1e9)),
            "Your mask puts in a number that float16 doesn't have, such as -1e9: float16 ends at 65504. "
            "float('-inf') exists in every dtype.",
        ),
        Wrong(
            "0 times -inf",
            _with_mask(lambda scores, mask: scores + (1 - mask.to(scores.dtype)) * -_INF),
            "Your numbers are NaN as soon as there is a mask, as from a product with -inf: 0 · (-inf) is "
            "NaN, so the allowed scores are lost. Use `scores.masked_fill(~mask, float('-inf'))`.",
        ),
        Wrong(
            "zero scores forbidden",
            _with_mask(lambda scores, mask: (scores * mask).masked_fill(scores * mask == 0, -_INF)),
            "An allowed score that happens to be 0 is shut out in yours: a product with the mask can't tell it "
            "from a forbidden one. Take the mask itself: `scores.masked_fill(~mask, float('-inf'))`.",
        ),
        Wrong(
            "mask as an index",
            _attention_mask_as_index,
            "`…[~mask] = …` needs a mask of exactly the shape of what is written into; this one has an axis of "
            "size 1 that has to be stretched. `scores.masked_fill(~mask, float('-inf'))` does so.",
        ),
        Wrong(
            "computed in float32",
            _attention_in_single,
            "Your numbers are computed in float32 on the way, so float64 loses half of its digits. "
            "Leave out .float() and dtype=torch.float32.",
        ),
        Wrong(
            "returned in float32",
            _attention_left_in_single,
            "Your results are float32 whatever comes in. Leave out .float(): the dtype of the inputs "
            "should stay.",
        ),
        Wrong(
            "everything detached",
            _attention_detached,
            "Your values are right, but no gradient reaches q, k and v, so nothing could learn: look for "
            ".detach(), .data, torch.tensor(…) or torch.no_grad().",
        ),
        Wrong(
            "weights detached",
            _attention_weights_cut_off,
            "Your values are right, but the gradient only reaches v: the weights are cut off, by "
            ".detach(), .data or torch.no_grad(). Queries and keys could never learn.",
        ),
        Wrong(
            "returned weights detached",
            _attention_returned_weights_cut_off,
            "Your output is right with its gradient, but the weights that you return are cut off. "
            "Return them without .detach(); who only wants to look can detach them later.",
        ),
        Wrong(
            "input changed",
            _attention_changes_input,
            "Your numbers are right, but `q /= …` writes into the caller's tensor. Make a new one: "
            "`q / …`.",
        ),
    ),
    correct_alternatives=(
        _attention,
        _attention_by_einsum,
        _attention_in_logarithms,
        _attention_by_loops,
        _attention_mask_by_log,
    ),
    hints=(
        "Four steps: scores, mask, softmax, mean of the values. Write the shape of each beside it: "
        "which step makes (n_q, n_k), and which makes (n_q, d_v)?",
        "The scores are q times k with its last two axes exchanged, divided by √d_k, where d_k is "
        "q.shape[-1]. What must a forbidden score be so that exp makes it 0?",
        "scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]); if mask is not None, scores = "
        "scores.masked_fill(~mask, float('-inf')); weights = softmax of the scores along dim=-1; "
        "return weights @ v and the weights.",
    ),
)

# ---------------------------------------------------------------------------- qkv_projection


def _projection_by_loop(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Triple:
    def project(w: Tensor) -> Tensor:
        columns = [(x.double() * w[:, c].double()).sum(-1) for c in range(w.shape[1])]
        return torch.stack(columns, -1).to(x.dtype)

    return project(w_q), project(w_k), project(w_v)


def _projection(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Triple:
    return x @ w_q, x @ w_k, x @ w_v


def _each_projected(project: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Triple]:
    def answer(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Triple:
        return project(x, w_q), project(x, w_k), project(x, w_v)

    return answer


def _projection_in_one_product(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Triple:
    widths = [w.shape[1] for w in (w_q, w_k, w_v)]
    q, k, v = torch.split(x @ torch.cat((w_q, w_k, w_v), dim=1), widths, dim=-1)
    return q, k, v


def _projection_split_in_thirds(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Triple:
    q, k, v = (x @ torch.cat((w_q, w_k, w_v), dim=1)).tensor_split(3, dim=-1)
    return q, k, v


def _projection_chained(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Triple:
    q = x @ w_q
    k = q @ w_k
    return q, k, k @ w_v


def _projection_scaled(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Triple:
    return x @ w_q / math.sqrt(w_q.shape[1]), x @ w_k, x @ w_v


def _projection_turns_weights(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Triple:
    q, k, v = (F.linear(x, w.t_()) for w in (w_q, w_k, w_v))
    return q, k, v


def _projection_attended(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    return _attention(*_projection(x, w_q, w_k, w_v))[0]


_WORDS = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
_W_HAND = (
    torch.tensor([[1.0, 0.0], [0.0, 10.0]]),
    torch.tensor([[0.0, 1.0], [1.0, 0.0]]),
    torch.tensor([[3.0], [4.0]]),
)
_W = (numbers(5, 4, seed=21), numbers(5, 4, seed=22), numbers(5, 6, seed=23))
_W_SQUARE = (numbers(4, 4, seed=24), numbers(4, 4, seed=25), numbers(4, 4, seed=26))

qkv_projection = Exercise(
    name="qkv_projection",
    lesson=LESSON,
    signature="qkv_projection(x, w_q, w_k, w_v)",
    reference=_projection_by_loop,
    parts=("q", "k", "v"),
    probes=(
        Probe(
            "one word (1, 2): q = (1, 20), k = (2, 1), v = (11)",
            (_WORDS[:1], *_W_HAND),
            explain="Each word is a row of x. Multiplied by a matrix from the right it gives a row of "
            "the result.",
        ),
        Probe(
            "two words",
            (_WORDS, *_W_HAND),
            explain="Each row is projected for itself: the first row must be what it was alone.",
        ),
        Probe(
            "three words, d_model = 5, d_k = 4, d_v = 6",
            (numbers(3, 5, seed=20), *_W),
            explain="q and k have the width d_k, v has the width d_v.",
        ),
        Probe(
            "four words, all widths 4",
            (numbers(4, 4, seed=27), *_W_SQUARE),
            explain="Where all sizes are equal nothing stops you from a wrong transpose: x @ w, with "
            "w as it is given.",
        ),
        Probe(
            "two batch axes",
            (numbers(2, 7, 3, 5, seed=28), *_W),
            explain="The matrices have no batch axes: `@` uses them for every entry of the batch.",
        ),
        Probe(
            "numbers in float64",
            (
                numbers(3, 5, seed=29, dtype=_DOUBLE),
                *(numbers(5, d, seed=30 + d, dtype=_DOUBLE) for d in (4, 4, 6)),
            ),
            explain="It should keep the dtype and its precision.",
        ),
        Probe(
            "numbers in half precision",
            (numbers(3, 5, seed=20).to(_HALF), *(w.to(_HALF) for w in _W)),
            explain="It should keep the dtype of its inputs: is a float32 tensor made on the way?",
        ),
        Probe(
            "transposed, non-contiguous inputs",
            (numbers(5, 3, seed=36).T, *(w.T.contiguous().T for w in _W)),
        ),
        gradient(numbers(3, 5, seed=20), *_W),
        twice(numbers(3, 5, seed=20), *_W),
        other_device(numbers(3, 5, seed=20), *_W),
    ),
    wrong_answers=(
        Wrong(
            "matrices transposed",
            _each_projected(lambda x, w: x @ w.mT),
            "You multiply by the transposed matrices, as F.linear(x, w) does too. Here w has the shape "
            "(d_model, d), so the product is `x @ w`.",
        ),
        Wrong(
            "matrix on the left",
            _each_projected(lambda x, w: w @ x),
            "The matrix stands on the left in your product, w @ x. Words are rows here, so x stands on "
            "the left: `x @ w`.",
        ),
        Wrong(
            "transposed matrix on the left",
            _each_projected(lambda x, w: w.mT @ x),
            "Your product is wᵀ @ x, which mixes the words. Words are rows here, so x stands on the "
            "left: `x @ w`.",
        ),
        Wrong(
            "results transposed",
            _each_projected(lambda x, w: (x @ w).mT),
            "Your results are transposed, words in the columns. Words stay rows: (…, n, d), as `x @ w` "
            "gives them.",
        ),
        Wrong(
            "words transposed",
            _each_projected(lambda x, w: x.mT @ w),
            "You transpose x before the product. Its rows are the words already: `x @ w`.",
        ),
        Wrong(
            "element by element",
            _each_projected(lambda x, w: x * w),
            "You multiply element by element, with `*`. A projection is a matrix product: `@`.",
        ),
        Wrong(
            "key first",
            lambda x, w_q, w_k, w_v: (x @ w_k, x @ w_q, x @ w_v),
            "Query and key have changed places. The order is q, k, v, from w_q, w_k, w_v.",
        ),
        Wrong(
            "value before key",
            lambda x, w_q, w_k, w_v: (x @ w_q, x @ w_v, x @ w_k),
            "Key and value have changed places. The order is q, k, v, from w_q, w_k, w_v.",
        ),
        Wrong(
            "value first",
            lambda x, w_q, w_k, w_v: (x @ w_v, x @ w_k, x @ w_q),
            "Query and value have changed places. The order is q, k, v, from w_q, w_k, w_v.",
        ),
        Wrong(
            "one matrix for all",
            lambda x, w_q, w_k, w_v: (x @ w_q, x @ w_q, x @ w_q),
            "All three results come from w_q. With q = k a word mostly finds itself: each role has its "
            "own matrix.",
        ),
        Wrong(
            "w_q for the keys",
            lambda x, w_q, w_k, w_v: (x @ w_q, x @ w_q, x @ w_v),
            "Your keys come from w_q. They have a matrix of their own: `k = x @ w_k`.",
        ),
        Wrong(
            "w_k for the queries",
            lambda x, w_q, w_k, w_v: (x @ w_k, x @ w_k, x @ w_v),
            "Your queries come from w_k. They have a matrix of their own: `q = x @ w_q`.",
        ),
        Wrong(
            "w_k for the values",
            lambda x, w_q, w_k, w_v: (x @ w_q, x @ w_k, x @ w_k),
            "Your values come from w_k. They have a matrix of their own, with the width d_v: "
            "`v = x @ w_v`.",
        ),
        Wrong(
            "values not projected",
            lambda x, w_q, w_k, w_v: (x @ w_q, x @ w_k, x),
            "Your values are x itself. They are projected too: `v = x @ w_v`.",
        ),
        Wrong(
            "one after the other",
            _projection_chained,
            "Your projections run one after the other, on what the one before gave. All three start "
            "from x.",
        ),
        Wrong(
            "input added",
            _each_projected(lambda x, w: x + x @ w),
            "You add x to its projection. That residual connection comes later in the course, around "
            "the whole layer; here it is `x @ w` alone.",
        ),
        Wrong(
            "queries scaled",
            _projection_scaled,
            "Your queries are divided by √d_k already. That belongs to the scores, in `attention`; done "
            "twice it would be divided by d_k.",
        ),
        Wrong(
            "split in thirds",
            _projection_split_in_thirds,
            "You cut one wide product into three equal parts, but d_v may differ from d_k. Split by the "
            "widths: `.split([w_q.shape[1], w_k.shape[1], w_v.shape[1]], dim=-1)`.",
        ),
        Wrong(
            "joined in one tensor",
            lambda x, w_q, w_k, w_v: x @ torch.cat((w_q, w_k, w_v), dim=1),
            "You return q, k and v joined in one tensor. Return three: `return q, k, v`.",
        ),
        Wrong(
            "attention computed",
            _projection_attended,
            "You return the output of attention. Here only the step before it is asked for: q, k and v.",
        ),
        Wrong(
            "computed in float32",
            lambda x, w_q, w_k, w_v: tuple(
                (x.float() @ w.float()).to(x.dtype) for w in (w_q, w_k, w_v)
            ),
            "Your products are computed in float32, so float64 loses half of its digits. Leave out "
            ".float() and dtype=torch.float32.",
        ),
        Wrong(
            "detached",
            lambda x, w_q, w_k, w_v: tuple((x @ w).detach() for w in (w_q, w_k, w_v)),
            "Your values are right, but no gradient reaches x and the matrices, so they could never "
            "learn: look for .detach(), .data, torch.tensor(…) or torch.no_grad().",
        ),
        Wrong(
            "matrices turned in place",
            _projection_turns_weights,
            "Your numbers are right, but .t_() turns the caller's matrices in place. "
            "`x @ w` needs no transpose.",
        ),
    ),
    correct_alternatives=(
        _projection,
        _each_projected(lambda x, w: torch.einsum("...nm,md->...nd", x, w)),
        _each_projected(lambda x, w: F.linear(x, w.T)),
        _each_projected(lambda x, w: (x[..., None] * w).sum(-2)),
        _each_projected(lambda x, w: (w.T @ x.mT).mT),
        _projection_in_one_product,
    ),
    hints=(
        "Each word is a row of x with d_model numbers. Which product turns such a row into a row of d "
        "numbers, if the matrix has the shape (d_model, d)?",
        "All three results start from the same x. Only the matrix differs.",
        "q = x @ w_q; the same for k and v; `return q, k, v`. Nothing is transposed.",
    ),
)

# ---------------------------------------------------------------------------- attention_backward


def _backward_by_autograd(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    q2, k2, v2 = (tensor.detach().double().requires_grad_(True) for tensor in (q, k, v))
    output = F.scaled_dot_product_attention(q2, k2, v2)
    grad_q, grad_k, grad_v = torch.autograd.grad(output, (q2, k2, v2), grad_out.double())
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


def _softmax_backward(weights: Tensor, grad: Tensor) -> Tensor:
    return weights * (grad - (weights * grad).sum(-1, keepdim=True))


def _backward_with(
    step: Callable[[Tensor, Tensor], Tensor] = _softmax_backward,
    softmax: Callable[[Tensor], Tensor] = lambda scores: torch.softmax(scores, -1),
    q_factor: float = 1.0,
    k_factor: float = 1.0,
) -> Callable[..., Triple]:
    """The backward pass with another step through the softmax, another softmax, powers of √d_k more."""

    def answer(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
        root = math.sqrt(q.shape[-1])
        weights = softmax(q @ k.mT / root)
        grad_scores = step(weights, grad_out @ v.mT)
        return (
            grad_scores @ k / root**q_factor,
            grad_scores.mT @ q / root**k_factor,
            weights.mT @ grad_out,
        )

    return answer


_backward = _backward_with()


def _backward_unscaled(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    weights = torch.softmax(q @ k.mT, -1)
    grad_scores = _softmax_backward(weights, grad_out @ v.mT)
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_out


def _backward_scale_only_behind(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    grad_q, grad_k, grad_v = _backward_unscaled(q, k, v, grad_out)
    root = math.sqrt(q.shape[-1])
    return grad_q / root, grad_k / root, grad_v


def _backward_values_scaled(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    grad_q, grad_k, grad_v = _backward(q, k, v, grad_out)
    return grad_q, grad_k, grad_v / math.sqrt(q.shape[-1])


def _parts_of_backward(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    """Weights, gradient of the scores as they meet q and k, gradient of the weights."""
    root = math.sqrt(q.shape[-1])
    weights = torch.softmax(q @ k.mT / root, -1)
    grad_weights = grad_out @ v.mT
    return weights, _softmax_backward(weights, grad_weights) / root, grad_weights


def _backward_keys_not_turned(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    weights, grad_scores, _ = _parts_of_backward(q, k, v, grad_out)
    return grad_scores @ k, grad_scores @ q, weights.mT @ grad_out


def _backward_queries_turned(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    weights, grad_scores, _ = _parts_of_backward(q, k, v, grad_out)
    return grad_scores.mT @ k, grad_scores.mT @ q, weights.mT @ grad_out


def _backward_values_not_turned(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    weights, grad_scores, _ = _parts_of_backward(q, k, v, grad_out)
    return grad_scores @ k, grad_scores.mT @ q, weights @ grad_out


def _backward_own_vectors(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    weights, grad_scores, _ = _parts_of_backward(q, k, v, grad_out)
    return grad_scores @ q, grad_scores.mT @ k, weights.mT @ grad_out


def _backward_keys_for_values(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    root = math.sqrt(q.shape[-1])
    weights = torch.softmax(q @ k.mT / root, -1)
    grad_scores = _softmax_backward(weights, grad_out @ k.mT) / root
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_out


def _backward_values_as_they_stand(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    root = math.sqrt(q.shape[-1])
    weights = torch.softmax(q @ k.mT / root, -1)
    grad_scores = _softmax_backward(weights, grad_out @ v) / root
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_out


def _backward_values_for_keys(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    weights, grad_scores, _ = _parts_of_backward(q, k, v, grad_out)
    return grad_scores @ v, grad_scores.mT @ q, weights.mT @ grad_out


def _backward_grad_of_scores_for_values(
    q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor
) -> Triple:
    _, grad_scores, _ = _parts_of_backward(q, k, v, grad_out)
    return grad_scores @ k, grad_scores.mT @ q, grad_scores.mT @ grad_out


def _backward_output_for_values(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    weights, grad_scores, _ = _parts_of_backward(q, k, v, grad_out)
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ (weights @ v)


def _backward_by_grad(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    q, k, v = (tensor.detach().requires_grad_() for tensor in (q, k, v))
    output = _attention(q, k, v)[0]
    grad_q, grad_k, grad_v = torch.autograd.grad(output, (q, k, v), grad_out)
    return grad_q, grad_k, grad_v


def _backward_by_backward(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    q, k, v = (tensor.detach().requires_grad_() for tensor in (q, k, v))
    _attention(q, k, v)[0].backward(grad_out)
    assert q.grad is not None and k.grad is not None and v.grad is not None
    return q.grad, k.grad, v.grad


def _backward_changes_input(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    q /= math.sqrt(q.shape[-1])
    k_scaled = k / math.sqrt(k.shape[-1])
    weights = torch.softmax(q @ k.mT, -1)
    grad_scores = _softmax_backward(weights, grad_out @ v.mT)
    return grad_scores @ k_scaled, grad_scores.mT @ q, weights.mT @ grad_out


def _backward_in_single(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    grads = _backward(q.float(), k.float(), v.float(), grad_out.float())
    grad_q, grad_k, grad_v = (grad.to(q.dtype) for grad in grads)
    return grad_q, grad_k, grad_v


def _backward_by_jacobian(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    weights = _attention_by_einsum(q, k, v)[1]
    jacobian = torch.diag_embed(weights) - weights[..., :, None] * weights[..., None, :]
    grad_scores = torch.einsum("...qkj,...qj->...qk", jacobian, grad_out @ v.mT)
    grad_scores = grad_scores * q.shape[-1] ** -0.5
    return (
        torch.einsum("...qk,...kd->...qd", grad_scores, k),
        torch.einsum("...qk,...qd->...kd", grad_scores, q),
        torch.einsum("...qk,...qd->...kd", weights, grad_out),
    )


def _backward_by_output(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    # The row sum of weights · grad_weights is that of output · grad_out: FlashAttention's way.
    output, weights = _attention(q, k, v)
    grad_scores = weights * (grad_out @ v.mT - (output * grad_out).sum(-1, keepdim=True))
    scale = 1 / math.sqrt(q.shape[-1])
    return grad_scores @ (k * scale), grad_scores.mT @ (q * scale), weights.mT @ grad_out


def _backward_by_loop(q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> Triple:
    scale = q.shape[-1] ** -0.5
    grad_k, grad_v, rows = torch.zeros_like(k), torch.zeros_like(v), []
    for i in range(q.shape[-2]):
        query, grad = q[..., i : i + 1, :], grad_out[..., i : i + 1, :]
        weights = torch.softmax(query @ k.mT * scale, -1)
        grad_scores = weights * (grad @ v.mT) - weights * (weights * (grad @ v.mT)).sum(-1, True)
        rows.append(grad_scores @ k * scale)
        grad_k = grad_k + grad_scores.mT @ query * scale
        grad_v = grad_v + weights.mT @ grad
    return torch.cat(rows, -2), grad_k, grad_v


_BACK_HAND = (
    torch.tensor([[2.0, 0.0, 0.0, 0.0]]),
    torch.tensor([[0.0, 4.0, 0.0, 0.0], [0.0, 0.0, 6.0, 0.0]]),
    torch.tensor([[8.0], [0.0]]),
    torch.tensor([[1.0]]),
)
_BACK_SIZES = (*_SIZES, numbers(3, 6, seed=40))

attention_backward = Exercise(
    name="attention_backward",
    lesson=LESSON,
    signature="attention_backward(q, k, v, grad_out)",
    reference=_backward_by_autograd,
    parts=("grad_q", "grad_k", "grad_v"),
    # All of torch's ways to a gradient, torch.func's too, go through one of these.
    built_ins=(torch.autograd.grad, torch.autograd.backward, Tensor.backward),
    probes=(
        Probe(
            "one query, two keys with equal scores, values 8 and 0: the gradient of the scores is "
            "(2, -2)",
            _BACK_HAND,
            explain="On paper: the weights are (1/2, 1/2), their gradient is (8, 0), its weighted mean is "
            "4, so the gradient of the scores is 1/2 · (4, -4). Which of these do you get?",
        ),
        Probe(
            "one query, two keys with weights 3/4 and 1/4",
            (*_THREE_TO_ONE, torch.tensor([[1.0, 0.0]])),
            explain="Print the weights first: they must be 3/4 and 1/4. Then the gradient of the "
            "weights, (4, 0), then that of the scores, (3/4, -3/4).",
        ),
        Probe(
            "three queries, five keys, d_k = 4, d_v = 6",
            _BACK_SIZES,
            explain="A gradient has the shape of what it belongs to. A key is met by all queries, and a "
            "value too: their gradients add up over the queries.",
        ),
        Probe(
            "all sizes 4",
            (*_SQUARE, numbers(4, 4, seed=41)),
            explain="Where all sizes are equal nothing stops you from a wrong transpose: write the "
            "shapes (n_q, n_k, d_k, d_v) beside each line.",
        ),
        Probe(
            "a batch of two, d_k = 3",
            (*_BATCH, numbers(2, 7, 6, seed=42)),
            explain="Count the axes from the end, and take d_k from the input.",
        ),
        Probe(
            "two batch axes",
            (*_HEADS, numbers(2, 7, 3, 6, seed=43)),
            explain="Count the axes from the end: -1 is the width of a vector, -2 the position.",
        ),
        Probe(
            "scores of 200",
            (
                torch.tensor([[40.0, 0.0, 0.0, 0.0]]),
                torch.tensor([[10.0, 0.0, 0.0, 0.0], [10.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]),
                torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]),
                torch.tensor([[1.0, -2.0]]),
            ),
            explain="exp(200) is inf in float32: subtract the largest score of each row first.",
        ),
        Probe(
            "numbers in float64",
            tuple(
                numbers(*shape, seed=44 + i, dtype=_DOUBLE)
                for i, shape in enumerate(((3, 4), (5, 4), (5, 6), (3, 6)))
            ),
            explain="It should keep the dtype and its precision: is something added or converted?",
        ),
        Probe(
            "numbers in half precision",
            tuple(tensor.to(_HALF) for tensor in _BACK_HAND),
            explain="It should keep the dtype of its inputs: is a float32 tensor made on the way?",
        ),
        Probe(
            "transposed, non-contiguous inputs",
            (
                numbers(4, 3, seed=16).T,
                numbers(4, 5, seed=17).T,
                numbers(6, 5, seed=18).T,
                numbers(6, 3, seed=19).T,
            ),
        ),
        twice(*_BACK_SIZES),
        other_device(*_BACK_SIZES),
    ),
    wrong_answers=(
        Wrong(
            "torch.autograd.grad",
            _backward_by_grad,
            "torch's autograd makes your numbers (autograd.grad, or torch.func, which calls it). Here you are "
            "autograd: write the products yourself, dV, dA, dS, dQ and dK.",
        ),
        Wrong(
            ".backward()",
            _backward_by_backward,
            "torch's .backward() makes your numbers. Here you are autograd: write the products yourself, dV, "
            "dA, dS, dQ and dK.",
        ),
        Wrong(
            "scale missing on the way back",
            _backward_with(q_factor=0, k_factor=0),
            "The scale is missing on the way back: grad_q and grad_k are √d_k times too large. The "
            "scores are q · k / √d_k, so both of their gradients have that factor too.",
        ),
        Wrong(
            "scale missing in grad_q",
            _backward_with(q_factor=0),
            "grad_q is √d_k times too large: the scores are q · k / √d_k, so their gradient with respect "
            "to q is k / √d_k.",
        ),
        Wrong(
            "scale missing in grad_k",
            _backward_with(k_factor=0),
            "grad_k is √d_k times too large: the scores are q · k / √d_k, so their gradient with respect "
            "to k is q / √d_k.",
        ),
        Wrong(
            "scale twice",
            _backward_with(q_factor=2, k_factor=2),
            "grad_q and grad_k are divided by √d_k twice. Once is enough: either in the gradient of the "
            "scores or in the products with k and q.",
        ),
        Wrong(
            "multiplied by the root",
            _backward_with(q_factor=-1, k_factor=-1),
            "grad_q and grad_k are multiplied by √d_k. Divide by it, as the scores are.",
        ),
        Wrong(
            "scale missing altogether",
            _backward_unscaled,
            "Your gradients are those of attention without the scale. Divide the scores by √d_k, and the "
            "gradients of q and k with them.",
        ),
        Wrong(
            "scale missing on the way forward",
            _backward_scale_only_behind,
            "The scale is missing in the scores from which you compute the weights. The way back needs "
            "the same weights as the forward pass: softmax(q kᵀ / √d_k).",
        ),
        Wrong(
            "values scaled",
            _backward_values_scaled,
            "grad_v is divided by √d_k. The scale is in the scores only; the values don't go through it: "
            "grad_v = weightsᵀ @ grad_out.",
        ),
        Wrong(
            "row sum missing",
            _backward_with(step=lambda a, g: a * g),
            "In the step through the softmax the row sum is missing: you have A · dA alone. It is "
            "A · (dA - the sum of A · dA along the row), because the weights share one sum.",
        ),
        Wrong(
            "diagonal only",
            _backward_with(step=lambda a, g: a * (1 - a) * g),
            "You take only the diagonal of the softmax's Jacobian, A(1 - A). Its other entries, -A_j A_l, "
            "matter as much: dS = A · (dA - the sum of A · dA along the row).",
        ),
        Wrong(
            "softmax left out",
            _backward_with(step=lambda a, g: g),
            "You take the gradient of the weights for that of the scores: the softmax lies between them. "
            "Put softmax_backward of lesson 02 there.",
        ),
        Wrong(
            "weights not in front",
            _backward_with(step=lambda a, g: g - (a * g).sum(-1, keepdim=True)),
            "In the step through the softmax the factor A in front is missing: "
            "dS = A · (dA - the sum of A · dA along the row).",
        ),
        Wrong(
            "brackets missing",
            _backward_with(step=lambda a, g: a * g - (a * g).sum(-1, keepdim=True)),
            "In the step through the softmax the row sum isn't multiplied by A: brackets are missing in "
            "A · (dA - sum).",
        ),
        Wrong(
            "sum over the queries",
            _backward_with(step=lambda a, g: a * (g - (a * g).sum(-2, keepdim=True))),
            "In the step through the softmax you sum over the queries. The softmax ran along the keys, "
            "so the sum does too: dim=-1.",
        ),
        Wrong(
            "sum without keepdim",
            _backward_with(step=lambda a, g: a * (g - (a * g).sum(-1))),
            "In the step through the softmax the sum has lost its axis, so each query is reduced by the "
            "sum of another, or the sizes don't fit. Keep it: keepdim=True.",
        ),
        Wrong(
            "sum over everything",
            _backward_with(step=lambda a, g: a * (g - (a * g).sum())),
            "In the step through the softmax you sum over the whole table, so queries leak into each "
            "other. Sum along the keys: dim=-1, keepdim=True.",
        ),
        Wrong(
            "mean of A · dA",
            _backward_with(step=lambda a, g: a * (g - (a * g).mean(-1, keepdim=True))),
            "In the step through the softmax you take the mean of A · dA where its sum belongs: the "
            "weights add up to 1 already.",
        ),
        Wrong(
            "sum of dA",
            _backward_with(step=lambda a, g: a * (g - g.sum(-1, keepdim=True))),
            "In the step through the softmax you subtract the plain sum of dA. It has to be weighted: "
            "the sum of A · dA.",
        ),
        Wrong(
            "sign flipped",
            _backward_with(step=lambda a, g: -_softmax_backward(a, g)),
            "grad_q and grad_k have the opposite sign: dS = A · (dA - the sum of A · dA), in this order.",
        ),
        Wrong(
            "softmax over the queries",
            _backward_with(softmax=lambda scores: torch.softmax(scores, -2)),
            "The weights from which you go back come from a softmax over the queries. It runs along the "
            "keys: dim=-1.",
        ),
        Wrong(
            "scores for weights",
            _backward_with(softmax=lambda scores: scores),
            "You go back with the scores in place of the weights: compute softmax of the scores first.",
        ),
        Wrong(
            "naive softmax",
            _backward_with(softmax=_softmax_naive),
            "Your softmax overflows: exp of a large score is inf, and inf / inf is NaN. Subtract the "
            "largest score of each row before exp, or use torch.softmax.",
        ),
        Wrong(
            "grad_k not transposed",
            _backward_keys_not_turned,
            "For grad_k the gradient of the scores has to be transposed: a key collects from all "
            "queries, grad_k = dSᵀ @ q / √d_k, (n_k, n_q) times (n_q, d_k).",
        ),
        Wrong(
            "grad_q transposed",
            _backward_queries_turned,
            "For grad_q the gradient of the scores stays as it is: grad_q = dS @ k / √d_k, (n_q, n_k) "
            "times (n_k, d_k). Only grad_k needs its transpose.",
        ),
        Wrong(
            "grad_v not transposed",
            _backward_values_not_turned,
            "For grad_v the weights have to be transposed: a value collects from all queries that looked "
            "at it, grad_v = weightsᵀ @ grad_out, (n_k, n_q) times (n_q, d_v).",
        ),
        Wrong(
            "q for grad_q",
            _backward_own_vectors,
            "You multiply by q for grad_q and by k for grad_k. In a product the gradient of one factor is "
            "the other: grad_q needs k, and grad_k needs q.",
        ),
        Wrong(
            "grad_q and grad_k swapped",
            lambda q, k, v, grad_out: (
                _backward(q, k, v, grad_out)[1],
                _backward(q, k, v, grad_out)[0],
                _backward(q, k, v, grad_out)[2],
            ),
            "grad_q and grad_k have changed places. Return grad_q, grad_k, grad_v.",
        ),
        Wrong(
            "returned in the opposite order",
            lambda q, k, v, grad_out: _backward(q, k, v, grad_out)[::-1],
            "You return grad_v first, in the order of the way back. Return grad_q, grad_k, grad_v.",
        ),
        Wrong(
            "k for v",
            _backward_keys_for_values,
            "For the gradient of the weights you multiply grad_out by the keys. The output is "
            "weights @ v, so it is grad_out @ vᵀ.",
        ),
        Wrong(
            "v not transposed",
            _backward_values_as_they_stand,
            "For the gradient of the weights v has to be transposed: grad_out (n_q, d_v) times vᵀ "
            "(d_v, n_k) gives (n_q, n_k).",
        ),
        Wrong(
            "v for k",
            _backward_values_for_keys,
            "For grad_q you multiply by the values. The scores are q · k / √d_k, so their gradient with "
            "respect to q is made of keys: dS @ k / √d_k.",
        ),
        Wrong(
            "grad_v from the scores",
            _backward_grad_of_scores_for_values,
            "For grad_v you use the gradient of the scores. The output is weights @ v, so the factor is "
            "the weights themselves: weightsᵀ @ grad_out.",
        ),
        Wrong(
            "output for grad_out",
            _backward_output_for_values,
            "For grad_v you multiply by the output. What comes from above is its gradient: "
            "weightsᵀ @ grad_out.",
        ),
        Wrong(
            "grad_out ignored",
            lambda q, k, v, grad_out: _backward(q, k, v, torch.ones_like(grad_out)),
            "Your gradients are those of the plain sum of the output: `grad_out` is taken for all ones. "
            "It says how much each entry of the output matters.",
        ),
        Wrong(
            "computed in float32",
            _backward_in_single,
            "Your numbers are computed in float32 on the way, so float64 loses half of its digits. "
            "Leave out .float() and dtype=torch.float32.",
        ),
        Wrong(
            "input changed",
            _backward_changes_input,
            "Your numbers are right, but `q /= …` writes into the caller's tensor. Make a new one: "
            "`q / …`.",
        ),
    ),
    correct_alternatives=(
        _backward,
        _backward_by_jacobian,
        _backward_by_output,
        _backward_by_loop,
        _backward_with(softmax=_softmax_by_hand),
    ),
    hints=(
        "Compute the weights again, then walk back: from the output to the values and to the weights, "
        "through the softmax, from the scores to q and k. Write the shape of each gradient beside it.",
        "dV = Aᵀ dO and dA = dO Vᵀ. The step through the softmax is softmax_backward of lesson 02. The "
        "scores are Q Kᵀ / √d_k: which factor do dQ and dK share?",
        "grad_v = A.mT @ grad_out; dA = grad_out @ v.mT; dS = A * (dA - (A * dA).sum(dim=-1, "
        "keepdim=True)) / math.sqrt(q.shape[-1]); grad_q = dS @ k; grad_k = dS.mT @ q.",
    ),
)

EXERCISES = (attention, qkv_projection, attention_backward)
