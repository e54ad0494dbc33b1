"""How processes share a training; here is the plain case of one, `distributed` has the others."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class Alone:
    """One process with the whole model."""

    rank: int = 0
    size: int = 1

    @property
    def device(self) -> torch.device:
        """Where this process's model belongs: an accelerator of its own if there is one, else the CPU."""
        found = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        return torch.device("cpu") if found is None else found

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as it is called in training.

        Args:
            model: The model with its weights on its device.
        """
        return model

    def accumulating(self, wrapped: nn.Module, last: bool) -> AbstractContextManager[object]:
        """Within it, a gradient is only added up; it is exchanged after the last part of a batch.

        Args:
            wrapped: What `wrap` gave.
            last: Whether this is the last part.
        """
        return nullcontext()

    def total(self, number: Tensor) -> Tensor:
        """The sum over all processes, in each of them.

        Args:
            number: This process's share.
        """
        return number

    def wait(self) -> None:
        """Wait for the others."""

    def gather(self, tree: Any) -> Any:
        """The same dicts and lists with whole tensors in them.

        Args:
            tree: A state_dict.
        """
        return tree

    def spread(self, tree: Mapping[Any, Any], like: Mapping[Any, Any]) -> dict[Any, Any]:
        """What `gather` gave, as this process keeps it.

        Args:
            tree: Whole tensors by name.
            like: Tensors of the same names, as this process keeps them.
        """
        return dict(tree)


ALONE = Alone()
