"""How the learning rate goes over a training: functions of the step, which is counted from 0.

Each gives a factor of the optimiser's learning rate, except `Noam`, which gives the rate itself. The
warm-up rises in a straight line from 0 at step -1 to 1 at step `warmup`; what falls would reach its end
at step `steps`, one after the last. So no step is spent with a rate of 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from transformer_lab import checks

Schedule = Callable[[int], float]


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Rises over the warm-up, then stays.

    Args:
        warmup: Steps of the warm-up.

    Raises: TypeError or ValueError if warmup is no whole number from 0 up.

    >>> [Constant(warmup=3)(step) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    warmup: int = 0

    def __post_init__(self) -> None:
        checks.whole("warmup", self.warmup, 0)

    def __call__(self, step: int) -> float:
        return _rise(step, self.warmup)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Rises over the warm-up, then falls in a straight line.

    Args:
        steps: Steps of the whole training, the warm-up among them.
        warmup: Steps of the warm-up.
        end: Factor that it falls to.

    Raises: TypeError or ValueError if a number of steps is no whole number, the warm-up leaves no step,
        or end is no factor from 0 to 1.

    >>> [Linear(steps=4)(step) for step in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    steps: int
    warmup: int = 0
    end: float = 0.0

    def __post_init__(self) -> None:
        _check_fall(self.steps, self.warmup, self.end)

    def __call__(self, step: int) -> float:
        left = 1 - _gone(step, self.warmup, self.steps)
        return _rise(step, self.warmup) * (self.end + (1 - self.end) * left)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Rises over the warm-up, then falls along half a wave of the cosine.

    end + (1 - end) · (1 + cos(π · t)) / 2, where t goes from 0 after the warm-up to 1 at `steps`.

    Args:
        steps: Steps of the whole training, the warm-up among them.
        warmup: Steps of the warm-up.
        end: Factor that it falls to.

    Raises: TypeError or ValueError if a number of steps is no whole number, the warm-up leaves no step,
        or end is no factor from 0 to 1.
    Source: Loshchilov and Hutter 2017 (SGDR), equation 5, without restarts; end = 0.1: Hoffmann et al.
        2022, section 3.

    >>> [round(Cosine(steps=4, end=0.0)(step), 2) for step in range(5)]
    [1.0, 0.85, 0.5, 0.15, 0.0]
    """

    steps: int
    warmup: int = 0
    end: float = 0.1

    def __post_init__(self) -> None:
        _check_fall(self.steps, self.warmup, self.end)

    def __call__(self, step: int) -> float:
        left = (1 + math.cos(math.pi * _gone(step, self.warmup, self.steps))) / 2
        return _rise(step, self.warmup) * (self.end + (1 - self.end) * left)


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay:
    """Rises over the warm-up, stays, and falls in a straight line over the last steps.

    Until it falls, the number of steps can still be changed: the stable part doesn't depend on it.

    Args:
        steps: Steps of the whole training.
        decay: Steps of the fall, the last ones.
        warmup: Steps of the warm-up.
        end: Factor that it falls to.

    Raises: TypeError or ValueError if a number of steps is no whole number, warm-up and fall overlap,
        or end is no factor from 0 to 1.
    Source: Hu et al. 2024 (MiniCPM), section 4. Differs: a straight fall (Hägele et al. 2024) in place of
        an exponential one.

    >>> [WarmupStableDecay(steps=6, decay=2, warmup=1)(step) for step in range(7)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]
    """

    steps: int
    decay: int
    warmup: int = 0
    end: float = 0.0

    def __post_init__(self) -> None:
        _check_fall(self.steps, self.warmup, self.end)
        checks.whole("decay", self.decay, 1)
        if self.warmup + self.decay > self.steps:
            raise ValueError(
                f"warm-up and fall must fit into the training; they take {self.warmup} and "
                f"{self.decay} of {self.steps} steps. Make one of them shorter."
            )

    def __call__(self, step: int) -> float:
        left = 1 - _gone(step, self.steps - self.decay, self.steps)
        return _rise(step, self.warmup) * (self.end + (1 - self.end) * left)


@dataclass(frozen=True, kw_only=True)
class Noam:
    """Gives the learning rate itself: give the optimiser lr=1.

    scale · d_model^(-1/2) · min(n^(-1/2), n · warmup^(-3/2)), with n = step + 1.

    Args:
        d_model: Features of each position.
        warmup: Steps of the warm-up, after which the rate is highest.
        scale: Multiplies all of it.

    Raises: TypeError or ValueError if a size is no whole number from 1 up, or scale isn't above 0.
    Source: Vaswani et al. 2017, section 5.3, equation 3, whose step_num counts from 1. Differs: scale,
        1 there.

    >>> round(Noam(d_model=512, warmup=4000)(3999), 6)
    0.000699
    """

    d_model: int
    warmup: int = 4000
    scale: float = 1.0

    def __post_init__(self) -> None:
        checks.whole("d_model", self.d_model, 1)
        checks.whole("warmup", self.warmup, 1)
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be a number above 0; it is {self.scale!r}.")

    def __call__(self, step: int) -> float:
        checks.whole("step", step, 0)
        number = step + 1
        return self.scale * self.d_model**-0.5 * min(number**-0.5, number * self.warmup**-1.5)


def _rise(step: int, warmup: int) -> float:
    checks.whole("step", step, 0)
    return min(1.0, (step + 1) / (warmup + 1))


def _gone(step: int, start: int, end: int) -> float:
    """How much of the way from start to end is behind, from 0 to 1."""
    return min(1.0, max(0.0, (step - start) / (end - start)))


def _check_fall(steps: int, warmup: int, end: float) -> None:
    checks.whole("steps", steps, 1)
    checks.whole("warmup", warmup, 0)
    if warmup >= steps:
        raise ValueError(
            f"the warm-up must be shorter than the training; it takes {warmup} of {steps} steps."
        )
    if not 0 <= end <= 1:
        raise ValueError(f"end is a factor from 0 to 1; it is {end!r}.")
