"""Checks a learner's answer and says what is wrong with it.

    check(softmax)       ✓, ✗ with a diagnosis, or ○ while it isn't written
    hint("softmax")      the first hint; called again, the next

It runs the answer in the notebook's own process: guarded against loops, exits and exceptions, but no
sandbox. Who grades other people's work runs it in a container.
"""

from transformer_lab.checking.engine import check, hint
from transformer_lab.checking.result import CheckFailedError, Result

__all__ = ["CheckFailedError", "Result", "check", "hint"]
