"""T5 against Hugging Face's, of both versions."""

import pytest
import torch
from torch import nn

from tests.parity.tools import (
    VOCAB,
    close,
    left_padded,
    perturbed,
    right_padded,
    round_trip,
    same_gradients,
    tokens,
    with_cache,
)
from transformer_lab.convert import from_hugging_face, t5_config
from transformer_lab.models.t5 import T5, T5Config

SOURCE, TARGET = tokens(3, 150), tokens(3, 140, seed=1)  # beyond the largest distance, 128
VERSIONS = {
    "1.0": {"feed_forward_proj": "relu"},
    "1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}


@pytest.fixture(params=VERSIONS)
def both(request):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=VOCAB, d_model=24, d_kv=5, d_ff=40, num_layers=2, num_heads=4,
        layer_norm_epsilon=1e-4, **VERSIONS[request.param],
    )  # fmt: skip
    theirs = T5ForConditionalGeneration(config)
    if request.param == "1.1":  # transformers 5 ties it in spite of the setting
        theirs.lm_head.weight = nn.Parameter(torch.randn(VOCAB, 24))
    # T5 starts with weights of size 1, and scores that aren't scaled: smaller ones keep the softmax soft.
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(0.5)
    theirs = perturbed(theirs)
    mine = from_hugging_face(T5(t5_config(config.to_dict())), theirs.state_dict())
    assert mine.config.tied == (request.param == "1.0")
    return mine.eval(), theirs


def test_logits_and_gradients(both):
    mine, theirs = both
    out = mine(SOURCE, TARGET)
    expected = theirs(input_ids=SOURCE, decoder_input_ids=TARGET).logits
    close(out, expected)
    same_gradients(mine, theirs, out, expected)


@pytest.mark.parametrize("pad", [left_padded, right_padded])
def test_padding(both, pad):
    mine, theirs = both
    source, target = SOURCE[:, :13], TARGET[:, :9]
    source_is_token, is_token = pad(3, 13), pad(3, 9)
    out = mine(source, target, source_is_token=source_is_token, is_token=is_token)[is_token]
    expected = theirs(
        input_ids=source,
        attention_mask=source_is_token.long(),
        decoder_input_ids=target,
        decoder_attention_mask=is_token.long(),
    ).logits[is_token]
    close(out, expected)
    same_gradients(mine, theirs, out, expected)


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_cache(both, padded):
    mine, theirs = both
    source, target = SOURCE[:, :13], TARGET[:, :9]
    source_is_token = right_padded(3, 13)
    is_token = left_padded(3, 9) if padded else torch.ones(3, 9, dtype=torch.bool)
    expected = theirs(
        input_ids=source,
        attention_mask=source_is_token.long(),
        decoder_input_ids=target,
        decoder_attention_mask=is_token.long(),
    ).logits
    memory = mine.encode(source, is_token=source_is_token)

    def step(ids, **rest):
        return mine.decode(ids, memory_is_token=source_is_token, **rest)

    out = with_cache(step, mine.new_caches(memory, 9), target, is_token if padded else None)
    close(out[is_token], expected[is_token])


def test_settings_are_theirs_where_nothing_is_said():
    from transformers import T5Config as Theirs

    assert T5Config() == t5_config(Theirs().to_dict())


def test_round_trip(both):
    round_trip(*both)
