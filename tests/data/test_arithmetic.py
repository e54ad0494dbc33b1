"""Steps are checked one by one, as a teacher would; the operands of validation are new."""

import itertools
import operator
import random
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_lab.data import (
    ADDITION,
    ADDITION_WITH_CARRIES,
    MULTIPLICATION,
    MULTIPLICATION_WITH_PARTIAL_PRODUCTS,
    Arithmetic,
    arithmetic_pairs,
    read_answer,
)
from transformer_lab.data.arithmetic import carries, no_steps, partial_products

TASKS = [ADDITION, ADDITION_WITH_CARRIES, MULTIPLICATION, MULTIPLICATION_WITH_PARTIAL_PRODUCTS]
operands = st.integers(0, 10**6)


@settings(max_examples=100, deadline=None)
@given(operands, operands)
def test_carries_are_those_of_written_addition(first, second):
    columns = [re.split(r"[+=]", each) for each in carries(first, second)[1:-1].split("|")]
    columns = [[int(part) for part in column] for column in columns]
    width = max(len(str(first)), len(str(second)))
    assert [column[0] for column in columns] == [int(d) for d in str(first).zfill(width)[::-1]]
    assert [column[1] for column in columns] == [int(d) for d in str(second).zfill(width)[::-1]]
    assert all(sum(column[:3]) == column[3] for column in columns)
    assert [column[2] for column in columns] == [0] + [int(c[3] > 9) for c in columns[:-1]]
    answer = [str(columns[-1][3])] + [str(column[3] % 10) for column in columns[-2::-1]]
    assert int("".join(answer)) == first + second


@settings(max_examples=100, deadline=None)
@given(operands, operands)
def test_partial_products_add_up(first, second):
    steps = partial_products(first, second)[1:-1].split("|")
    products, sums = {}, []
    for step in steps:
        left, right = step.split("=")
        numbers = [int(number) for number in re.split(r"[*+]", left)]
        if "*" in left:
            assert numbers[0] == first
            products[numbers[1]] = int(right)
            assert numbers[0] * numbers[1] == int(right)
            total = int(right) if len(steps) == 1 else None
        else:
            assert sum(numbers) == int(right)
            assert numbers[0] == (sums[-1] if sums else first * (second % 10))
            total = int(right)
            sums.append(total)
    digits = str(second)[::-1]
    assert list(products) == list(dict.fromkeys(int(d) * 10**k for k, d in enumerate(digits)))
    assert len(sums) == len(digits) - 1
    assert total == first * second


def test_by_hand():
    assert ADDITION.prompt(47, 85) + ADDITION.completion(47, 85) == "47+85=132"
    assert ADDITION_WITH_CARRIES.completion(999, 1) == "[9+1+0=10|9+0+1=10|9+0+1=10]1000"
    assert ADDITION_WITH_CARRIES.completion(0, 0) == "[0+0+0=0]0"
    assert MULTIPLICATION.prompt(12, 34) + MULTIPLICATION.completion(12, 34) == "12*34=408"
    assert MULTIPLICATION_WITH_PARTIAL_PRODUCTS.completion(12, 304) == (
        "[12*4=48|12*0=0|48+0=48|12*300=3600|48+3600=3648]3648"
    )
    assert no_steps(1, 2) == ""


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(TASKS), operands, operands)
def test_answers_are_read_back(task, first, second):
    right = {"+": first + second, "*": first * second}[task.symbol]
    prompt, completion = task.prompt(first, second), task.completion(first, second)
    for text in (prompt + completion, completion, f" {completion}\n", f"{completion}\n1+1=2"):
        assert read_answer(text) == right
    assert task.is_right(prompt + completion)
    assert not task.is_right(f"{prompt}{right + 1}")
    assert not task.is_right(f"{prompt}{completion}0")
    assert not task.is_right(prompt)


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "47+85=", "47+85", "47+85=[7+5", "47+85=[7+5+0=12]", "[1][2]3", "132+5", "132 5", "0132",
        "47+85=132=132", "-5", "13.2", "answer 132", "132<end>", "٣", "9" * 5000, "[[1]]2", "1 2\n3",
    ],
)  # fmt: skip
def test_what_is_no_answer(text):
    assert read_answer(text) is None


def test_wrong_steps_do_not_spoil_an_answer():
    assert ADDITION_WITH_CARRIES.is_right("47+85=[anything at all]132")
    assert ADDITION.is_right("47+85=132\n47+85=133")
    assert not ADDITION.is_right("47+85=47")
    assert read_answer("0") == 0
    assert read_answer("9" * 1000) == int("9" * 1000)


def parsed(pairs):
    return [tuple(map(int, re.match(r"(\d+).(\d+)=", prompt).groups())) for prompt, _ in pairs]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 50), st.integers(20, 300), st.sampled_from(TASKS))
