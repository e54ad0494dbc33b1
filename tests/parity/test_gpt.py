"""GPT against Hugging Face's GPT-2 and GPT-1."""

import dataclasses

import pytest
import torch

from tests.parity.tools import (
    VOCAB,
    close,
    counted,
    left_padded,
    perturbed,
    round_trip,
    same_gradients,
    tokens,
    with_cache,
)
from transformer_lab.convert import from_hugging_face, gpt2_config
from transformer_lab.models.gpt import GPT, GPTConfig

IDS, PADDED = tokens(3, 11), left_padded(3, 11)
POSITIONS = counted(PADDED)


@pytest.fixture
def theirs():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB, n_positions=16, n_embd=24, n_layer=2, n_head=4, n_inner=40,
        layer_norm_epsilon=1e-4,
    )  # fmt: skip
    return perturbed(GPT2LMHeadModel(config))


@pytest.fixture
def mine(theirs):
    return from_hugging_face(GPT(gpt2_config(theirs.config.to_dict())), theirs.state_dict()).eval()


def test_logits_and_gradients(mine, theirs):
    out, expected = mine(IDS), theirs(IDS).logits
    close(out, expected)
    same_gradients(mine, theirs, out, expected)


def test_left_padding(mine, theirs):
    out = mine(IDS, is_token=PADDED)[PADDED]
    expected = theirs(IDS, attention_mask=PADDED.long(), position_ids=POSITIONS).logits[PADDED]
    close(out, expected)
    same_gradients(mine, theirs, out, expected)


def test_cache(mine, theirs):
    close(with_cache(mine, mine.new_caches(3, 11), IDS), theirs(IDS).logits)


@torch.no_grad()
def test_cache_and_left_padding(mine, theirs):
    expected = theirs(IDS, attention_mask=PADDED.long(), position_ids=POSITIONS).logits
    out = with_cache(mine, mine.new_caches(3, 11), IDS, PADDED)
    close(out[PADDED], expected[PADDED])


def test_round_trip(mine, theirs):
    round_trip(mine, theirs)


def test_settings_are_theirs_where_nothing_is_said():
    from transformers import GPT2Config, OpenAIGPTConfig

    assert GPTConfig() == gpt2_config(GPT2Config().to_dict())
    first, theirs = GPTConfig.gpt_1(), OpenAIGPTConfig()
    assert (first.vocab_size, first.max_positions) == (theirs.vocab_size, theirs.n_positions)
    assert (first.norm_eps, first.dropout) == (theirs.layer_norm_epsilon, theirs.resid_pdrop)


def test_gpt_1():
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    config = OpenAIGPTConfig(vocab_size=VOCAB, n_positions=16, n_embd=24, n_layer=2, n_head=4)
    theirs = perturbed(OpenAIGPTLMHeadModel(config))
    small = {"vocab_size": VOCAB, "max_positions": 16, "d_model": 24, "num_layers": 2}
    ours = dataclasses.replace(GPTConfig.gpt_1(), **small, num_heads=4, d_ff=96)
    mine = from_hugging_face(GPT(ours), theirs.state_dict()).eval()
    out, expected = mine(IDS), theirs(IDS).logits
    close(out, expected)
    same_gradients(mine, theirs, out, expected)
    round_trip(mine, theirs)
