"""Contestants that run in turns, so that a machine whose speed drifts is unfair to none of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

OURS = "transformer_lab"


@dataclass(frozen=True)
class Figure:
    """One row of the table: the same task done by us and by others.

    Args:
        task: What was done.
        unit: Of the samples, more is better.
        samples: For each contestant, one number a round.
        aim: Least ratio to the best peer that is wanted; none when None.
        limit: What the machine could do at most, and by what.
        note: Anything a reader of the figure must know.
    """

    task: str
    unit: str
    samples: dict[str, list[float]]
    aim: float | None = None
    limit: tuple[float, str] | None = None
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def medians(self) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in self.samples.items()}

    @property
    def best_peer(self) -> str | None:
        peers = {name: value for name, value in self.medians.items() if name != OURS}
        return max(peers, key=lambda name: peers[name]) if peers else None

    @property
    def ratios(self) -> list[float]:
        """Ours over the best peer's, round by round."""
        peer = self.best_peer
        if peer is None:
            return []
        return [
            mine / its for mine, its in zip(self.samples[OURS], self.samples[peer], strict=True)
        ]

    @property
    def holds(self) -> bool | None:
        if self.aim is None or not self.ratios:
            return None
        return statistics.median(self.ratios) >= self.aim

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "medians": self.medians, "ratios": self.ratios, "holds": self.holds}


def in_turns(
    contestants: Mapping[str, Callable[[], float]], rounds: int = 7, warmup: int = 1
) -> dict[str, list[float]]:
    """Each contestant once a round, in an order that shifts from round to round.

    Args:
        contestants: Each does its work and returns what it reached (tokens a second).
        rounds: That count.
        warmup: Rounds before, that don't.
    """
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(-warmup, rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            reached = contestants[name]()
            if number >= 0:
                samples[name].append(reached)
    return samples


def rate(work: Callable[[], object], amount: float, repeat: int = 1) -> float:
    """Amount done in a second.

    Args:
        work: Is called `repeat` times.
        amount: What one call does (tokens, bytes, FLOPs).
        repeat: Calls.
    """
    start = time.perf_counter()
    for _ in range(repeat):
        work()
    return repeat * amount / (time.perf_counter() - start)
