"""Exercises of lesson 02: softmax, its logarithm, the loss on it, its backward pass, entropy."""

import math

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

LESSON = "02_softmax"

_BIG = torch.tensor([200.0, 200.0])
_ONE_BIG = torch.tensor([0.0, 200.0, 0.0])
_FAR_ROWS = torch.tensor([[0.0, 1.0], [200.0, 201.0]])
_OVERFLOW = "exp(200) is inf in float32: subtract the largest score of each row first, which changes nothing else."

# ---------------------------------------------------------------------------- softmax


def _softmax_in_double(x: Tensor, dim: int = -1) -> Tensor:
    return torch.softmax(x.double(), dim).to(x.dtype)


def _shifted_exp(x: Tensor, dim: int) -> Tensor:
    return (x - x.amax(dim=dim, keepdim=True)).exp()


def _softmax(x: Tensor, dim: int = -1) -> Tensor:
    powers = _shifted_exp(x, dim)
    return powers / powers.sum(dim=dim, keepdim=True)


def _softmax_changes_input(x: Tensor, dim: int = -1) -> Tensor:
    x -= x.amax(dim=dim, keepdim=True)
    return x.exp() / x.exp().sum(dim=dim, keepdim=True)


def _softmax_naive(x: Tensor, dim: int = -1) -> Tensor:
    return x.exp() / x.exp().sum(dim=dim, keepdim=True)


def _softmax_shifted_by(shift: Tensor, x: Tensor, dim: int) -> Tensor:
    powers = (x - shift).exp()
    return powers / powers.sum(dim=dim, keepdim=True)


def _softmax_lost_axis(x: Tensor, dim: int = -1) -> Tensor:
    powers = _shifted_exp(x, dim)
    return powers / powers.sum(dim=dim)


def _softmax_lost_axis_of_max(x: Tensor, dim: int = -1) -> Tensor:
    powers = (x - x.amax(dim=dim)).exp()
    return powers / powers.sum(dim=dim, keepdim=True)


def _softmax_with_eps(x: Tensor, dim: int = -1) -> Tensor:
    powers = _shifted_exp(x, dim)
    return powers / (powers.sum(dim=dim, keepdim=True) + 1e-6)


def _hardmax(x: Tensor, dim: int = -1) -> Tensor:
    return (x == x.amax(dim=dim, keepdim=True)).to(x.dtype)


def _softmax_by_pairs(x: Tensor, dim: int = -1) -> Tensor:
    # 1 / sum_j exp(x_j - x_i) is right as long as the sum may overflow to inf: 1 / inf is 0.
    last = x.movedim(dim, -1)
    return (1 / (last[..., None, :] - last[..., :, None]).exp().sum(-1)).movedim(-1, dim)


