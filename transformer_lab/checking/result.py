"""What a check answers, as text and as HTML."""

import html
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["pass", "fail", "todo"]

MARKS: dict[Status, str] = {"pass": "✓", "fail": "✗", "todo": "○"}
# Okabe and Ito's green, vermilion and grey: told apart without red-green vision, in light and dark themes.
_COLOURS: dict[Status, str] = {"pass": "#009e73", "fail": "#d55e00", "todo": "#8a8f98"}


class CheckFailedError(AssertionError):
    """Raised by `Result.raise_for_fail`, for graders."""


@dataclass(frozen=True)
class Result:
    """The answer of `check`.

    The first line of `diagnosis` says what is the matter; the lines after it show where.
    """

    lesson: str
    name: str
    status: Status
    diagnosis: str

    def raise_for_fail(self) -> None:
        """Raise `CheckFailedError` unless the check passed: unwritten counts as failed."""
        if self.status != "pass":
            raise CheckFailedError(str(self))

    def __str__(self) -> str:
        return f"{MARKS[self.status]} {self.name}: {self.diagnosis}"

    def __repr__(self) -> str:
        return str(self)

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        head, _, rest = self.diagnosis.partition("\n")
        details = (
            f'<pre style="margin:0.5em 0 0 0">{html.escape(rest.strip(chr(10)))}</pre>'
            if rest
            else ""
        )
        box = (
            f'<div style="border-left:4px solid {_COLOURS[self.status]};padding:0.3em 0.8em">'
            f"<b>{MARKS[self.status]} {html.escape(self.name)}</b>&ensp;{html.escape(head)}{details}</div>"
        )
        # The metadata lets `transformer-lab check` read results without parsing what people read.
        facts = {
            "lesson": self.lesson,
            "name": self.name,
            "status": self.status,
            "diagnosis": self.diagnosis,
        }
        return {"text/plain": str(self), "text/html": box}, {"transformer_lab": facts}


@dataclass(frozen=True)
class Hint:
    """One hint, and how many there are."""

    name: str
    number: int
    of: int
    text: str

    def __str__(self) -> str:
        return f"Hint {self.number} of {self.of} for {self.name}: {self.text}"

    def __repr__(self) -> str:
        return str(self)
