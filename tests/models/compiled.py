"""torch.compile follows each kind of model whole, in one graph, and what comes out is the same.

`test_models` runs it in a process of its own: the check of stated shapes, which all tests have, can't be
compiled. What follows the code is tested, not what makes machine code of it: that would need a C++ compiler.
"""

import torch
from torch.testing import assert_close

from tests.models.small import MODELS, call, ids
from transformer_lab.generation import generate


def compiled(model):
    torch.compiler.reset()
    return torch.compile(model, backend="eager", fullgraph=True)


def a_model_is_one_graph(name):
    model, tokens = MODELS[name]().eval(), ids()
    follow = compiled(model)
    assert_close(call(name, follow, tokens), call(name, model, tokens))
    call(name, follow.train(), tokens).sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "pooler" not in n)


def a_compiled_model_generates_the_same(name):
    model = MODELS[name]().eval()
    for prompt in ([1, 2, 3], [[1, 2, 3], [4]]):
        expected = generate(model, prompt, 6)
        assert torch.equal(generate(compiled(model), prompt, 6), expected), prompt


def modules_of_a_compiled_model_stay_what_they_are(name):
    model, seen = MODELS[name]().eval(), []
    before = {type(module) for module in model.modules()}

    def record(graph, example):
        seen.append({type(module) for module in model.modules()})
        return graph

    generate(torch.compile(model, backend=record), [1, 2, 3], 2)
    model.compile(backend=record)
    generate(model, [1, 2, 3], 2)
    assert len(seen) >= 2, seen
    assert all(kinds == before for kinds in seen), seen


if __name__ == "__main__":
    for name in ("gpt", "llama", "t5", "glm", "bert"):
        a_model_is_one_graph(name)
    a_compiled_model_generates_the_same("llama")
    modules_of_a_compiled_model_stay_what_they_are("gpt")
