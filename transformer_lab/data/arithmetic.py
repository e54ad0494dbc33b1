"""Sums and products in digits, with or without the steps written out, and answers that can be checked."""

import math
import operator
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from transformer_lab import checks

MOST_DIGITS = 1000  # of an answer that is read back; what is longer isn't one
_NUMBER = r"(?:0|[1-9][0-9]*)"


def no_steps(first: int, second: int) -> str:
    """Write nothing between the problem and its answer.

    Args:
        first: The first operand.
        second: The second one.

    >>> no_steps(47, 85)
    ''
    """
    return ""


def carries(first: int, second: int) -> str:
    """Write an addition column by column from the right: two digits, the carry, and their sum.

    Args:
        first: The first operand.
        second: The second one.

    Source: Nye et al. 2021 (Show Your Work), on long addition. Differs: a shorter notation.

    >>> carries(47, 85)
    '[7+5+0=12|4+8+1=13]'
    """
    columns, carry = [], 0
    for place in range(max(len(str(first)), len(str(second)))):
        digits = _digit(first, place), _digit(second, place)
        total = sum(digits) + carry
        columns.append(f"{digits[0]}+{digits[1]}+{carry}={total}")
        carry = total // 10
    return f"[{'|'.join(columns)}]"


def partial_products(first: int, second: int) -> str:
    """Write a multiplication digit by digit of the second operand from the right, adding up on the way.

    Args:
        first: The first operand.
        second: The second one.

    >>> partial_products(12, 34)
    '[12*4=48|12*30=360|48+360=408]'
    """
    steps, total = [], 0
    for place in range(len(str(second))):
        part = _digit(second, place) * 10**place
        steps.append(f"{first}*{part}={first * part}")
        if place:
            steps.append(f"{total}+{first * part}={total + first * part}")
        total += first * part
    return f"[{'|'.join(steps)}]"


def _digit(number: int, place: int) -> int:
    return number // 10**place % 10


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """A kind of problem: how it is written, and what is right.

    Attributes:
        symbol: Stands between the operands.
        result: The right answer, not negative.
        steps: What is written before the answer: nothing, or steps in square brackets.

    >>> ADDITION_WITH_CARRIES.prompt(47, 85) + ADDITION_WITH_CARRIES.completion(47, 85)
    '47+85=[7+5+0=12|4+8+1=13]132'
    """

    symbol: str
    result: Callable[[int, int], int]
    steps: Callable[[int, int], str] = no_steps

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^0-9\s=\[\]]+", self.symbol):
            raise ValueError(
                "symbol must be a sign without digits, spaces, brackets or =, such as '+'; it is "
                f"{self.symbol!r}."
            )

    def prompt(self, first: int, second: int) -> str:
        """Write the problem, up to the sign "=".

        Args:
            first: The first operand.
            second: The second one.

        Raises: ValueError if an operand is negative.
        """
        checks.whole("first", first, 0)
        checks.whole("second", second, 0)
        return f"{first}{self.symbol}{second}="

    def completion(self, first: int, second: int) -> str:
        """Write what is to follow the problem: the steps, if there are any, and the answer.

        Args:
            first: The first operand.
            second: The second one.

        Raises: ValueError if an operand or the result is negative.
        """
        checks.whole("first", first, 0)
        checks.whole("second", second, 0)
        result = self.result(first, second)
        checks.whole(f"the result of {first}{self.symbol}{second}", result, 0)
        return f"{self.steps(first, second)}{result}"

    def is_right(self, text: str) -> bool:
        """Say whether the answer of a problem is right; the steps before it don't count.

        Args:
            text: Problem and answer, such as "47+85=132".

        Raises: ValueError if text doesn't begin with a problem of this kind.

        >>> ADDITION.is_right("47+85=132"), ADDITION.is_right("47+85=131")
        (True, False)
        """
        problem = re.match(rf"({_NUMBER}){re.escape(self.symbol)}({_NUMBER})=", _text(text))
        if problem is None:
            raise ValueError(
                f"text must begin with a problem such as {self.prompt(4, 7)!r}; it is {text!r:.60}."
            )
        first, second = (int(operand) for operand in problem.groups())
        return read_answer(text) == self.result(first, second)


