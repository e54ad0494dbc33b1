"""Llama against Hugging Face's LLaMA and Mistral."""

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
from transformer_lab.convert import from_hugging_face, llama_config
from transformer_lab.models.llama import Llama, LlamaConfig
from transformer_lab.positions import RotaryEmbedding, ntk_aware

IDS, PADDED = tokens(3, 40), left_padded(3, 40)
POSITIONS = counted(PADDED)
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-4,
}  # fmt: skip
ROPES = {
    "default": {"rope_type": "default", "rope_theta": 10_000.0},
    "larger base": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.5},
    "yarn": {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0,
             "original_max_position_embeddings": 64},
    "yarn, own turns": {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0,
                        "original_max_position_embeddings": 512, "beta_fast": 4.0,
                        "beta_slow": 0.25, "attention_factor": 1.3},
    "llama3": {"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.5,
               "high_freq_factor": 3.0, "original_max_position_embeddings": 64},
}  # fmt: skip


def pair(**changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    theirs = perturbed(LlamaForCausalLM(LlamaConfig(**(SIZES | changes))))
    mine = Llama(llama_config(theirs.config.to_dict()))
    return from_hugging_face(mine, theirs.state_dict()).eval(), theirs


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
def test_logits_and_gradients(rope):
    mine, theirs = pair(rope_parameters=dict(rope))
    out, expected = mine(IDS), theirs(IDS).logits
    close(out, expected)
    same_gradients(mine, theirs, out, expected)


@pytest.mark.parametrize("name", ["linear", "yarn", "llama3"])
def test_each_scaling_makes_a_difference(name):
    """Otherwise the test above would say nothing."""
    plain, _ = pair(rope_parameters=dict(ROPES["default"]))
    scaled, _ = pair(rope_parameters=dict(ROPES[name]))
    assert (plain(IDS) - scaled(IDS)).abs().max() > 0.01


@torch.no_grad()
def test_dynamic_scaling_at_one_length():
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SIZES, rope_parameters=rope, max_position_embeddings=16)
    theirs = perturbed(LlamaForCausalLM(config))
    # At n tokens it is the NTK-aware base for a context of factor · n/16 - (factor - 1).
    factor = 2.0 * 40 / 16 - 1

    def rotary(d_head):
        return RotaryEmbedding(ntk_aware(d_head, 10_000.0, factor))

    plain = llama_config(config.to_dict() | {"rope_parameters": None})
    mine = from_hugging_face(
        Llama(dataclasses.replace(plain, rotary=rotary)), theirs.state_dict()
    ).eval()
    close(mine(IDS), theirs(IDS).logits)


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_left_padding(num_kv_heads):
    mine, theirs = pair(num_key_value_heads=num_kv_heads)
    out = mine(IDS, is_token=PADDED)[PADDED]
    expected = theirs(IDS, attention_mask=PADDED.long(), position_ids=POSITIONS).logits[PADDED]
    close(out, expected)
    same_gradients(mine, theirs, out, expected)


@torch.no_grad()
@pytest.mark.parametrize("is_token", [None, PADDED[:, :11]], ids=["no padding", "left padding"])
@pytest.mark.parametrize("rope", ["default", "yarn"])
def test_cache(rope, is_token):
    mine, theirs = pair(rope_parameters=dict(ROPES[rope]))
    ids = IDS[:, :11]
    real = torch.ones(3, 11, dtype=torch.bool) if is_token is None else is_token
    expected = theirs(ids, attention_mask=real.long(), position_ids=counted(real)).logits
    out = with_cache(mine, mine.new_caches(3, 11), ids, is_token)
    close(out[real], expected[real])


def test_tied_head():
    mine, theirs = pair(tie_word_embeddings=True)
    out, expected = mine(IDS), theirs(IDS).logits
    close(out, expected)
    same_gradients(mine, theirs, out, expected)
    round_trip(mine, theirs)


@torch.no_grad()
@pytest.mark.parametrize("is_token", [None, PADDED[:, :11]], ids=["no padding", "left padding"])
def test_sliding_window(is_token):
    from transformers import MistralConfig, MistralForCausalLM

    theirs = perturbed(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)))
    mine = from_hugging_face(Llama(llama_config(theirs.config.to_dict())), theirs.state_dict())
    ids = IDS[:, :11]
    real = torch.ones(3, 11, dtype=torch.bool) if is_token is None else is_token
    expected = theirs(ids, attention_mask=real.long(), position_ids=counted(real)).logits
    close(mine.eval()(ids, is_token=is_token)[real], expected[real])
    out = with_cache(mine, mine.new_caches(3, 11), ids, is_token)
    close(out[real], expected[real])


def test_settings_are_theirs_where_nothing_is_said():
    from transformers import LlamaConfig as Theirs
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    mine, theirs = LlamaConfig(), Theirs()
    assert dataclasses.replace(llama_config(theirs.to_dict()), rotary=mine.rotary) == mine
    frequencies = LlamaRotaryEmbedding(theirs).inv_freq
    torch.testing.assert_close(mine.rotary(mine.d_head).frequencies, frequencies)


def test_round_trip():
    round_trip(*pair())
