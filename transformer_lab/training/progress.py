"""How a training says how far it is: a bar on a terminal, a few lines elsewhere, or nothing."""

import sys
from typing import Any, Protocol

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from transformer_lab import checks


class Progress(Protocol):
    """What the training loop tells."""

    def start(self, done: int, steps: int) -> None:
        """Say that a training begins.

        Args:
            done: Steps done before.
            steps: Steps in all.
        """

    def step(self, done: int, loss: float, validation: float | None) -> None:
        """Say that a step was done.

        Args:
            done: Steps done so far.
            loss: The last step's, in nats for each target.
            validation: The validation loss, if there was one after this step.
        """

    def end(self) -> None:
        """Say that it is over, by an error too."""


class Silent:
    """Says nothing."""

    def start(self, done: int, steps: int) -> None: ...
    def step(self, done: int, loss: float, validation: float | None) -> None: ...
    def end(self) -> None: ...


class Lines:
    """Prints a line now and then, without times, so that the same training prints the same lines.

    Args:
        lines: How many lines to print over the training; each validation is a line besides.

    Raises: TypeError or ValueError if lines is no whole number from 1 up.

    >>> lines = Lines(2)
    >>> lines.start(0, 4)
    >>> for done in range(1, 5): lines.step(done, 1 / done, None)
    step 2 of 4: loss 0.50
    step 4 of 4: loss 0.25
    """

    def __init__(self, lines: int = 10) -> None:
        checks.whole("lines", lines, 1)
        self._lines, self._steps = lines, 0

    def start(self, done: int, steps: int) -> None:
        """Take up how many steps there will be."""
        self._steps = steps

    def step(self, done: int, loss: float, validation: float | None) -> None:
        """Print, if it is time."""
        due = done * self._lines // self._steps > (done - 1) * self._lines // self._steps
        if due or validation is not None:
            width = len(str(self._steps))
            besides = "" if validation is None else f", validation {validation:.2f}"
            print(f"step {done:>{width}} of {self._steps}: loss {loss:.2f}{besides}", flush=True)

    def end(self) -> None: ...


class Bar:
    """Shows tqdm's bar on the terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._validation = ""

    def start(self, done: int, steps: int) -> None:
        """Show it."""
        self._bar = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True)

    def step(self, done: int, loss: float, validation: float | None) -> None:
        """Move it on."""
        if validation is not None:
            self._validation = f", validation {validation:.3f}"
        self._bar.set_postfix_str(f"loss {loss:.3f}{self._validation}", refresh=False)
        self._bar.update()

    def end(self) -> None:
        """Leave it as it is."""
        if self._bar is not None:
            self._bar.close()


def automatic_progress() -> Progress:
    """A bar on a terminal; lines in a notebook, a file or a pipe, where a bar would be a mess."""
    return Bar() if sys.stderr is not None and sys.stderr.isatty() else Lines()
