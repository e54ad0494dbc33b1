"""What the tests of parity share."""

import os
from collections.abc import Callable

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from transformer_lab.convert import from_hugging_face, to_hugging_face

transformers = pytest.importorskip(
    "transformers", reason="parity needs transformers: pip install -e '.[hf]'"
)
transformers.logging.set_verbosity_error()

VOCAB = 50


def perturbed(model: nn.Module) -> nn.Module:
    """All weights moved by noise, so that none is 0 or 1, and nothing dropped."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tokens(batch: int, length: int, seed: int = 0, most: int = VOCAB) -> Tensor:
    return torch.randint(most, (batch, length), generator=torch.Generator().manual_seed(seed))


def left_padded(batch: int, length: int) -> Tensor:
    """is_token: row i begins with 2 i places of padding."""
    return torch.arange(length) >= 2 * torch.arange(batch)[:, None]


def right_padded(batch: int, length: int) -> Tensor:
    return left_padded(batch, length).flip(1)


def counted(is_token: Tensor) -> Tensor:
    """Positions counted from each row's first token."""
    return torch.stack([torch.cat([row.new_zeros(int((~row).sum()), dtype=torch.long),
                                   torch.arange(int(row.sum()))]) for row in is_token])  # fmt: skip


def close(mine: Tensor, theirs: Tensor) -> None:
    assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def same_gradients(mine: nn.Module, theirs: nn.Module, out: Tensor, expected: Tensor) -> None:
    """The gradients of one and the same loss, parameter by parameter."""
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)) / out.numel()
    mine.zero_grad()
    theirs.zero_grad()
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    for parameter in mine.parameters():
        assert parameter.grad is not None
        parameter.data = parameter.grad  # so that the names can be changed like those of weights
    found = to_hugging_face(mine)
    for name, parameter in theirs.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert_close(
            found[name], grad, atol=1e-6, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}"
        )


def round_trip(mine: nn.Module, theirs: nn.Module) -> None:
    """Names and numbers come back as they were, and none is left out."""
    state = theirs.state_dict()
    back = to_hugging_face(from_hugging_face(mine, state))
    assert set(back) == set(state)
    for name, tensor in state.items():
        assert_close(back[name], tensor, atol=0, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


def with_cache(
    step: Callable[..., Tensor], caches: list, ids: Tensor, is_token: Tensor | None = None
) -> Tensor:
    """Logits of a decoder that gets a few tokens, then one, two and one at a time."""
    outs, start = [], 0
    for end in (4, 5, 7, *range(8, ids.shape[1] + 1)):
        seen = None if is_token is None else is_token[:, :end]
        outs.append(step(ids[:, start:end], is_token=seen, caches=caches))
        start = end
    return torch.cat(outs, dim=1)
