"""Runs an answer on a probe, guarded, and keeps all that can be seen of it."""

import contextlib
import io
import linecache
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from transformer_lab.checking.exercise import Answer, Probe
from transformer_lab.checking.limits import TimeLimitReached, call_within

# rtol, atol by dtype: some rounding steps of that dtype, far below any mistake.
_TOLERANCE = {
    torch.float64: (1e-9, 1e-12),
    torch.float32: (1e-4, 1e-6),
    torch.float16: (5e-3, 1e-3),
    torch.bfloat16: (4e-2, 1e-2),
}


@dataclass(frozen=True)
class Outcome:
    """What an answer did on one probe.

    Attributes:
        value: What it gave, None if it raised.
        error: What it raised.
        line: The learner's line that raised it, as "line 3: total = x.sum(1)".
        changed: Which arguments it changed in place, by position or keyword.
        built_ins: Names of forbidden functions that it called.
        printed: What it printed.
    """

    value: Any = None
    error: BaseException | None = None
    line: str = ""
    changed: tuple[int | str, ...] = ()
    built_ins: tuple[str, ...] = ()
    printed: str = ""

    def same_as(self, other: "Outcome") -> bool:
        """Whether another answer gave the same, by whatever functions."""
        if self.changed != other.changed:
            return False
        if self.error is not None or other.error is not None:
            return repr(self.error) == repr(other.error)
        return equal(self.value, other.value)


def run(answer: Answer, probe: Probe, built_ins: tuple[Answer, ...] = ()) -> Outcome:
    """Run an answer on a probe. Never raises, but for KeyboardInterrupt."""
    args, kwargs = _clone(probe.args), {name: _clone(value) for name, value in probe.kwargs.items()}
    before = _by_place(probe.args, probe.kwargs)
    printed, watch = io.StringIO(), _Watch(built_ins)

    def use() -> Any:
        # Grad mode and function modes belong to a thread: they are set inside the call.
        with watch, torch.enable_grad():
            return probe.use(answer, args, kwargs)

    value, error = None, None
    with _quiet(printed):
        try:
            value = call_within(probe.seconds, use)
        except KeyboardInterrupt:
            raise
        except BaseException as caught:
            error = caught
    after = _by_place(args, kwargs)
    changed = tuple(place for place in before if not _untouched(before[place], after[place]))
    return Outcome(
        _detached(value), error, _learners_line(error, answer), changed,
        tuple(watch.seen), printed.getvalue(),
    )  # fmt: skip


def equal(mine: Any, theirs: Any) -> bool:
    """Whether two values agree: types, shapes, dtypes, and numbers within rounding."""
    if isinstance(mine, tuple | list) and type(mine) is type(theirs):
        return len(mine) == len(theirs) and all(map(equal, mine, theirs))
    if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
        if mine.shape != theirs.shape or mine.dtype != theirs.dtype or mine.device != theirs.device:
            return False
        return bool(close(mine, theirs).all())
    if isinstance(mine, np.ndarray) and isinstance(theirs, np.ndarray):
        return mine.dtype == theirs.dtype and np.array_equal(mine, theirs)
    if type(mine) is not type(theirs):
        return False
    if isinstance(mine, float):
        return bool(np.isclose(mine, theirs, rtol=1e-6, equal_nan=True))
    return isinstance(mine, str | int | bool | None) and mine == theirs


def close(mine: Tensor, theirs: Tensor) -> Tensor:
    """Where two tensors of one shape and dtype agree within the rounding of that dtype."""
    if not mine.is_floating_point():
        return mine == theirs
    rtol, atol = _TOLERANCE[mine.dtype]
    return torch.isclose(mine, theirs, rtol=rtol, atol=atol, equal_nan=True)


class _Watch(TorchFunctionMode):
    """Notes which forbidden functions are called, by whatever way they are reached."""

    def __init__(self, forbidden: tuple[Answer, ...]) -> None:
        super().__init__()
        self.forbidden = forbidden
        self.seen: dict[str, None] = {}

    def __torch_function__(
        self, func: Answer, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if any(func is each for each in self.forbidden):
            self.seen[func.__name__] = None
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _quiet(printed: io.StringIO) -> Iterator[None]:
    # An answer may draw random numbers and print: neither may show outside of the check.
    with (
        torch.random.fork_rng(devices=[]),
        contextlib.redirect_stdout(printed),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):  # torch's named tuples become plain ones
        return tuple(_map_tensors(function, each) for each in value)
    if isinstance(value, list):
        return [_map_tensors(function, each) for each in value]
    return value


def _clone(value: Any) -> Any:
    def copy(tensor: Tensor) -> Tensor:
        # clone() keeps strides, so that a probe with a transposed input stays one.
        return tensor.detach().clone(memory_format=torch.preserve_format)

    return _map_tensors(copy, value)


def _detached(value: Any) -> Any:
    return _map_tensors(Tensor.detach, value)


def _by_place(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[int | str, Any]:
    places: dict[int | str, Any] = dict(enumerate(args))
    return places | dict(kwargs)


def _untouched(old: Any, new: Any) -> bool:
    if isinstance(old, Tensor):
        return old.shape == new.shape and old.dtype == new.dtype and bool(close(new, old).all())
    return not isinstance(old, list) or old == new


def functions_of(answer: Answer) -> list[FunctionType]:
    """The answer itself, or the methods of an answer that is a class."""
    parts = vars(answer).values() if isinstance(answer, type) else (answer,)
    return [part for part in parts if isinstance(part, FunctionType)]


def _learners_line(error: BaseException | None, answer: Answer) -> str:
    """The innermost line of the learner's own code on the way to the error."""
    if error is None or isinstance(error, TimeLimitReached):
        return ""
    files = _files(answer)
    places = [
        (frame.f_code.co_filename, number)
        for frame, number in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename in files
    ]
    if not places:
        return ""
    return f"line {places[-1][1]}: {linecache.getline(*places[-1]).strip()}"


def raised_by_answer(error: BaseException | None, answer: Answer) -> bool:
    """Whether the error was raised by the learner's own code and not inside a library."""
    if error is None:
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_code.co_filename in _files(answer)


def _files(answer: Answer) -> set[str]:
    return {function.__code__.co_filename for function in functions_of(answer)}
