"""Says in words what is wrong with an outcome.

The order is exists, type, shape, dtype, finite, values: each only makes sense once the one before holds.
"""

import ast
import builtins
import dis
from collections.abc import Iterator
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transformer_lab.checking.exercise import Answer, Exercise, Probe, call
from transformer_lab.checking.limits import TimeLimitReached
from transformer_lab.checking.outcome import Outcome, close, equal, functions_of

_MOST_NUMBERS = 24  # a tensor with more is described by its shape
_MOST_LINES = 6  # of what the answer printed


def diagnose(exercise: Exercise, probe: Probe, expected: Any, outcome: Outcome) -> str:
    """What is wrong with an outcome that no known wrong answer explains."""
    head, explain = _trouble(exercise, probe, expected, outcome), ""
    if not head:
        # What the input is about helps with its values; an exception has little to do with it.
        head = _difference(exercise.parts, expected, outcome.value)
        explain = probe.explain if head else ""
        head = head or _built_in(outcome)
    if probe.use is not call:
        # Called once, the answer is right: what this use of it is about is what is wrong.
        head, explain = probe.explain, "" if outcome.error is None else head
    return "\n".join(filter(None, (head, explain, example(exercise, probe, expected, outcome))))


def _trouble(exercise: Exercise, probe: Probe, expected: Any, outcome: Outcome) -> str:
    """What keeps the values from being compared."""
    if outcome.error is not None:
        return _error(exercise, probe, outcome.error)
    if outcome.changed:
        return _changed(exercise, outcome)
    return _wrong_kind(exercise.parts, expected, outcome.value)


def example(exercise: Exercise, probe: Probe, expected: Any, outcome: Outcome) -> str:
    """The input, what was expected, what came, and the first place where they differ."""
    lines = [f"Tried with {probe.title}:", *_inputs(exercise, probe)]
    if outcome.error is None:
        lines += [
            f"  expected: {_show_parts(exercise.parts, expected)}",
            f"  yours:    {_show_parts(exercise.parts, outcome.value)}",
        ]
        lines += _first_difference(exercise.parts, expected, outcome.value)
    else:
        lines += [f"  expected: {_show_parts(exercise.parts, expected)}"]
        lines += [f"  stopped at {outcome.line}"] if outcome.line else []
    if outcome.printed.strip():
        printed = outcome.printed.rstrip().splitlines()
        more = (
            [f"    … and {len(printed) - _MOST_LINES} lines more"]
            if len(printed) > _MOST_LINES
            else []
        )
        lines += ["  it printed:", *(f"    {line}" for line in printed[:_MOST_LINES]), *more]
    return "\n".join(lines)


def data_globals(answer: Answer) -> list[str]:
    """Names of tensors and numbers that an answer takes from the notebook instead of its parameters."""
    data = (Tensor, np.ndarray, int, float, list, tuple, dict)
    return [
        name
        for function in functions_of(answer)
        for name in dict.fromkeys(_global_names(function.__code__))
        # A name in capitals is a constant by convention, and may stay one.
        if isinstance(function.__globals__.get(name), data)
        and not name.isupper()
        and not hasattr(builtins, name)
    ]