softmax = Exercise(
    name="softmax",
    lesson=LESSON,
    signature="softmax(x, dim=-1)",
    reference=_softmax_in_double,
    built_ins=(
        torch.softmax,
        Tensor.softmax,
        F.softmax,
        F.softmin,
        torch.special.softmax,
        torch.log_softmax,
        Tensor.log_softmax,
        F.log_softmax,
        torch.special.log_softmax,
    ),
    probes=(
        Probe("two equal scores", (torch.tensor([0.0, 0.0]),)),
        Probe(
            "scores 0 and ln 3, whose softmax is 1/4 and 3/4", (torch.tensor([0.0, math.log(3)]),)
        ),
        Probe(
            "two rows of three scores",
            (torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, -1.0]]),),
            explain="Each row has to add up to 1.",
        ),
        Probe(
            "a square of scores",
            (torch.tensor([[0.0, 2.0], [1.0, -1.0]]),),
            explain="In a square table a lost axis goes unnoticed: think of keepdim=True.",
        ),
        Probe(
            "dim=0: a softmax down the columns",
            (torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, -1.0]]),),
            {"dim": 0},
            "Does it use the dim that it is given, everywhere?",
        ),
        Probe("a tensor of three axes, dim=1", (numbers(2, 3, 4),), {"dim": 1}),
        Probe("two scores of 200", (_BIG,), explain=_OVERFLOW),
        Probe("one score of 200 among zeros", (_ONE_BIG,), explain=_OVERFLOW),
        Probe(
            "one row around 0 and one around 200",
            (_FAR_ROWS,),
            explain="Each row needs its own shift: subtract the largest of each row, not of all.",
        ),
        Probe(
            "scores in float64",
            (numbers(2, 3, seed=1, dtype=torch.float64),),
            explain="It should keep the dtype and its precision: is something added or converted?",
        ),
        Probe("scores in half precision", (numbers(2, 3, seed=2, dtype=torch.float16),)),
        Probe("a transposed, non-contiguous table", (numbers(4, 3, seed=3).T,)),
        gradient(numbers(2, 3, seed=4)),
        twice(numbers(2, 3, seed=5)),
        other_device(numbers(2, 3)),
    ),
    wrong_answers=(
        Wrong(
            "first axis",
            lambda x, dim=-1: _softmax(x, 0),
            "Your numbers are those of a softmax down the first axis: the rows must add up to 1, "
            "yours add up to 1 by column. Sum along `dim`.",
        ),
        Wrong(
            "dim ignored",
            lambda x, dim=-1: _softmax(x, -1),
            "Your softmax always runs along the last axis. Use the `dim` that is passed, in maximum and sum.",
        ),
        Wrong(
            "over the whole tensor",
            lambda x, dim=-1: (x - x.max()).exp() / (x - x.max()).exp().sum(),
            "Your numbers are those of one softmax over the whole tensor: all together add up to 1. "
            "Each row has to: sum along `dim` with keepdim=True.",
        ),
        Wrong(
            "no shift",
            _softmax_naive,
            "Your softmax is the naive form: exp overflows to inf, and inf / inf is NaN. Subtract the largest "
            "score along `dim` before exp.",
        ),
        Wrong(
            "shifted by the mean",
            lambda x, dim=-1: _softmax_shifted_by(x.mean(dim=dim, keepdim=True), x, dim),
            "Your softmax subtracts the mean, not the maximum: one large score among small ones still overflows. "
            "Only after subtracting the maximum is every exponent 0 or below.",
        ),
        Wrong(
            "shifted by the maximum of all",
            lambda x, dim=-1: _softmax_shifted_by(x.max(), x, dim),
            "Your softmax subtracts one maximum of the whole tensor: in a row far below it every exp becomes 0, and "
            "0 / 0 is NaN. Take the maximum along `dim`.",
        ),
        Wrong(
            "sum without keepdim",
            _softmax_lost_axis,
            "Your sum has lost its axis, so each number is divided by the sum of another row. "
            "Keep it: `.sum(dim=dim, keepdim=True)`.",
        ),
        Wrong(
            "maximum without keepdim",
            _softmax_lost_axis_of_max,
            "Your maximum has lost its axis, so each number is shifted by the maximum of another row. "
            "Keep it: `.amax(dim=dim, keepdim=True)`.",
        ),
        Wrong(
            "no exp",
            lambda x, dim=-1: x / x.sum(dim=dim, keepdim=True),
            "Your numbers are the scores divided by their sum: exp is missing. Without it negative scores give "
            "negative probabilities.",
        ),
        Wrong(
            "exp without division",
            lambda x, dim=-1: _shifted_exp(x, dim),
            "Your numbers are exp(x - max): they don't add up to 1 yet. Divide them by their sum.",
        ),
        Wrong(
            "sign flipped",
            lambda x, dim=-1: _softmax(-x, dim),
            "Your numbers are those of exp(-x): the largest score gets the smallest probability. "
            "Look for a swapped subtraction, such as max - x.",
        ),
        Wrong(
            "base 2",
            lambda x, dim=-1: _softmax(x * math.log(2), dim),
            "Your numbers are those of powers of 2: softmax takes powers of e, `torch.exp`.",
        ),
        Wrong(
            "log-softmax",
            lambda x, dim=-1: torch.logsumexp(x, dim, keepdim=True).neg() + x,
            "Your numbers are the logarithms of the probabilities. Leave out the log.",
        ),
        Wrong(
            "small number in the denominator",
            _softmax_with_eps,
            "Your denominator has a small number added: after the shift it is at least 1 (the largest score gives "
            "exp(0) = 1), so nothing has to be added, and the rows no longer add up to 1.",
        ),
        Wrong(
            "hardmax",
            _hardmax,
            "Your numbers are 1 for the largest score and 0 elsewhere: that is the limit of a softmax at "
            "temperature 0. The others have to get their share.",
        ),
        Wrong(
            "input changed",
            _softmax_changes_input,
            "Your numbers are right, but `x -= …` writes into the caller's tensor. Make a new one: `x - …`.",
        ),
    ),
    correct_alternatives=(
        _softmax,
        lambda x, dim=-1: (x - torch.logsumexp(x, dim, keepdim=True)).exp(),
        lambda x, dim=-1: _softmax_shifted_by(x.max(dim=dim, keepdim=True).values.detach(), x, dim),
        _softmax_by_pairs,
    ),
    hints=(
        "Write down what has to hold: every number positive, each row adding up to 1. Which function makes any "
        "number positive, and which division makes a row add up to 1?",
        "exp overflows for large scores. softmax(x) = softmax(x - c) for any c: which c makes the largest exponent 0?",
        "shifted = x - x.amax(dim=dim, keepdim=True); then exp, then divide by the sum along dim, again with "
        "keepdim=True.",
    ),
)

