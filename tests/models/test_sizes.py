"""How many parameters the real models have, without allocating any."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from transformer_lab.attention import MultiHeadAttention
from transformer_lab.blocks import DeepNorm, TransformerBlock
from transformer_lab.feedforward import FeedForward
from transformer_lab.models.bert import (
    Bert,
    BertConfig,
    BertEncoder,
    BertForClassification,
    BertForMaskedLM,
    BertForPreTraining,
)
from transformer_lab.models.glm import GLM, GLMConfig
from transformer_lab.models.gpt import GPT, GPTConfig
from transformer_lab.models.llama import Llama, LlamaConfig
from transformer_lab.models.t5 import T5, T5Config
from transformer_lab.models.transformer import Transformer, TransformerConfig

SIZES = {
    "BERT-base": (lambda: Bert(BertConfig.base()), 109_482_240),
    "BERT-base, no pooler": (lambda: BertEncoder(BertConfig.base()), 108_891_648),
    "BERT-base, masked LM": (lambda: BertForMaskedLM(BertConfig.base()), 109_514_298),
    "BERT-base, pre-training": (lambda: BertForPreTraining(BertConfig.base()), 110_106_428),
    "BERT-base, 3 classes": (
        lambda: BertForClassification(BertConfig.base(), 3),
        109_482_240 + 3 * 769,
    ),
    "BERT-large": (lambda: Bert(BertConfig.large()), 335_141_888),
    "GPT-1": (lambda: GPT(GPTConfig.gpt_1()), 116_534_784),
    "GPT-2 small": (lambda: GPT(GPTConfig.gpt2_small()), 124_439_808),
    "GPT-2 medium": (lambda: GPT(GPTConfig.gpt2_medium()), 354_823_168),
    "GPT-2 large": (lambda: GPT(GPTConfig.gpt2_large()), 774_030_080),
    "GPT-2 XL": (lambda: GPT(GPTConfig.gpt2_xl()), 1_557_611_200),
    "T5-small": (lambda: T5(T5Config.small()), 60_506_624),
    "T5-base": (lambda: T5(T5Config.base()), 222_903_552),
    "T5-small 1.1": (lambda: T5(T5Config.v1_1_small()), 76_961_152),
    "T5-base 1.1": (lambda: T5(T5Config.v1_1_base()), 247_577_856),
    "LLaMA 7B": (lambda: Llama(LlamaConfig.llama_7b()), 6_738_415_616),
    "LLaMA 13B": (lambda: Llama(LlamaConfig.llama_13b()), 13_015_864_320),
    "LLaMA 33B": (lambda: Llama(LlamaConfig.llama_33b()), 32_528_943_616),
    "LLaMA 65B": (lambda: Llama(LlamaConfig.llama_65b()), 65_285_660_672),
    "LLaMA 2 70B": (lambda: Llama(LlamaConfig.llama_2_70b()), 68_976_648_192),
    "Llama 3 8B": (lambda: Llama(LlamaConfig.llama_3_8b()), 8_030_261_248),
    "Llama 3 70B": (lambda: Llama(LlamaConfig.llama_3_70b()), 70_553_706_496),
    "Llama 3.2 1B": (lambda: Llama(LlamaConfig.llama_3_2_1b()), 1_235_814_400),
    "Mistral 7B": (lambda: Llama(LlamaConfig.mistral_7b()), 7_241_732_096),
    # The paper says 65M and 213M; with one embedding of 37,000 tokens, and biases in the
    # feed-forward networks alone (equation 2), it comes to this.
    "Transformer base": (lambda: Transformer(TransformerConfig.base()), 63_045_632),
    "Transformer big": (lambda: Transformer(TransformerConfig.big()), 214_171_648),
}


def count(make):
    with torch.device("meta"):
        model = make()
    assert all(parameter.is_meta for parameter in model.parameters())
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_parameters(name):
    make, expected = SIZES[name]
    assert count(make) == expected


@pytest.mark.parametrize("config", [GLMConfig.base(), GLMConfig.large()], ids=["base", "large"])
def test_glm_by_parts(config):
    """No published count goes with the paper's sizes: summed up here by hand."""
    d, d_ff = config.d_model, config.d_ff
    embeddings = (config.vocab_size + config.max_positions + config.max_span + 1) * d
    block = 4 * (d * d + d) + (2 * d * d_ff + d_ff + d) + 2 * 2 * d
    assert count(lambda: GLM(config)) == embeddings + config.num_layers * block + 2 * d


def test_chatglm_6b_from_the_same_blocks():
    """Of another architecture than GLM: its blocks are put together here."""

    def chatglm():
        blocks = [
            TransformerBlock(
                MultiHeadAttention(4096, 32, qkv_bias=True, out_bias=True),
                FeedForward(4096, 16_384, nn.GELU("tanh"), bias=True),
                residual=lambda: DeepNorm(nn.LayerNorm(4096), alpha=(2 * 28) ** 0.5),
            )
            for _ in range(28)
        ]
        return nn.ModuleList([nn.Embedding(130_528, 4096), *blocks, nn.LayerNorm(4096)])

    assert count(chatglm) == 6_173_286_400


