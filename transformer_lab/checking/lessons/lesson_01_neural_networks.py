"""Exercises of lesson 01: backward passes of a linear layer and of ReLU, a gradient check, AdamW."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from transformer_lab.checking.exercise import (
    Answer,
    Exercise,
    Probe,
    Wrong,
    numbers,
    other_device,
    twice,
)

LESSON = "01_neural_networks"

Pair = tuple[Tensor, Tensor]
Triple = tuple[Tensor, Tensor, Tensor]
Function = Callable[[Tensor], Tensor]

_DOUBLE = torch.float64
# All of torch's ways to a gradient, torch.func's too, go through one of these.
_AUTOGRAD: tuple[Answer, ...] = (torch.autograd.grad, torch.autograd.backward, Tensor.backward)

# ---------------------------------------------------------------------------- linear_backward


def _linear_by_autograd(x: Tensor, W: Tensor, grad_out: Tensor) -> Pair:
    x, W = x.detach().requires_grad_(), W.detach().requires_grad_()
    grad_x, grad_W = torch.autograd.grad(F.linear(x, W), (x, W), grad_out)
    return grad_x, grad_W


def _linear_by_backward(x: Tensor, W: Tensor, grad_out: Tensor) -> Pair:
    x, W = x.detach().requires_grad_(), W.detach().requires_grad_()
    F.linear(x, W).backward(grad_out)
    assert x.grad is not None and W.grad is not None
    return x.grad, W.grad


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _to_x(x: Tensor, W: Tensor, g: Tensor) -> Tensor:
    return g @ W


def _to_weight(x: Tensor, W: Tensor, g: Tensor) -> Tensor:
    return _flat(g).T @ _flat(x)


def _linear_with(
    of_x: Callable[..., Tensor] = _to_x, of_W: Callable[..., Tensor] = _to_weight
) -> Callable[..., Pair]:
    """The backward pass with one or both of its formulas replaced."""

    def linear_backward(x: Tensor, W: Tensor, grad_out: Tensor) -> Pair:
        return of_x(x, W, grad_out), of_W(x, W, grad_out)

    return linear_backward


_linear = _linear_with()


def _linear_by_examples(x: Tensor, W: Tensor, grad_out: Tensor) -> Pair:
    """Example by example, the outer products added up."""
    grad_W = torch.zeros_like(W)
    rows = []
    for features, g in zip(_flat(x), _flat(grad_out), strict=True):
        grad_W = grad_W + torch.outer(g, features)
        rows.append((g[:, None] * W).sum(dim=0))
    return (torch.stack(rows) if rows else x).reshape(x.shape), grad_W


def _linear_by_einsum(x: Tensor, W: Tensor, grad_out: Tensor) -> Pair:
    return (
        torch.einsum("...o,oi->...i", grad_out, W),
        torch.einsum("...o,...i->oi", grad_out, x),
    )


def _linear_changes_grad(x: Tensor, W: Tensor, grad_out: Tensor) -> Pair:
    found: Pair = _linear(x, W, grad_out)
    grad_out /= 2
    return found


def _linear_in_float32(x: Tensor, W: Tensor, grad_out: Tensor) -> Pair:
    grad_x, grad_W = _linear(x.float(), W.float(), grad_out.float())
    return grad_x.to(x.dtype), grad_W.to(W.dtype)


_HAND = (
    torch.tensor([[1.0, 2.0]]),
    torch.tensor([[1.0, 1.0], [1.0, -1.0]]),
    torch.tensor([[2.0, 0.0]]),
)
_linear_sizes = (numbers(3, 5, seed=1), numbers(4, 5, seed=2), numbers(3, 4, seed=3))

linear_backward = Exercise(
    name="linear_backward",
    lesson=LESSON,
    signature="linear_backward(x, W, grad_out)",
    reference=_linear_by_autograd,
    parts=("grad_x", "grad_W"),
    built_ins=_AUTOGRAD,
    probes=(
        Probe(
            "one example (1, 2), W with the rows (1, 1) and (1, -1), the gradient (2, 0)",
            _HAND,
            explain="On paper: grad_x is 2 times the first row of W, (2, 2). grad_W has the rows 2 · (1, 2) and 0.",
        ),
        Probe(
            "the same with the gradient (1, 3)",
            (*_HAND[:2], torch.tensor([[1.0, 3.0]])),
            explain="On paper: grad_x is row 1 of W plus 3 times row 2, (4, -2). grad_W has the rows (1, 2) and "
            "(3, 6).",
        ),
        Probe(
            "three examples, five inputs, four outputs",
            _linear_sizes,
            explain="A gradient has the shape of what it belongs to: grad_x (3, 5), grad_W (4, 5). Every example uses "
            "W once, so grad_W is a sum over the examples.",
        ),
        Probe(
            "four examples, four inputs, four outputs",
            (numbers(4, 4, seed=4), numbers(4, 4, seed=5), numbers(4, 4, seed=6)),
            explain="Here all shapes are the same, so a transposition goes unnoticed.",
        ),
        Probe(
            "two sentences of three words, five inputs, four outputs",
            (numbers(2, 3, 5, seed=7), numbers(4, 5, seed=8), numbers(2, 3, 4, seed=9)),
            explain="grad_W sums over all axes but the last: flatten the others first.",
        ),
        Probe(
            "one example without an axis for it",
            (numbers(5, seed=10), numbers(4, 5, seed=11), numbers(4, seed=12)),
            explain="x has the shape (5,) and grad_out (4,). .reshape(-1, x.shape[-1]) makes one row of it.",
        ),
        Probe(
            "four axes, and one of them of size 1",
            (numbers(2, 1, 3, 5, seed=13), numbers(4, 5, seed=14), numbers(2, 1, 3, 4, seed=15)),
            explain="grad_W sums over all axes but the last, however many there are.",
        ),
        Probe(
            "no example at all",
            (torch.zeros(0, 5), numbers(4, 5, seed=16), torch.zeros(0, 4)),
            explain="A sum of nothing is 0: grad_W is all zeros, of the shape of W.",
        ),
        Probe(
            "numbers in float64",
            tuple(
                numbers(*shape, seed=17 + i, dtype=_DOUBLE) / 3
                for i, shape in enumerate(((3, 5), (4, 5), (3, 4)))
            ),
            explain="It should keep the dtype and its precision: is something converted?",
        ),
        Probe(
            "transposed, non-contiguous inputs with three axes",
            (
                numbers(3, 2, 5, seed=20).transpose(0, 1),
                numbers(5, 4, seed=21).T,
                numbers(3, 2, 4, seed=22).transpose(0, 1),
            ),
            explain="Use .reshape, not .view, to flatten what may be transposed.",
        ),
        twice(*_linear_sizes),
        other_device(*_linear_sizes),
    ),
    wrong_answers=(
        Wrong(
            "torch.autograd.grad",
            _linear_by_autograd,
            "torch's autograd makes your numbers (autograd.grad, or torch.func, which calls it). Here you are "
            "autograd: write the two products yourself.",
        ),
        Wrong(
            ".backward()",
            _linear_by_backward,
            "torch's .backward() makes your numbers. Here you are autograd: write the two products yourself.",
        ),
        Wrong(
            "W stored the other way round",
            _linear_with(lambda x, W, g: g @ W.T, lambda x, W, g: _flat(x).T @ _flat(g)),
            "Both of your products are those of y = x W, with W of shape (in, out). In torch, and here, W has the "
            "shape (out, in) and y = x Wᵀ. So grad_x = grad_out @ W, and grad_W has the shape of W.",
        ),
        Wrong(
            "grad_W of the last example",
            _linear_with(of_W=lambda x, W, g: torch.outer(_flat(g)[-1], _flat(x)[-1])),
            "Your grad_W is that of the last example alone. Every example uses W: add their parts up, with +=.",
        ),
        Wrong(
            "reshaped in place of transposed",
            _linear_with(of_W=lambda x, W, g: _flat(g).reshape(W.shape[0], -1) @ _flat(x)),
            "You reshape grad_out to the shape of its transpose. That deals its numbers out anew, row by row; .T "
            "exchanges the axes.",
        ),
        Wrong(
            "W transposed in grad_x",
            _linear_with(of_x=lambda x, W, g: g @ W.T),
            "In grad_x you multiply by Wᵀ. The forward pass is y = x Wᵀ, so the way back is grad_out @ W.",
        ),
        Wrong(
            "W first in grad_x",
            _linear_with(of_x=lambda x, W, g: (W @ g.mT).mT if g.dim() > 1 else W @ g),
            "In grad_x you multiply with W from the left, which is grad_out Wᵀ. It is grad_out @ W.",
        ),
        Wrong(
            "grad_W transposed",
            _linear_with(of_W=lambda x, W, g: _flat(x).T @ _flat(g)),
            "Your grad_W is transposed: xᵀ grad_out has the shape (in, out). W has (out, in), so its gradient is "
            "grad_outᵀ x.",
        ),
        Wrong(
            "mean over the examples",
            _linear_with(of_W=lambda x, W, g: _to_weight(x, W, g) / len(_flat(x))),
            "Your grad_W is averaged over the examples. It is their sum. (Where the loss is a mean, the 1/N is in "
            "grad_out already.)",
        ),
        Wrong(
            "divided by the first axis",
            _linear_with(of_W=lambda x, W, g: _to_weight(x, W, g) / x.shape[0]),
            "Your grad_W is divided by x.shape[0]. It is a sum. (Where the loss is a mean, the 1/N is in grad_out "
            "already.)",
        ),
        Wrong(
            "both divided by the number of examples",
            _linear_with(
                lambda x, W, g: g @ W / len(_flat(x)),
                lambda x, W, g: _to_weight(x, W, g) / len(_flat(x)),
            ),
            "Both of your gradients are divided by the number of examples. Where the loss is a mean, the 1/N is in "
            "grad_out already: don't divide again.",
        ),
        Wrong(
            "leading axes kept",
            _linear_with(of_W=lambda x, W, g: g.mT @ x if g.dim() > 1 else torch.outer(g, x)),
            "With three axes your grad_W has one matrix for each sentence. All of them use the same W, so the "
            "matrices add up: flatten all axes but the last first.",
        ),
        Wrong(
            "not summed over the examples",
            _linear_with(of_W=lambda x, W, g: g[..., :, None] * x[..., None, :]),
            "Your grad_W has a matrix for each example. All examples use the same W, so they add up: "
            "grad_outᵀ @ x does the sum.",
        ),
        Wrong(
            "two axes alone",
            _linear_with(of_W=lambda x, W, g: g.T @ x),
            "grad_out.T @ x fits inputs with exactly two axes. Flatten all axes but the last first: "
            ".reshape(-1, x.shape[-1]).",
        ),
        Wrong(
            "two axes alone, by .t()",
            _linear_with(of_W=lambda x, W, g: g.t() @ x),
            "grad_out.t() @ x fits inputs with exactly two axes. Flatten all axes but the last first: "
            ".reshape(-1, x.shape[-1]).",
        ),
        Wrong(
            "two axes alone, by einsum",
            _linear_with(of_W=lambda x, W, g: torch.einsum("no,ni->oi", g, x)),
            "Your einsum names one leading axis, n. There may be none, or several: write ... in its place.",
        ),
        Wrong(
            "two axes alone, by mT",
            _linear_with(of_W=lambda x, W, g: (g.mT @ x).sum(dim=0) if x.dim() == 3 else g.mT @ x),
            "Your grad_W handles two and three axes, no others. Flatten all axes but the last: "
            ".reshape(-1, x.shape[-1]).",
        ),
        Wrong(
            "outer products summed over the first axis",
            _linear_with(of_W=lambda x, W, g: (g[..., :, None] * x[..., None, :]).sum(0)),
            "You add the outer products up over axis 0, whatever it is: with three axes one is left, and with a single "
            "example it is the outputs. Flatten first: .reshape(-1, x.shape[-1]).",
        ),
        Wrong(
            "outer products summed over a tuple of axes",
            _linear_with(
                of_W=lambda x, W, g: (g[..., :, None] * x[..., None, :]).sum(
                    dim=tuple(range(x.dim() - 1))
                )
            ),
            "With a single example your tuple of axes is empty, and torch then adds up everything. Flatten first: "
            ".reshape(-1, x.shape[-1]).",
        ),
        Wrong(
            "flattened by flatten",
            _linear_with(of_W=lambda x, W, g: g.flatten(0, -2).T @ x.flatten(0, -2)),
            ".flatten(0, -2) needs two axes at least; a single example has one. .reshape(-1, x.shape[-1]) does both.",
        ),
        Wrong(
            "three axes alone",
            _linear_with(of_W=lambda x, W, g: (g.mT @ x).sum(0)),
            "Your grad_W fits three axes alone: with two, .sum(0) adds up the outputs. Flatten all axes but the last: "
            ".reshape(-1, x.shape[-1]).",
        ),
        Wrong(
            "examples in columns",
            _linear_with(of_x=lambda x, W, g: W.T @ g),
            "Wᵀ @ grad_out is for a single example in a column, y = W x. Here examples are rows: grad_out @ W.",
        ),
        Wrong(
            "sums before the product",
            _linear_with(of_W=lambda x, W, g: torch.outer(_flat(g).sum(0), _flat(x).sum(0))),
            "For grad_W you add up over the examples first and multiply then. Each example's gradient belongs to its "
            "own input: multiply first, which grad_outᵀ @ x does.",
        ),
        Wrong(
            "x missing",
            _linear_with(of_W=lambda x, W, g: _flat(g).sum(0)[:, None].expand(W.shape)),
            "In grad_W the input is missing: the slope of y by a weight is the x that the weight multiplies. "
            "(The plain sum of grad_out is the gradient of a bias.)",
        ),
        Wrong(
            "gradient of the bias",
            _linear_with(of_W=lambda x, W, g: _flat(g).sum(0)),
            "Your grad_W is the plain sum of grad_out: that is the gradient of a bias. For the weights multiply by "
            "the input: grad_outᵀ @ x.",
        ),
        Wrong(
            "W in grad_W",
            _linear_with(of_W=lambda x, W, g: _flat(g).sum(0)[:, None] * W),
            "For grad_W you multiply by W. The slope of y by a weight is the x that it multiplies: grad_outᵀ @ x.",
        ),
        Wrong(
            "x in grad_x",
            _linear_with(of_x=lambda x, W, g: (g @ W) * x),
            "Your grad_x has a factor x too much. The slope of y by x is W: grad_out @ W, no more.",
        ),
        Wrong(
            "grad_x summed over the examples",
            _linear_with(of_x=lambda x, W, g: _flat(g @ W).sum(0)),
            "Your grad_x is summed over the examples. Each example has an x of its own, so grad_x has the shape of x.",
        ),
        Wrong(
            "grad_out ignored",
            lambda x, W, grad_out: _linear(x, W, torch.ones_like(grad_out)),
            "Your gradients are those of the plain sum of the output: `grad_out` is taken for all ones.",
        ),
        Wrong(
            "grad_out taken for the target",
            lambda x, W, grad_out: _linear(x, W, x @ W.T - grad_out),
            "You take `grad_out` for the target and compute an error. It is the gradient that arrives from the loss: "
            "use it as it is. The output x Wᵀ isn't needed.",
        ),
        Wrong(
            "the forward pass",
            _linear_with(of_x=lambda x, W, g: x @ W.T),
            "Your grad_x is the output of the forward pass, x Wᵀ. The gradient comes from grad_out: grad_out @ W.",
        ),
        Wrong(
            "signs",
            _linear_with(lambda x, W, g: -_to_x(x, W, g), lambda x, W, g: -_to_weight(x, W, g)),
            "Your gradients have the wrong sign. The minus of gradient descent belongs to the step, not to the "
            "gradient.",
        ),
        Wrong(
            "grad_W first",
            lambda x, W, grad_out: _linear(x, W, grad_out)[::-1],
            "You return grad_W first. The order is grad_x, grad_W.",
        ),
        Wrong(
            "flattened by view",
            _linear_with(of_W=lambda x, W, g: g.view(-1, g.shape[-1]).T @ x.view(-1, x.shape[-1])),
            "Your numbers are right, but .view can't flatten a tensor whose rows lie apart in memory. Use .reshape.",
        ),
        Wrong(
            "computed in float32",
            _linear_in_float32,
            "Your numbers are computed in float32, so float64 loses half of its digits. Leave out .float().",
        ),
        Wrong(
            "gradient changed",
            _linear_changes_grad,
            "Your numbers are right, but `grad_out /= …` writes into the caller's tensor. Make a new one.",
        ),
    ),
    correct_alternatives=(
        _linear,
        _linear_by_examples,
        _linear_by_einsum,
        lambda x, W, grad_out: (
            F.linear(grad_out, W.T),
            torch.tensordot(grad_out, x, dims=(list(range(x.dim() - 1)),) * 2),
        ),
    ),
    hints=(
        "Start from the shapes. grad_x has the shape of x and is made of grad_out and W; grad_W has the shape of W and "
        "is made of grad_out and x. Which products have these shapes?",
        "For two axes: grad_x = grad_out @ W and grad_W = grad_out.T @ x. For more axes, flatten all but the last of "
        "x and grad_out before the second product.",
        "grad_W = grad_out.reshape(-1, W.shape[0]).T @ x.reshape(-1, W.shape[1]); return grad_out @ W, grad_W.",
    ),
)

# ---------------------------------------------------------------------------- relu_backward


def _relu_by_autograd(x: Tensor, grad_out: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.relu(x), x, grad_out)[0]


def _relu_by_backward(x: Tensor, grad_out: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    F.relu(x).backward(grad_out)
    assert x.grad is not None
    return x.grad


def _relu_by_index(x: Tensor, grad_out: Tensor) -> Tensor:
    found = grad_out.clone()
    found[x <= 0] = 0
    return found


def _relu_changes_grad(x: Tensor, grad_out: Tensor) -> Tensor:
    grad_out[x <= 0] = 0
    return grad_out


def _relu_by_rows(x: Tensor, grad_out: Tensor) -> Tensor:
    found = torch.zeros_like(x)
    for i in range(len(x)):
        if x[i] > 0:
            found[i] = grad_out[i]
    return found


def _relu_one_at_a_time(x: Tensor, grad_out: Tensor) -> Tensor:
    pairs = zip(x.flatten().tolist(), grad_out.flatten().tolist(), strict=True)
    kept = [g if z > 0 else 0.0 for z, g in pairs]
    return torch.tensor(kept, dtype=grad_out.dtype, device=grad_out.device).reshape(x.shape)


_relu_sizes = (numbers(2, 3, 4, seed=31), numbers(2, 3, 4, seed=32))

relu_backward = Exercise(
    name="relu_backward",
    lesson=LESSON,
    signature="relu_backward(x, grad_out)",
    reference=_relu_by_autograd,
    built_ins=_AUTOGRAD,
    probes=(
        Probe(
            "x = (3, -1), the gradient (2, 4)",
            (torch.tensor([3.0, -1.0]), torch.tensor([2.0, 4.0])),
            explain="The first unit is open and lets its gradient pass, the second is closed: (2, 0).",
        ),
        Probe(
            "open and closed units, gradients of both signs",
            (torch.tensor([3.0, 0.7, -1.0, -2.0]), torch.tensor([-2.0, 4.0, -1.0, 5.0])),
            explain="What decides is the sign of x. A negative gradient passes an open unit: (-2, 4, 0, 0).",
        ),
        Probe(
            "closed units alone",
            (torch.tensor([-3.0, -1.0]), torch.tensor([2.0, 4.0])),
            explain="Nothing passes.",
        ),
        Probe(
            "x = 0, and the zero that is written -0",
            (torch.tensor([0.0, -0.0, 1.0]), torch.tensor([5.0, 6.0, 7.0])),
            explain="At 0 ReLU has a kink. Torch takes the slope 0 there, and so do we: x > 0, not x >= 0.",
        ),
        Probe("a tensor with three axes", _relu_sizes),
        Probe(
            "very small and very large x",
            (torch.tensor([1e-30, -1e-30, 1e30, -1e30]), torch.tensor([1.0, 2.0, 3.0, 4.0])),
            explain="However small x is, it is open if it is above 0. (x * x underflows, 1 / x overflows: compare.)",
        ),
        Probe(
            "a single number, shape ()",
            (torch.tensor(2.0), torch.tensor(3.0)),
            explain="It should work for every shape, () included.",
        ),
        Probe(
            "numbers in float64",
            (numbers(3, 4, seed=33, dtype=_DOUBLE), numbers(3, 4, seed=34, dtype=_DOUBLE) / 3),
            explain="It should keep the dtype and its precision: is something converted?",
        ),
        Probe(
            "half precision",
            (
                numbers(2, 3, seed=35, dtype=torch.float16),
                numbers(2, 3, seed=36, dtype=torch.float16),
            ),
        ),
        Probe(
            "transposed, non-contiguous inputs",
            (numbers(4, 3, seed=37).T, numbers(4, 3, seed=38).T),
        ),
        twice(*_relu_sizes),
        other_device(*_relu_sizes),
    ),
    wrong_answers=(
        Wrong(
            "torch.autograd.grad",
            _relu_by_autograd,
            "torch's autograd makes your numbers (autograd.grad, or torch.func, which calls it). Here you are "
            "autograd: compare x with 0 yourself.",
        ),
        Wrong(
            ".backward()",
            _relu_by_backward,
            "torch's .backward() makes your numbers. Here you are autograd: compare x with 0 yourself.",
        ),
        Wrong(
            "open at 0",
            lambda x, grad_out: grad_out * (x >= 0),
            "At x = 0 your gradient passes. Torch takes the slope 0 there, and so do we: x > 0.",
        ),
        Wrong(
            "half at 0",
            lambda x, grad_out: grad_out * (x.sign() + 1) / 2,
            "At x = 0 half of your gradient passes, the mean of both slopes. Torch takes the slope 0 there, and so "
            "do we.",
        ),
        Wrong(
            "ReLU of the gradient",
            lambda x, grad_out: grad_out.clamp(min=0),
            "Your function applies ReLU to the gradient: it looks at the sign of grad_out. What decides is the sign "
            "of x.",
        ),
        Wrong(
            "masked by both",
            lambda x, grad_out: grad_out.clamp(min=0) * (x > 0),
            "You drop negative gradients too. At an open unit the gradient passes whatever its sign.",
        ),
        Wrong(
            "mask inverted",
            lambda x, grad_out: grad_out * (x <= 0),
            "Your mask is inverted: the gradient passes where x is 0 or below. It has to pass where x > 0.",
        ),
        Wrong(
            "mask inverted, without 0",
            lambda x, grad_out: grad_out * (x < 0),
            "Your mask is inverted: the gradient passes where x is below 0. It has to pass where x > 0.",
        ),
        Wrong(
            "passes everywhere",
            lambda x, grad_out: grad_out.clone(),
            "Your gradient passes everywhere. A unit with x at 0 or below is closed: there it is 0.",
        ),
        Wrong(
            "slope alone",
            lambda x, grad_out: (x > 0).to(x.dtype),
            "Your numbers are ReLU's slope, 1 or 0. Chain rule: multiply it by the gradient that arrives, grad_out.",
        ),
        Wrong(
            "mask returned",
            lambda x, grad_out: x > 0,
            "You return the mask x > 0, True and False. Multiply it by grad_out.",
        ),
        Wrong(
            "times the output",
            lambda x, grad_out: grad_out * x.clamp(min=0),
            "You multiply by relu(x). The gradient is multiplied by ReLU's slope, 1 or 0, not by its value.",
        ),
        Wrong(
            "times x",
            lambda x, grad_out: grad_out * x,
            "You multiply by x. The gradient is multiplied by ReLU's slope: 1 where x > 0, else 0.",
        ),
        Wrong(
            "the forward pass",
            lambda x, grad_out: x.clamp(min=0),
            "Your numbers are relu(x), the forward pass. Asked for is the gradient: grad_out where x > 0, else 0.",
        ),
        Wrong(
            "times x cut off at 1",
            lambda x, grad_out: grad_out * x.clamp(0, 1),
            "You multiply by x, cut off at 0 and 1. The slope is 1 for every x above 0, however small: x > 0.",
        ),
        Wrong(
            "times the sigmoid",
            lambda x, grad_out: grad_out * x.sigmoid(),
            "You multiply by sigmoid(x), the slope of a smooth activation. ReLU's slope is 1 or 0: x > 0.",
        ),
        Wrong(
            "absolute value",
            lambda x, grad_out: grad_out * x.sign(),
            "Your numbers are the backward pass of |x|, whose slope is -1 below 0. ReLU's is 0 there.",
        ),
        Wrong(
            "leaky",
            lambda x, grad_out: torch.where(x > 0, grad_out, 0.01 * grad_out),
            "At closed units a hundredth of your gradient passes: that is a leaky ReLU. Here it is 0.",
        ),
        Wrong(
            "quotient",
            lambda x, grad_out: grad_out * x.clamp(min=0) / x,
            "You compute the slope as relu(x) / x, which is 0/0 at x = 0. Compare: x > 0.",
        ),
        Wrong(
            "above 1",
            lambda x, grad_out: grad_out * (x > 1),
            "Your units open above 1. ReLU opens above 0.",
        ),
        Wrong(
            "small x closed",
            lambda x, grad_out: grad_out * (x > 1e-6),
            "You leave a small margin above 0. None is needed: x > 0 is exact in floating point.",
        ),
        Wrong(
            "cut into whole numbers",
            lambda x, grad_out: grad_out * (x.clamp(0, 1).ceil() if x.dim() < 1 else x.long() > 0),
            "You turn x into whole numbers, which makes 0.5 to 0. Compare x itself: x > 0.",
        ),
        Wrong(
            "if",
            lambda x, grad_out: grad_out if x > 0 else torch.zeros_like(grad_out),
            "`x > 0` holds one answer for each number, so neither `if` nor Python's max can use it. Multiply by it: "
            "grad_out * (x > 0).",
        ),
        Wrong(
            "if in a loop over the first axis",
            _relu_by_rows,
            "Your loop runs over the first axis alone: with more axes x[i] is a row, not a number. No loop is needed: "
            "grad_out * (x > 0).",
        ),
        Wrong(
            "one question for the whole tensor",
            lambda x, grad_out: grad_out.clone() if (x > 0).any() else torch.zeros_like(grad_out),
            "You ask one question about the whole tensor. Each number has its own answer: grad_out * (x > 0).",
        ),
        Wrong(
            "computed in float32",
            lambda x, grad_out: (grad_out.float() * (x > 0)).to(x.dtype),
            "Your numbers are computed in float32, so float64 loses half of its digits. Leave out .float().",
        ),
        Wrong(
            "gradient changed",
            _relu_changes_grad,
            "Your numbers are right, but they are written into the caller's grad_out. Make a new tensor, for example "
            "by torch.where.",
        ),
    ),
    correct_alternatives=(
        lambda x, grad_out: grad_out * (x > 0),
        lambda x, grad_out: torch.where(x > 0, grad_out, torch.zeros_like(grad_out)),
        lambda x, grad_out: grad_out.masked_fill(x <= 0, 0.0),
        lambda x, grad_out: grad_out * torch.heaviside(x, torch.zeros_like(x)),
        lambda x, grad_out: grad_out * (F.relu(x) > 0),
        _relu_by_index,
        _relu_one_at_a_time,
    ),
    hints=(
        "What is the slope of ReLU where x is above 0, and where it is below? Chain rule: multiply by it.",
        "x > 0 is a tensor of True and False. In a product they count as 1 and 0.",
        "return grad_out * (x > 0), or torch.where(x > 0, grad_out, 0.0).",
    ),
)

# ---------------------------------------------------------------------------- gradient_check


def _check_by_table(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    """Each row of an identity matrix moves one number."""
    moves = torch.eye(x.numel(), dtype=x.dtype, device=x.device).reshape(-1, *x.shape) * eps
    slopes = [(f(x + move) - f(x - move)).clone() / (2 * eps) for move in moves]
    return torch.stack(slopes).reshape(x.shape)


def _check_in_place(
    f: Function,
    x: Tensor,
    eps: float = 1e-5,
    *,
    keep: Callable[[Tensor], Any] = Tensor.item,
    back: float = 1.0,
) -> Tensor:
    """Changes a copy, number by number, and puts each back (or, with another `back`, doesn't)."""
    moved, found = x.clone(), torch.zeros_like(x)
    for place in _places(x):
        moved[place] += eps
        up = keep(f(moved))
        moved[place] -= 2 * eps
        down = keep(f(moved))
        moved[place] += back * eps
        found[place] = (up - down) / (2 * eps)
    return found


def _places(x: Tensor) -> list[tuple[int, ...]]:
    return [tuple(place) for place in torch.ones_like(x).nonzero().tolist()]


def _check_restores(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    """Moves the caller's own numbers and puts them back exactly."""
    found = torch.zeros_like(x)
    for place in _places(x):
        old = x[place].item()
        x[place] = old + eps
        up = f(x).item()
        x[place] = old - eps
        down = f(x).item()
        x[place] = old
        found[place] = (up - down) / (2 * eps)
    return found


def _check_not_restored(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    found = torch.zeros_like(x)
    for place in _places(x):
        x[place] += eps
        up = f(x).item()
        x[place] -= 2 * eps
        found[place] = (up - f(x).item()) / (2 * eps)
    return found


def _check_one_copy(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    found = torch.zeros_like(x)
    up, down = x.clone(), x.clone()
    for place in _places(x):
        up[place] += eps
        down[place] -= eps
        found[place] = (f(up) - f(down)) / (2 * eps)
    return found


def _check_alias(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    found = torch.zeros_like(x)
    for place in _places(x):
        up = down = x.clone()
        up[place] += eps
        down[place] -= eps
        found[place] = (f(up) - f(down)) / (2 * eps)
    return found


def _check_with(
    slope: Callable[[Function, Tensor, Tensor, float], Any],
    step: Callable[[Tensor, float], Any] = lambda x, eps: eps,
) -> Callable[..., Tensor]:
    """With another quotient, of f, x and what is added to it, or another step for a number."""

    def gradient_check(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
        found = torch.zeros_like(x)
        for place in _places(x):
            move = torch.zeros_like(x)
            h = step(x[place], eps)
            move[place] = h
            found[place] = slope(f, x, move, h)
        return found

    return gradient_check


def _central(f: Function, x: Tensor, move: Tensor, h: float) -> Any:
    return (f(x + move) - f(x - move)) / (2 * h)


def _check_by_autograd(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(f(x), x)[0]


def _check_all_at_once(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    return ((f(x + eps) - f(x - eps)) / (2 * eps)).expand(x.shape).clone()


def _check_rows(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    found = torch.zeros_like(x)
    for i in range(len(x)):
        up, down = x.clone(), x.clone()
        up[i] += eps
        down[i] -= eps
        found[i] = (f(up) - f(down)) / (2 * eps)
    return found


def _check_first_alone(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    found = torch.zeros_like(x)
    for place in _places(x):
        move = torch.zeros_like(x)
        move[place] = eps
        found[place] = _central(f, x, move, eps)
        return found
    return found


def _check_through(flat: Function) -> Callable[..., Tensor]:
    """Central differences, with each number reached through a flat form of its tensor."""

    def gradient_check(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
        found = torch.zeros_like(x)
        for i in range(x.numel()):
            up, down = x.clone(), x.clone()
            flat(up)[i] += eps
            flat(down)[i] -= eps
            flat(found)[i] = (f(up) - f(down)) / (2 * eps)
        return found

    return gradient_check


_check_lost_copy = _check_through(lambda x: x.reshape(-1))
_check_by_view = _check_through(lambda x: x.view(-1))


def _check_flattened(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    return _check_by_table(f, x, eps).reshape(-1)


def _check_in_float32(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    return _check_by_table(f, x.float(), eps).double()


def _check_makes_float32(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    found = torch.zeros(x.shape, device=x.device)
    for place in _places(x):
        move = torch.zeros_like(x)
        move[place] = eps
        found[place] = (f(x + move) - f(x - move)) / (2 * eps)
    return found


def _check_float32_moves(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    def slope(f: Function, x: Tensor, move: Tensor, h: float) -> Any:
        return (f(x + move.float()) - f(x - move.float())) / (2 * h)

    return _check_with(slope)(f, x, eps)


def _check_two_axes(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    found = torch.zeros_like(x)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            move = torch.zeros_like(x)
            move[i, j] = eps
            found[i, j] = _central(f, x, move, eps)
    return found


def _check_float32_numbers(f: Function, x: Tensor, eps: float = 1e-5) -> Tensor:
    return _check_makes_float32(f, x, eps).double()


def square_plus_three_times(x: Tensor) -> Tensor:
    """x[0]² + 3 x[1]"""
    return x[0] ** 2 + 3 * x[1]


def product(x: Tensor) -> Tensor:
    """The product of all numbers."""
    return x.prod()


def sum_of_cubes(x: Tensor) -> Tensor:
    """x³, summed."""
    return (x**3).sum()


def steep_cubic(x: Tensor) -> Tensor:
    """x + 10¹⁰ x³, summed."""
    return (x + 1e10 * x**3).sum()


def sum_of_fifth_powers(x: Tensor) -> Tensor:
    """x⁵, summed."""
    return (x**5).sum()


def weighted_squares(x: Tensor) -> Tensor:
    """(1 · x[0, 0]² + 2 · x[0, 1]² + …)."""
    return (torch.arange(1, x.numel() + 1, device=x.device).reshape(x.shape) * x**2).sum()


def squares_by_numpy(x: Tensor) -> Tensor:
    """Squares that autograd can't see."""
    return torch.tensor((x.detach().numpy() ** 2).sum())


def second_number(x: Tensor) -> Tensor:
    """A view into x, not a new number."""
    return x[1]


_CUBE_AT = torch.tensor([1.0, 2.0], dtype=_DOUBLE)
_TABLE = torch.tensor([[1.0, 2.0, -1.0], [0.5, -2.0, 3.0]], dtype=_DOUBLE)

gradient_check = Exercise(
    name="gradient_check",
    lesson=LESSON,
    signature="gradient_check(f, x, eps=1e-5)",
    reference=_check_by_table,
    parts=("gradient",),
    probes=(
        Probe(
            "f(x) = x[0]² + 3 x[1] at (3, 1)",
            (square_plus_three_times, torch.tensor([3.0, 1.0], dtype=_DOUBLE)),
            explain="On paper the gradient is (6, 3).",
        ),
        Probe(
            "f(x) = the sum of x³ at (1, 2), with eps = 0.5",
            (sum_of_cubes, _CUBE_AT),
            {"eps": 0.5},
            "With so large an eps the central difference is 3x² + eps²: (3.25, 12.25). Do you use the eps that is "
            "passed, on both sides, and divide by 2 · eps?",
        ),
        Probe(
            "f(x) = x + 10¹⁰ x³ at 0, with eps left out",
            (steep_cubic, torch.zeros(1, dtype=_DOUBLE)),
            explain="The central difference is 1 + 10¹⁰ eps², which is 2 for the eps of the first line, 1e-5.",
        ),
        Probe(
            "f(x) = the sum of x⁵ at (1, 2), with eps = 0.5",
            (sum_of_fifth_powers, _CUBE_AT),
            {"eps": 0.5},
            "With so large an eps the central difference is 5x⁴ + 10x² eps² + eps⁴.",
        ),
        Probe(
            "f(x) = the product of three numbers, at (2, 3, 4)",
            (product, torch.tensor([2.0, 3.0, 4.0], dtype=_DOUBLE)),
            explain="Move one number at a time, and start each time from x itself: (12, 8, 6).",
        ),
        Probe(
            "a function of a table of 2 × 3 numbers",
            (weighted_squares, _TABLE),
            explain="The gradient has the shape of x: one slope for each number.",
        ),
        Probe(
            "a function that is computed by numpy, where autograd sees nothing",
            (squares_by_numpy, torch.tensor([3.0, -1.0, 0.5], dtype=_DOUBLE)),
            explain="f may be computed in any way: only its values may be used.",
        ),
        Probe(
            "f(x) = x[0]² + 3 x[1] at (0, 1), with eps = 0.25",
            (square_plus_three_times, torch.tensor([0.0, 1.0], dtype=_DOUBLE)),
            {"eps": 0.25},
            "At the bottom of the parabola both sides are equally high: the slope is 0.",
        ),
        Probe(
            "f(x) = x[1], a view into x and not a new number",
            (second_number, torch.tensor([5.0, 6.0, 7.0], dtype=_DOUBLE)),
            explain="The result of f may share its memory with x. If you then change x in place, the first result "
            "changes with it: take its value at once, by .item(), or use two copies of x.",
        ),
        Probe(
            "numbers with many digits, with eps = 0.125",
            (sum_of_cubes, numbers(4, seed=41, dtype=_DOUBLE) / 3),
            {"eps": 0.125},
            "It should keep the precision of float64: is something converted, or made by torch.zeros without dtype?",
        ),
        Probe(
            "a single number, shape ()",
            (sum_of_cubes, torch.tensor(2.0, dtype=_DOUBLE)),
            explain="It should work for every shape, () included.",
        ),
        Probe(
            "a transposed, non-contiguous table",
            (weighted_squares, _TABLE.T),
            explain="Of a transposed tensor .reshape(-1) makes a copy: what you write into it doesn't reach x. Flatten "
            "first, change, and give f the tensor in its old shape.",
        ),
        twice(product, torch.tensor([2.0, 3.0, 4.0], dtype=_DOUBLE)),
        other_device(sum_of_cubes, _CUBE_AT),
    ),
    wrong_answers=(
        Wrong(
            "autograd",
            _check_by_autograd,
            "Your gradient comes from autograd (torch.autograd.grad or .backward()), which is what shall be checked. "
            "Use only values of f: (f(x + step) - f(x - step)) / (2 · eps), number by number.",
        ),
        Wrong(
            "one-sided",
            _check_with(lambda f, x, move, h: (f(x + move) - f(x)) / h),
            "Your difference is one-sided, (f(x + eps) - f(x)) / eps. Its error falls with eps only. Take the central "
            "one, from x - eps to x + eps.",
        ),
        Wrong(
            "one-sided, downwards",
            _check_with(lambda f, x, move, h: (f(x) - f(x - move)) / h),
            "Your difference is one-sided, (f(x) - f(x - eps)) / eps. Its error falls with eps only. Take the central "
            "one, from x - eps to x + eps.",
        ),
        Wrong(
            "one-sided, divided by 2 eps",
            _check_with(lambda f, x, move, h: (f(x + move) - f(x)) / (2 * h)),
            "Your numbers are half of a one-sided difference: from x to x + eps the way is eps, not 2 · eps. Start at "
            "x - eps. (Do you keep the old number by old = x[i]? That is a view, which changes with x. Take "
            "x[i].item().)",
        ),
        Wrong(
            "divided by eps",
            _check_with(lambda f, x, move, h: (f(x + move) - f(x - move)) / h),
            "Your slopes are twice too large: from x - eps to x + eps the way is 2 · eps. Divide by it.",
        ),
        Wrong(
            "brackets missing",
            _check_with(lambda f, x, move, h: (f(x + move) - f(x - move)) / 2 * h),
            "`/ 2 * eps` divides by 2 and multiplies by eps. Write brackets: / (2 * eps).",
        ),
        Wrong(
            "not divided",
            _check_with(lambda f, x, move, h: f(x + move) - f(x - move)),
            "Your numbers are differences, not slopes: divide by the way, 2 · eps.",
        ),
        Wrong(
            "sign",
            _check_with(lambda f, x, move, h: (f(x - move) - f(x + move)) / (2 * h)),
            "Your slopes have the wrong sign: f at the higher x minus f at the lower x.",
        ),
        Wrong(
            "absolute value",
            _check_with(lambda f, x, move, h: _central(f, x, move, h).abs()),
            "Your slopes are absolute values. The sign of a slope counts.",
        ),
        Wrong(
            "eps fixed",
            _check_with(_central, lambda x, eps: 1e-5),
            "Your eps is always 1e-5. Use the one that is passed.",
        ),
        Wrong(
            "eps fixed at 1e-6",
            _check_with(_central, lambda x, eps: 1e-6),
            "Your eps is always 1e-6. Use the one that is passed.",
        ),
        Wrong(
            "relative step",
            _check_with(_central, lambda x, eps: eps * x),
            "You scale eps by the number itself, so a 0 doesn't move at all, and 0/0 is NaN. Add eps itself.",
        ),
        Wrong(
            "half of the step",
            _check_with(_central, lambda x, eps: eps / 2),
            "You move each number by eps / 2. It is eps to each side, and 2 · eps to divide by.",
        ),
        Wrong(
            "second derivative",
            _check_with(lambda f, x, move, h: (f(x + move) - 2 * f(x) + f(x - move)) / h**2),
            "Your formula, f(x + eps) - 2 f(x) + f(x - eps) over eps², is the second derivative. The slope is "
            "(f(x + eps) - f(x - eps)) / (2 · eps).",
        ),
        Wrong(
            "four values",
            _check_with(
                lambda f, x, move, h: (
                    (8 * (f(x + move) - f(x - move)) - (f(x + 2 * move) - f(x - 2 * move)))
                    / (12 * h)
                )
            ),
            "You use four values of f. That is a better formula than the one asked for, but its numbers are others: "
            "take the plain central difference.",
        ),
        Wrong(
            "all at once",
            _check_all_at_once,
            "You move all numbers at once, so each slope is the sum of all. A partial derivative moves one number "
            "and leaves the others.",
        ),
        Wrong(
            "whole rows",
            _check_rows,
            "x[i] is a whole row when x is a table, so you move its numbers together. Go through every single number.",
        ),
        Wrong(
            "moves add up",
            _check_one_copy,
            "Your copies of x are made once, so the numbers that were moved stay moved. Start from x each time.",
        ),
        Wrong(
            "return inside the loop",
            _check_first_alone,
            "Only the first slope is filled in. Does return stand inside the loop?",
        ),
        Wrong(
            "not put back",
            lambda f, x, eps=1e-5: _check_in_place(f, x, eps, back=0.0),
            "You don't put a number back before you move the next. Start from x each time.",
        ),
        Wrong(
            "put back too far",
            lambda f, x, eps=1e-5: _check_in_place(f, x, eps, back=2.0),
            "When you move a number it already stands eps away from x: was the one before put back too far, or was x "
            "itself moved on? Start from x each time.",
        ),
        Wrong(
            "x left changed",
            _check_not_restored,
            "You move the caller's x and don't put it back. Work on a copy: x.clone().",
        ),
        Wrong(
            "one tensor under two names",
            _check_alias,
            "`up` and `down` are the same tensor under two names, so it moves up and down again. Make two copies: "
            "x.clone() each.",
        ),
        Wrong(
            "result of f shares memory",
            lambda f, x, eps=1e-5: _check_in_place(f, x, eps, keep=lambda value: value),
            "Here f returns a view into x. You change x in place after the first call, and its result changes too. "
            "Take the value at once, by .item(), or make two copies of x.",
        ),
        Wrong(
            "written into a copy",
            _check_lost_copy,
            "Of a transposed tensor .reshape(-1) makes a copy, and what you write into it is lost. Index x by its own "
            "axes, or flatten first and reshape for f.",
        ),
        Wrong(
            "flattened by view",
            _check_by_view,
            ".view(-1) can't flatten a tensor whose rows lie apart in memory. Flatten a copy by .reshape(-1), change "
            "it, and give f the tensor in its old shape.",
        ),
        Wrong(
            "shape lost",
            _check_flattened,
            "Your gradient is flat. It has the shape of x: .reshape(x.shape) at the end.",
        ),
        Wrong(
            "summed",
            lambda f, x, eps=1e-5: _check_by_table(f, x, eps).sum(),
            "You return one number, the sum of the slopes. (x + eps moves all numbers at once.) The gradient has the "
            "shape of x: move one number at a time.",
        ),
        Wrong(
            "in float32",
            _check_in_float32,
            "You convert x to float32. There the error of a difference with eps = 1e-5 is about 1 %. Stay in float64.",
        ),
        Wrong(
            "two axes alone",
            _check_two_axes,
            "Your two loops fit a table alone. x may have any number of axes: flatten it first, .reshape(-1).",
        ),
        Wrong(
            "eps rounded to float32",
            _check_float32_moves,
            "What you add to x is made in float32, where 1e-5 is wrong from its eighth digit on. Make it by "
            "torch.zeros_like(x), which keeps float64.",
        ),
        Wrong(
            "slopes kept in float32",
            _check_makes_float32,
            "torch.zeros makes float32. Make the tensor for the slopes by torch.zeros_like(x), which keeps float64.",
        ),
        Wrong(
            "slopes rounded to float32",
            _check_float32_numbers,
            "Your slopes go through float32 and lose half of their digits. Make their tensor by torch.zeros_like(x).",
        ),
    ),
    correct_alternatives=(
        _check_by_table,
        _check_in_place,
        _check_restores,
        _check_with(_central),
        lambda f, x, eps=1e-5: torch.tensor(
            [
                (f(_moved(x, i, eps)) - f(_moved(x, i, -eps))).item() / (2 * eps)
                for i in range(x.numel())
            ],
            dtype=x.dtype,
            device=x.device,
        ).reshape(x.shape),
    ),
    hints=(
        "The slope in one number: move it up by eps, then down by eps, leave all others, and see how f changes. "
        "Which way lies between the two?",
        "Make a tensor of zeros like x for the slopes. Go through all numbers. Each time take two fresh copies of x, "
        "and change one number in each.",
        "flat = x.reshape(-1); for i in range(len(flat)): up, down = flat.clone(), flat.clone(); up[i] += eps; "
        "down[i] -= eps; slope = (f(up.reshape(x.shape)) - f(down.reshape(x.shape))) / (2 * eps).",
    ),
)


def _moved(x: Tensor, i: int, by: float) -> Tensor:
    flat = x.reshape(-1).clone()
    flat[i] += by
    return flat.reshape(x.shape)


# ---------------------------------------------------------------------------- adamw_step

_BETAS = (0.9, 0.999)


def _adamw_by_torch(
    param: Tensor,
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = _BETAS,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Triple:
    """torch's optimiser, put into the state before this step."""
    weight = param.detach().clone().requires_grad_()
    weight.grad = grad.detach().clone()
    optimizer = torch.optim.AdamW(
        [weight], lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, foreach=False
    )
    state = {"step": torch.tensor(step - 1.0), "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
    optimizer.state[weight] = state
    optimizer.step()
    return weight.detach(), state["exp_avg"], state["exp_avg_sq"]


def _correction(state: Tensor, beta: float, step: int) -> Tensor:
    return state / (1 - beta**step)


def _adamw_with(
    *,
    gradient: Callable[..., Tensor] = lambda grad, param, decay: grad,
    mean: Callable[..., Tensor] = lambda m, grad, beta: beta * m + (1 - beta) * grad,
    square: Callable[..., Tensor] = lambda v, grad, beta: beta * v + (1 - beta) * grad**2,
    m_hat: Callable[..., Tensor] = _correction,
    v_hat: Callable[..., Tensor] = _correction,
    direction: Callable[..., Tensor] = lambda m, v, eps: m / (v.sqrt() + eps),
    update: Callable[..., Tensor] = lambda param, towards, lr, decay: (
        param * (1 - lr * decay) - lr * towards
    ),
    give: Callable[..., Any] = lambda param, m, v, m_hat, v_hat: (param, m, v),
    settings: Callable[..., Any] = lambda lr, betas, eps, decay: (lr, betas, eps, decay),
) -> Callable[..., Any]:
    """The step with one of its parts replaced."""

    def adamw_step(
        param: Tensor,
        grad: Tensor,
        m: Tensor,
        v: Tensor,
        step: int,
        lr: float = 1e-3,
        betas: tuple[float, float] = _BETAS,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> Any:
        lr, (beta1, beta2), eps, decay = settings(lr, betas, eps, weight_decay)
        grad = gradient(grad, param, decay)
        m, v = mean(m, grad, beta1), square(v, grad, beta2)
        mean_now, square_now = m_hat(m, beta1, step), v_hat(v, beta2, step)
        param = update(param, direction(mean_now, square_now, eps), lr, decay)
        return give(param, m, v, mean_now, square_now)

    return adamw_step


_adamw = _adamw_with()


def _adamw_in_place(
    param: Tensor, grad: Tensor, m: Tensor, v: Tensor, *args: Any, **named: Any
) -> Any:
    new = _adamw(param, grad, m, v, *args, **named)
    for old, now in zip((param, m, v), new, strict=True):
        old.copy_(now)
    return param, m, v


def _adamw_state_in_place(
    param: Tensor, grad: Tensor, m: Tensor, v: Tensor, *args: Any, **named: Any
) -> Any:
    new = _adamw(param, grad, m, v, *args, **named)
    for old, now in zip((m, v), new[1:], strict=True):
        old.copy_(now)
    return new[0], m, v


def _adamw_in_float32(
    param: Tensor, grad: Tensor, m: Tensor, v: Tensor, *args: Any, **named: Any
) -> Any:
    each = (one.float() for one in (param, grad, m, v))
    return tuple(one.to(param.dtype) for one in _adamw(*each, *args, **named))


def _adamw_mixed(
    numerator: Callable[..., Tensor] = lambda grad, old, new: new,
    denominator: Callable[..., Tensor] = lambda old, new: new,
    squared: Callable[..., Tensor] = lambda grad, new: grad,
) -> Callable[..., Any]:
    """The step with a gradient or a state taken for another one."""

    def adamw_step(
        param: Tensor,
        grad: Tensor,
        m: Tensor,
        v: Tensor,
        step: int,
        lr: float = 1e-3,
        betas: tuple[float, float] = _BETAS,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> Any:
        new_m = betas[0] * m + (1 - betas[0]) * grad
        new_v = betas[1] * v + (1 - betas[1]) * squared(grad, new_m) ** 2
        above = _correction(m, betas[0], step), _correction(new_m, betas[0], step)
        below = _correction(v, betas[1], step), _correction(new_v, betas[1], step)
        towards = numerator(grad, *above) / (denominator(*below).sqrt() + eps)
        return param * (1 - lr * weight_decay) - lr * towards, new_m, new_v

    return adamw_step


def _adamw_eps_before_correction(
    param: Tensor,
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = _BETAS,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Any:
    m = betas[0] * m + (1 - betas[0]) * grad
    v = betas[1] * v + (1 - betas[1]) * grad**2
    rate = lr * (1 - betas[1] ** step) ** 0.5 / (1 - betas[0] ** step)
    return param * (1 - lr * weight_decay) - rate * m / (v.sqrt() + eps), m, v


def _adamw_by_lerp(
    param: Tensor,
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = _BETAS,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Any:
    """In torch's own order: the corrections are folded into the rate and the root."""
    shrunk = param - lr * weight_decay * param
    m, v = torch.lerp(m, grad, 1 - betas[0]), torch.lerp(v, grad * grad, 1 - betas[1])
    root = v.sqrt() / (1 - betas[1] ** step) ** 0.5 + eps
    return torch.addcdiv(shrunk, m, root, value=-lr / (1 - betas[0] ** step)), m, v


def _state(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Parameter, gradient, mean of gradients, mean of squares."""
    param, grad, m, v = (numbers(*shape, seed=seed + i, dtype=dtype) for i in range(4))
    return param, grad, m, v.abs() + 0.1


_ONES = torch.tensor([1.0, -2.0])
_NONE = torch.zeros(2)
_L2 = "In AdamW the decay is decoupled: it shrinks the parameter and goes into neither m nor v."

adamw_step = Exercise(
    name="adamw_step",
    lesson=LESSON,
    signature="adamw_step(param, grad, m, v, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)",
    reference=_adamw_by_torch,
    parts=("param", "m", "v"),
    probes=(
        Probe(
            "step 1 from m = v = 0, no decay, lr = 0.1",
            (_ONES, torch.tensor([2.0, -4.0]), _NONE, _NONE, 1),
            {"lr": 0.1, "weight_decay": 0.0},
            "The first step has the length lr, against the sign of the gradient: (0.9, -1.9). m is 0.1 · grad, "
            "v is 0.001 · grad².",
        ),
        Probe(
            "no gradient, decay 0.5, lr = 0.1",
            (_ONES, _NONE, _NONE, _NONE, 1),
            {"lr": 0.1, "weight_decay": 0.5},
            "The decay alone multiplies by 1 - lr · weight_decay, 0.95: (0.95, -1.9). m and v are 0 here: only eps "
            "keeps the quotient from being 0/0.",
        ),
        Probe(
            "step 1 with gradient and decay",
            (_ONES, torch.tensor([2.0, -4.0]), _NONE, _NONE, 1),
            {"lr": 0.1, "weight_decay": 0.5},
            f"{_L2} Expected is 0.95 · param - 0.1 · sign(grad).",
        ),
        Probe(
            "step 2 with a state",
            (*_state(2, 3, seed=51), 2),
            {"lr": 0.1},
            "The corrections are 1 - 0.9² and 1 - 0.999²: steps are counted from 1.",
        ),
        Probe(
            "step 7, betas (0.8, 0.95)",
            (*_state(2, 3, seed=55), 7),
            {"lr": 0.1, "betas": (0.8, 0.95)},
            "Do you use the betas that are passed, everywhere?",
        ),
        Probe(
            "eps = 1, step 3",
            (*_state(2, 3, seed=59), 3),
            {"lr": 0.1, "eps": 1.0},
            "eps is added to the root of the corrected v: √(v / (1 - β₂^t)) + eps.",
        ),
        Probe(
            "lr = 0: the state moves, the parameter doesn't",
            (*_state(3, seed=63), 4),
            {"lr": 0.0},
            "lr multiplies both the step and the decay.",
        ),
        Probe(
            "a gradient of 1e-8, as small as eps, in float64, all settings left out",
            (
                torch.tensor([1.0, -2.0], dtype=_DOUBLE),
                torch.tensor([1e-8, -3e-8], dtype=_DOUBLE),
                torch.zeros(2, dtype=_DOUBLE),
                torch.zeros(2, dtype=_DOUBLE),
                1,
            ),
            explain="Here eps = 1e-8 counts as much as the gradient. It stands outside of the root. Are all defaults "
            "those of the first line?",
        ),
        Probe(
            "step 1000 in float64, all settings left out",
            (*_state(3, 4, seed=67, dtype=_DOUBLE), 1000),
            explain="It should keep the dtype and its precision. Are all defaults those of the first line?",
        ),
        Probe(
            "transposed, non-contiguous tensors",
            (*(each.T for each in _state(4, 3, seed=71)), 5),
            {"lr": 0.1},
        ),
        twice(*_state(2, 3, seed=75), 3, lr=0.1),
        other_device(*_state(2, 3, seed=75), 3),
    ),
    wrong_answers=(
        Wrong(
            "no bias correction",
            _adamw_with(m_hat=lambda m, beta, step: m, v_hat=lambda v, beta, step: v),
            "The bias correction is missing. m and v start at 0 and are too small at first: divide m by 1 - β₁^step "
            "and v by 1 - β₂^step before they are used.",
        ),
        Wrong(
            "v not corrected",
            _adamw_with(v_hat=lambda v, beta, step: v),
            "v isn't corrected: divide it by 1 - β₂^step before the root.",
        ),
        Wrong(
            "m not corrected",
            _adamw_with(m_hat=lambda m, beta, step: m),
            "m isn't corrected: divide it by 1 - β₁^step.",
        ),
        Wrong(
            "corrected state returned",
            _adamw_with(give=lambda param, m, v, m_hat, v_hat: (param, m_hat, v_hat)),
            "You return the corrected m and v. The next step needs them uncorrected, or they would be corrected "
            "twice.",
        ),
        Wrong(
            "steps counted from 0",
            _adamw_with(
                m_hat=lambda m, beta, step: _correction(m, beta, step + 1),
                v_hat=lambda v, beta, step: _correction(v, beta, step + 1),
            ),
            "You add 1 to step. It is counted from 1 already: 1 - β^step.",
        ),
        Wrong(
            "one step behind",
            _adamw_with(
                m_hat=lambda m, beta, step: _correction(m, beta, step - 1),
                v_hat=lambda v, beta, step: _correction(v, beta, step - 1),
            ),
            "You subtract 1 from step. It is counted from 1 already, and 1 - β⁰ is 0. The correction is 1 - β^step.",
        ),
        Wrong(
            "correction by β · step",
            _adamw_with(
                m_hat=lambda m, beta, step: m / (1 - beta * step),
                v_hat=lambda v, beta, step: v / (1 - beta * step),
            ),
            "You divide by 1 - β · step. It is β to the power of step: 1 - beta**step.",
        ),
        Wrong(
            "correction without step",
            _adamw_with(
                m_hat=lambda m, beta, step: m / (1 - beta),
                v_hat=lambda v, beta, step: v / (1 - beta),
            ),
            "You divide by 1 - β at every step. That holds for step 1 alone: it is 1 - beta**step.",
        ),
        Wrong(
            "multiplied by the correction",
            _adamw_with(
                m_hat=lambda m, beta, step: m * (1 - beta**step),
                v_hat=lambda v, beta, step: v * (1 - beta**step),
            ),
            "You multiply by 1 - β^step. m and v are too small at first: divide.",
        ),
        Wrong(
            "corrections with swapped betas",
            _adamw_with(
                m_hat=lambda m, beta, step: m / (1 - 0.999**step),
                v_hat=lambda v, beta, step: v / (1 - 0.9**step),
            ),
            "The corrections have swapped their betas: m is divided by 1 - β₁^step, v by 1 - β₂^step.",
        ),
        Wrong(
            "decay in the gradient",
            _adamw_with(
                gradient=lambda grad, param, decay: grad + decay * param,
                update=lambda param, towards, lr, decay: param - lr * towards,
            ),
            f"You add weight_decay · param to the gradient: that is Adam with an L2 penalty. {_L2}",
        ),
        Wrong(
            "decay twice",
            _adamw_with(gradient=lambda grad, param, decay: grad + decay * param),
            f"You decay twice: in the gradient and outside of it. {_L2}",
        ),
        Wrong(
            "no decay",
            _adamw_with(update=lambda param, towards, lr, decay: param - lr * towards),
            "The decay is missing: param is multiplied by 1 - lr · weight_decay.",
        ),
        Wrong(
            "decay without lr",
            _adamw_with(
                update=lambda param, towards, lr, decay: param * (1 - decay) - lr * towards
            ),
            "Your decay isn't multiplied by lr. The factor is 1 - lr · weight_decay.",
        ),
        Wrong(
            "decay that grows",
            _adamw_with(
                update=lambda param, towards, lr, decay: param * (1 + lr * decay) - lr * towards
            ),
            "Your decay makes parameters larger. The factor is 1 - lr · weight_decay.",
        ),
        Wrong(
            "decay after the step",
            _adamw_with(
                update=lambda param, towards, lr, decay: (param - lr * towards) * (1 - lr * decay)
            ),
            "You decay after the step, so the step itself shrinks too. Multiply the old param by "
            "1 - lr · weight_decay, then subtract.",
        ),
        Wrong(
            "decay by a constant",
            _adamw_with(update=lambda param, towards, lr, decay: param - lr * decay - lr * towards),
            "Your decay subtracts lr · weight_decay. It subtracts that share of param: lr · weight_decay · param.",
        ),
        Wrong(
            "uphill",
            _adamw_with(
                update=lambda param, towards, lr, decay: param * (1 - lr * decay) + lr * towards
            ),
            "Your step goes up the gradient. Subtract it.",
        ),
        Wrong(
            "square of the gradient missing",
            _adamw_with(
                square=lambda v, grad, beta: beta * v + (1 - beta) * grad,
            ),
            "v averages grad where grad² belongs.",
        ),
        Wrong(
            "absolute gradient in v",
            _adamw_with(square=lambda v, grad, beta: beta * v + (1 - beta) * grad.abs()),
            "v averages |grad| where grad² belongs.",
        ),
        Wrong(
            "square of the mean in v",
            _adamw_with(square=lambda v, grad, beta: beta * v + ((1 - beta) * grad) ** 2),
            "In v the factor 1 - β₂ is squared too. It is (1 - β₂) · grad².",
        ),
        Wrong(
            "weights the other way round",
            _adamw_with(
                mean=lambda m, grad, beta: (1 - beta) * m + beta * grad,
                square=lambda v, grad, beta: (1 - beta) * v + beta * grad**2,
            ),
            "β is the weight of the old: β · m + (1 - β) · grad. Yours is the other way round.",
        ),
        Wrong(
            "sum like momentum",
            _adamw_with(mean=lambda m, grad, beta: beta * m + grad),
            "Your m is momentum's running sum. Adam takes a mean: the gradient has the weight 1 - β₁.",
        ),
        Wrong(
            "betas swapped",
            _adamw_with(settings=lambda lr, betas, eps, decay: (lr, betas[::-1], eps, decay)),
            "The betas are swapped: the first belongs to m, the second to v.",
        ),
        Wrong(
            "no root",
            _adamw_with(direction=lambda m, v, eps: m / (v + eps)),
            "You divide by v. It is the root of v, which has the unit of a gradient.",
        ),
        Wrong(
            "eps under the root",
            _adamw_with(direction=lambda m, v, eps: m / (v + eps).sqrt()),
            "You add eps under the root. It stands outside: v.sqrt() + eps.",
        ),
        Wrong(
            "no eps",
            _adamw_with(direction=lambda m, v, eps: m / v.sqrt()),
            "eps is missing: where v is 0, you divide 0 by 0. Add it to the root.",
        ),
        Wrong(
            "brackets missing",
            _adamw_with(direction=lambda m, v, eps: m / v.sqrt() + eps),
            "Brackets are missing: eps belongs to the denominator, m_hat / (v_hat.sqrt() + eps).",
        ),
        Wrong(
            "math.sqrt",
            _adamw_with(direction=lambda m, v, eps: m / (math.sqrt(v) + eps)),
            "math.sqrt takes one number; v holds one for each parameter. Use v_hat.sqrt() or torch.sqrt.",
        ),
        Wrong(
            "eps before the correction",
            _adamw_eps_before_correction,
            "You add eps to the root of the uncorrected v and correct afterwards. (The paper gives this form as a "
            "faster one.) torch, and this exercise, add eps to the root of the corrected v.",
        ),
        Wrong(
            "the gradient in place of its mean",
            _adamw_mixed(numerator=lambda grad, old, new: grad),
            "Your step divides the gradient itself (that is RMSprop). Adam divides its corrected mean, "
            "m / (1 - β₁^step).",
        ),
        Wrong(
            "the mean squared",
            _adamw_mixed(squared=lambda grad, new: new),
            "Your v averages the squares of m. It averages those of the gradient: β₂ · v + (1 - β₂) · grad².",
        ),
        Wrong(
            "step from the old state",
            _adamw_mixed(lambda grad, old, new: old, lambda old, new: old),
            "Your step uses m and v as they came in. Bring this gradient in first, then step.",
        ),
        Wrong(
            "m left out",
            _adamw_with(
                m_hat=lambda m, beta, step: m, direction=lambda m, v, eps: 1 / (v.sqrt() + eps)
            ),
            "m is missing in the step: it gives the direction.",
        ),
        Wrong(
            "sign alone",
            _adamw_with(direction=lambda m, v, eps: m.sign()),
            "You step by the sign of m. Divide m by the root of v: the step is long where gradients agree, and short "
            "where they don't.",
        ),
        Wrong(
            "lr fixed",
            _adamw_with(settings=lambda lr, betas, eps, decay: (1e-3, betas, eps, decay)),
            "Your lr is always 0.001. Use the one that is passed.",
        ),
        Wrong(
            "betas fixed",
            _adamw_with(settings=lambda lr, betas, eps, decay: (lr, _BETAS, eps, decay)),
            "Your betas are always 0.9 and 0.999. Use those that are passed.",
        ),
        Wrong(
            "eps fixed",
            _adamw_with(settings=lambda lr, betas, eps, decay: (lr, betas, 1e-8, decay)),
            "Your eps is always 1e-8. Use the one that is passed.",
        ),
        Wrong(
            "decay fixed",
            _adamw_with(settings=lambda lr, betas, eps, decay: (lr, betas, eps, 0.01)),
            "Your weight decay is always 0.01. Use the one that is passed.",
        ),
        Wrong(
            "v before m",
            _adamw_with(give=lambda param, m, v, m_hat, v_hat: (param, v, m)),
            "You return v before m. The order is param, m, v.",
        ),
        Wrong(
            "parameter last",
            _adamw_with(give=lambda param, m, v, m_hat, v_hat: (m, v, param)),
            "You return the parameter last. The order is param, m, v.",
        ),
        Wrong(
            "parameter alone",
            _adamw_with(give=lambda param, m, v, m_hat, v_hat: param),
            "You return the parameter alone. The next step needs m and v too: return param, m, v.",
        ),
        Wrong(
            "in place",
            _adamw_in_place,
            "Your numbers are right, but they are written into the caller's param, m and v. (Torch's optimiser does "
            "so with its own.) Here new tensors are asked for: no `*=`, no methods with a trailing underscore.",
        ),
        Wrong(
            "state in place",
            _adamw_state_in_place,
            "Your numbers are right, but m and v are written into the caller's tensors. Make new ones: "
            "m = beta1 * m + …",
        ),
        Wrong(
            "computed in float32",
            _adamw_in_float32,
            "Your numbers are computed in float32, so float64 loses half of its digits. Leave out .float().",
        ),
    ),
    correct_alternatives=(_adamw, _adamw_by_lerp, _adamw_by_torch),
    hints=(
        "Four lines: the new m, the new v, the corrected ones, the step. The decay touches only param.",
        "m = beta1 * m + (1 - beta1) * grad, v the same with beta2 and grad**2. Divide each by 1 - beta**step, under "
        "new names: the uncorrected ones are returned.",
        "param = param * (1 - lr * weight_decay) - lr * m_hat / (v_hat.sqrt() + eps).",
    ),
)

EXERCISES = (linear_backward, relu_backward, gradient_check, adamw_step)
