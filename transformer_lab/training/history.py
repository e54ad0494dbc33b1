"""What a training has been through: one entry for each step."""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass
class History:
    """Losses and what goes with them, step by step.

    Attributes:
        steps: Number of each step, from 0.
        losses: Loss of each step's batch, before the step, in nats for each target.
        learning_rates: Of each step.
        gradient_norms: Length of each step's gradient, before it was clipped.
        tokens: Targets that had been learned from after each step.
        validation_steps: How many steps were done at each validation.
        validation_losses: Its result.

    >>> history = History()
    >>> history.next_step
    0
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    validation_steps: list[int] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)

    @property
    def next_step(self) -> int:
        """The number of the step to come, which is how many were done."""
        return self.steps[-1] + 1 if self.steps else 0

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the losses over the steps.

        Args:
            ax: Where to draw; a figure of its own when None.
        """
        from matplotlib import pyplot as plt

        ax = plt.subplots()[1] if ax is None else ax
        ax.plot(self.steps, self.losses, alpha=0.6, label="training")
        if self.validation_steps:
            ax.plot(self.validation_steps, self.validation_losses, "o-", label="validation")
            ax.legend()
        ax.set(xlabel="step", ylabel="loss (nats per token)")
        return ax

    def to_json(self) -> str:
        """All of it as text; numbers come back as they were, bit for bit."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "History":
        """Read what `to_json` wrote.

        Args:
            text: A JSON object.

        Raises: ValueError if it is something else.
        """
        expected = {each.name for each in fields(cls)}
        try:
            found: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"a history must be JSON, as to_json writes it: {error}.") from error
        if not isinstance(found, dict) or set(found) != expected:
            raise ValueError(
                f"a history must be a JSON object with {', '.join(sorted(expected))}; "
                f"it is {text[:60]!r}."
            )
        return cls(**found)
