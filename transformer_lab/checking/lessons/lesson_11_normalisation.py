"""Exercises of lesson 11: layer, RMS and batch norm, LayerNorm's backward pass, running statistics."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lab.checking.exercise import (
    Answer,
    Exercise,
    Probe,
    Wrong,
    gradient,
    numbers,
    other_device,
    twice,
)

LESSON = "11_normalisation"

_HALF, _DOUBLE = torch.float16, torch.float64

Pair = tuple[Tensor, Tensor]
Triple = tuple[Tensor, Tensor, Tensor]

_EIGHT = torch.tensor([[8.0, 0.0, 2.0, 2.0]])  # mean 3, variance 9
_ONES, _ZEROS = torch.ones(4), torch.zeros(4)
_GAIN, _BIAS = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.5, 0.0, 0.0, -1.0])
_WAVE = torch.tensor([[1.0, -1.0, 1.0, -1.0]])  # mean 0, variance 1
_SPIKE = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
_FAR = torch.tensor([[10000.0, 10001.0, 10002.0, 10003.0]])
# Mean 200, deviations 300 and -100.
_HUGE = torch.tensor([[500.0, 100.0, 100.0, 100.0]], dtype=_HALF)
_TINY = torch.tensor([[1e-4, -1e-4, 1e-4, -1e-4]], dtype=_HALF)

_LOST_AXIS = "In a square a lost axis goes unnoticed: think of keepdim=True."
_BIASED = "The variance is the biased one: the mean of the squared deviations, divided by d and not by d - 1."
_ONE_NUMBER = "math.sqrt takes one number; {} Take torch.sqrt(v + eps), or (v + eps).sqrt()."
_EPS_IN = "Is eps added under the root, to the variance?"


def _affine(values: int, seed: int, dtype: torch.dtype = torch.float32) -> Pair:
    return numbers(values, seed=seed, dtype=dtype), numbers(values, seed=seed + 1, dtype=dtype)


def _root(variance: Tensor, eps: float) -> Tensor:
    return (variance + eps).sqrt()


def _root_of_one_number(variance: Tensor, eps: float) -> Any:
    return math.sqrt(variance + eps)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _like_float32(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Whether half precision gives the numbers of float32, rounded once, at the end."""
    wide = answer(*(arg.float() for arg in args), **kwargs)
    narrow = answer(*args, **kwargs)
    share = (narrow != wide.to(narrow.dtype)).float().mean()
    # One in a hundred may fall on the other side of a tie, by another order of the operations.
    return "float32's numbers" if share < 0.01 else "other numbers than float32's"


