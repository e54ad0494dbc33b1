"""How weights lie in memory, and who multiplies with them, while tokens are generated one by one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class RowsForReading:
    """The same weights, laid so that a processor reads them faster for a single vector.

    Generating a token is mostly reading: each matrix is multiplied by one vector. torch's product for that
    was measured to read rows of 1,536 numbers at 1.7 times the pace of rows of 384. So a matrix with more
    rows than columns is copied with its columns as rows, and looked at transposed: the same numbers in the
    same places, in another order in memory. The first weights come back at the end. Numbers of two bytes
    have other products, which gain nothing by it.

    Args:
        modules: Whose weights; those on a processor, of four bytes or more a number, are laid anew.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        weights = {id(p): p for module in modules for p in module.parameters(recurse=False)}
        with torch.no_grad():
            self._laid = [
                (p, p.data, p.data.T.contiguous().T) for p in weights.values() if _is_tall(p)
            ]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the modules have the weights in that order."""
        try:
            for weight, _, laid in self._laid:
                weight.data = laid
            yield
        finally:
            for weight, first, _ in self._laid:
                weight.data = first


@contextmanager
def for_one_vector() -> Iterator[None]:
    """Within it torch multiplies itself where it would call oneDNN.

    oneDNN is made for many vectors: with one, it takes as long to start as to multiply. A token in bfloat16
    took 1.7 times as long with it (GPT, 6 layers of 384); with 32 vectors it is torch's own product that
    takes ten times as long.
    """
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def is_half(parameter: Tensor) -> bool:
    """Whether its numbers take two bytes and lie on a processor.

    Args:
        parameter: Any tensor.
    """
    return parameter.device.type == "cpu" and parameter.dtype in (torch.bfloat16, torch.float16)


def _is_tall(weight: Tensor) -> bool:
    plain = type(weight.data) is Tensor and weight.device.type == "cpu" and weight.is_contiguous()
    is_matrix = plain and weight.dim() == 2 and not is_half(weight)
    return is_matrix and weight.shape[0] > weight.shape[1]
