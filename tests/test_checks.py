"""What each check lets pass and what it refuses, at the ends of what is allowed, and in which words."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from transformer_lab import checks

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
WEIGHT, META = torch.ones(7, 4), torch.ones(2, 4, device="meta")


@pytest.mark.parametrize(
    ("check", "allowed"),
    [
        (lambda value: checks.whole("n", value), (1, 2, 10**30)),
        (lambda value: checks.whole("n", value, 0), (0, 1, 10**30)),
        (lambda value: checks.whole("n", value, -3), (-3, 0)),
        (lambda value: checks.above("eps", value), (5e-324, 1e-6, 1, 3.5, 10**30)),
        (lambda value: checks.above("eps", value, 1), (math.nextafter(1, 2), 2)),
        (lambda value: checks.above("eps", value, -1), (-0.5, 0)),
        (lambda value: checks.probability("p", value), (0, 0.0, 0.1, math.nextafter(1, 0))),
    ],
)
def test_numbers_up_to_the_ends_pass(check, allowed):
    for value in allowed:
        check(value)


@pytest.mark.parametrize("dtype", [*FLOATING, *WHOLE, torch.bool, torch.complex64], ids=str)
def test_kinds_of_numbers(dtype):
    tensor = torch.ones(2, 3).to(dtype)
    checks.tensor("x", tensor)
    for check, allowed in ((checks.floating, FLOATING), (checks.whole_tensor, WHOLE)):
        if dtype in allowed:
            check("x", tensor)
        else:
            with pytest.raises(ValueError, match=f"x must hold .*; it holds {dtype}"):
                check("x", tensor)


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4), (0, 4)], ids=str)
def test_vectors_of_the_width_of_a_weight_pass(shape):
    checks.features("x", torch.ones(shape), WEIGHT)
    checks.features("x", torch.ones(shape), torch.ones(4))


def test_a_linear_layer_takes_its_weights_dtype_and_any_under_autocast():
    x = torch.ones(2, 4)
    checks.projected("x", x, WEIGHT)
    with torch.autocast("cpu"):
        checks.projected("x", x.bfloat16(), WEIGHT)
    for dtype in (torch.bfloat16, torch.float64):
        with pytest.raises(ValueError, match=f"one dtype: x has {dtype}, the weights torch.float3"):
            checks.projected("x", x.to(dtype), WEIGHT)
        with pytest.raises(ValueError, match=f"one dtype: x has {dtype}, the weights torch.float3"):
            checks.projected("x", META.to(dtype), META)


def test_what_is_of_a_class_comes_back():
    assert checks.kind("x", META, torch.Tensor, "a tensor") is META
    assert checks.kind("f", abs, Callable, "a function") is abs


def test_places():
    checks.device("x", torch.ones(1), "y", torch.ones(2))
    checks.device("x", META, "y", META[:1])


@pytest.mark.parametrize(
    ("check", "error", "says"),
    [
        (lambda: checks.whole("n", 0), ValueError, r"^n must be at least 1; it is 0\.$"),
        (lambda: checks.whole("n", 1, 2), ValueError, r"^n must be at least 2; it is 1\.$"),
        (lambda: checks.whole("n", -1, 0), ValueError, r"^n must be at least 0; it is -1\.$"),
        (lambda: checks.whole("n", 2.0), TypeError, r"^n must .* whole number; it is 2\.0 \(float"),
        (lambda: checks.whole("n", True), TypeError, r"whole number; it is True \(bool\)"),
        (lambda: checks.whole("n", "4"), TypeError, r"whole number; it is '4' \(str\)"),
        (lambda: checks.whole("n", None), TypeError, r"whole number; it is None \(NoneType\)"),
        (
            lambda: checks.above("eps", 0),
            ValueError,
            r"^eps must be above 0 and finite; it is 0\.$",
        ),
        (lambda: checks.above("eps", -1), ValueError, "above 0 and finite; it is -1"),
        (lambda: checks.above("eps", 1.0, 1), ValueError, r"above 1 and finite; it is 1\.0"),
        (lambda: checks.above("eps", math.inf), ValueError, "finite; it is inf"),
        (lambda: checks.above("eps", -math.inf), ValueError, "finite; it is -inf"),
        (lambda: checks.above("eps", math.nan), ValueError, "finite; it is nan"),
        (lambda: checks.above("eps", True), TypeError, r"^eps must be a number; it is True \(bool"),
        (lambda: checks.above("eps", "1"), TypeError, r"a number; it is '1' \(str\)"),
        (lambda: checks.above("eps", torch.ones(1)), TypeError, r"a number; .* \(Tensor\)"),
        (lambda: checks.probability("p", 1), ValueError, "^p is a probability.* below 1; it is 1"),
        (lambda: checks.probability("p", 1.0), ValueError, r"below 1; it is 1\.0"),
        (lambda: checks.probability("p", -5e-324), ValueError, "below 1; it is -5e-324"),
        (lambda: checks.probability("p", math.nan), ValueError, "below 1; it is nan"),
        (lambda: checks.probability("p", False), TypeError, r"^p must be .* False \(bool\)"),
        (lambda: checks.probability("p", "0"), TypeError, r"a number; it is '0' \(str\)"),
        (lambda: checks.tensor("x", [1.0]), TypeError, r"^x must be a torch\.Tensor; it is a list"),
        (lambda: checks.tensor("x", np.ones(2)), TypeError, "it is a ndarray"),
        (lambda: checks.floating("x", [1.0]), TypeError, r"^x must be a torch\.Tensor"),
        (lambda: checks.whole_tensor("x", [1]), TypeError, r"^x must be a torch\.Tensor"),
        (lambda: checks.features("x", [1.0], WEIGHT), TypeError, r"^x must be a torch\.Tensor"),
        (
            lambda: checks.features("x", torch.ones(4).long(), WEIGHT),
            ValueError,
            "^x must hold floating-point numbers; it holds torch.int64",
        ),
        (
            lambda: checks.features("x", torch.ones(4, 7), WEIGHT),
            ValueError,
            r"^x must hold vectors of 4 features.*; its shape is \(4, 7\)",
        ),
        (lambda: checks.features("x", torch.ones(()), WEIGHT), ValueError, r"its shape is \(\)"),
        (
            lambda: checks.features("x", META, WEIGHT),
            ValueError,
            "^x and the weights must be on one device: x is on meta, the weights on cpu",
        ),
        (
            lambda: checks.kind("c", 3, str, "a text"),
            TypeError,
            r"^c must be a text; it is a int\.$",
        ),
        (
            lambda: checks.alike("x", META, "y", torch.ones(1)),
            ValueError,
            "^x and y .* x is on meta",
        ),
        (
            lambda: checks.alike("x", META.long(), "y", META),
            ValueError,
            "^x must hold floating-point",
        ),
        (
            lambda: checks.alike("x", META.half(), "y", META),
            ValueError,
            r"^x and y must have one dtype: x has torch\.float16, y torch\.float32\. Convert one\.$",
        ),
        (
            lambda: checks.device("x", torch.ones(1), "y", META),
            ValueError,
            "^x and y must be on one device: x is on cpu, y on meta",
        ),
    ],
)
def test_what_is_refused_is_told_in_words(check, error, says):
    with pytest.raises(error, match=says):
        check()
