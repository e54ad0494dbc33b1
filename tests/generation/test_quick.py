"""Modules in fewer calls give the same, and are afterwards what they were."""

import pytest
import torch
from torch import nn

from tests.models.small import MODELS
from transformer_lab.generation import generate, stream
from transformer_lab.generation.quick import quick


def state(module):
    return [(type(each), set(vars(each))) for each in module.modules()]


def at_work(*modules):
    return quick([part for module in modules for part in module.modules()])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.LayerNorm(4), nn.Tanh()).eval()


def test_the_same_numbers_and_the_same_modules_afterwards():
    model, x = network(), torch.randn(2, 3)
    expected, before = model(x), state(model)
    with at_work(model):
        assert torch.equal(model(x), expected)
        assert isinstance(model[1], nn.Dropout)
        assert type(model[0]).__call__ is nn.Linear.forward
        assert vars(model[0])["weight"] is model[0]._parameters["weight"]
    assert state(model) == before
    model.train()(x).sum().backward()


def test_they_come_back_after_an_error():
    model = network()
    before = state(model)
    with pytest.raises(RuntimeError, match="of the test"), at_work(model):
        assert state(model) != before
        raise RuntimeError("of the test")
    assert state(model) == before


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_are_called(register):
    model, seen = network(), []
    getattr(model[0], register)(lambda *_: seen.append("own"))
    handle = getattr(nn.modules.module, register.replace("er_f", "er_module_f"))(
        lambda *_: seen.append("all")
    )
    with at_work(model):
        model(torch.ones(1, 3))
    handle.remove()
    assert (seen.count("own"), seen.count("all")) == (1, 5)
    with at_work(model):
        model(torch.ones(1, 3))
    assert (seen.count("own"), seen.count("all")) == (2, 5)


def test_a_call_or_a_forward_of_its_own_is_kept():
    class Twice(nn.Linear):
        def __call__(self, x):
            return 2 * super().__call__(x)

    twice, changed, compiled = Twice(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    changed.forward = lambda x: x + 7
    compiled._compiled_call_impl = lambda x: x + 8
    x = torch.ones(1, 2)
    expected = twice(x)
    with at_work(twice, changed, compiled):
        assert torch.equal(twice(x), expected)
        assert torch.equal(changed(x), x + 7)
        assert torch.equal(compiled(x), x + 8)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(1, 3))])
def test_modules_that_torch_made_anew(make):
    model, x = network(), torch.randn(2, 3)
    expected, made = model(x), make(model)
    with at_work(made):
        assert torch.equal(made(x), expected)


def test_a_buffer_or_a_weight_that_is_set_anew_is_read_anew():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self):
            self.count = self.count + 1
            self.weight = nn.Parameter(self.weight.detach() + 2)
            return self.count + self.weight

    counter = Counter()
    with at_work(counter):
        assert [counter().item() for _ in range(3)] == [3, 6, 9]
    assert counter().item() == 12


@pytest.mark.parametrize(
    ("name", "length"),  # the weights are copied for the longer ones alone
    [("gpt", 4), ("llama", 4), ("llama", 40), ("transformer", 4), ("t5", 4), ("t5", 40)],
)
def test_generation_leaves_the_model_as_it_was(name, length):
    torch.manual_seed(0)
    model = MODELS[name]()
    before = state(model)
    source = {"source": [[1, 2, 3]]} if hasattr(model, "encode") else {}
    tokens = stream(model, [1, 2], length, **source)
    next(tokens)
    assert state(model) == before
    assert len(list(tokens)) == length - 1
    assert state(model) == before
    generate(model, [1, 2], length, **source)
    assert state(model) == before