def test_what_the_memory_of_a_cache_is_per_token():
    """In half precision; on the meta device."""
    for config, expected in (
        (LlamaConfig.llama_7b(), 524_288),
        (LlamaConfig.llama_2_70b(), 327_680),
        (LlamaConfig.llama_3_8b(), 131_072),
    ):
        with torch.device("meta"):
            caches = Llama(config).half().new_caches(1, 1)
        assert len(caches) == config.num_layers
        assert all(cache._keys.dtype == torch.float16 for cache in caches)
        kept = [kept for cache in caches for kept in (cache._keys, cache._values)]
        assert sum(k.numel() * k.element_size() for k in kept) == expected


def test_settings_that_no_count_shows():
    assert TransformerConfig.big().dropout == 0.3
    assert [c.norm_eps for c in (LlamaConfig.llama_7b(), LlamaConfig.llama_3_8b())] == [1e-6, 1e-5]
    assert LlamaConfig.mistral_7b().window == 4096
    first = {name: getattr(LlamaConfig, name)().rotary(128).frequencies[1].item() for name in (
        "llama_7b", "llama_2_70b", "llama_3_8b", "llama_3_70b", "mistral_7b"
    )}  # fmt: skip
    bases = {name: round(rate**-64) for name, rate in first.items()}
    assert bases["llama_7b"] == pytest.approx(10_000, rel=1e-4)
    assert bases["llama_2_70b"] == pytest.approx(10_000, rel=1e-4)
    assert bases["mistral_7b"] == pytest.approx(10_000, rel=1e-4)
    assert bases["llama_3_8b"] == pytest.approx(500_000, rel=1e-4)
    assert bases["llama_3_70b"] == pytest.approx(500_000, rel=1e-4)
    slowest = LlamaConfig.llama_3_2_1b().rotary(64).frequencies[-1].item()
    assert slowest == pytest.approx(500_000 ** (-62 / 64) / 32, rel=1e-4)
    # Heads that no count of parameters tells apart.
    heads = {"llama_7b": 32, "llama_13b": 40, "llama_33b": 52, "llama_65b": 64, "llama_3_2_1b": 32}
    assert {name: getattr(LlamaConfig, name)().num_heads for name in heads} == heads
    gpt = ("gpt_1", "gpt2_small", "gpt2_medium", "gpt2_large", "gpt2_xl")
    assert [getattr(GPTConfig, name)().num_heads for name in gpt] == [12, 12, 16, 20, 25]
    assert [c.num_heads for c in (BertConfig.base(), BertConfig.large())] == [12, 16]
    assert [c.num_heads for c in (GLMConfig.base(), GLMConfig.large())] == [12, 16]
    assert [c.num_heads for c in (TransformerConfig.base(), TransformerConfig.big())] == [8, 16]
    t5 = (T5Config.small(), T5Config.base(), T5Config.v1_1_small(), T5Config.v1_1_base())
    assert [(c.num_heads, c.d_head) for c in t5] == [(8, 64), (12, 64), (6, 64), (12, 64)]


def test_settings_that_nothing_else_shows():
    base, glm = TransformerConfig(), GLMConfig()
    assert (base.max_positions, base.dropout, base.norm_eps) == (512, 0.1, 1e-5)
    assert (glm.max_positions, glm.max_span, glm.dropout, glm.norm_eps) == (512, 512, 0.1, 1e-5)
    # Its tokens and sizes are BERT's, whose parameters are counted above.
    for mine, bert in ((glm, BertConfig.base()), (GLMConfig.large(), BertConfig.large())):
        for size in ("vocab_size", "d_model", "num_layers", "num_heads", "d_ff"):
            assert getattr(mine, size) == getattr(bert, size)
    assert LlamaConfig.llama_2_70b().norm_eps == LlamaConfig.mistral_7b().norm_eps == 1e-5
    windows = (LlamaConfig.llama_7b(), LlamaConfig.llama_3_8b(), LlamaConfig.llama_3_70b())
    assert [config.window for config in windows] == [None] * 3
    x = torch.linspace(-4, 4, 9)
    tanh = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    for version, expected in (
        (T5Config.small(), x.clamp(min=0)),
        (T5Config.base(), x.clamp(min=0)),
        (T5Config.v1_1_small(), tanh),
        (T5Config.v1_1_base(), tanh),
    ):
        torch.testing.assert_close(version.activation()(x), expected)
    tied = (LlamaConfig.llama_3_2_1b(), LlamaConfig.llama_3_8b(), T5Config(), T5Config.v1_1_base())
    assert [config.tied for config in tied] == [True, False, True, False]


def test_settings_are_frozen_and_compare_by_what_they_hold():
    assert LlamaConfig.llama_3_8b() == LlamaConfig.llama_3_8b()
    assert T5Config.v1_1_base() == T5Config.v1_1_base() != T5Config.base()
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPTConfig().d_model = 2
    with pytest.raises(TypeError):
        GPTConfig(50_257)