ADDITION = Arithmetic(symbol="+", result=operator.add)
ADDITION_WITH_CARRIES = Arithmetic(symbol="+", result=operator.add, steps=carries)
MULTIPLICATION = Arithmetic(symbol="*", result=operator.mul)
MULTIPLICATION_WITH_PARTIAL_PRODUCTS = Arithmetic(
    symbol="*", result=operator.mul, steps=partial_products
)


def read_answer(text: str) -> int | None:
    """Read the answer out of what a model wrote.

    The problem and the steps may stand before it; only an end of line may follow.

    Args:
        text: What the model wrote, with or without the problem before it.

    Returns: The answer, or None if there isn't one where it belongs.

    >>> read_answer("47+85=[7+5+0=12|4+8+1=13]132"), read_answer("132"), read_answer("47+85=")
    (132, 132, None)
    """
    line = _text(text).partition("\n")[0].strip()
    found = re.fullmatch(rf"(?:[0-9]+[^0-9\s=\[\]]+[0-9]+=)?(?:\[[^\[\]]*\])?({_NUMBER})", line)
    if found is None or len(found[1]) > MOST_DIGITS:
        return None
    return int(found[1])


def arithmetic_pairs(
    task: Arithmetic,
    train: int,
    validation: int,
    *,
    largest: int = 999,
    smallest: int = 0,
    seed: int = 0,
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Draw problems and what is to follow them, to train on and to validate on.

    No two have the same operands, in either order, so that 85+47 can't be known from 47+85. With the same
    numbers and seed, each kind of problem gets the same operands: it can be compared with another.

    Args:
        task: The kind of problem.
        train: Number of training pairs.
        validation: Number of validation pairs.
        largest: The largest operand.
        smallest: The smallest operand. To ask for longer numbers than in training, draw again from a
            higher range.
        seed: Another seed, other operands.

    Returns: Training and validation pairs of prompt and completion.
    Raises: TypeError if task is no Arithmetic; ValueError if a number is out of its range, or there are
        fewer pairs of operands than asked for.

    >>> arithmetic_pairs(ADDITION, 2, 1, largest=99)
    ([('74+78=', '152'), ('82+42=', '124')], [('6+25=', '31')])
    """
    if not isinstance(task, Arithmetic):
        raise TypeError(f"task must be an Arithmetic, such as ADDITION; it is {task!r:.60}.")
    checks.whole("train", train, 1)
    checks.whole("validation", validation, 1)
    checks.whole("smallest", smallest, 0)
    checks.whole("largest", largest, smallest)
    checks.whole("seed", seed, 0)
    numbers = largest - smallest + 1
    possible = numbers * (numbers + 1) // 2
    if train + validation > possible:
        raise ValueError(
            f"train + validation must be at most {possible}, the pairs of operands from {smallest} to "
            f"{largest}; they are {train + validation}. Take fewer, or a larger range."
        )
    draw = random.Random(seed)
    places: dict[int, None] = {}  # keeps its order, which a set doesn't
    while len(places) < train + validation:
        places[draw.randrange(possible)] = None
    pairs = []
    for place in places:
        # Pairs with second ≤ first, row by row: row r begins at place r(r + 1) / 2.
        row = (math.isqrt(8 * place + 1) - 1) // 2
        first, second = smallest + row, smallest + place - row * (row + 1) // 2
        if draw.random() < 0.5:
            first, second = second, first
        pairs.append((task.prompt(first, second), task.completion(first, second)))
    return pairs[:train], pairs[train:]


def _text(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"text must be a str; it is a {type(text).__name__}.")
    return text