# ---------------------------------------------------------------------------- log_softmax


def _log_softmax_in_double(x: Tensor, dim: int = -1) -> Tensor:
    return torch.log_softmax(x.double(), dim).to(x.dtype)


def _log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    shifted = x - x.amax(dim=dim, keepdim=True)
    return shifted - shifted.exp().sum(dim=dim, keepdim=True).log()


def _log_softmax_changes_input(x: Tensor, dim: int = -1) -> Tensor:
    x -= x.amax(dim=dim, keepdim=True)
    return x - x.exp().sum(dim=dim, keepdim=True).log()


def _log_softmax_shift_once(x: Tensor, dim: int = -1) -> Tensor:
    return x - (x - x.amax(dim=dim, keepdim=True)).exp().sum(dim=dim, keepdim=True).log()


def _log_softmax_lost_axis(x: Tensor, dim: int = -1) -> Tensor:
    shifted = x - x.amax(dim=dim, keepdim=True)
    return shifted - shifted.exp().sum(dim=dim).log()


def _log_softmax_global_shift(x: Tensor, dim: int = -1) -> Tensor:
    shifted = x - x.max()
    return shifted - shifted.exp().sum(dim=dim, keepdim=True).log()


log_softmax = Exercise(
    name="log_softmax",
    lesson=LESSON,
    signature="log_softmax(x, dim=-1)",
    reference=_log_softmax_in_double,
    built_ins=(torch.log_softmax, Tensor.log_softmax, F.log_softmax, torch.special.log_softmax),
    probes=(
        Probe("two equal scores, each with probability 1/2", (torch.tensor([0.0, 0.0]),)),
        Probe("scores 0 and ln 3, probabilities 1/4 and 3/4", (torch.tensor([0.0, math.log(3)]),)),
        Probe("two rows of three scores", (torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, -1.0]]),)),
        Probe(
            "a square of scores",
            (torch.tensor([[0.0, 2.0], [1.0, -1.0]]),),
            explain="In a square table a lost axis goes unnoticed: think of keepdim=True.",
        ),
        Probe(
            "dim=0: down the columns",
            (torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, -1.0]]),),
            {"dim": 0},
            "Does it use the dim that it is given, everywhere?",
        ),
        Probe(
            "two scores of 200",
            (_BIG,),
            explain="exp(200) overflows: subtract the largest score first.",
        ),
        Probe(
            "one score of 200 among zeros",
            (_ONE_BIG,),
            explain="The probability of the others is 0 in float32, but its logarithm is -200: "
            "take the log on paper, before the exp is computed.",
        ),
        Probe(
            "one row around 0 and one around 200",
            (_FAR_ROWS,),
            explain="Each row needs its own shift.",
        ),
        Probe("scores in float64", (numbers(2, 3, seed=1, dtype=torch.float64),)),
        Probe("a transposed, non-contiguous table", (numbers(4, 3, seed=3).T,)),
        gradient(numbers(2, 3, seed=4)),
        twice(numbers(2, 3, seed=5)),
        other_device(numbers(2, 3)),
    ),
    wrong_answers=(
        Wrong(
            "log of the softmax",
            lambda x, dim=-1: _softmax(x, dim).log(),
            "Your numbers are those of log(softmax(x)): a probability that has become 0 gives log 0 = -inf. "
            "Take the logarithm on paper: log p = x - logsumexp(x).",
        ),
        Wrong(
            "log of a probability plus a small number",
            lambda x, dim=-1: (_softmax(x, dim) + 1e-9).log(),
            "Your numbers are those of log(p + a small number): no score can then have a log-probability below "
            "about -20. Take the logarithm on paper: log p = x - logsumexp(x).",
        ),
        Wrong(
            "no shift",
            lambda x, dim=-1: x - x.exp().sum(dim=dim, keepdim=True).log(),
            "Your log-sum-exp is the naive form: exp overflows for large scores. Subtract the largest score "
            "before exp.",
        ),
        Wrong(
            "shift not given back",
            _log_softmax_shift_once,
            "Your log-sum-exp is that of the shifted scores, but you subtract it from the scores that aren't "
            "shifted. Use the shifted scores in both places, or add the maximum back.",
        ),
        Wrong(
            "sign flipped",
            lambda x, dim=-1: -_log_softmax(x, dim),
            "Your numbers are -log p. Log-probabilities are 0 or below: log p = x - logsumexp(x).",
        ),
        Wrong(
            "softmax without log",
            lambda x, dim=-1: _softmax(x, dim),
            "Your numbers are the probabilities. Their logarithm is asked for.",
        ),
        Wrong(
            "base 2",
            lambda x, dim=-1: _log_softmax(x, dim) / math.log(2),
            "Your numbers are logarithms to base 2 (bits). Use the natural logarithm, `torch.log` (nats).",
        ),
        Wrong(
            "first axis",
            lambda x, dim=-1: _log_softmax(x, 0),
            "Your numbers are those of the first axis: the probabilities must add up to 1 along `dim`.",
        ),
        Wrong(
            "dim ignored",
            lambda x, dim=-1: _log_softmax(x, -1),
            "Your function always works along the last axis. Use the `dim` that is passed.",
        ),
        Wrong(
            "sum without keepdim",
            _log_softmax_lost_axis,
            "Your sum has lost its axis, so each row is reduced by the log-sum-exp of another. "
            "Keep it: keepdim=True.",
        ),
        Wrong(
            "shifted by the maximum of all",
            _log_softmax_global_shift,
            "You subtract one maximum of the whole tensor: in a row far below it every exp becomes 0, and log 0 is "
            "-inf. Take the maximum along `dim`.",
        ),
        Wrong(
            "the maximum alone",
            lambda x, dim=-1: x - x.amax(dim=dim, keepdim=True),
            "Your numbers are x - max: the largest comes out as 0, as if it were certain. The log of the sum is "
            "still to be subtracted.",
        ),
        Wrong(
            "input changed",
            _log_softmax_changes_input,
            "Your numbers are right, but `x -= …` writes into the caller's tensor. Make a new one: `x - …`.",
        ),
    ),
    correct_alternatives=(
        _log_softmax,
        lambda x, dim=-1: x - torch.logsumexp(x, dim, keepdim=True),
        lambda x, dim=-1: (
            x
            - x.amax(dim, keepdim=True)
            - (x - x.amax(dim, keepdim=True)).exp().sum(dim, keepdim=True).log()
        ),
    ),
    hints=(
        "log(a / b) = log a - log b. What is left of log(exp(x_i) / sum of exp(x_j))?",
        "The sum inside the logarithm overflows. Shift the scores first; the result doesn't change by that.",
        "shifted = x - max; then log p = shifted - log(sum(exp(shifted))), maximum and sum along dim with "
        "keepdim=True.",
    ),
)

