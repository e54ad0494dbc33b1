"""A time limit for code that may never end."""

import ctypes
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

_AGAIN = 0.2  # seconds until the next try when the code swallowed the exception


class TimeLimitReached(BaseException):
    """Not an Exception, so that the `except Exception` of a learner's loop lets it through."""


def call_within(seconds: float, function: Callable[[], T]) -> T:
    """Call a function and stop it after some seconds.

    Args:
        seconds: The limit.
        function: What to call.

    Raises: TimeLimitReached if the limit was reached.
    """
    if hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread():
        return _call_with_alarm(seconds, function)
    return _call_in_thread(seconds, function)


def _call_with_alarm(seconds: float, function: Callable[[], T]) -> T:
    tracer_before, rings, over = sys.gettrace(), 0, False

    def stop_at_next_line(frame: FrameType, event: str, arg: Any) -> Any:
        if event != "line":
            return stop_at_next_line
        sys.settrace(None)
        raise TimeLimitReached

    def ring(signum: int, frame: FrameType | None) -> None:
        nonlocal rings
        if over:
            return
        rings += 1
        # A bare `except:` inside the loop has caught it before: raise once more on the next line,
        # which is then a line of that handler, so that the exception leaves the loop.
        if rings > 1 and frame is not None:
            frame.f_trace = stop_at_next_line
            sys.settrace(stop_at_next_line)
        raise TimeLimitReached

    handler_before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:
        return function()
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler_before)
        if rings > 1:
            sys.settrace(tracer_before)


def _call_in_thread(seconds: float, function: Callable[[], T]) -> T:
    # Where there is no alarm (Windows, a thread). A loop inside one call of a C function can't be
    # stopped so; its thread is left behind.
    values: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            values.append(function())
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(seconds)
    if worker.is_alive():
        for _ in range(10):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(worker.ident or 0), ctypes.py_object(TimeLimitReached)
            )
            worker.join(_AGAIN)
            if not worker.is_alive():
                break
        raise TimeLimitReached
    if errors:
        raise errors[0]
    return values[0]
