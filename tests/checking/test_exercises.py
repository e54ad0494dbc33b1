"""Every exercise: the reference passes, each wrong answer gets its own diagnosis, alternatives pass."""

import pytest

from transformer_lab.checking.diagnosis import parameters
from transformer_lab.checking.engine import examine
from transformer_lab.checking.exercise import Exercise, Wrong
from transformer_lab.checking.registry import exercises

ALL = tuple(exercises().values())
WRONG = [(exercise, wrong) for exercise in ALL for wrong in exercise.wrong_answers]
RIGHT = [(exercise, i) for exercise in ALL for i in range(len(exercise.correct_alternatives))]


@pytest.mark.parametrize(
    ("exercise", "wrong"),
    WRONG,
    ids=[f"{exercise.name}: {wrong.name}" for exercise, wrong in WRONG],
)
def test_wrong_answer_gets_its_own_diagnosis(exercise: Exercise, wrong: Wrong) -> None:
    result = examine(wrong.answer, exercise)
    assert result.status == "fail", result
    assert result.diagnosis.startswith(wrong.says), result


@pytest.mark.parametrize(
    ("exercise", "index"), RIGHT, ids=[f"{exercise.name}: {index}" for exercise, index in RIGHT]
)
def test_correct_alternative_passes(exercise: Exercise, index: int) -> None:
    result = examine(exercise.correct_alternatives[index], exercise)
    assert result.status == "pass", result


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.name)
def test_exercise_is_complete(exercise: Exercise) -> None:
    assert exercise.signature.startswith(exercise.name + "(")
    assert parameters(exercise.signature), "an exercise takes at least one argument"
    assert len(exercise.wrong_answers) >= 5
    assert len({wrong.name for wrong in exercise.wrong_answers}) == len(exercise.wrong_answers)
    assert len({wrong.says for wrong in exercise.wrong_answers}) == len(exercise.wrong_answers)
    assert len(set(exercise.hints)) == 3


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.name)
def test_built_in_is_seen(exercise: Exercise) -> None:
    if not exercise.built_ins:
        pytest.skip("nothing is forbidden in this exercise")
    result = examine(exercise.reference, exercise)
    assert result.status in ("pass", "fail")


def test_the_course_is_large_enough() -> None:
    assert len(ALL) >= 12
    assert len(WRONG) >= 80
    assert len(RIGHT) >= 25
