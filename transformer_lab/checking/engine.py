"""The two functions that a learner calls."""

import inspect
from dataclasses import replace
from typing import Any

from transformer_lab.checking.diagnosis import data_globals, diagnose, example
from transformer_lab.checking.exercise import Answer, Exercise, Probe, Wrong
from transformer_lab.checking.limits import TimeLimitReached
from transformer_lab.checking.outcome import Outcome, equal, raised_by_answer, run
from transformer_lab.checking.registry import find
from transformer_lab.checking.result import Hint, Result
from transformer_lab.progress import Progress, ProgressError, folder_of_learner

_hints_given: dict[str, int] = {}  # outside of work/, where nothing is kept


def check(answer: Any, name: str | None = None) -> Result:
    """Check an answer to an exercise.

    Args:
        answer: The function or class itself, not what it returns.
        name: Name of the exercise; the answer's own name when None.

    Returns: A result that shows itself in a notebook.
    """
    name = getattr(answer, "__name__", None) if name is None else name
    if not callable(answer):
        return Result(
            "", name or "check", "fail",
            f"check needs the function itself, as in check(softmax); it got a {type(answer).__name__}. "
            "Leave out the parentheses and arguments.",
        )  # fmt: skip
    try:
        exercise = find(str(name))
    except ValueError as error:
        return Result("", str(name), "fail", f"{error} Or pass it: check(answer, name=…).")
    result = examine(answer, exercise)
    _record(result)
    return result


def hint(name: Any) -> Hint | Result:
    """Give the next hint to an exercise: the first call gives the first.

    Args:
        name: Name of the exercise, or the function itself.
    """
    name = name if isinstance(name, str) else getattr(name, "__name__", repr(name))
    try:
        exercise = find(name)
    except ValueError as error:
        return Result("", name, "fail", str(error))
    number = min(_count_hint(name), len(exercise.hints))
    text = exercise.hints[number - 1]
    if number == len(exercise.hints):
        text += f" (The last hint. The whole answer stands in solutions/{exercise.lesson}.ipynb.)"
    return Hint(name, number, len(exercise.hints), text)


def examine(answer: Answer, exercise: Exercise) -> Result:
    """Try an answer on all probes of an exercise and say what came of it."""

    def result(status: Any, text: str) -> Result:
        return Result(exercise.lesson, exercise.name, status, text)

    if problem := _cannot_be_called(answer, exercise):
        return result("fail", problem)
    failures: list[tuple[Probe, Any, Outcome]] = []
    outcomes: list[Outcome] = []
    for probe in exercise.probes:
        outcome = run(answer, probe, exercise.built_ins)
        if not outcomes and _is_unwritten(outcome, answer):
            return result("todo", f"still to be written. Stuck? hint({exercise.name!r})")
        outcomes.append(outcome)
        expected = _expected(exercise, probe)
        if not _is_right(outcome, expected):
            failures.append((probe, expected, outcome))
        if isinstance(outcome.error, TimeLimitReached):
            break  # each further probe would take as long
    taken = [name for name in data_globals(answer) if name not in (exercise.name,)]
    if not failures:
        note = (
            f" It reads {_listing(taken)} from the notebook: pass what it needs as a parameter."
            if taken
            else ""
        )
        return result("pass", f"right on all {len(exercise.probes)} probes.{note}")
    probe, expected, outcome = failures[0]
    if known := _known_wrong_answer(exercise, outcomes, failures):
        text = f"{known.says}\n{example(exercise, probe, expected, outcome)}"
    else:
        text = diagnose(exercise, probe, expected, outcome)
    if taken:
        text += f"\nIt reads {_listing(taken)} from the notebook, not from its parameters: is that meant?"
    return result("fail", text)


def _cannot_be_called(answer: Answer, exercise: Exercise) -> str:
    try:
        signature = inspect.signature(answer)
    except (TypeError, ValueError):  # some built-in functions tell nothing
        return ""
    for probe in exercise.probes:
        try:
            signature.bind(*probe.args, **probe.kwargs)
        except TypeError as error:
            return (
                f"It can't be called as {exercise.signature}: {error}. Yours is {answer.__name__}{signature}; "
                "keep the names, the order and the defaults of the parameters."
            )
    return ""


def _is_unwritten(outcome: Outcome, answer: Answer) -> bool:
    if isinstance(outcome.error, NotImplementedError):
        # torch raises it too, from the learner's line, for what it can't do with integers.
        return raised_by_answer(outcome.error, answer) and "raise " in outcome.line
    code = getattr(answer, "__code__", None)
    # `pass` or `...` alone, with or without a docstring: nothing is called, computed or stored.
    return outcome.error is None and outcome.value is None and code is not None and not code.co_names and len(
        set(code.co_consts) - {None, Ellipsis, answer.__doc__}
    ) == 0 and code.co_nlocals == code.co_argcount  # fmt: skip


def _expected(exercise: Exercise, probe: Probe) -> Any:
    outcome = run(exercise.reference, probe)
    if outcome.error is not None:
        raise RuntimeError(
            f"the reference of {exercise.name} fails on {probe.title}"
        ) from outcome.error
    return outcome.value


def _is_right(outcome: Outcome, expected: Any) -> bool:
    return (
        outcome.error is None
        and not outcome.changed
        and not outcome.built_ins
        and equal(outcome.value, expected)
    )


def _known_wrong_answer(
    exercise: Exercise, outcomes: list[Outcome], failures: list[tuple[Probe, Any, Outcome]]
) -> Wrong | None:
    """The wrong answer of the bank that did the same on the first failing probe and on most others.

    It has to agree on the first, which is the one that is shown, and on at least half of all: two
    answers may both give NaN, or no gradient, for different reasons. An answer with two mistakes
    agrees with one of them on most probes; when that is mended, the other shows.
    """
    first = next(i for i, probe in enumerate(exercise.probes) if probe is failures[0][0])
    tried = exercise.probes[: len(outcomes)]
    # Where nothing is wrong but a forbidden function, only an answer that uses it too is the same.
    only_built_ins = all(
        _is_right(replace(each, built_ins=()), expected) for _, expected, each in failures
    )
    best, most = None, len(tried) - 1 if only_built_ins else (len(tried) - 1) // 2
    for wrong in exercise.wrong_answers:

        def does_the_same(i: int, wrong: Wrong = wrong) -> bool:
            theirs = run(wrong.answer, tried[i], exercise.built_ins)
            if only_built_ins and outcomes[i].built_ins != theirs.built_ins:
                return False
            return outcomes[i].same_as(theirs)

        if does_the_same(first) and (agreeing := sum(map(does_the_same, range(len(tried))))) > most:
            best, most = wrong, agreeing
    return best


def _listing(names: list[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)


def _count_hint(name: str) -> int:
    folder = folder_of_learner()
    if folder is not None:
        try:
            return Progress(folder).next_hint(name)
        except ProgressError:
            pass  # a hint is worth more than its count
    _hints_given[name] = _hints_given.get(name, 0) + 1
    return _hints_given[name]


def _record(result: Result) -> None:
    folder = folder_of_learner()
    if folder is None or not result.lesson:
        return
    try:
        Progress(folder).record(result.lesson, result.name, result.status)
    except ProgressError as error:
        print(f"(Your answer was checked, but your progress could not be kept: {error})")