def _gradients_by_name(*names: str) -> Callable[[Answer, tuple[Any, ...], Mapping[str, Any]], Any]:
    """Each gradient behind its name: three of them would be shown under the names of three results."""

    def use(answer: Answer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        found = gradient().use(answer, args, kwargs)
        return tuple(each for pair in zip(names, found, strict=True) for each in pair)

    return use


# ---------------------------------------------------------------------------- layer_norm


def _layer_norm_in_double(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    wide, gain, bias = x.double(), gamma.double(), beta.double()
    return F.layer_norm(wide, (x.shape[-1],), gain, bias, eps).to(x.dtype)


def _layer_norm_with(
    *,
    dim: Any = -1,
    keepdim: bool = True,
    centred: bool = True,
    correction: int = 0,
    variance: Callable[[Tensor], Tensor] | None = None,
    root: Callable[[Tensor, float], Tensor] = _root,
    affine: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda h, gamma, beta: h * gamma + beta,
    widen: Callable[[Tensor], Tensor] = _wide,
) -> Answer:
    def answer(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
        wide = widen(x)
        deviation = wide - wide.mean(dim=dim, keepdim=keepdim) if centred else wide
        biased_or_not = wide.var(dim=dim, keepdim=keepdim, correction=correction)
        spread = variance(wide) if variance else biased_or_not
        return affine(deviation / root(spread, eps), gamma, beta).to(x.dtype)

    return answer


_layer_norm = _layer_norm_with()


def _layer_norm_of_all(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    return (x - x.mean()) / _root(x.var(correction=0), eps) * gamma + beta


def _layer_norm_by_rows(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    return torch.stack([_layer_norm_of_all(row, gamma, beta, eps) for row in x])


def _layer_norm_over_len(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    c = x - x.sum(-1, keepdim=True) / len(x)
    return c / _root(c.square().sum(-1, keepdim=True) / len(x), eps) * gamma + beta


def _layer_norm_changes_input(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    wide = _wide(x)  # the same tensor when x is float32
    wide -= wide.mean(dim=-1, keepdim=True)
    wide /= _root(_mean_square(wide), eps)
    return (wide * gamma + beta).to(x.dtype)


def _layer_norm_changes_and_returns(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5
) -> Tensor:
    wide = _wide(x)
    wide -= wide.mean(dim=-1, keepdim=True)
    return (wide / _root(_mean_square(wide), eps) * gamma + beta).to(x.dtype)


def _layer_norm_wide_out(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    wide = _wide(x)
    centred = wide - wide.mean(dim=-1, keepdim=True)
    return centred / _root(_mean_square(centred), eps) * gamma + beta


def _layer_norm_in_own_dtype(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / _root(_mean_square(centred), eps) * gamma + beta


def _layer_norm_widened_late(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = _wide(centred.square()).mean(dim=-1, keepdim=True)
    return (centred / _root(variance, eps) * gamma + beta).to(x.dtype)


def _layer_norm_narrow_again(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    wide = _wide(x)
    centred = wide - wide.mean(dim=-1, keepdim=True)
    variance = _mean_square(centred).to(x.dtype)
    return (centred.to(x.dtype) / _root(variance, eps) * gamma + beta).to(x.dtype)


def _layer_norm_dtype_of_gain(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    h = _layer_norm_wide_out(x, torch.ones_like(gamma), torch.zeros_like(beta), eps)
    return h.to(x.dtype) * gamma + beta


def _layer_norm_back_before_gain(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5
) -> Tensor:
    return _layer_norm_dtype_of_gain(x, gamma.to(x.dtype), beta.to(x.dtype), eps)


def _layer_norm_float32_out(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    found: Tensor = _layer_norm(x.float(), gamma.float(), beta.float(), eps)
    return found


def _layer_norm_by_projection(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    wide = _wide(x)
    ones = torch.ones_like(wide) / x.shape[-1] ** 0.5
    centred = wide - (wide * ones).sum(-1, keepdim=True) * ones
    length = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    # The root of (length² / d + eps), with a gradient where the length is 0 as well.
    return (centred * (length.square() / x.shape[-1] + eps).rsqrt() * gamma + beta).to(x.dtype)


def _layer_norm_by_module(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    h: Tensor = nn.LayerNorm(x.shape[-1], eps)(x)
    return h * gamma + beta


def _mean_square(x: Tensor) -> Tensor:
    return x.square().mean(dim=-1, keepdim=True)


_layer_norm_sizes = (numbers(3, 5, seed=1), *_affine(5, 2))

layer_norm = Exercise(
    name="layer_norm",
    lesson=LESSON,
    signature="layer_norm(x, gamma, beta, eps=1e-5)",
    reference=_layer_norm_in_double,
    built_ins=(
        F.layer_norm,
        torch.layer_norm,
        torch.native_layer_norm,
        F.group_norm,
        torch.group_norm,
        F.batch_norm,
        torch.batch_norm,
        F.instance_norm,
        torch.instance_norm,
        F.rms_norm,
        torch.rms_norm,
    ),
    probes=(
        Probe(
            "one token (8, 0, 2, 2), whose mean is 3 and variance 9",
            (_EIGHT, _ONES, _ZEROS),
            explain="On paper: the deviations are (5, -3, -1, -1), and all are divided by 3.",
        ),
        Probe(
            "the same with a gain and a bias",
            (_EIGHT, _GAIN, _BIAS),
            explain="First the normalised numbers, then times gamma, then plus beta.",
        ),
        Probe("one token (1, 0, 0, 0)", (_SPIKE, _ONES, _ZEROS), explain=_BIASED),
        Probe(
            "three tokens of five features",
            _layer_norm_sizes,
            explain="Each token is normalised alone: mean and variance run over the features, the last axis.",
        ),
        Probe(
            "two sentences of three tokens of five features",
            (numbers(2, 3, 5, seed=4), *_affine(5, 5)),
            explain="Count the axes from the end: the features are the last, -1.",
        ),
        Probe(
            "one token without any other axis",
            (numbers(5, seed=7), *_affine(5, 8)),
            explain="Count the axes from the end: the features are the last, -1.",
        ),
        Probe(
            "four tokens of four features",
            (numbers(4, 4, seed=10), *_affine(4, 11)),
            explain=_LOST_AXIS,
        ),
        Probe(
            "a token of zeros, such as padding: the result is beta",
            (torch.zeros(1, 4), _GAIN, _BIAS),
            explain="The variance is 0, and 0 / 0 is NaN: that is what eps is for.",
        ),
        Probe(
            "a small token, (1, -1, 1, -1) / 1000",
            (_WAVE / 1000, _ONES, _ZEROS),
            explain=f"Here the variance, 1e-6, is smaller than eps. {_EPS_IN}",
        ),
        Probe(
            "eps = 1",
            (_EIGHT, _ONES, _ZEROS),
            {"eps": 1.0},
            "Does it use the eps that it is given? Here it divides by the root of 9 + 1.",
        ),
        Probe(
            "numbers around 10,000",
            (_FAR, _ONES, _ZEROS),
            explain="Subtract the mean before you square: mean(x²) - mean(x)² is a small difference of large "
            "numbers, and float32 has 7 digits.",
        ),
        Probe(
            "numbers in float64",
            (numbers(3, 5, seed=13, dtype=_DOUBLE), *_affine(5, 14, _DOUBLE)),
            explain="It should keep the dtype and its precision: is something converted?",
        ),
        Probe(
            "numbers in half precision",
            (numbers(3, 5, seed=16, dtype=_HALF), *_affine(5, 17, _HALF)),
            explain="The result should have the dtype of x.",
        ),
        Probe(
            "(500, 100, 100, 100) in float16",
            (_HUGE, _ONES.to(_HALF), _ZEROS.to(_HALF)),
            explain="The mean is 200, and 300² is beyond float16, which ends at 65504: widen x to float32 before you "
            "square anything, and come back at the end.",
        ),
        Probe(
            "(1, -1, 1, -1) / 10,000 in float16, with eps = 1e-12",
            (_TINY, _ONES.to(_HALF), _ZEROS.to(_HALF)),
            {"eps": 1e-12},
            "The variance, 1e-8, and eps are both 0 in float16: widen x to float32 before you square anything.",
        ),
        Probe(
            "x in float16, gain and bias in float32",
            (numbers(3, 5, seed=25, dtype=_HALF), *_affine(5, 26)),
            explain="The result should have the dtype of x, whatever that of gamma and beta.",
        ),
        Probe(
            "bfloat16",
            (numbers(3, 5, seed=28, dtype=torch.bfloat16), *_affine(5, 29, torch.bfloat16)),
            explain="The result should have the dtype of x.",
        ),
        Probe(
            "256 features in bfloat16, beside the same in float32, rounded at the end",
            (
                numbers(3, 256, seed=50, dtype=torch.bfloat16),
                torch.ones(256, dtype=torch.bfloat16),
                torch.zeros(256, dtype=torch.bfloat16),
            ),
            explain="In bfloat16 something is computed before it is widened, or after it came back: 8 binary digits. "
            "Widen x first, come back at the end.",
            use=_like_float32,
        ),
        Probe("a transposed, non-contiguous table", (numbers(5, 3, seed=19).T, *_affine(5, 20))),
        gradient(numbers(3, 5, seed=22), *_affine(5, 23)),
        twice(*_layer_norm_sizes),
        other_device(*_layer_norm_sizes),
    ),
    wrong_answers=(
        Wrong(
            "torch's module",
            _layer_norm_by_module,
            "torch's own LayerNorm makes your numbers, which is the thing to be written. Build it from mean, "
            "square and root.",
        ),
        Wrong(
            "unbiased, eps outside",
            _layer_norm_with(correction=1, root=lambda v, eps: v.sqrt() + eps),
            "Your numbers are those of x.std() + eps, two mistakes in one: torch's std divides by d - 1 (a norm "
            "divides by d), and eps belongs under the root, added to the variance.",
        ),
        Wrong(
            "unbiased",
            _layer_norm_with(correction=1),
            "Your variance is the unbiased one: torch's .var() and .std() divide by d - 1. A norm divides by d: "
            "`correction=0`, or the mean of the squared deviations.",
        ),
        Wrong(
            "unbiased, no eps",
            _layer_norm_with(correction=1, root=lambda v, eps: v.sqrt()),
            "Your numbers are those of x.std(), without eps: torch's std divides by d - 1 (a norm divides by d), "
            "and a constant token gives 0 / 0. Take the mean of the squared deviations, and add eps to it.",
        ),
        Wrong(
            "eps outside the root",
            _layer_norm_with(root=lambda v, eps: v.sqrt() + eps),
            "You add eps to the deviation, outside the root. It belongs under the root: (variance + eps).sqrt(). "
            "Else the gradient of the root at 0 is infinite.",
        ),
        Wrong(
            "no eps",
            _layer_norm_with(root=lambda v, eps: v.sqrt()),
            "eps is missing: a constant token has variance 0, and 0 / 0 is NaN. Add eps to the variance, under the "
            "root.",
        ),
        Wrong(
            "eps fixed",
            _layer_norm_with(root=lambda v, eps: (v + 1e-5).sqrt()),
            "Your eps is always 1e-5. Use the eps that is passed: models differ in it.",
        ),
        Wrong(
            "the larger of variance and eps",
            _layer_norm_with(root=lambda v, eps: v.clamp(min=eps).sqrt()),
            "You take the larger of variance and eps. Add eps to the variance.",
        ),
        Wrong(
            "the larger of deviation and eps",
            _layer_norm_with(root=lambda v, eps: v.sqrt().clamp(min=eps)),
            "You take the larger of deviation and eps. Add eps to the variance, under the root.",
        ),
        Wrong(
            "eps squared",
            _layer_norm_with(root=lambda v, eps: (v + eps**2).sqrt()),
            "You add eps² to the variance. Add eps itself.",
        ),
        Wrong(
            "no root",
            _layer_norm_with(root=lambda v, eps: v + eps),
            "You divide by the variance. Divide by its root, the standard deviation.",
        ),
        Wrong(
            "no root, eps at the end",
            lambda x, gamma, beta, eps=1e-5: (
                _layer_norm_with(root=lambda v, _: v)(x, gamma, beta) + eps
            ),
            "Two things: you divide by the variance, where its root belongs, and you add eps to what comes out. Add it "
            "to the variance, under the root: centred / (variance + eps).sqrt().",
        ),
        Wrong(
            "eps at the end",
            lambda x, gamma, beta, eps=1e-5: (
                _layer_norm_with(root=lambda v, _: v.sqrt())(x, gamma, beta) + eps
            ),
            "You add eps to what comes out of the division, where it keeps nothing from 0 / 0. Add it to the variance, "
            "in brackets: centred / (variance + eps).sqrt().",
        ),
        Wrong(
            "math.sqrt",
            _layer_norm_with(root=_root_of_one_number),
            _ONE_NUMBER.format("v holds one for each token."),
        ),
        Wrong(
            "multiplied",
            _layer_norm_with(root=lambda v, eps: 1 / _root(v, eps)),
            "You multiply by the standard deviation. Divide by it.",
        ),
        Wrong(
            "mean not subtracted, mean square",
            _layer_norm_with(centred=False, variance=_mean_square),
            "Your numbers are those of RMSNorm: the mean isn't subtracted. LayerNorm subtracts it first.",
        ),
        Wrong(
            "mean not subtracted, variance",
            _layer_norm_with(centred=False),
            "You divide by the deviation but don't subtract the mean: x - mean goes into the numerator too.",
        ),
        Wrong(
            "mean square in place of the variance",
            _layer_norm_with(variance=_mean_square),
            "You divide by the root of the mean of x². The variance is the mean of (x - mean)².",
        ),
        Wrong(
            "absolute deviation",
            _layer_norm_with(
                variance=lambda x: (
                    (x - x.mean(-1, keepdim=True)).abs().mean(-1, keepdim=True).square()
                )
            ),
            "You divide by the mean absolute deviation. The standard deviation squares first: the root of the mean "
            "of (x - mean)².",
        ),
        Wrong(
            "not divided",
            lambda x, gamma, beta, eps=1e-5: (x - x.mean(-1, keepdim=True)) * gamma + beta,
            "You subtract the mean but don't divide by the standard deviation.",
        ),
        Wrong(
            "sum of squares",
            _layer_norm_with(
                variance=lambda x: (x - x.mean(-1, keepdim=True)).square().sum(-1, keepdim=True)
            ),
            "You divide by the root of the sum of squared deviations. The variance is their mean.",
        ),
        Wrong(
            "len(x) for d",
            _layer_norm_over_len,
            "len(x) is the first axis, the number of tokens. The number of features is x.shape[-1].",
        ),
        Wrong(
            "len(x) for d in the variance",
            _layer_norm_with(
                variance=lambda x: (
                    (x - x.mean(-1, keepdim=True)).square().sum(-1, keepdim=True) / len(x)
                )
            ),
            "In the variance you divide by len(x), the first axis, which is the number of tokens. The number of "
            "features is x.shape[-1].",
        ),
        Wrong(
            "mean of squares minus square of the mean",
            _layer_norm_with(
                variance=lambda x: _mean_square(x) - x.mean(-1, keepdim=True).square()
            ),
            "You compute the variance as mean(x²) - mean(x)². That is right on paper, but a small difference of "
            "large numbers: float32 loses its digits. Subtract the mean first, then square.",
        ),
        Wrong(
            "over the first axis",
            _layer_norm_with(dim=0),
            "You normalise down the first axis, each feature over the tokens (a BatchNorm). LayerNorm takes one "
            "token's features: dim=-1.",
        ),
        Wrong(
            "over the positions",
            _layer_norm_with(dim=-2),
            "You normalise over the positions, dim=-2. That lets a token see its neighbours, the later ones too. "
            "LayerNorm takes one token's features: dim=-1.",
        ),
        Wrong(
            "axis 1",
            _layer_norm_with(dim=1),
            "You normalise over axis 1, which is the last only if there are two axes. Count from the end: dim=-1.",
        ),
        Wrong(
            "over all but the batch",
            _layer_norm_with(dim=(-2, -1)),
            "You normalise over positions and features together. Each token is normalised alone: dim=-1.",
        ),
        Wrong(
            "a loop over the first axis",
            _layer_norm_by_rows,
            "You go through the first axis and normalise each x[i] as a whole. x[i] is a whole sentence when x has "
            "three axes. Each token is normalised alone, without a loop: dim=-1, keepdim=True.",
        ),
        Wrong(
            "over everything",
            _layer_norm_of_all,
            "You take one mean and one variance of the whole tensor. Each token has its own: dim=-1, keepdim=True.",
        ),
        Wrong(
            "axis lost",
            _layer_norm_with(keepdim=False),
            "Your mean and variance have lost their axis, so each token is normalised with the numbers of others, or "
            "the sizes don't fit. Keep it: keepdim=True.",
        ),
        Wrong(
            "no gain, no bias",
            _layer_norm_with(affine=lambda h, gamma, beta: h),
            "The normalised numbers are right; `gamma` and `beta` are missing: times gamma, plus beta.",
        ),
        Wrong(
            "no gain",
            _layer_norm_with(affine=lambda h, gamma, beta: h + beta),
            "`gamma` is missing: multiply the normalised numbers by it before you add beta.",
        ),
        Wrong(
            "no bias",
            _layer_norm_with(affine=lambda h, gamma, beta: h * gamma),
            "`beta` is missing: add it at the end.",
        ),
        Wrong(
            "bias before gain",
            _layer_norm_with(affine=lambda h, gamma, beta: (h + beta) * gamma),
            "You add beta before you multiply by gamma. First times gamma, then plus beta.",
        ),
        Wrong(
            "gain and bias swapped",
            _layer_norm_with(affine=lambda h, gamma, beta: h * beta + gamma),
            "gamma and beta have changed places: gamma multiplies, beta is added.",
        ),
        Wrong(
            "gain and bias swapped, unbiased",
            _layer_norm_with(correction=1, affine=lambda h, gamma, beta: h * beta + gamma),
            "Your result is gamma: h is multiplied by beta, which is 0 here. gamma multiplies, beta is added. And "
            ".var() divides by d - 1, a norm by d: correction=0.",
        ),
        Wrong(
            "gain by @",
            _layer_norm_with(affine=lambda h, gamma, beta: h @ gamma + beta),
            "@ adds the products up. gamma multiplies feature by feature: h * gamma.",
        ),
        Wrong(
            "gain by @, no bias",
            _layer_norm_with(affine=lambda h, gamma, beta: h @ gamma),
            "@ adds the products up. gamma multiplies feature by feature, and beta is added: h * gamma + beta.",
        ),
        Wrong(
            "one plus gain",
            _layer_norm_with(affine=lambda h, gamma, beta: h * (1 + gamma) + beta),
            "You multiply by 1 + gamma, which is how Gemma stores its gains. Here gamma is the gain itself.",
        ),
        Wrong(
            "in its own dtype",
            lambda x, gamma, beta, eps=1e-5: _layer_norm_in_own_dtype(x, gamma, beta, eps).to(
                x.dtype
            ),
            "You compute in the dtype of x. In float16 a deviation of 300 squares to inf (and the token becomes zeros) "
            "and small squares become 0. Widen x to float32 first, and come back with .to(x.dtype).",
        ),
        Wrong(
            "in its own dtype, dtype of the gain",
            _layer_norm_in_own_dtype,
            "You compute in the dtype of x, where 300² overflows (float16 ends at 65504), and a float32 gain makes the "
            "result float32. Widen x to float32 first, and end with .to(x.dtype).",
        ),
        Wrong(
            "bfloat16 not widened",
            _layer_norm_with(widen=lambda x: x.float() if x.dtype == _HALF else x),
            "In bfloat16 you compute in bfloat16: 8 binary digits. Widen it as well: "
            "torch.promote_types(x.dtype, torch.float32), and come back only at the end.",
        ),
        Wrong(
            "widened after the square",
            _layer_norm_widened_late,
            "You widen the squared deviation: it has overflowed by then, or become 0. Widen x itself to float32, "
            "before the mean.",
        ),
        Wrong(
            "narrowed before the root",
            _layer_norm_narrow_again,
            "You take the variance in float32 and bring it back to half precision too early, where a small one is 0. "
            "Normalise in float32, then come back.",
        ),
        Wrong(
            "float16 returned",
            lambda x, gamma, beta, eps=1e-5: _layer_norm_wide_out(x, gamma, beta, eps).half(),
            "Your numbers are rounded to float16, whatever x is: end with .to(x.dtype).",
        ),
        Wrong(
            "float32 returned",
            _layer_norm_float32_out,
            "Your result is float32, whatever x is. It should have the dtype of x: end with .to(x.dtype). And widen "
            "half precision only; float64 should not be narrowed.",
        ),
        Wrong(
            "not brought back",
            _layer_norm_wide_out,
            "Half precision comes in and float32 goes out. Bring the result back: .to(x.dtype).",
        ),
        Wrong(
            "dtype of the gain",
            _layer_norm_dtype_of_gain,
            "You come back to the dtype of x before gain and bias; if these are float32, the result is float32 again. "
            "End with .to(x.dtype).",
        ),
        Wrong(
            "float64 narrowed",
            _layer_norm_with(widen=Tensor.float),
            "x.float() narrows float64 to float32 and loses half of its digits. Widen half precision only, for "
            "example to torch.promote_types(x.dtype, torch.float32).",
        ),
        Wrong(
            "input changed",
            _layer_norm_changes_input,
            "Your numbers are right, but `-=` and `/=` write into the caller's tensor, which a residual connection "
            "still needs (for float32, .float() and .to() return x itself, no copy). Make new ones: `wide - …`.",
        ),
        Wrong(
            "input shifted",
            _layer_norm_changes_and_returns,
            "Your numbers are right, but `-=` takes the mean out of the caller's tensor, which a residual connection "
            "still needs (for float32, .float() and .to() return x itself, no copy). Make a new one: `wide - …`.",
        ),
        Wrong(
            "gradient of the statistics cut off",
            lambda x, gamma, beta, eps=1e-5: (
                (_wide(x) - _wide(x).mean(-1, keepdim=True).detach())
                / _root(_wide(x).var(-1, keepdim=True, correction=0), eps).detach()
                * gamma
                + beta
            ).to(x.dtype),
            "The values are right, but mean and variance are cut off from the gradient. They depend on x: leave out "
            ".detach() and torch.no_grad().",
        ),
    ),
    correct_alternatives=(
        _layer_norm,
        _layer_norm_by_projection,
        _layer_norm_back_before_gain,
        lambda x, gamma, beta, eps=1e-5: _layer_norm_wide_out(
            x.double(), gamma.double(), beta.double(), eps
        ).to(x.dtype),
        lambda x, gamma, beta, eps=1e-5: torch.addcmul(
            beta.to(_wide(x).dtype),
            (_wide(x) - _wide(x).mean(-1, True))
            * (_wide(x).var(-1, False, keepdim=True) + eps).rsqrt(),
            gamma.to(_wide(x).dtype),
        ).to(x.dtype),
    ),
    hints=(
        "Four steps: widen half precision, subtract each token's mean, divide by its standard deviation, then gain and "
        "bias. Over which axis does the mean run, and what shape must it have to be subtracted?",
        "wide = x.to(torch.promote_types(x.dtype, torch.float32)) leaves float32 and float64 alone. "
        "wide.mean(dim=-1, keepdim=True) has the shape (…, 1). The variance is the mean of the squared deviations, "
        "over the same axis; torch's .var() divides by d - 1 unless correction=0.",
        "centred = wide - mean; variance = centred.square().mean(dim=-1, keepdim=True); then "
        "(centred / (variance + eps).sqrt() * gamma + beta).to(x.dtype).",
    ),
)

# ---------------------------------------------------------------------------- rms_norm


def _rms_norm_in_double(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    wide = x.double()
    mean_square = torch.einsum("...d,...d->...", wide, wide)[..., None] / x.shape[-1]
    return (wide * gain.double() / torch.sqrt(mean_square + eps)).to(x.dtype)


def _rms_norm_with(
    *,
    dim: Any = -1,
    keepdim: bool = True,
    spread: Callable[[Tensor], Tensor] | None = None,
    root: Callable[[Tensor, float], Tensor] = _root,
    weigh: Callable[[Tensor, Tensor], Tensor] = lambda h, gain: h * gain,
    widen: Callable[[Tensor], Tensor] = _wide,
    centred: bool = False,
) -> Answer:
    def answer(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
        wide = widen(x)
        wide = wide - wide.mean(dim=dim, keepdim=keepdim) if centred else wide
        square = wide.square().mean(dim=dim, keepdim=keepdim) if spread is None else spread(wide)
        return weigh(wide / root(square, eps), gain).to(x.dtype)

    return answer


_rms_norm = _rms_norm_with()


def _rms_norm_by_module(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    h: Tensor = nn.RMSNorm(x.shape[-1], eps)(x)
    return h * gain


def _rms_norm_llama(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    wide = _wide(x)
    h = wide * torch.rsqrt(_mean_square(wide) + eps)
    return h.to(x.dtype) * gain.to(x.dtype)


def _rms_norm_by_length(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    wide = _wide(x)
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return (gain * wide / (length**2 / x.shape[-1] + eps) ** 0.5).type_as(x)


def _rms_norm_dtype_of_gain(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    wide = _wide(x)
    return (wide / _root(_mean_square(wide), eps)).to(x.dtype) * gain


def _rms_norm_wide_out(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    wide = _wide(x)
    return wide / _root(_mean_square(wide), eps) * gain


def _rms_norm_float32_out(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    return x.float() / _root(_mean_square(x.float()), eps) * gain.float()


def _rms_norm_widened_late(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    square = _wide(x.square()).mean(dim=-1, keepdim=True)
    return (_wide(x) / _root(square, eps) * gain).to(x.dtype)


def _rms_norm_narrow_again(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    square = _mean_square(_wide(x)).to(x.dtype)
    return (x / _root(square, eps) * gain).to(x.dtype)


def _rms_norm_changes_input(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    wide = _wide(x)  # the same tensor when x is float32
    wide *= torch.rsqrt(_mean_square(wide) + eps)
    return (wide * gain).to(x.dtype)


_ONE = torch.tensor([[1.0, 1.0, 3.0, 5.0]])  # mean square 9
_LARGE = torch.tensor([[300.0, 100.0, 100.0, 100.0]], dtype=_HALF)
_rms_norm_sizes = (numbers(3, 5, seed=31), numbers(5, seed=32))

rms_norm = Exercise(
    name="rms_norm",
    lesson=LESSON,
    signature="rms_norm(x, gain, eps=1e-5)",
    reference=_rms_norm_in_double,
    built_ins=(F.rms_norm, torch.rms_norm, F.layer_norm, torch.layer_norm, F.normalize),
    probes=(
        Probe(
            "one token (1, 1, 3, 5), whose mean square is 9",
            (_ONE, _ONES),
            explain="On paper: all are divided by 3. No mean is subtracted.",
        ),
        Probe(
            "the same with a gain",
            (_ONE, _GAIN),
            explain="The normalised numbers times the gain.",
        ),
        Probe(
            "three tokens of five features",
            _rms_norm_sizes,
            explain="Each token is normalised alone: the mean runs over the features, the last axis.",
        ),
        Probe(
            "two sentences of three tokens of five features",
            (numbers(2, 3, 5, seed=33), numbers(5, seed=34)),
            explain="Count the axes from the end: the features are the last, -1.",
        ),
        Probe(
            "one token without any other axis",
            (numbers(5, seed=35), numbers(5, seed=36)),
            explain="Count the axes from the end: the features are the last, -1.",
        ),
        Probe(
            "four tokens of four features",
            (numbers(4, 4, seed=37), numbers(4, seed=38)),
            explain=_LOST_AXIS,
        ),
        Probe(
            "a token of zeros: the result is zeros",
            (torch.zeros(1, 4), _GAIN),
            explain="0 / 0 is NaN: that is what eps is for.",
        ),
        Probe(
            "a small token, (1, 1, 3, 5) / 1000",
            (_ONE / 1000, _ONES),
            explain="Here the mean square, 9e-6, is smaller than eps. Is eps added under the root?",
        ),
        Probe(
            "eps = 1",
            (_ONE, _ONES),
            {"eps": 1.0},
            "Does it use the eps that it is given? Here it divides by the root of 9 + 1.",
        ),
        Probe(
            "(300, 100, 100, 100) in float16",
            (_LARGE, _ONES.to(_HALF)),
            explain="300² is beyond float16, which ends at 65504: widen x to float32 before you square it, and come "
            "back at the end.",
        ),
        Probe(
            "(1, -1, 1, -1) / 10,000 in float16, with eps = 1e-12",
            (_TINY, _ONES.to(_HALF)),
            {"eps": 1e-12},
            "The square, 1e-8, and eps are both 0 in float16: widen x to float32 before you square it.",
        ),
        Probe(
            "x in float16, the gain in float32",
            (numbers(3, 5, seed=39, dtype=_HALF), numbers(5, seed=40)),
            explain="The result should have the dtype of x, whatever that of the gain.",
        ),
        Probe(
            "bfloat16",
            (
                numbers(3, 5, seed=41, dtype=torch.bfloat16),
                numbers(5, seed=42, dtype=torch.bfloat16),
            ),
            explain="The result should have the dtype of x.",
        ),
        Probe(
            "256 features in bfloat16, beside the same in float32, rounded at the end",
            (
                numbers(3, 256, seed=49, dtype=torch.bfloat16),
                torch.ones(256, dtype=torch.bfloat16),
            ),
            explain="In bfloat16 something is computed before it is widened, or after it came back: 8 binary digits. "
            "Widen x first, come back at the end.",
            use=_like_float32,
        ),
        Probe(
            "float64",
            (numbers(3, 5, seed=43, dtype=_DOUBLE), numbers(5, seed=44, dtype=_DOUBLE)),
            explain="float64 should not be narrowed to float32: widen half precision only.",
        ),
        Probe(
            "a transposed, non-contiguous table", (numbers(5, 3, seed=45).T, numbers(5, seed=46))
        ),
        gradient(numbers(3, 5, seed=47), numbers(5, seed=48)),
        twice(*_rms_norm_sizes),
        other_device(*_rms_norm_sizes),
    ),
    wrong_answers=(
        Wrong(
            "torch's module",
            _rms_norm_by_module,
            "torch's own RMSNorm makes your numbers, which is the thing to be written. Build it from square, "
            "mean and root.",
        ),
        Wrong(
            "mean subtracted",
            _rms_norm_with(centred=True),
            "Your numbers are those of LayerNorm: you subtract the mean. RMSNorm leaves it in.",
        ),
        Wrong(
            "variance",
            _rms_norm_with(spread=lambda x: x.var(-1, keepdim=True, correction=0)),
            "You divide by the standard deviation, which measures from the mean. RMSNorm measures from 0: the root "
            "of the mean of x².",
        ),
        Wrong(
            "unbiased variance",
            _rms_norm_with(spread=lambda x: x.var(-1, keepdim=True)),
            "You divide by x.std(), which measures from the mean and divides by d - 1. RMSNorm takes the root of the "
            "mean of x².",
        ),
        Wrong(
            "no root",
            _rms_norm_with(root=lambda v, eps: v + eps),
            "You divide by the mean square. Divide by its root.",
        ),
        Wrong(
            "sum of squares",
            _rms_norm_with(spread=lambda x: x.square().sum(-1, keepdim=True)),
            "You divide by the length of x, the root of the sum of squares. RMSNorm takes the root of their mean.",
        ),
        Wrong(
            "divided by d - 1",
            _rms_norm_with(spread=lambda x: x.square().sum(-1, keepdim=True) / (x.shape[-1] - 1)),
            "You divide the sum of squares by d - 1. It is a mean: divide by d.",
        ),
        Wrong(
            "mean of the absolute values",
            _rms_norm_with(spread=lambda x: x.abs().mean(-1, keepdim=True).square()),
            "You divide by the mean of |x|. Square first: the root of the mean of x².",
        ),
        Wrong(
            "square of the mean",
            _rms_norm_with(spread=lambda x: x.mean(-1, keepdim=True).square()),
            "You square the mean. It is the mean of the squares: first square, then mean.",
        ),
        Wrong(
            "math.sqrt",
            _rms_norm_with(root=_root_of_one_number),
            _ONE_NUMBER.format("v, the mean square, holds one for each token."),
        ),
        Wrong(
            "multiplied",
            _rms_norm_with(root=lambda v, eps: torch.rsqrt(v + eps)),
            "You multiply by the root mean square. Divide by it, or multiply by torch.rsqrt.",
        ),
        Wrong(
            "eps outside the root",
            _rms_norm_with(root=lambda v, eps: v.sqrt() + eps),
            "You add eps outside the root. It belongs under it: (mean square + eps).sqrt(). Else the gradient of the "
            "root at 0 is infinite.",
        ),
        Wrong(
            "no eps",
            _rms_norm_with(root=lambda v, eps: v.sqrt()),
            "eps is missing: a token of zeros gives 0 / 0, NaN. Add eps to the mean square, under the root.",
        ),
        Wrong(
            "eps fixed",
            _rms_norm_with(root=lambda v, eps: (v + 1e-5).sqrt()),
            "Your eps is always 1e-5. Use the eps that is passed: T5 has 1e-6.",
        ),
        Wrong(
            "the larger of mean square and eps",
            _rms_norm_with(root=lambda v, eps: v.clamp(min=eps).sqrt()),
            "You take the larger of mean square and eps. Add eps to the mean square.",
        ),
        Wrong(
            "over the first axis",
            _rms_norm_with(dim=0),
            "You normalise down the first axis, each feature over the tokens. RMSNorm takes one token's features: "
            "dim=-1.",
        ),
        Wrong(
            "over the positions",
            _rms_norm_with(dim=-2),
            "You normalise over the positions, dim=-2: a token then sees its neighbours. RMSNorm takes one token's "
            "features: dim=-1.",
        ),
        Wrong(
            "axis 1",
            _rms_norm_with(dim=1),
            "You normalise over axis 1, which is the last only if there are two axes. Count from the end: dim=-1.",
        ),
        Wrong(
            "over everything",
            _rms_norm_with(spread=lambda x: x.square().mean()),
            "You take one mean square of the whole tensor. Each token has its own: dim=-1, keepdim=True.",
        ),
        Wrong(
            "axis lost",
            _rms_norm_with(keepdim=False),
            "Your mean square has lost its axis, so each token is divided by the size of another, or the sizes don't "
            "fit. Keep it: keepdim=True.",
        ),
        Wrong(
            "no gain",
            _rms_norm_with(weigh=lambda h, gain: h),
            "The normalised numbers are right; the gain is missing.",
        ),
        Wrong(
            "one plus gain",
            _rms_norm_with(weigh=lambda h, gain: h * (1 + gain)),
            "You multiply by 1 + gain, which is how Gemma stores its gains. Here it is the gain itself.",
        ),
        Wrong(
            "gain by @",
            _rms_norm_with(weigh=lambda h, gain: h @ gain.to(h.dtype)),
            "@ adds the products up. The gain multiplies feature by feature: h * gain.",
        ),
        Wrong(
            "divided by the gain",
            _rms_norm_with(weigh=lambda h, gain: h / gain),
            "You divide by the gain. Multiply by it.",
        ),
        Wrong(
            "in its own dtype",
            _rms_norm_with(widen=lambda x: x),
            "You compute in the dtype of x. In float16 300² overflows to inf (and the token becomes zeros), and "
            "small squares become 0. Widen x to float32 first, and come back with .to(x.dtype).",
        ),
        Wrong(
            "in its own dtype, dtype of the gain",
            lambda x, gain, eps=1e-5: x / _root(_mean_square(x), eps) * gain,
            "You compute in the dtype of x, where 300² overflows (float16 ends at 65504), and a float32 gain makes "
            "the result float32. Widen x to float32 first, and end with .to(x.dtype).",
        ),
        Wrong(
            "bfloat16 not widened",
            _rms_norm_with(widen=lambda x: x.float() if x.dtype == _HALF else x),
            "In bfloat16 you compute in bfloat16: 8 binary digits. Widen it as well: "
            "torch.promote_types(x.dtype, torch.float32), and come back only at the end.",
        ),
        Wrong(
            "widened after the square",
            _rms_norm_widened_late,
            "You widen the square, or its mean: x² has overflowed by then, or become 0. Widen x itself to float32.",
        ),
        Wrong(
            "narrowed before the root",
            _rms_norm_narrow_again,
            "You take the mean square in float32 and bring it back to half precision too early: the mean of squares "
            "doesn't fit there. Normalise in float32, then come back.",
        ),
        Wrong(
            "float16 returned",
            lambda x, gain, eps=1e-5: _rms_norm_wide_out(x, gain, eps).half(),
            "Your numbers are rounded to float16, whatever x is: end with .to(x.dtype).",
        ),
        Wrong(
            "float32 returned",
            _rms_norm_float32_out,
            "Your result is float32, whatever x is. It should have the dtype of x: end with .to(x.dtype). And widen "
            "half precision only; float64 should not be narrowed.",
        ),
        Wrong(
            "not brought back",
            _rms_norm_wide_out,
            "Half precision comes in and float32 goes out. Bring the result back: .to(x.dtype).",
        ),
        Wrong(
            "dtype of the gain",
            _rms_norm_dtype_of_gain,
            "You come back to the dtype of x before the gain; a float32 gain makes the result float32 again. End "
            "with .to(x.dtype).",
        ),
        Wrong(
            "float64 narrowed",
            _rms_norm_with(widen=Tensor.float),
            "x.float() narrows float64 to float32 and loses half of its digits. Widen half precision only, for "
            "example to torch.promote_types(x.dtype, torch.float32).",
        ),
        Wrong(
            "input changed",
            _rms_norm_changes_input,
            "Your numbers are right, but `*=` writes into the caller's tensor: for float32, .float() and .to() "
            "return x itself, no copy. Make a new one: `wide * …`.",
        ),
    ),
    correct_alternatives=(_rms_norm, _rms_norm_llama, _rms_norm_by_length),
    hints=(
        "Square, mean over the features, plus eps, root: each token is divided by that. What happens to 300² in "
        "float16?",
        "Widen first: wide = x.to(torch.promote_types(x.dtype, torch.float32)) is float32 for half precision and "
        "leaves float32 and float64 alone. All that follows uses wide.",
        "mean_square = wide.square().mean(dim=-1, keepdim=True); the result is "
        "(wide / (mean_square + eps).sqrt() * gain).to(x.dtype).",
    ),
)

# ---------------------------------------------------------------------------- batch_norm_train


def _batch_norm_in_double(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Triple:
    columns = x.double().T  # BatchNorm of the rows is LayerNorm of the columns
    h = F.layer_norm(columns, (len(x),), eps=eps).T
    var, mean = torch.var_mean(columns, dim=1, correction=0)
    out = h * gamma.double() + beta.double()
    return out.to(x.dtype), mean.to(x.dtype), var.to(x.dtype)


def _batch_norm_with(
    *,
    dim: Any = 0,
    keepdim: bool = False,
    correction: int = 0,
    variance: Callable[[Tensor], Tensor] | None = None,
    root: Callable[[Tensor, float], Tensor] = _root,
    affine: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda h, gamma, beta: h * gamma + beta,
    give: Callable[[Tensor, Tensor, Tensor, float], Any] = lambda out, mean, var, eps: (
        out,
        mean,
        var,
    ),
) -> Answer:
    def answer(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Any:
        mean = x.mean(dim=dim, keepdim=keepdim)
        biased_or_not = x.var(dim=dim, keepdim=keepdim, correction=correction)
        var = variance(x) if variance else biased_or_not
        out = affine((x - mean) / root(var, eps), gamma, beta)
        return give(out, mean, var, eps)

    return answer


_batch_norm = _batch_norm_with()


def _batch_norm_of_all(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Triple:
    mean, var = x.mean(), x.var(correction=0)
    return (x - mean) / _root(var, eps) * gamma + beta, mean, var


def _batch_norm_of_all_unbiased(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5
) -> Triple:
    mean, var = x.mean(), x.var()
    return (x - mean) / _root(var, eps) * gamma + beta, mean, var


def _batch_norm_unbiased_returned(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5
) -> Triple:
    out, mean, _ = _batch_norm(x, gamma, beta, eps)
    return out, mean, x.var(dim=0)


def _batch_norm_unbiased_used(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Triple:
    mean, var = x.mean(dim=0), x.var(dim=0, correction=0)
    return (x - mean) / _root(x.var(dim=0), eps) * gamma + beta, mean, var


def _batch_norm_detached(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Triple:
    mean, var = x.mean(dim=0).detach(), x.var(dim=0, correction=0).detach()
    return (x - mean) / _root(var, eps) * gamma + beta, mean, var


def _batch_norm_by_torch(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Triple:
    out = F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)
    return out, x.mean(dim=0), x.var(dim=0, correction=0)


def _batch_norm_changes_input(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Triple:
    mean, var = x.mean(dim=0), x.var(dim=0, correction=0)
    x -= mean
    x /= _root(var, eps)
    return x * gamma + beta, mean, var


def _batch_norm_by_loop(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Triple:
    columns, means, variances = [], [], []
    for i in range(x.shape[1]):
        column = x[:, i]
        mean = column.sum() / len(column)
        variance = ((column - mean) ** 2).sum() / len(column)
        columns.append(gamma[i] * (column - mean) / (variance + eps) ** 0.5 + beta[i])
        means.append(mean)
        variances.append(variance)
    return torch.stack(columns, dim=1), torch.stack(means), torch.stack(variances)


_COLUMN = _EIGHT.T
_ONE_GAIN, _NO_BIAS = torch.ones(1), torch.zeros(1)
_batch_norm_sizes = (numbers(3, 5, seed=51), *_affine(5, 52))

batch_norm_train = Exercise(
    name="batch_norm_train",
    lesson=LESSON,
    signature="batch_norm_train(x, gamma, beta, eps=1e-5)",
    reference=_batch_norm_in_double,
    parts=("out", "mean", "var"),
    built_ins=(
        F.batch_norm,
        torch.batch_norm,
        torch.native_batch_norm,
        F.layer_norm,
        torch.layer_norm,
        F.instance_norm,
        torch.instance_norm,
        F.group_norm,
        torch.group_norm,
    ),
    probes=(
        Probe(
            "one feature, four examples 8, 0, 2 and 2, whose mean is 3 and variance 9",
            (_COLUMN, _ONE_GAIN, _NO_BIAS),
            explain="On paper: the deviations are 5, -3, -1, -1, and all are divided by 3.",
        ),
        Probe(
            "three examples of five features",
            _batch_norm_sizes,
            explain="Each feature is normalised over the examples: mean and variance run down the first axis.",
        ),
        Probe(
            "five examples of three features",
            (numbers(5, 3, seed=54), *_affine(3, 55)),
            explain="out has the shape of x, mean and var have one number a feature.",
        ),
        Probe(
            "four examples of four features",
            (numbers(4, 4, seed=57), *_affine(4, 58)),
            explain="In a square a mean over the wrong axis goes unnoticed: it runs over the examples, dim=0.",
        ),
        Probe(
            "a feature that is the same in all examples: out is beta there",
            (torch.tensor([[2.0, 1.0], [2.0, 3.0]]), *_affine(2, 60)),
            explain="The variance is 0, and 0 / 0 is NaN: that is what eps is for.",
        ),
        Probe("a batch of one example", (numbers(1, 3, seed=62), *_affine(3, 63))),
        Probe(
            "small numbers, 1, -1, 1 and -1 thousandth",
            (_WAVE.T / 1000, _ONE_GAIN, _NO_BIAS),
            explain=f"Here the variance, 1e-6, is smaller than eps. {_EPS_IN}",
        ),
        Probe(
            "eps = 1",
            (_COLUMN, _ONE_GAIN, _NO_BIAS),
            {"eps": 1.0},
            "Does it use the eps that it is given? Here it divides by the root of 9 + 1; var stays 9.",
        ),
        Probe(
            "numbers around 10,000",
            (_FAR.T, _ONE_GAIN, _NO_BIAS),
            explain="Subtract the mean before you square: mean(x²) - mean(x)² is a small difference of large "
            "numbers, and float32 has 7 digits.",
        ),
        Probe(
            "numbers in float64",
            (numbers(3, 5, seed=65, dtype=_DOUBLE), *_affine(5, 66, _DOUBLE)),
            explain="It should keep the dtype and its precision: is something converted?",
        ),
        Probe("a transposed, non-contiguous table", (numbers(5, 3, seed=68).T, *_affine(5, 69))),
        replace(
            gradient(numbers(3, 5, seed=71), *_affine(5, 72)),
            use=_gradients_by_name("with respect to x:", "to gamma:", "to beta:"),
        ),
        twice(*_batch_norm_sizes),
        other_device(*_batch_norm_sizes),
    ),
    wrong_answers=(
        Wrong(
            "torch's own",
            _batch_norm_by_torch,
            "torch's own batch_norm makes your numbers (and refuses a batch of one), which is the thing to be "
            "written. Build it from mean, square and root.",
        ),
        Wrong(
            "unbiased",
            _batch_norm_with(correction=1),
            "Your variance is the unbiased one: torch's .var() divides by n - 1. BatchNorm normalises with the "
            "biased one, divided by n: correction=0.",
        ),
        Wrong(
            "unbiased, eps outside",
            _batch_norm_with(correction=1, root=lambda v, eps: v.sqrt() + eps),
            "Your numbers are those of x.std(0) + eps, two mistakes in one: torch's std divides by n - 1 (a norm "
            "divides by n), and eps belongs under the root, added to the variance.",
        ),
        Wrong(
            "unbiased returned",
            _batch_norm_unbiased_returned,
            "`out` is right, but the `var` that you return is the unbiased one. Here the one is asked for that "
            "normalises, divided by n; update_running takes the other.",
        ),
        Wrong(
            "unbiased used",
            _batch_norm_unbiased_used,
            "The `var` that you return is right, but `out` is normalised with the unbiased one. Use the same, biased "
            "one for both.",
        ),
        Wrong(
            "LayerNorm",
            _batch_norm_with(dim=-1, keepdim=True),
            "You normalise each example over its features: that is LayerNorm. BatchNorm takes each feature over the "
            "examples: dim=0.",
        ),
        Wrong(
            "over the features, axis lost",
            _batch_norm_with(dim=-1),
            "Your mean and variance run over the features, dim=-1. BatchNorm takes each feature over the examples: "
            "dim=0.",
        ),
        Wrong(
            "LayerNorm, statistics squeezed",
            _batch_norm_with(
                dim=-1,
                keepdim=True,
                give=lambda out, mean, var, eps: (out, mean[:, 0], var[:, 0]),
            ),
            "You normalise each example over its features, and return one mean an example: that is LayerNorm. "
            "BatchNorm takes each feature over the examples: dim=0.",
        ),
        Wrong(
            "over everything",
            _batch_norm_of_all,
            "You take one mean and one variance of the whole table. Each feature has its own: dim=0.",
        ),
        Wrong(
            "over everything, unbiased",
            _batch_norm_of_all_unbiased,
            "Two things: your mean and variance are single numbers, and one for each feature is asked for: dim=0. And "
            ".var() divides by n - 1, a norm by n: correction=0.",
        ),
        Wrong(
            "eps outside the root",
            _batch_norm_with(root=lambda v, eps: v.sqrt() + eps),
            "You add eps to the deviation, outside the root. It belongs under the root: (var + eps).sqrt().",
        ),
        Wrong(
            "no eps",
            _batch_norm_with(root=lambda v, eps: v.sqrt()),
            "eps is missing: a constant feature has variance 0, and 0 / 0 is NaN. Add eps under the root.",
        ),
        Wrong(
            "eps fixed",
            _batch_norm_with(root=lambda v, eps: (v + 1e-5).sqrt()),
            "Your eps is always 1e-5. Use the eps that is passed.",
        ),
        Wrong(
            "no root",
            _batch_norm_with(root=lambda v, eps: v + eps),
            "You divide by the variance. Divide by its root, the standard deviation.",
        ),
        Wrong(
            "math.sqrt",
            _batch_norm_with(root=_root_of_one_number),
            _ONE_NUMBER.format("v, the variance, holds one for each feature."),
        ),
        Wrong(
            "deviation returned",
            _batch_norm_with(give=lambda out, mean, var, eps: (out, mean, var.sqrt())),
            "`out` and `mean` are right; in place of the variance you return its root.",
        ),
        Wrong(
            "var with eps",
            _batch_norm_with(give=lambda out, mean, var, eps: (out, mean, var + eps)),
            "`out` and `mean` are right; the `var` that you return has eps in it. Return it without.",
        ),
        Wrong(
            "root with eps returned",
            _batch_norm_with(give=lambda out, mean, var, eps: (out, mean, (var + eps).sqrt())),
            "`out` and `mean` are right; in place of the variance you return the root of var + eps, by which you "
            "divide. Return the variance itself.",
        ),
        Wrong(
            "axes kept",
            _batch_norm_with(keepdim=True),
            "`out` is right, but mean and var have the shape (1, features). One number a feature is asked for: leave "
            "out keepdim.",
        ),
        Wrong(
            "var before mean",
            _batch_norm_with(give=lambda out, mean, var, eps: (out, var, mean)),
            "mean and var have changed places: return out, mean, var. (torch.var_mean gives the variance first.)",
        ),
        Wrong(
            "out last",
            _batch_norm_with(give=lambda out, mean, var, eps: (mean, var, out)),
            "You return mean and var first. The order is out, mean, var.",
        ),
        Wrong(
            "out alone",
            _batch_norm_with(give=lambda out, mean, var, eps: out),
            "`out` is right; return mean and var with it: out, mean, var.",
        ),
        Wrong(
            "mean of out",
            lambda x, gamma, beta, eps=1e-5: (
                (out := _batch_norm(x, gamma, beta, eps)[0]),
                out.mean(dim=0),
                out.var(dim=0, correction=0),
            ),
            "You return mean and variance of what comes out. Those of what goes in are asked for.",
        ),
        Wrong(
            "no gain, no bias",
            _batch_norm_with(affine=lambda h, gamma, beta: h),
            "The normalised numbers are right; `gamma` and `beta` are missing: times gamma, plus beta.",
        ),
        Wrong(
            "no gain",
            _batch_norm_with(affine=lambda h, gamma, beta: h + beta),
            "`gamma` is missing: multiply the normalised numbers by it before you add beta.",
        ),
        Wrong(
            "no bias",
            _batch_norm_with(affine=lambda h, gamma, beta: h * gamma),
            "`beta` is missing: add it at the end.",
        ),
        Wrong(
            "bias before gain",
            _batch_norm_with(affine=lambda h, gamma, beta: (h + beta) * gamma),
            "You add beta before you multiply by gamma. First times gamma, then plus beta.",
        ),
        Wrong(
            "gain and bias swapped",
            _batch_norm_with(affine=lambda h, gamma, beta: h * beta + gamma),
            "gamma and beta have changed places: gamma multiplies, beta is added.",
        ),
        Wrong(
            "gain by @",
            _batch_norm_with(affine=lambda h, gamma, beta: h @ gamma + beta),
            "@ adds the products up. gamma multiplies feature by feature: h * gamma.",
        ),
        Wrong(
            "mean of squares minus square of the mean",
            _batch_norm_with(variance=lambda x: x.square().mean(0) - x.mean(0).square()),
            "You compute the variance as mean(x²) - mean(x)². That is right on paper, but a small difference of "
            "large numbers: float32 loses its digits. Subtract the mean first, then square.",
        ),
        Wrong(
            "gradient of the statistics cut off",
            _batch_norm_detached,
            "The values are right, but mean and variance are cut off from the gradient. They depend on x: leave out "
            ".detach() and torch.no_grad().",
        ),
        Wrong(
            "input changed",
            _batch_norm_changes_input,
            "Your numbers are right, but `x -= …` writes into the caller's tensor. Make a new one: `x - …`.",
        ),
    ),
    correct_alternatives=(
        _batch_norm,
        _batch_norm_by_loop,
        lambda x, gamma, beta, eps=1e-5: (
            (x - x.mean(0, keepdim=True)) * (x.var(0, correction=0) + eps).rsqrt() * gamma + beta,
            x.mean(0),
            x.var(0, correction=0),
        ),
    ),
    hints=(
        "It is the arithmetic of layer_norm along another axis. One mean for each feature: over which axis of "
        "(batch, features) does it run?",
        "x.mean(dim=0) has the shape (features,), and x - mean works without keepdim, because shapes are lined up "
        "from the right. The variance is the mean of the squared deviations.",
        "mean = x.mean(dim=0); var = (x - mean).square().mean(dim=0); out = (x - mean) / (var + eps).sqrt() * gamma + "
        "beta; return out, mean, var.",
    ),
)

# ---------------------------------------------------------------------------- layer_norm_backward


def _backward_by_autograd(x: Tensor, gamma: Tensor, grad_out: Tensor, eps: float = 1e-5) -> Triple:
    inputs = [each.detach().double().requires_grad_(True) for each in (x, gamma, 0 * gamma)]
    out = F.layer_norm(inputs[0], (x.shape[-1],), inputs[1], inputs[2], eps)
    grad_x, grad_gamma, grad_beta = torch.autograd.grad(out, inputs, grad_out.detach().double())
    return grad_x.to(x.dtype), grad_gamma.to(x.dtype), grad_beta.to(x.dtype)


def _last(x: Tensor) -> Tensor:
    return x.mean(dim=-1, keepdim=True)


def _over_tokens(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).sum(dim=0)


def _of_x(h: Tensor, r: Tensor, a: Tensor) -> Tensor:
    return r * (a - _last(a) - h * _last(a * h))


def _backward_with(
    *,
    of_x: Callable[[Tensor, Tensor, Tensor], Tensor] = _of_x,
    to_h: Callable[[Tensor, Tensor], Tensor] = lambda g, gamma: g * gamma,
    of_gamma: Callable[[Tensor, Tensor], Tensor] = lambda g, h: g * h,
    over: Callable[[Tensor], Tensor] = _over_tokens,
    centre: Callable[[Tensor], Tensor] = _last,
    variance: Callable[[Tensor], Tensor] = lambda c: _last(c.square()),
    inverse: Callable[[Tensor, float], Tensor] = lambda v, eps: 1 / (v + eps).sqrt(),
) -> Answer:
    def answer(x: Tensor, gamma: Tensor, grad_out: Tensor, eps: float = 1e-5) -> Triple:
        centred = x - centre(x)
        r = inverse(variance(centred), eps)
        h = centred * r
        return of_x(h, r, to_h(grad_out, gamma)), over(of_gamma(grad_out, h)), over(grad_out)

    return answer


_backward = _backward_with()


def _backward_by_grad(x: Tensor, gamma: Tensor, grad_out: Tensor, eps: float = 1e-5) -> Triple:
    inputs = [each.detach().clone().requires_grad_(True) for each in (x, gamma, 0 * gamma)]
    out = _layer_norm(*inputs, eps)
    grad_x, grad_gamma, grad_beta = torch.autograd.grad(out, inputs, grad_out)
    return grad_x, grad_gamma, grad_beta


def _backward_by_backward(x: Tensor, gamma: Tensor, grad_out: Tensor, eps: float = 1e-5) -> Triple:
    inputs = [each.detach().clone().requires_grad_(True) for each in (x, gamma, 0 * gamma)]
    _layer_norm(*inputs, eps).backward(grad_out)
    grad_x, grad_gamma, grad_beta = (each.grad for each in inputs)
    assert grad_x is not None and grad_gamma is not None and grad_beta is not None
    return grad_x, grad_gamma, grad_beta


def _backward_by_jacobian(x: Tensor, gamma: Tensor, grad_out: Tensor, eps: float = 1e-5) -> Triple:
    centred = x - _last(x)
    r = 1 / (_last(centred.square()) + eps).sqrt()
    h, d = centred * r, x.shape[-1]
    eye = torch.eye(d, dtype=x.dtype, device=x.device)
    jacobian = r[..., None] * (eye - 1 / d - h[..., :, None] * h[..., None, :] / d)
    grad_x = torch.einsum("...ij,...i->...j", jacobian, grad_out * gamma)
    tokens = "...d,...d->d"
    grad_gamma = torch.einsum(tokens, grad_out, h)
    return grad_x, grad_gamma, torch.einsum(tokens, grad_out, torch.ones_like(h))


def _backward_in_stages(x: Tensor, gamma: Tensor, grad_out: Tensor, eps: float = 1e-5) -> Triple:
    # As textbooks write it: through the variance, then through the mean.
    d, mean = x.shape[-1], _last(x)
    variance = _last((x - mean).square())
    a = grad_out * gamma
    grad_variance = (a * (x - mean)).sum(-1, keepdim=True) * -0.5 * (variance + eps) ** -1.5
    root = (variance + eps).sqrt()
    grad_mean = -a.sum(-1, keepdim=True) / root - 2 * grad_variance * (x - mean).mean(
        -1, keepdim=True
    )
    grad_x = a / root + grad_variance * 2 * (x - mean) / d + grad_mean / d
    return grad_x, _over_tokens(grad_out * (x - mean) / root), _over_tokens(grad_out)


def _backward_by_tokens(x: Tensor, gamma: Tensor, grad_out: Tensor, eps: float = 1e-5) -> Triple:
    grad_x = torch.empty_like(x)
    rows, outs = x.reshape(-1, x.shape[-1]), grad_out.reshape(-1, x.shape[-1])
    grads, grad_gamma, grad_beta = [], torch.zeros_like(gamma), torch.zeros_like(gamma)
    for row, g in zip(rows, outs, strict=True):
        c = row - row.mean()
        r = (c.dot(c) / len(c) + eps) ** -0.5
        h, a = c * r, g * gamma
        grads.append(r * (a - a.mean() - h * h.dot(a) / len(c)))
        grad_gamma, grad_beta = grad_gamma + g * h, grad_beta + g
    grad_x = torch.stack(grads).reshape(x.shape)
    return grad_x, grad_gamma, grad_beta


def _backward_x_for_h(*, front: bool = True, inside: bool = True, of_gamma: bool = False) -> Answer:
    def answer(x: Tensor, gamma: Tensor, grad_out: Tensor, eps: float = 1e-5) -> Triple:
        r = 1 / (x.var(-1, keepdim=True, correction=0) + eps).sqrt()
        h, a = (x - _last(x)) * r, grad_out * gamma
        grad_x = r * (a - _last(a) - (x if front else h) * _last(a * (x if inside else h)))
        return grad_x, _over_tokens(grad_out * (x if of_gamma else h)), _over_tokens(grad_out)

    return answer


def _backward_gamma_of_x(x: Tensor, gamma: Tensor, grad_out: Tensor, eps: float = 1e-5) -> Triple:
    grad_x, _, grad_beta = _backward(x, gamma, grad_out, eps)
    return grad_x, _over_tokens(grad_out * x), grad_beta


def _backward_gamma_of_centred(
    x: Tensor, gamma: Tensor, grad_out: Tensor, eps: float = 1e-5
) -> Triple:
    grad_x, _, grad_beta = _backward(x, gamma, grad_out, eps)
    return grad_x, _over_tokens(grad_out * (x - _last(x))), grad_beta


def _backward_gain_in_gamma(
    x: Tensor, gamma: Tensor, grad_out: Tensor, eps: float = 1e-5
) -> Triple:
    grad_x, grad_gamma, grad_beta = _backward(x, gamma, grad_out, eps)
    return grad_x, grad_gamma * gamma, grad_beta


def _backward_gain_everywhere(
    x: Tensor, gamma: Tensor, grad_out: Tensor, eps: float = 1e-5
) -> Triple:
    grad_x, grad_gamma, grad_beta = _backward(x, gamma, grad_out, eps)
    return grad_x, grad_gamma * gamma, grad_beta * gamma


def _backward_gain_in_beta(x: Tensor, gamma: Tensor, grad_out: Tensor, eps: float = 1e-5) -> Triple:
    grad_x, grad_gamma, grad_beta = _backward(x, gamma, grad_out, eps)
    return grad_x, grad_gamma, grad_beta * gamma


def _backward_changes_input(
    x: Tensor, gamma: Tensor, grad_out: Tensor, eps: float = 1e-5
) -> Triple:
    x -= _last(x)
    found: Triple = _backward(x, gamma, grad_out, eps)
    return found


def _backward_changes_grad(x: Tensor, gamma: Tensor, grad_out: Tensor, eps: float = 1e-5) -> Triple:
    found: Triple = _backward(x, gamma, grad_out, eps)
    grad_out *= gamma
    return found


def _backward_in_float32(x: Tensor, gamma: Tensor, grad_out: Tensor, eps: float = 1e-5) -> Triple:
    a, b, c = _backward(x.float(), gamma.float(), grad_out.float(), eps)
    return a.to(x.dtype), b.to(x.dtype), c.to(x.dtype)


_BACK_HAND = (_EIGHT, _ONES, torch.tensor([[3.0, 0.0, 0.0, 0.0]]))
_backward_sizes = (numbers(3, 5, seed=81), numbers(5, seed=82), numbers(3, 5, seed=83))

layer_norm_backward = Exercise(
    name="layer_norm_backward",
    lesson=LESSON,
    signature="layer_norm_backward(x, gamma, grad_out, eps=1e-5)",
    reference=_backward_by_autograd,
    parts=("grad_x", "grad_gamma", "grad_beta"),
    # All of torch's ways to a gradient, torch.func's too, go through one of these.
    built_ins=(torch.autograd.grad, torch.autograd.backward, Tensor.backward),
    probes=(
        Probe(
            "one token (8, 0, 2, 2), the gain all 1, the gradient (3, 0, 0, 0): grad_x is (1, 3, -2, -2)/18",
            _BACK_HAND,
            explain="On paper: h = (5, -3, -1, -1)/3, r = 1/3, a = (3, 0, 0, 0). The mean of a is 3/4, the mean of "
            "a · h is 5/4. Which of these do you get?",
        ),
        Probe(
            "the same with the gain (1, 2, 3, 4) and another gradient",
            (_EIGHT, _GAIN, torch.tensor([[1.0, -2.0, 0.5, 3.0]])),
            explain="The gain comes last in the forward pass, so first on the way back: a = grad_out · gamma.",
        ),
        Probe(
            "three tokens of five features",
            _backward_sizes,
            explain="grad_x has the shape of x. gamma and beta are shared by all tokens: their gradients add up "
            "over the tokens, to the shape (5,).",
        ),
        Probe(
            "two sentences of three tokens of five features",
            (numbers(2, 3, 5, seed=84), numbers(5, seed=85), numbers(2, 3, 5, seed=86)),
            explain="The gradients of gamma and beta add up over all axes but the last.",
        ),
        Probe(
            "one token without any other axis",
            (numbers(5, seed=87), numbers(5, seed=88), numbers(5, seed=89)),
            explain="With one token there is nothing to add up: grad_beta is grad_out. (A sum over an empty tuple of "
            "axes adds up everything in torch.)",
        ),
        Probe(
            "four tokens of four features",
            (numbers(4, 4, seed=90), numbers(4, seed=91), numbers(4, 4, seed=92)),
            explain=_LOST_AXIS,
        ),
        Probe(
            "a token of zeros",
            (torch.zeros(1, 4), _GAIN, torch.tensor([[1.0, -2.0, 0.5, 3.0]])),
            explain="The variance is 0: only eps keeps the root away from 0.",
        ),
        Probe(
            "eps = 5, larger than the variance",
            _backward_sizes,
            {"eps": 5.0},
            "With eps the mean of h² is no longer 1. Equation (4) holds all the same, if r is one over the root of "
            "variance + eps and h = r · (x - mean).",
        ),
        Probe(
            "numbers in float64",
            tuple(
                numbers(*shape, seed=93 + i, dtype=_DOUBLE)
                for i, shape in enumerate(((3, 5), (5,), (3, 5)))
            ),
            explain="It should keep the dtype and its precision: is something converted?",
        ),
        Probe(
            "a small token, (1, -1, 1, -1) / 1000",
            (_WAVE / 1000, _GAIN, torch.tensor([[1.0, -2.0, 0.5, 3.0]])),
            explain=f"Here the variance, 1e-6, is smaller than eps. {_EPS_IN}",
        ),
        Probe(
            "transposed, non-contiguous inputs with three axes",
            (
                numbers(3, 2, 5, seed=96).transpose(0, 1),
                numbers(5, seed=97),
                numbers(3, 2, 5, seed=98).transpose(0, 1),
            ),
            explain="Use .reshape, not .view, to flatten what may be transposed.",
        ),
        twice(*_backward_sizes),
        other_device(*_backward_sizes),
    ),
    wrong_answers=(
        Wrong(
            "torch.autograd.grad",
            _backward_by_grad,
            "torch's autograd makes your numbers (autograd.grad, or torch.func, which calls it). Here you are "
            "autograd: write equation (4) yourself.",
        ),
        Wrong(
            ".backward()",
            _backward_by_backward,
            "torch's .backward() makes your numbers. Here you are autograd: write equation (4) yourself.",
        ),
        Wrong(
            "statistics taken for constants",
            _backward_with(of_x=lambda h, r, a: r * a),
            "Your grad_x is r · a: mean and variance are taken for constants. Both depend on x, which takes two "
            "directions out of the gradient: - mean(a) and - h · mean(a · h).",
        ),
        Wrong(
            "no way through the mean",
            _backward_with(of_x=lambda h, r, a: r * (a - h * _last(a * h))),
            "In grad_x the part through the mean is missing: - mean(a). (Yours is RMSNorm's gradient.) The entries of "
            "each token's grad_x must add up to 0, because a shift of x changes nothing.",
        ),
        Wrong(
            "no way through the variance",
            _backward_with(of_x=lambda h, r, a: r * (a - _last(a))),
            # mean(a) · mean(h) gives the same numbers: no probe can tell the two apart.
            "In grad_x the part through the variance is missing: - h · mean(a · h). grad_x must be at a right angle to "
            "x, because a scale of x changes nothing. Or did you write mean(a) · mean(h)? Then your last term is 0, "
            "because mean(h) = 0. Multiply first, then take the mean: (a * h).mean(…).",
        ),
        Wrong(
            "h not in front",
            _backward_with(of_x=lambda h, r, a: r * (a - _last(a) - _last(a * h))),
            "In grad_x the mean of a · h isn't multiplied by h: what is taken away is a multiple of h.",
        ),
        Wrong(
            "sums for means",
            _backward_with(
                of_x=lambda h, r, a: (
                    r * (a - a.sum(-1, keepdim=True) - h * (a * h).sum(-1, keepdim=True))
                )
            ),
            "In grad_x you take sums where means belong: the mean of a and the mean of a · h, each over d features.",
        ),
        Wrong(
            "a sum for the mean of a",
            _backward_with(
                of_x=lambda h, r, a: r * (a - a.sum(-1, keepdim=True) - h * _last(a * h))
            ),
            "In grad_x you subtract the sum of a. Its mean belongs there.",
        ),
        Wrong(
            "a sum for the mean of a · h",
            _backward_with(
                of_x=lambda h, r, a: r * (a - _last(a) - h * (a * h).sum(-1, keepdim=True))
            ),
            "In grad_x you take the sum of a · h. Its mean belongs there: h · h is d, not 1.",
        ),
        Wrong(
            "plus",
            _backward_with(of_x=lambda h, r, a: r * (a + _last(a) + h * _last(a * h))),
            "In grad_x the two means are added. They are taken away: a - mean(a) - h · mean(a · h).",
        ),
        Wrong(
            "sign of the last term",
            _backward_with(of_x=lambda h, r, a: r * (a - _last(a) + h * _last(a * h))),
            "In grad_x the last term has the wrong sign: - h · mean(a · h).",
        ),
        Wrong(
            "r missing",
            _backward_with(of_x=lambda h, r, a: a - _last(a) - h * _last(a * h)),
            "In grad_x the factor r = 1/√(variance + eps) in front is missing.",
        ),
        Wrong(
            "multiplied by the root",
            _backward_with(of_x=lambda h, r, a: (a - _last(a) - h * _last(a * h)) / r),
            "In grad_x you multiply by the root of the variance. Divide by it.",
        ),
        Wrong(
            "d times too large",
            _backward_with(of_x=lambda h, r, a: a.shape[-1] * _of_x(h, r, a)),
            "Your grad_x is d times too large. With sums in place of means, r · (d · a - sum(a) - h · sum(a · h)), "
            "a factor 1/d stands in front.",
        ),
        Wrong(
            "brackets missing",
            _backward_with(of_x=lambda h, r, a: r * a - _last(a) - h * _last(a * h)),
            "In grad_x r multiplies only a. It multiplies all three terms: r · (a - mean(a) - h · mean(a · h)).",
        ),
        Wrong(
            "gain missing",
            _backward_with(to_h=lambda g, gamma: g),
            "In grad_x the gain is missing: the gradient of h is a = grad_out · gamma.",
        ),
        Wrong(
            "gain by @",
            _backward_with(to_h=lambda g, gamma: g @ gamma),
            "@ adds the products up. gamma multiplies feature by feature: a = grad_out * gamma.",
        ),
        Wrong(
            "gain at the end",
            lambda x, gamma, grad_out, eps=1e-5: (
                _backward(x, torch.ones_like(gamma), grad_out, eps)[0] * gamma,
                *_backward(x, gamma, grad_out, eps)[1:],
            ),
            "In grad_x you multiply by gamma at the end. The gain comes last in the forward pass, so first on the way "
            "back: a = grad_out · gamma, and the means are those of a.",
        ),
        Wrong(
            "x for h",
            _backward_x_for_h(of_gamma=True),
            "You use x where h belongs: h = (x - mean) · r.",
        ),
        Wrong(
            "x for h in grad_x",
            _backward_x_for_h(),
            "In grad_x you use x where h belongs: h = (x - mean) · r.",
        ),
        Wrong(
            "x for h in front of the last mean",
            _backward_x_for_h(inside=False),
            "In grad_x you multiply the last mean by x. h belongs there: h = (x - mean) · r.",
        ),
        Wrong(
            "x for h in the last mean",
            _backward_x_for_h(front=False),
            "In grad_x your last mean is that of a · x. It is that of a · h: h = (x - mean) · r.",
        ),
        Wrong(
            "centred for h",
            _backward_with(of_x=lambda h, r, a: _of_x(h / r, r, a)),
            "In grad_x x - mean stands where the normalised h = r · (x - mean) belongs.",
        ),
        Wrong(
            "no eps",
            _backward_with(inverse=lambda v, eps: 1 / v.sqrt()),
            "eps is missing in r: one over the root of variance + eps, as in the forward pass.",
        ),
        Wrong(
            "math.sqrt",
            _backward_with(inverse=lambda v, eps: 1 / _root_of_one_number(v, eps)),
            _ONE_NUMBER.format("v, the variance, holds one for each token."),
        ),
        Wrong(
            "eps fixed",
            _backward_with(inverse=lambda v, eps: 1 / (v + 1e-5).sqrt()),
            "Your eps is always 1e-5. Use the eps that is passed.",
        ),
        Wrong(
            "eps outside the root",
            _backward_with(inverse=lambda v, eps: 1 / (v.sqrt() + eps)),
            "You add eps outside the root. It belongs under it: 1 / (variance + eps).sqrt().",
        ),
        Wrong(
            "unbiased",
            _backward_with(variance=lambda c: c.square().sum(-1, keepdim=True) / (c.shape[-1] - 1)),
            "Your variance is the unbiased one, divided by d - 1. The forward pass divides by d.",
        ),
        Wrong(
            "means over the tokens",
            _backward_with(
                of_x=lambda h, r, a: (
                    r * (a - a.mean(0, keepdim=True) - h * (a * h).mean(0, keepdim=True))
                )
            ),
            "In grad_x the means run over the first axis. A token is normalised alone: over its features, dim=-1.",
        ),
        Wrong(
            "means over everything",
            _backward_with(of_x=lambda h, r, a: r * (a - a.mean() - h * (a * h).mean())),
            "In grad_x the means run over all tokens together, so tokens leak into each other. Each has its own: "
            "dim=-1, keepdim=True.",
        ),
        Wrong(
            "axis lost",
            _backward_with(of_x=lambda h, r, a: r * (a - a.mean(-1) - h * (a * h).mean(-1))),
            "In grad_x the means have lost their axis, so tokens mix or the sizes don't fit. Keep it: keepdim=True.",
        ),
        Wrong(
            "not added up",
            _backward_with(over=lambda x: x),
            "grad_gamma and grad_beta aren't added up over the tokens. All tokens share one gamma and one beta, so "
            "their gradients have the shape (d,).",
        ),
        Wrong(
            "added up over the first axis alone",
            _backward_with(over=lambda x: x.sum(0) if x.dim() > 1 else x),
            "grad_gamma and grad_beta are added up over the first axis only. Add up over all axes but the last, for "
            "example after .reshape(-1, d).",
        ),
        Wrong(
            "sum over axis 0",
            _backward_with(over=lambda x: x.sum(0)),
            "grad_gamma and grad_beta are added up over axis 0, whatever it is: with three axes one is left, and with "
            "a single token the features go. Flatten first: .reshape(-1, d).sum(dim=0).",
        ),
        Wrong(
            "sum over all axes but the last, by a tuple",
            _backward_with(over=lambda x: x.sum(dim=tuple(range(x.dim() - 1)))),
            "With a single token your tuple of axes is empty, and torch then adds up everything. Flatten first: "
            ".reshape(-1, d).sum(dim=0).",
        ),
        Wrong(
            "added up over axes 0 and 1",
            _backward_with(over=lambda x: x.sum((0, 1))),
            "grad_gamma and grad_beta are added up over axes 0 and 1, which fits three axes alone. Add up over all "
            "axes but the last, for example after .reshape(-1, d).",
        ),
        Wrong(
            "mean over the tokens",
            _backward_with(over=lambda x: x.reshape(-1, x.shape[-1]).mean(0)),
            "grad_gamma and grad_beta are averaged over the tokens. They add up: use the sum.",
        ),
        Wrong(
            "added up over the features",
            _backward_with(over=lambda x: x.sum(-1)),
            "grad_gamma and grad_beta are added up over the features. Each feature has its own; add up over the "
            "tokens.",
        ),
        Wrong(
            "flattened by view",
            _backward_with(over=lambda x: x.view(-1, x.shape[-1]).sum(0)),
            "Your numbers are right, but .view can't flatten a tensor whose rows lie apart in memory. Use .reshape.",
        ),
        Wrong(
            "gamma from x",
            _backward_gamma_of_x,
            "For grad_gamma you multiply by x. What gamma multiplies is the normalised h.",
        ),
        Wrong(
            "gamma from the centred x",
            _backward_gamma_of_centred,
            "For grad_gamma you multiply by x - mean. What gamma multiplies is h, divided by the root too.",
        ),
        Wrong(
            "gain in grad_gamma",
            _backward_gain_in_gamma,
            "Your grad_gamma has a factor gamma too much: it is the sum of grad_out · h.",
        ),
        Wrong(
            "gain in grad_gamma and grad_beta",
            _backward_gain_everywhere,
            "Your grad_gamma and grad_beta have a factor gamma too much: they are the sums of grad_out · h and of "
            "grad_out, not of a.",
        ),
        Wrong(
            "gain in grad_beta",
            _backward_gain_in_beta,
            "Your grad_beta has a factor gamma too much: beta is added after the gain, so it is the sum of grad_out.",
        ),
        Wrong(
            "grad_gamma and grad_beta swapped",
            lambda x, gamma, grad_out, eps=1e-5: (
                (found := _backward(x, gamma, grad_out, eps))[0],
                found[2],
                found[1],
            ),
            "grad_gamma and grad_beta have changed places. Return grad_x, grad_gamma, grad_beta.",
        ),
        Wrong(
            "grad_out ignored",
            lambda x, gamma, grad_out, eps=1e-5: _backward(
                x, gamma, torch.ones_like(grad_out), eps
            ),
            "Your gradients are those of the plain sum of the output: `grad_out` is taken for all ones.",
        ),
        Wrong(
            "computed in float32",
            _backward_in_float32,
            "Your numbers are computed in float32, so float64 loses half of its digits. Leave out .float().",
        ),
        Wrong(
            "input changed",
            _backward_changes_input,
            "Your numbers are right, but `x -= …` writes into the caller's tensor. Make a new one: `x - …`.",
        ),
        Wrong(
            "gradient changed",
            _backward_changes_grad,
            "Your numbers are right, but `grad_out *= …` writes into the caller's tensor. Make a new one: "
            "`a = grad_out * gamma`.",
        ),
    ),
    correct_alternatives=(
        _backward,
        _backward_by_jacobian,
        _backward_in_stages,
        _backward_by_tokens,
        lambda x, gamma, grad_out, eps=1e-5: (
            _backward(x, gamma, grad_out, eps)[0],
            (grad_out * _layer_norm(x, torch.ones_like(gamma), torch.zeros_like(gamma), eps))
            .flatten(0, -2)
            .sum(0)
            if x.dim() > 1
            else grad_out * _layer_norm(x, torch.ones_like(gamma), torch.zeros_like(gamma), eps),
            grad_out.flatten(0, -2).sum(0) if x.dim() > 1 else grad_out,
        ),
    ),
    hints=(
        "Compute h and r = 1/√(variance + eps) again, as in the forward pass. grad_beta needs neither, grad_gamma "
        "needs h. For grad_x: which two directions does the norm ignore?",
        "The gradient of h is a = grad_out · gamma. Equation (4): grad_x = r · (a - mean(a) - h · mean(a · h)), the "
        "means over the features, with keepdim. grad_gamma and grad_beta add up over all tokens.",
        "grad_gamma = (grad_out * h).reshape(-1, d).sum(dim=0), grad_beta the same without h; "
        "grad_x = r * (a - a.mean(dim=-1, keepdim=True) - h * (a * h).mean(dim=-1, keepdim=True)).",
    ),
)

# ---------------------------------------------------------------------------- update_running


def _running_by_torch(
    running_mean: Tensor, running_var: Tensor, x: Tensor, momentum: float = 0.1
) -> Pair:
    mean, var = running_mean.double().clone(), running_var.double().clone()
    F.batch_norm(x.double(), mean, var, training=True, momentum=momentum)  # moves both in place
    return mean.to(running_mean.dtype), var.to(running_var.dtype)


def _running_with(
    *,
    mean: Callable[[Tensor], Tensor] = lambda x: x.mean(dim=0),
    var: Callable[[Tensor], Tensor] = lambda x: x.var(dim=0),
    mix: Callable[[Tensor, Tensor, float], Tensor] = lambda old, new, m: (1 - m) * old + m * new,
) -> Answer:
    def answer(running_mean: Tensor, running_var: Tensor, x: Tensor, momentum: float = 0.1) -> Pair:
        return mix(running_mean, mean(x), momentum), mix(running_var, var(x), momentum)

    return answer


_running = _running_with()


def _running_around_running_mean(
    running_mean: Tensor, running_var: Tensor, x: Tensor, momentum: float = 0.1
) -> Pair:
    new_mean, _ = _running(running_mean, running_var, x, momentum)
    var = (x - running_mean).square().sum(0) / (len(x) - 1)
    return new_mean, (1 - momentum) * running_var + momentum * var


def _running_around_new_mean(
    running_mean: Tensor, running_var: Tensor, x: Tensor, momentum: float = 0.1
) -> Pair:
    new_mean, _ = _running(running_mean, running_var, x, momentum)
    var = (x - new_mean).square().sum(0) / (len(x) - 1)
    return new_mean, (1 - momentum) * running_var + momentum * var


def _running_around_new_mean_biased(
    running_mean: Tensor, running_var: Tensor, x: Tensor, momentum: float = 0.1
) -> Pair:
    new_mean, _ = _running(running_mean, running_var, x, momentum)
    return new_mean, (1 - momentum) * running_var + momentum * (x - new_mean).square().mean(0)


def _running_by_module(
    running_mean: Tensor, running_var: Tensor, x: Tensor, momentum: float = 0.1
) -> tuple[Any, Any]:
    layer = nn.BatchNorm1d(x.shape[1], momentum=momentum)
    layer.running_mean, layer.running_var = running_mean.clone(), running_var.clone()
    layer(x)
    return layer.running_mean, layer.running_var


def _running_in_place(
    running_mean: Tensor, running_var: Tensor, x: Tensor, momentum: float = 0.1
) -> Pair:
    running_mean *= 1 - momentum
    running_mean += momentum * x.mean(0)
    running_var *= 1 - momentum
    running_var += momentum * x.var(0)
    return running_mean, running_var


def _running_by_lerp(
    running_mean: Tensor, running_var: Tensor, x: Tensor, momentum: float = 0.1
) -> Pair:
    var, mean = torch.var_mean(x, dim=0)
    return torch.lerp(running_mean, mean, momentum), torch.lerp(running_var, var, momentum)


def _running_by_correction(
    running_mean: Tensor, running_var: Tensor, x: Tensor, momentum: float = 0.1
) -> Pair:
    n, mean = len(x), x.sum(0) / len(x)
    unbiased = ((x - mean) ** 2).mean(0) * n / (n - 1)
    new_var = running_var + momentum * (unbiased - running_var)
    return running_mean + momentum * (mean - running_mean), new_var


_ZERO, _UNIT = torch.zeros(1), torch.ones(1)
_OLD = (numbers(5, seed=111), numbers(5, seed=112).abs() + 0.5)
_running_sizes = (*_OLD, numbers(3, 5, seed=113))

update_running = Exercise(
    name="update_running",
    lesson=LESSON,
    signature="update_running(running_mean, running_var, x, momentum=0.1)",
    reference=_running_by_torch,
    parts=("running_mean", "running_var"),
    built_ins=(F.batch_norm, torch.batch_norm, torch.native_batch_norm),
    probes=(
        Probe(
            "one feature, four examples 8, 0, 2 and 2, running mean 0 and variance 1: 0.3 and 2.1",
            (_ZERO, _UNIT, _COLUMN),
            explain="The batch's mean is 3, its unbiased variance 36/3 = 12. The new statistics are "
            "0.9 · old + 0.1 · new.",
        ),
        Probe(
            "three examples of five features",
            _running_sizes,
            explain="Each feature has its own mean and variance, over the examples: dim=0.",
        ),
        Probe(
            "four examples of four features",
            (numbers(4, seed=114), numbers(4, seed=115).abs() + 0.5, numbers(4, 4, seed=116)),
            explain="In a square a mean over the wrong axis goes unnoticed: it runs over the examples, dim=0.",
        ),
        Probe(
            "momentum 1: the new statistics are the batch's own",
            _running_sizes,
            {"momentum": 1.0},
            "Here the old statistics have the weight 0. Which variance does torch store?",
        ),
        Probe(
            "momentum 0: nothing changes",
            _running_sizes,
            {"momentum": 0.0},
            "Here the batch has the weight 0.",
        ),
        Probe(
            "momentum 0.25",
            _running_sizes,
            {"momentum": 0.25},
            "The batch has the weight 0.25, what was there before 0.75.",
        ),
        Probe(
            "numbers around 10,000",
            (torch.tensor([9990.0]), _UNIT, _FAR.T),
            explain="Subtract the mean before you square: mean(x²) - mean(x)² is a small difference of large numbers.",
        ),
        Probe(
            "numbers in float64",
            (
                *(each.double() / 3 for each in _OLD),
                numbers(3, 5, seed=117, dtype=_DOUBLE),
            ),
            explain="It should keep the dtype and its precision: is something converted?",
        ),
        Probe("a transposed, non-contiguous table", (*_OLD, numbers(5, 3, seed=118).T)),
        twice(*_running_sizes),
        other_device(*_running_sizes),
    ),
    wrong_answers=(
        Wrong(
            "torch's module",
            _running_by_module,
            "torch's own BatchNorm1d makes your numbers, which is the thing to be written. Build it from mean and "
            "variance.",
        ),
        Wrong(
            "biased",
            _running_with(var=lambda x: x.var(dim=0, correction=0)),
            "You store the biased variance, divided by n. Torch stores the unbiased one, divided by n - 1, though it "
            "normalises with the biased: x.var(dim=0).",
        ),
        Wrong(
            "momentum the other way round",
            _running_with(mix=lambda old, new, m: m * old + (1 - m) * new),
            "Your momentum is the weight of the old statistics, as in some other libraries. In torch it is the "
            "weight of the new batch: (1 - momentum) · old + momentum · new.",
        ),
        Wrong(
            "momentum the other way round, biased",
            _running_with(
                var=lambda x: x.var(dim=0, correction=0),
                mix=lambda old, new, m: m * old + (1 - m) * new,
            ),
            "Two things: momentum is the weight of the new batch, not of the old statistics, and the variance to store "
            "is the unbiased one, x.var(dim=0).",
        ),
        Wrong(
            "momentum fixed",
            _running_with(mix=lambda old, new, m: 0.9 * old + 0.1 * new),
            "Your momentum is always 0.1. Use the one that is passed.",
        ),
        Wrong(
            "old statistics not reduced",
            _running_with(mix=lambda old, new, m: old + m * new),
            "You add the new statistics to the whole of the old ones, so they grow for ever. The old ones have the "
            "weight 1 - momentum.",
        ),
        Wrong(
            "the batch's own",
            _running_with(mix=lambda old, new, m: new),
            "You return the batch's own statistics. The running ones move only a little towards them: "
            "(1 - momentum) · old + momentum · new.",
        ),
        Wrong(
            "nothing learned",
            _running_with(mix=lambda old, new, m: (1 - m) * old),
            "The batch is missing: (1 - momentum) · old + momentum · new.",
        ),
        Wrong(
            "plain mean of old and new",
            _running_with(mix=lambda old, new, m: (old + new) / 2),
            "You take old and new in equal parts. The new batch has the weight momentum, the old ones 1 - momentum.",
        ),
        Wrong(
            "deviation",
            _running_with(var=lambda x: x.std(dim=0)),
            "You store the standard deviation. The variance is stored, its square.",
        ),
        Wrong(
            "divided twice",
            _running_with(var=lambda x: x.var(dim=0) * len(x) / (len(x) - 1)),
            "You correct by n / (n - 1) a variance that is unbiased already: torch's .var() divides by n - 1.",
        ),
        Wrong(
            "corrected the wrong way",
            _running_with(var=lambda x: x.var(dim=0, correction=0) * (len(x) - 1) / len(x)),
            "You multiply the biased variance by (n - 1) / n. To make it unbiased, multiply by n / (n - 1).",
        ),
        Wrong(
            "mean square",
            _running_with(var=lambda x: x.square().mean(dim=0)),
            "You store the mean of x². The variance measures from the batch's mean.",
        ),
        Wrong(
            "around the running mean",
            _running_around_running_mean,
            "You take the deviations from the running mean. The batch's variance measures from the batch's own mean.",
        ),
        Wrong(
            "around the new running mean",
            _running_around_new_mean,
            "You take the deviations from the new running mean. The batch's variance measures from the batch's own "
            "mean.",
        ),
        Wrong(
            "around the new running mean, biased",
            _running_around_new_mean_biased,
            "Two things: you take the deviations from the new running mean in place of the batch's own mean, and "
            "divide by n where the stored variance divides by n - 1.",
        ),
        Wrong(
            "over the features",
            _running_with(mean=lambda x: x.mean(dim=-1), var=lambda x: x.var(dim=-1)),
            "You take the statistics over the features. BatchNorm takes them over the examples: dim=0.",
        ),
        Wrong(
            "over everything",
            _running_with(mean=lambda x: x.mean(), var=lambda x: x.var()),
            "You take one mean and one variance of the whole table. Each feature has its own: dim=0.",
        ),
        Wrong(
            "axes kept",
            _running_with(
                mean=lambda x: x.mean(dim=0, keepdim=True), var=lambda x: x.var(dim=0, keepdim=True)
            ),
            "Your results have the shape (1, features). One number a feature is asked for: leave out keepdim.",
        ),
        Wrong(
            "mean of squares minus square of the mean",
            _running_with(
                var=lambda x: (x.square().mean(0) - x.mean(0).square()) * len(x) / (len(x) - 1)
            ),
            "You compute the variance as mean(x²) - mean(x)². That is right on paper, but a small difference of large "
            "numbers: float32 loses its digits. Subtract the mean first, or use x.var(dim=0).",
        ),
        Wrong(
            "variance first",
            lambda running_mean, running_var, x, momentum=0.1: _running(
                running_mean, running_var, x, momentum
            )[::-1],
            "You return the variance first. The order is running_mean, running_var.",
        ),
        Wrong(
            "in place",
            _running_in_place,
            "Your numbers are right, but `*=` and `+=` write into the caller's tensors. (Torch's layer does so with "
            "its own.) Here new ones are asked for.",
        ),
    ),
    correct_alternatives=(_running, _running_by_lerp, _running_by_correction),
    hints=(
        "Each statistic is a weighted mean of old and new, with the weights 1 - momentum and momentum. Over which axis "
        "do the batch's statistics run?",
        "The variance to store is divided by n - 1. That is what torch's x.var(dim=0) does by default.",
        "(1 - momentum) * running_mean + momentum * x.mean(dim=0), and the same with running_var and x.var(dim=0). "
        "Return both, the mean first.",
    ),
)

EXERCISES = (layer_norm, rms_norm, batch_norm_train, layer_norm_backward, update_running)