def test_operands_of_validation_are_new_in_either_order(seed, smallest, span, task):
    train, validation = arithmetic_pairs(
        task, 100, 30, smallest=smallest, largest=smallest + span, seed=seed
    )
    assert (len(train), len(validation)) == (100, 30)
    sets = [frozenset(pair) for pair in parsed(train + validation)]
    assert len(set(sets)) == 130
    assert all(smallest <= number <= smallest + span for pair in sets for number in pair)
    assert all(task.is_right(prompt + completion) for prompt, completion in train + validation)


@pytest.mark.parametrize(("smallest", "largest"), [(0, 9), (3, 3), (5, 17), (10, 20)])
def test_all_operands_can_be_drawn(smallest, largest):
    numbers = range(smallest, largest + 1)
    expected = set(itertools.combinations_with_replacement(numbers, 2))
    if len(expected) < 2:
        with pytest.raises(ValueError, match="at most 1"):
            arithmetic_pairs(ADDITION, 1, 1, smallest=smallest, largest=largest)
        return
    train, validation = arithmetic_pairs(
        ADDITION, len(expected) - 1, 1, smallest=smallest, largest=largest
    )
    drawn = parsed(train + validation)
    assert {tuple(sorted(pair)) for pair in drawn} == expected
    rising = sum(first < second for first, second in drawn)
    assert 0 < rising < len(expected) - len(numbers)


def test_very_large_operands():
    train, _ = arithmetic_pairs(ADDITION, 50, 1, smallest=10**29, largest=10**30 - 1)
    assert all(10**29 <= number < 10**30 for pair in parsed(train) for number in pair)
    assert all(ADDITION.is_right(prompt + completion) for prompt, completion in train)


def test_kinds_of_problems_get_the_same_operands():
    one, other = (arithmetic_pairs(task, 40, 10, seed=2) for task in TASKS[:2])
    assert [prompt for prompt, _ in one[0]] == [prompt for prompt, _ in other[0]]
    assert [prompt for prompt, _ in one[1]] == [prompt for prompt, _ in other[1]]
    assert one[0] != other[0]


@pytest.mark.usefixtures("as_a_user")  # the check of shapes draws itself
def test_the_seed_decides():
    before = random.getstate(), torch.get_rng_state()
    once = arithmetic_pairs(ADDITION, 40, 10, seed=2)
    assert arithmetic_pairs(ADDITION, 40, 10, seed=2) == once
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert arithmetic_pairs(ADDITION, 40, 10, seed=3) != once


def test_a_kind_of_ones_own():
    modular = Arithmetic(symbol="⊕", result=lambda a, b: (a + b) % 7, steps=lambda a, b: "[mod 7]")
    assert modular.is_right(modular.prompt(5, 4) + modular.completion(5, 4))
    assert modular.completion(5, 4) == "[mod 7]2"


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (lambda: arithmetic_pairs("+", 1, 1), TypeError, r"task must be an Arithmetic.* '\+'"),
        (lambda: arithmetic_pairs(ADDITION, 0, 1), ValueError, "train must be at least 1"),
        (lambda: arithmetic_pairs(ADDITION, 1, 0), ValueError, "validation must be at least 1"),
        (lambda: arithmetic_pairs(ADDITION, 1, 1, seed=-1), ValueError, "seed must be at least 0"),
        (lambda: arithmetic_pairs(ADDITION, 1, 1, smallest=-1), ValueError, "smallest must be at"),
        (
            lambda: arithmetic_pairs(ADDITION, 1, 1, smallest=5, largest=4),
            ValueError,
            "largest must be at least 5; it is 4",
        ),
        (
            lambda: arithmetic_pairs(ADDITION, 50, 6, largest=9),
            ValueError,
            r"train \+ validation must be at most 55, .* from 0 to 9; they are 56",
        ),
        (lambda: ADDITION.prompt(-1, 2), ValueError, "first must be at least 0; it is -1"),
        (lambda: ADDITION.prompt(1, 2.0), TypeError, "second must be a whole number; it is 2.0"),
        (lambda: ADDITION.completion(1, -2), ValueError, "second must be at least 0; it is -2"),
        (
            lambda: Arithmetic(symbol="-", result=operator.sub).completion(3, 5),
            ValueError,
            "the result of 3-5 must be at least 0; it is -2",
        ),
        (lambda: Arithmetic(symbol="", result=max), ValueError, "symbol must be a sign .* ''"),
        (lambda: Arithmetic(symbol="+1", result=max), ValueError, r"symbol must be .* '\+1'"),
        (lambda: Arithmetic(symbol="=", result=max), ValueError, "symbol must be a sign .* '='"),
        (lambda: ADDITION.is_right("132"), ValueError, r"begin with a problem such as '4\+7='"),
        (lambda: ADDITION.is_right("4*7=28"), ValueError, r"such as '4\+7='; it is '4\*7=28'"),
        (lambda: read_answer(132), TypeError, "text must be a str; it is a int"),
        (lambda: ADDITION.is_right(None), TypeError, "text must be a str; it is a NoneType"),
    ],
)
def test_bad_input_is_answered_in_words(use, error, says):
    with pytest.raises(error, match=says):
        use()
