"""Finds exercises by name. Each lesson's module lists its own in EXERCISES."""

import difflib
import importlib
import pkgutil
from functools import cache

from transformer_lab.checking import lessons
from transformer_lab.checking.exercise import Exercise


@cache
def exercises() -> dict[str, Exercise]:
    """All exercises of the course by name, in the order of the lessons.

    Raises: ValueError if two exercises have one name.
    """
    found: dict[str, Exercise] = {}
    for module in sorted(pkgutil.iter_modules(lessons.__path__), key=lambda each: each.name):
        for exercise in importlib.import_module(f"{lessons.__name__}.{module.name}").EXERCISES:
            if exercise.name in found:
                raise ValueError(
                    f"two exercises are called {exercise.name!r}: in lessons "
                    f"{found[exercise.name].lesson} and {exercise.lesson}. A name must be unique in the course."
                )
            found[exercise.name] = exercise
    return found


def find(name: str) -> Exercise:
    """The exercise of a name.

    Raises: ValueError if there is none; the message names those that come near.
    """
    known = exercises()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3)
    mend = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(known)}."
    raise ValueError(f"there is no exercise called {name!r}. {mend}")
