"""What the machine gives at most: multiplications, and reading of memory."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import rate
from transformer_lab.generation.layout import RowsForReading, for_one_vector, is_half


def reading(model: nn.Module, rounds: int = 9) -> float:
    """Passes a second over all weights of a model, each multiplied by one vector and nothing else.

    A token of a generation can hardly take less: every weight that it is multiplied by has to be read,
    here from the order in memory that `generate` gives it.

    Args:
        model: Its matrices are read, an embedding only where it is the head too.
        rounds: Of which the best counts.
    """
    names = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices = [p for p in model.parameters() if p.dim() == 2 and id(p) not in names]
    head = getattr(model, "token_embedding", None)
    if head is not None and not hasattr(model, "lm_head"):
        matrices.append(head.weight)
    vectors = [torch.randn(1, m.shape[1], dtype=m.dtype) for m in matrices]

    def work() -> None:
        for matrix, vector in zip(matrices, vectors, strict=True):
            F.linear(vector, matrix)

    half = for_one_vector() if is_half(vectors[0]) else nullcontext()
    with half, RowsForReading(list(model.modules())).in_place(), torch.inference_mode():
        return max(rate(work, 1, 20) for _ in range(rounds))


def products(
    shapes: list[tuple[int, int, int]], attention: tuple[int, int, int, int] | None, is_causal: bool,
    dtype: torch.dtype, layers: int, rounds: int = 5,
) -> float:  # fmt: skip
    """Training steps a second, if a step were its matrix products and torch's fused attention alone.

    Args:
        shapes: (tokens, inputs, outputs) of each product of a layer's forward pass, the head's last.
        attention: (batch, heads, positions, d_head).
        is_causal: Whether the upper triangle is skipped.
        dtype: Of the numbers.
        layers: How often all but the last product are done.
        rounds: Of which the best counts.
    """

    def operands(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
        n, i, o = shape
        return tuple(torch.randn(*s, dtype=dtype) for s in ((n, i), (i, o), (n, o)))  # type: ignore[return-value]

    products = [operands(shape) for shape in shapes]
    qkv = (
        [torch.randn(attention, dtype=dtype, requires_grad=True) for _ in range(3)]
        if attention
        else []
    )

    def one(x: Tensor, w: Tensor, g: Tensor) -> None:
        torch.mm(x, w)  # forward; backward to the input and to the weight
        torch.mm(g, w.T)
        torch.mm(x.T, g)

    def work() -> None:
        for _ in range(layers):
            for operand in products[:-1]:
                one(*operand)
            if qkv:
                F.scaled_dot_product_attention(*qkv, is_causal=is_causal).sum().backward()
        one(*products[-1])

    work()
    return max(rate(work, 1) for _ in range(rounds))
