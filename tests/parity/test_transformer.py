"""Transformer against torch's."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from tests.parity.tools import (
    VOCAB,
    close,
    left_padded,
    perturbed,
    right_padded,
    tokens,
    with_cache,
)
from transformer_lab.models.transformer import Transformer, TransformerConfig

SOURCE, TARGET = tokens(3, 13), tokens(3, 9, seed=1)
CONFIG = TransformerConfig(
    vocab_size=VOCAB,
    max_positions=16,
    d_model=24,
    num_layers=2,
    num_heads=4,
    d_ff=40,
    norm_eps=1e-4,
)


def tied_parameters(mine, theirs):
    """Each of torch's parameters, and those of ours that are stacked in it."""
    for stack in ("encoder", "decoder"):
        layers = getattr(theirs, stack).layers
        for block, layer in zip(getattr(mine, stack), layers, strict=True):
            parts = [(block.attention, layer.self_attn)]
            norms = [(block.attention_residual, layer.norm1)]
            last = layer.norm2
            if stack == "decoder":
                parts.append((block.cross_attention, layer.multihead_attn))
                norms.append((block.cross_attention_residual, layer.norm2))
                last = layer.norm3
            norms.append((block.feed_forward_residual, last))
            for ours, other in parts:
                qkv = [ours.query_proj.weight, ours.key_proj.weight, ours.value_proj.weight]
                yield other.in_proj_weight, qkv
                yield other.out_proj.weight, [ours.out_proj.weight]
            for wrapper, norm in norms:
                yield norm.weight, [wrapper.norm.weight]
                yield norm.bias, [wrapper.norm.bias]
            for name, linear in (("up_proj", layer.linear1), ("down_proj", layer.linear2)):
                yield linear.weight, [getattr(block.feed_forward, name).weight]
                yield linear.bias, [getattr(block.feed_forward, name).bias]


@pytest.fixture
def both():
    mine = perturbed(Transformer(CONFIG))
    # In training mode, because evaluation takes another path with other rounding; nothing is dropped.
    theirs = nn.Transformer(24, 4, 2, 2, 40, dropout=0.0, batch_first=True, layer_norm_eps=1e-4)
    # torch's has a norm behind each stack and biases in its attention; the paper's hasn't.
    theirs.encoder.norm = theirs.decoder.norm = None
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("in_proj_bias") or name.endswith("out_proj.bias"):
                parameter.zero_()
        for parameter, ours in tied_parameters(mine, theirs):
            parameter.copy_(torch.cat(ours))
    return mine, theirs


def embed(weight, ids):
    table = torch.zeros(ids.shape[1], 24, dtype=torch.float64)
    for p in range(ids.shape[1]):
        for i in range(0, 24, 2):
            angle = p / 10_000 ** (i / 24)
            table[p, i], table[p, i + 1] = math.sin(angle), math.cos(angle)
    return weight[ids] * math.sqrt(24) + table.float()


def logits(theirs, weight, source, target, source_is_token):
    out = theirs(
        embed(weight, source),
        embed(weight, target),
        tgt_mask=torch.ones(target.shape[1], target.shape[1]).triu(1).bool(),  # True = blocked
        src_key_padding_mask=~source_is_token,
        memory_key_padding_mask=~source_is_token,
    )
    return F.linear(out, weight)


ALL = torch.ones(3, 13, dtype=torch.bool)


@pytest.mark.parametrize("source_is_token", [ALL, right_padded(3, 13)], ids=["all", "padded"])
def test_logits_and_gradients(both, source_is_token):
    mine, theirs = both
    weight = nn.Parameter(mine.token_embedding.weight.detach().clone())
    given = {} if source_is_token is ALL else {"source_is_token": source_is_token}
    out = mine(SOURCE, TARGET, **given)
    expected = logits(theirs, weight, SOURCE, TARGET, source_is_token)
    close(out, expected)
    loss = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)) / out.numel()
    (out * loss).sum().backward()
    (expected * loss).sum().backward()
    assert_close(mine.token_embedding.weight.grad, weight.grad, atol=1e-6, rtol=1e-3)
    seen = {mine.token_embedding.weight}
    for parameter, ours in tied_parameters(mine, theirs):
        assert_close(torch.cat([p.grad for p in ours]), parameter.grad, atol=1e-6, rtol=1e-3)
        seen |= set(ours)
    assert seen == set(mine.parameters())


@torch.no_grad()
@pytest.mark.parametrize("pad", [left_padded, right_padded])
@pytest.mark.parametrize("cached", [False, True])
def test_padding_is_as_if_it_were_not_there(both, pad, cached):
    """Each row against torch's logits of its tokens alone."""
    mine, theirs = both
    source_is_token, is_token = pad(3, 13), pad(3, 9)
    if cached:
        memory = mine.encode(SOURCE, is_token=source_is_token)

        def step(ids, **rest):
            return mine.decode(ids, memory_is_token=source_is_token, **rest)

        out = with_cache(step, mine.new_caches(memory, 9), TARGET, is_token)
    else:
        out = mine(SOURCE, TARGET, source_is_token=source_is_token, is_token=is_token)
    for row in range(3):
        source, target = SOURCE[row][source_is_token[row]], TARGET[row][is_token[row]]
        alone = logits(
            theirs,
            mine.token_embedding.weight,
            source[None],
            target[None],
            torch.ones(1, len(source), dtype=torch.bool),
        )
        close(out[row][is_token[row]], alone[0])


@torch.no_grad()
def test_cache(both):
    mine, theirs = both
    memory = mine.encode(SOURCE)
    expected = logits(theirs, mine.token_embedding.weight, SOURCE, TARGET, ALL)

    close(with_cache(mine.decode, mine.new_caches(memory, 9), TARGET), expected)