# ---------------------------------------------------------------------------- cross_entropy


def _cross_entropy_by_loop(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    losses = [
        -torch.log_softmax(row.double(), -1)[target]
        for row, target in zip(logits, targets, strict=True)
        if target != ignore_index
    ]
    return torch.stack(losses).mean().to(logits.dtype)


def _picked(logits: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Log-probability of each target (of class 0 where ignored), and which count."""
    counts = targets != ignore_index
    logp = torch.log_softmax(logits, -1)
    return logp.gather(-1, targets.where(counts, 0)[:, None])[:, 0], counts


def _cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    logp, counts = _picked(logits, targets, ignore_index)
    return -logp[counts].mean()


def _cross_entropy_mean_of_all(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    logp, counts = _picked(logits, targets, ignore_index)
    return -(logp * counts).mean()


def _cross_entropy_ignored_as_class_0(
    logits: Tensor, targets: Tensor, ignore_index: int = -100
) -> Tensor:
    return -_picked(logits, targets, ignore_index)[0].mean()


def _cross_entropy_of(probs: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    kept = targets != ignore_index
    return -probs[kept].gather(-1, targets[kept][:, None]).log().mean()


def _cross_entropy_selecting_rows(
    logits: Tensor, targets: Tensor, ignore_index: int = -100
) -> Tensor:
    kept = targets != ignore_index
    return -torch.log_softmax(logits[kept], -1)[targets[kept]].mean()


def _cross_entropy_all_pairs(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    kept = targets != ignore_index
    return -torch.log_softmax(logits[kept], -1)[:, targets[kept]].mean()


def _cross_entropy_by_one_hot(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    kept = targets != ignore_index
    one_hot = F.one_hot(targets[kept], logits.shape[-1]).to(logits.dtype)
    return -(one_hot * torch.log_softmax(logits[kept], -1)).sum() / kept.sum()


def _cross_entropy_by_logsumexp(
    logits: Tensor, targets: Tensor, ignore_index: int = -100
) -> Tensor:
    kept = targets != ignore_index
    logits, targets = logits[kept], targets[kept]
    return (
        logits.logsumexp(-1) - logits[torch.arange(len(targets), device=logits.device), targets]
    ).mean()


_LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0], [1.0, -1.0, 0.0], [0.5, 0.5, 2.0]])

cross_entropy = Exercise(
    name="cross_entropy",
    lesson=LESSON,
    signature="cross_entropy(logits, targets, ignore_index=-100)",
    reference=_cross_entropy_by_loop,
    built_ins=(F.cross_entropy, F.nll_loss),
    probes=(
        Probe(
            "two classes with equal scores: the loss is ln 2 = 0.6931",
            (torch.tensor([[0.0, 0.0]]), torch.tensor([1])),
        ),
        Probe(
            "scores 0 and ln 3, target 0: the loss is ln 4 = 1.3863",
            (torch.tensor([[0.0, math.log(3)]]), torch.tensor([0])),
        ),
        Probe("four rows of three classes", (_LOGITS, torch.tensor([0, 2, 1, 1]))),
        Probe(
            "the same with two of the targets ignored",
            (_LOGITS, torch.tensor([0, -100, 1, -100])),
            explain="Rows whose target is ignore_index don't count: not in the sum, and not in what it is divided by.",
        ),
        Probe(
            "ignore_index=2 in place of -100",
            (_LOGITS, torch.tensor([0, 2, 1, 1])),
            {"ignore_index": 2},
            "Does it use the ignore_index that is passed?",
        ),
        Probe(
            "scores of 0 and 200",
            (torch.tensor([[0.0, 200.0, 0.0]]), torch.tensor([0])),
            explain="The probability of the target is 0 in float32, but the loss is 200: "
            "work with log-probabilities from the start.",
        ),
        Probe(
            "scores in float64",
            (numbers(5, 4, seed=1, dtype=torch.float64), torch.tensor([3, 0, 1, 2, 2])),
        ),
        gradient(numbers(3, 4, seed=4), torch.tensor([3, -100, 1])),
        twice(numbers(3, 4, seed=5), torch.tensor([3, 0, 1])),
        other_device(numbers(3, 4), torch.tensor([3, 0, 1])),
    ),
    wrong_answers=(
        Wrong(
            "sum instead of mean",
            lambda logits, targets, ignore_index=-100: F.cross_entropy(
                logits, targets, ignore_index=ignore_index, reduction="sum"
            ),
            "Your number is the sum of the losses. Their mean is asked for, so that it doesn't grow with the batch.",
        ),
        Wrong(
            "one loss for each row",
            lambda logits, targets, ignore_index=-100: F.cross_entropy(
                logits, targets, ignore_index=ignore_index, reduction="none"
            ),
            "You return one loss for each row. Their mean is asked for: one number.",
        ),
        Wrong(
            "ignored rows divide",
            _cross_entropy_mean_of_all,
            "Your sum is right, but you divide by the number of all rows. Divide by the number of those that count.",
        ),
        Wrong(
            "ignored rows as class 0",
            _cross_entropy_ignored_as_class_0,
            "Your mean includes the ignored rows, as if their target were class 0. Leave them out.",
        ),
        Wrong(
            "ignored rows as the last class",
            lambda logits, targets, ignore_index=-100: F.cross_entropy(
                logits, targets.where(targets != ignore_index, logits.shape[-1] - 1)
            ),
            "Your mean includes the ignored rows, as if their target were the last class: a negative index counts "
            "from the end. Leave them out.",
        ),
        Wrong(
            "-100 written in",
            lambda logits, targets, ignore_index=-100: _cross_entropy(logits, targets, -100),
            "You compare the targets with -100 whatever is passed. Compare them with `ignore_index`.",
        ),
        Wrong(
            "nothing ignored",
            lambda logits, targets, ignore_index=-100: (
                -torch.log_softmax(logits, -1).gather(-1, targets[:, None]).mean()
            ),
            "You pick a log-probability for every row, the ignored ones too; -100 is no class. Keep only the rows "
            "with targets != ignore_index.",
        ),
        Wrong(
            "sign forgotten",
            lambda logits, targets, ignore_index=-100: (
                -_cross_entropy(logits, targets, ignore_index)
            ),
            "Your number is the mean log-probability, which is negative. The loss is its opposite.",
        ),
        Wrong(
            "probability instead of its log",
            lambda logits, targets, ignore_index=-100: (
                -_picked(logits, targets, ignore_index)[0].exp()[targets != ignore_index].mean()
            ),
            "Your number is the mean probability of the targets with a minus sign. Take the logarithm of the "
            "probabilities.",
        ),
        Wrong(
            "log of the softmax",
            lambda logits, targets, ignore_index=-100: _cross_entropy_of(
                torch.softmax(logits, -1), targets, ignore_index
            ),
            "You take the logarithm of a computed softmax: where the probability has become 0 the loss is inf. "
            "Use log_softmax.",
        ),
        Wrong(
            "softmax twice",
            lambda logits, targets, ignore_index=-100: _cross_entropy(
                torch.softmax(logits, -1), targets, ignore_index
            ),
            "Your number is that of two softmaxes, one after the other: the loss can then never come near 0. "
            "Apply log_softmax once, to the logits.",
        ),
        Wrong(
            "no softmax",
            lambda logits, targets, ignore_index=-100: (
                -logits[targets != ignore_index]
                .gather(-1, targets[targets != ignore_index][:, None])
                .mean()
            ),
            "Your number is the mean of the targets' logits with a minus sign: the logits haven't been turned into "
            "log-probabilities.",
        ),
        Wrong(
            "rows selected by class",
            _cross_entropy_selecting_rows,
            "`logp[targets]` takes whole rows by number. You need from row i the entry of class targets[i]: "
            "`logp[torch.arange(n), targets]` or gather.",
        ),
        Wrong(
            "all pairs",
            _cross_entropy_all_pairs,
            "`logp[:, targets]` takes every target's class from every row, n × n numbers. You need one of each row: "
            "`logp[torch.arange(n), targets]` or gather.",
        ),
        Wrong(
            "bits",
            lambda logits, targets, ignore_index=-100: (
                _cross_entropy(logits, targets, ignore_index) / math.log(2)
            ),
            "Your number is in bits (logarithm to base 2). The loss is in nats: use the natural logarithm.",
        ),
        Wrong(
            "divided by the classes too",
            lambda logits, targets, ignore_index=-100: (
                _cross_entropy(logits, targets, ignore_index) / logits.shape[-1]
            ),
            "Your number is also divided by the number of classes: the mean runs over one number a row, the target's.",
        ),
    ),
    correct_alternatives=(
        _cross_entropy,
        _cross_entropy_by_one_hot,
        _cross_entropy_by_logsumexp,
    ),
    hints=(
        "For one row: the loss is the negative log-probability of its target. Which function gives all "
        "log-probabilities safely?",
        "Keep the rows that count first: `kept = targets != ignore_index`. Then pick from each row the entry of its "
        "target.",
        "logp = log_softmax(logits[kept]); picked = logp[torch.arange(number of rows), targets[kept]]; the loss is "
        "-picked.mean(). Make the arange on the device of the logits.",
    ),
)

# ---------------------------------------------------------------------------- softmax_backward


def _softmax_backward_by_autograd(probs: Tensor, grad_out: Tensor) -> Tensor:
    scores = probs.detach().double().log().requires_grad_(True)  # softmax(log p) = p
    (grad,) = torch.autograd.grad(torch.softmax(scores, -1), scores, grad_out.detach().double())
    return grad.to(probs.dtype)


def _softmax_backward(probs: Tensor, grad_out: Tensor) -> Tensor:
    return probs * (grad_out - (probs * grad_out).sum(dim=-1, keepdim=True))


def _softmax_backward_changes_input(probs: Tensor, grad_out: Tensor) -> Tensor:
    grad_out -= (probs * grad_out).sum(dim=-1, keepdim=True)
    return probs * grad_out


def _softmax_backward_by_jacobian(probs: Tensor, grad_out: Tensor) -> Tensor:
    jacobian = torch.diag_embed(probs) - probs[..., :, None] * probs[..., None, :]
    return (jacobian @ grad_out[..., None])[..., 0]


def _softmax_backward_lost_axis(probs: Tensor, grad_out: Tensor) -> Tensor:
    return probs * (grad_out - (probs * grad_out).sum(dim=-1))


_P = torch.tensor([[0.25, 0.75], [0.5, 0.5]])

softmax_backward = Exercise(
    name="softmax_backward",
    lesson=LESSON,
    signature="softmax_backward(probs, grad_out)",
    reference=_softmax_backward_by_autograd,
    probes=(
        Probe(
            "probabilities 1/4 and 3/4, gradient (1, 0): the result is (3/16, -3/16)",
            (torch.tensor([0.25, 0.75]), torch.tensor([1.0, 0.0])),
        ),
        Probe(
            "three probabilities",
            (torch.tensor([0.2, 0.3, 0.5]), torch.tensor([1.0, -2.0, 4.0])),
            explain="Every probability depends on every score: the gradient of one has a part from each of the others.",
        ),
        Probe(
            "two rows of two",
            (_P, torch.tensor([[1.0, 0.0], [2.0, -3.0]])),
            explain="In a square table a lost axis goes unnoticed: think of keepdim=True.",
        ),
        Probe(
            "two rows of three",
            (
                torch.tensor([[0.2, 0.3, 0.5], [0.7, 0.1, 0.2]]),
                torch.tensor([[1.0, -2.0, 4.0], [0.5, 3.0, -1.0]]),
            ),
        ),
        Probe(
            "a tensor of three axes",
            (torch.softmax(numbers(2, 3, 4), -1), numbers(2, 3, 4, seed=1)),
        ),
        Probe(
            "numbers in float64",
            (
                torch.softmax(numbers(2, 3, dtype=torch.float64), -1),
                numbers(2, 3, seed=1, dtype=torch.float64),
            ),
        ),
        twice(_P, _P),
        other_device(_P, _P),
    ),
    wrong_answers=(
        Wrong(
            "probs * grad_out",
            lambda probs, grad_out: probs * grad_out,
            "Your numbers are p · g: the part through the sum in the denominator is missing. "
            "Each row of the result has to add up to 0, because a shift of all scores changes nothing.",
        ),
        Wrong(
            "diagonal only",
            lambda probs, grad_out: probs * (1 - probs) * grad_out,
            "Your numbers are p(1 - p) · g: that is the diagonal of the Jacobian. Its other entries, -p_i p_j, "
            "matter as much.",
        ),
        Wrong(
            "sum of the gradient",
            lambda probs, grad_out: probs * (grad_out - grad_out.sum(dim=-1, keepdim=True)),
            "You subtract the sum of the gradient. Its mean weighted by the probabilities belongs there: "
            "the sum of p · g.",
        ),
        Wrong(
            "mean of the gradient",
            lambda probs, grad_out: probs * (grad_out - grad_out.mean(dim=-1, keepdim=True)),
            "You subtract the plain mean of the gradient. It has to be weighted by the probabilities: "
            "the sum of p · g.",
        ),
        Wrong(
            "mean of p · g",
            lambda probs, grad_out: (
                probs * (grad_out - (probs * grad_out).mean(dim=-1, keepdim=True))
            ),
            "You take the mean of p · g where its sum belongs: the probabilities are the weights already.",
        ),
        Wrong(
            "outer p forgotten",
            lambda probs, grad_out: grad_out - (probs * grad_out).sum(dim=-1, keepdim=True),
            "Your numbers are g - sum(p · g): the factor p in front is missing.",
        ),
        Wrong(
            "the sum outside the product",
            lambda probs, grad_out: probs * grad_out - (probs * grad_out).sum(dim=-1, keepdim=True),
            "You subtract the sum without multiplying it by p: p · (g - sum), not p · g - sum.",
        ),
        Wrong(
            "sign flipped",
            lambda probs, grad_out: -_softmax_backward(probs, grad_out),
            "Your numbers have the opposite sign: p · (g - sum(p · g)).",
        ),
        Wrong(
            "first axis",
            lambda probs, grad_out: (
                probs * (grad_out - (probs * grad_out).sum(dim=0, keepdim=True))
            ),
            "You sum down the first axis. The probabilities add up to 1 along the last: sum along dim=-1.",
        ),
        Wrong(
            "whole tensor",
            lambda probs, grad_out: probs * (grad_out - (probs * grad_out).sum()),
            "You sum over the whole tensor, so rows leak into each other. Sum along dim=-1.",
        ),
        Wrong(
            "sum without keepdim",
            _softmax_backward_lost_axis,
            "Your sum has lost its axis, so each row is reduced by the sum of another. Keep it: keepdim=True.",
        ),
        Wrong(
            "softmax applied again",
            lambda probs, grad_out: _softmax_backward(torch.softmax(probs, -1), grad_out),
            "You apply softmax to `probs`, which are probabilities already. Use them as they are.",
        ),
        Wrong(
            "input changed",
            _softmax_backward_changes_input,
            "Your numbers are right, but `grad_out -= …` writes into the caller's tensor. Make a new one.",
        ),
    ),
    correct_alternatives=(
        _softmax_backward,
        _softmax_backward_by_jacobian,
        lambda probs, grad_out: probs * grad_out - probs * (probs * grad_out).sum(-1, keepdim=True),
        lambda probs, grad_out: (
            probs * (grad_out - (probs[..., None, :] @ grad_out[..., :, None])[..., 0])
        ),
    ),
    hints=(
        "The Jacobian is diag(p) - p pᵀ. Multiply it by grad_out on paper before you write any code.",
        "diag(p) g is p · g, element by element. And p pᵀ g is p times one number: which?",
        "That number is the sum of p · g along the last axis, kept with keepdim=True. The result is "
        "p · (g - that number).",
    ),
)

# ---------------------------------------------------------------------------- entropy


def _entropy_by_distributions(probs: Tensor) -> Tensor:
    terms: Tensor = torch.special.entr(probs.double())  # -p ln p, with 0 at p = 0
    return terms.sum(-1).to(probs.dtype)


def _entropy(probs: Tensor) -> Tensor:
    return -torch.xlogy(probs, probs).sum(dim=-1)


def _entropy_with_where(probs: Tensor) -> Tensor:
    safe = probs.where(probs > 0, 1.0)
    return -(probs * safe.log()).sum(dim=-1)


entropy = Exercise(
    name="entropy",
    lesson=LESSON,
    signature="entropy(probs)",
    reference=_entropy_by_distributions,
    built_ins=(torch.special.entr,),
    probes=(
        Probe("two equal probabilities: the entropy is ln 2 = 0.6931", (torch.tensor([0.5, 0.5]),)),
        Probe("probabilities 1/4 and 3/4", (torch.tensor([0.25, 0.75]),)),
        Probe(
            "one certain outcome: the entropy is 0",
            (torch.tensor([0.0, 1.0, 0.0]),),
            explain="0 · log 0 counts as 0, but 0 · (-inf) is NaN: see to that case.",
        ),
        Probe("two rows of three", (torch.tensor([[0.2, 0.3, 0.5], [0.7, 0.1, 0.2]]),)),
        Probe("a square", (torch.tensor([[0.2, 0.8], [0.6, 0.4]]),)),
        Probe("a tensor of three axes", (torch.softmax(numbers(2, 3, 4), -1),)),
        Probe(
            "probabilities in float64",
            (torch.tensor([[0.0, 0.1, 0.9], [0.3, 0.3, 0.4]], dtype=torch.float64),),
            explain="In float64 a small number added inside the logarithm shows.",
        ),
        twice(torch.tensor([0.25, 0.75])),
        other_device(torch.tensor([0.25, 0.75])),
    ),
    wrong_answers=(
        Wrong(
            "0 log 0",
            lambda probs: -(probs * probs.log()).sum(dim=-1),
            "Where a probability is 0 your function computes 0 · (-inf), which is NaN. Such an outcome adds nothing: "
            "use torch.xlogy(p, p), or replace 0 by 1 inside the logarithm.",
        ),
        Wrong(
            "small number inside the log",
            lambda probs: -(probs * (probs + 1e-9).log()).sum(dim=-1),
            "You add a small number inside the logarithm: that avoids NaN but changes every term. "
            "torch.xlogy(p, p) is exact.",
        ),
        Wrong(
            "clamped",
            lambda probs: -(probs.clamp(min=1e-3) * probs.clamp(min=1e-3).log()).sum(dim=-1),
            "You clamp the probabilities: outcomes that can't happen then add to the entropy.",
        ),
        Wrong(
            "sign forgotten",
            lambda probs: torch.xlogy(probs, probs).sum(dim=-1),
            "Your number is negative: the logarithm of a probability is 0 or below, so the sum needs a minus sign.",
        ),
        Wrong(
            "bits",
            lambda probs: _entropy(probs) / math.log(2),
            "Your number is in bits (logarithm to base 2). Nats are asked for: use the natural logarithm.",
        ),
        Wrong(
            "mean instead of sum",
            lambda probs: -torch.xlogy(probs, probs).mean(dim=-1),
            "You take the mean of the terms. The probabilities are the weights already: sum them.",
        ),
        Wrong(
            "p forgotten",
            lambda probs: -probs.log().sum(dim=-1),
            "Your number is the sum of -log p: each term has to be weighted by its probability.",
        ),
        Wrong(
            "whole tensor",
            lambda probs: -torch.xlogy(probs, probs).sum(),
            "You sum over the whole tensor. Each row is a distribution of its own: sum along dim=-1.",
        ),
        Wrong(
            "first axis",
            lambda probs: -torch.xlogy(probs, probs).sum(dim=0),
            "You sum down the first axis. The probabilities add up to 1 along the last: dim=-1.",
        ),
        Wrong(
            "perplexity",
            lambda probs: _entropy(probs).exp(),
            "Your number is exp of the entropy, the perplexity. Leave out the exp.",
        ),
        Wrong(
            "axis kept",
            lambda probs: -torch.xlogy(probs, probs).sum(dim=-1, keepdim=True),
            "You keep the summed axis. One number for each distribution is asked for: leave out keepdim.",
        ),
    ),
    correct_alternatives=(
        _entropy,
        _entropy_with_where,
        lambda probs: -(probs * probs.clamp(min=torch.finfo(probs.dtype).tiny).log()).sum(-1),
        lambda probs: (probs * -probs.log()).nan_to_num(0.0).sum(-1),
    ),
    hints=(
        "The surprise of an outcome is -log p. The entropy is its mean: weight each by its probability.",
        "In torch 0 · log(0) is NaN. What should an outcome that can't happen add?",
        "torch.xlogy(a, b) is a · log(b) with 0 where a is 0. Sum it along the last axis and turn the sign.",
    ),
)

EXERCISES = (softmax, log_softmax, cross_entropy, softmax_backward, entropy)