def parameters(signature: str) -> list[str]:
    """Names of the parameters in a signature such as "softmax(x, dim=-1)"."""
    function = ast.parse(f"def {signature}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    return [parameter.arg for parameter in function.args.args]


def _global_names(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield instruction.argval
    for constant in code.co_consts:  # functions and comprehensions inside
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


def _error(exercise: Exercise, probe: Probe, error: BaseException) -> str:
    if isinstance(error, TimeLimitReached):
        return (
            f"It was still running after {probe.seconds:g} seconds and was stopped: "
            "look for a loop whose condition never becomes false."
        )
    if isinstance(error, SystemExit):
        return "It called exit(). That would end the notebook's kernel; return a value instead."
    if isinstance(error, RecursionError):
        return f"It calls itself without end: {exercise.name} must not call {exercise.name} on the same input."
    if isinstance(error, NotImplementedError) and not str(error):
        return "A part of it is still to be written: it stops at `raise NotImplementedError`."
    message = f": {error}" if str(error) else ""
    return f"It raised {type(error).__name__}{message}".rstrip(".") + "."


def _changed(exercise: Exercise, outcome: Outcome) -> str:
    names = parameters(exercise.signature)
    changed = " and ".join(
        f"`{names[place] if isinstance(place, int) else place}`" for place in outcome.changed
    )
    return (
        f"It changes its input {changed} in place, so the caller's data is gone. "
        "Use `x - y` in place of `x -= y`, and methods without a trailing underscore."
    )


def _built_in(outcome: Outcome) -> str:
    return (
        f"It calls torch's own `{outcome.built_ins[0]}`, which is the thing to be written. "
        "Build it from smaller operations."
    )


def _wrong_kind(parts: tuple[str, ...], expected: Any, value: Any) -> str:
    """Says so if what was returned isn't a tensor, or a tuple of tensors, where one is needed."""
    if isinstance(expected, tuple) and len(parts) == len(expected):
        wanted = f"{len(parts)} tensors, ({', '.join(parts)})"
        if value is None:
            return f"It returns None: is a `return` missing? It should return {wanted}."
        if not isinstance(value, tuple | list):
            return f"It returns one {_kind(value)}; it should return {wanted}."
        if len(value) != len(expected):
            return f"It returns {len(value)} values; it should return {wanted}."
        for part, has in zip(parts, value, strict=True):
            if not isinstance(has, Tensor):
                return f"`{part}` is a {_kind(has)}; it should be a torch.Tensor.{_mend(has)}"
        return "" if isinstance(value, tuple) else f"It returns a list; it should return {wanted}."
    if isinstance(expected, Tensor) and not isinstance(value, Tensor):
        if value is None:
            return "It returns None: is a `return` missing?"
        return f"It returns a {_kind(value)}; it should be a torch.Tensor.{_mend(value)}"
    return ""


def _difference(parts: tuple[str, ...], expected: Any, value: Any) -> str:
    """Shape, dtype, finite, values, in this order; empty when there is no difference."""
    if isinstance(expected, tuple) and len(parts) == len(expected):
        found = (
            _difference_of_tensors(f"`{part}`", f"`{part}` is", wants, has)
            for part, wants, has in zip(parts, expected, value, strict=True)
        )
        return next(filter(None, found), "")
    if isinstance(expected, Tensor):
        return _difference_of_tensors("It", "It returns", expected, value)
    return (
        ""
        if equal(expected, value)
        else f"It gives {_show(value)}; it should be {_show(expected)}."
    )


def _difference_of_tensors(subject: str, returns: str, expected: Tensor, value: Tensor) -> str:
    if value.shape != expected.shape:
        return (
            f"{returns} a tensor of shape {tuple(value.shape)}; "
            f"the shape should be {tuple(expected.shape)}."
        )
    if value.dtype != expected.dtype:
        return f"{returns} a tensor of dtype {value.dtype}; it should be {expected.dtype}."
    if value.device != expected.device:
        return f"{returns} a tensor on {value.device}; it should be on {expected.device}."
    if value.is_floating_point():
        for bad, name in (
            (value.isnan() & ~expected.isnan(), "NaN"),
            (value.isinf() & ~expected.isinf(), "inf"),
        ):
            if bad.any():
                return f"{subject} has {int(bad.sum())} of {bad.numel()} numbers that are {name}."
    wrong = ~close(value, expected)
    return (
        f"{subject} has {int(wrong.sum())} of {wrong.numel()} values wrong." if wrong.any() else ""
    )


def _first_difference(parts: tuple[str, ...], expected: Any, value: Any) -> list[str]:
    pairs = [("", expected, value)]
    if isinstance(expected, tuple) and isinstance(value, tuple) and len(value) == len(expected):
        pairs = [
            (part, wants, has) for part, wants, has in zip(parts, expected, value, strict=False)
        ]
    for part, wants, has in pairs:
        if not (isinstance(wants, Tensor) and isinstance(has, Tensor)):
            continue
        if wants.shape != has.shape or wants.dtype != has.dtype or wants.dim() == 0:
            continue
        wrong = (~close(has, wants)).nonzero()
        if len(wrong) and wants.numel() > 1:
            place = tuple(wrong[0].tolist())
            at = "[" + ", ".join(map(str, place)) + "]"
            wants_text, has_text = _number(wants[place]), _number(has[place])
            if wants_text == has_text:  # they differ further behind
                wants_text, has_text = f"{wants[place].item():.12g}", f"{has[place].item():.12g}"
            return [f"  first difference at {part}{at}: expected {wants_text}, yours {has_text}"]
    return []


def _inputs(exercise: Exercise, probe: Probe) -> list[str]:
    named = dict(zip(parameters(exercise.signature), probe.args, strict=False)) | dict(probe.kwargs)
    return [f"  {name} = {_show(value)}" for name, value in named.items()]


def _show_parts(parts: tuple[str, ...], value: Any) -> str:
    if isinstance(value, tuple) and len(value) == len(parts):
        return ", ".join(f"{part} {_show(each)}" for part, each in zip(parts, value, strict=True))
    return _show(value)


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_show, value)) + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(_show, value)) + "]"
    if isinstance(value, Tensor):
        special = (
            "" if value.dtype in (torch.float32, torch.bool, torch.int64) else f" {value.dtype}"
        )
        if value.numel() > _MOST_NUMBERS or value.is_meta:
            return f"tensor of shape {tuple(value.shape)}{special}"
        return _numbers(value) + special
    if callable(value):
        return f"{getattr(value, '__name__', type(value).__name__)} (a function)"
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else text[:117] + "…"


def _numbers(value: Tensor) -> str:
    if value.dim() == 0:
        return _number(value)
    return "[" + ", ".join(_numbers(row) for row in value) + "]"


def _number(value: Tensor) -> str:
    if value.dtype == torch.bool:
        return "True" if value else "False"
    if not value.is_floating_point():
        return str(value.item())
    number = float(value) + 0.0  # no minus sign in front of 0
    if number != number or number in (float("inf"), float("-inf")):
        return str(number)
    if number == round(number) and abs(number) < 1e6:
        return f"{number:.0f}."
    return f"{number:.4f}" if 1e-3 <= abs(number) < 1e5 else f"{number:.3e}"


def _kind(value: Any) -> str:
    module = type(value).__module__
    return type(value).__name__ if module == "builtins" else f"{module}.{type(value).__name__}"


def _mend(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return " Stay in torch: numpy knows no gradients and no GPU."
    if isinstance(value, float | int | bool):
        return " Leave out .item(), which takes the number out of the tensor."
    if isinstance(value, tuple):
        return " With dim given, .max() and .min() return values and indices: take .values, or use .amax()."
    return ""
