"""A quiet start: a model that begins as its embedding and head, and then learns with all of its weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transformer_lab.models.gpt import GPT, GPTConfig
from transformer_lab.models.llama import Llama, LlamaConfig
from transformer_lab.training import next_token_loss, quiet_start_


def small_llama():
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "d_model": 8, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1}
    return Llama(LlamaConfig(**sizes, d_ff=12))


def test_at_first_each_block_passes_on_what_it_gets():
    model, tokens = small_llama(), torch.arange(10).reshape(2, 5)
    before = model(tokens)
    assert quiet_start_(model) is model
    x = model.token_embedding(tokens)
    alone = F.linear(F.rms_norm(x, (8,), eps=1e-6), model.lm_head.weight)
    torch.testing.assert_close(model(tokens), alone)
    assert not torch.allclose(before, alone)


def test_biases_of_these_projections_are_zero_too_and_nothing_else_changes():
    sizes = {"vocab_size": 11, "max_positions": 8, "d_model": 8, "num_layers": 2, "num_heads": 2}
    model = GPT(GPTConfig(**sizes, d_ff=12))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    quiet_start_(model)
    for name, parameter in model.named_parameters():
        if ".out_proj." in name or ".down_proj." in name:
            assert parameter.eq(0).all(), name
        else:
            assert parameter.equal(before[name]), name


def test_all_weights_learn_from_the_second_step_on():
    model = quiet_start_(small_llama())
    tokens = torch.randint(11, (4, 9))
    for _ in range(2):
        loss = next_token_loss(model, (tokens[:, :-1], tokens[:, 1:]))
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(ValueError, match="out_proj or down_proj"):
        quiet_start_(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="out_proj or down_proj"):
        quiet_start_(nn.ModuleDict({"my_out_proj": nn.Linear(2, 2)}))
