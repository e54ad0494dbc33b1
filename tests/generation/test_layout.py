"""Weights that lie otherwise in memory are the same weights, and come back as they were."""

import pytest
import torch
from torch import nn

from tests.models.small import MODELS
from transformer_lab.generation import generate, stream
from transformer_lab.generation.layout import RowsForReading


def placed(model):
    return [(p.data_ptr(), p.stride()) for p in model.parameters()]


def test_same_numbers_in_another_order():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 3))
    x = torch.randn(2, 3)
    before, numbers, out = placed(model), [p.clone() for p in model.parameters()], model(x)
    with RowsForReading(list(model.modules())).in_place():
        assert model[0].weight.stride() == (1, 7)
        assert model[2].weight.stride() == (7, 1)  # its rows are long already
        for laid, number in zip(model.parameters(), numbers, strict=True):
            assert torch.equal(laid, number)
        torch.testing.assert_close(model(x), out)
    assert placed(model) == before


def test_weights_come_back_after_an_error():
    model = nn.Linear(3, 7)
    before = placed(model)
    with pytest.raises(RuntimeError, match="of the test"), RowsForReading([model]).in_place():
        raise RuntimeError("of the test")
    assert placed(model) == before


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_generation_lays_and_leaves_the_weights(name):
    torch.manual_seed(0)
    model, seen = MODELS[name](), []
    before = placed(model)
    up = model.blocks[0].feed_forward.up_proj
    hook = up.register_forward_hook(lambda *_: seen.append(up.weight.stride()))
    length = 4 if name == "gpt" else 40
    out = generate(model, [1, 2], length)
    hook.remove()
    laid = length >= 32
    assert set(seen) == {(1, 24) if laid else (16, 1)}
    assert placed(model) == before
    assert torch.equal(out, generate(model.forward, [1, 2], length))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2])
def test_one_vector_in_two_bytes_is_multiplied_by_torch_itself(dtype, rows):
    torch.manual_seed(0)
    model, seen = MODELS["llama"]().to(dtype), []
    model.register_forward_pre_hook(
        lambda _, args: seen.append((args[0].numel(), torch.backends.mkldnn.enabled))
    )
    before = torch.backends.mkldnn.enabled
    generate(model, torch.ones(rows, 3, dtype=torch.long), 3)
    alone = before and not (dtype == torch.bfloat16 and rows == 1)
    assert seen == [(3 * rows, before), (rows, alone), (rows, alone)]
    assert torch.backends.mkldnn.enabled == before


def test_two_bytes_are_not_laid_anew():
    model = nn.Linear(3, 7).bfloat16()
    before = placed(model)
    with RowsForReading([model]).in_place():
        assert placed(model) == before


def test_a_stream_leaves_the_weights_alone_between_its_tokens():
    torch.manual_seed(0)
    model = MODELS["llama"]()
    before = placed(model)
    tokens = stream(model, [1, 2], 40)
    next(tokens)
    assert placed(model) == before
    next(tokens)
    del tokens
    assert placed(model) == before
    model(torch.tensor([[1, 2]])).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
