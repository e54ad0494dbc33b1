"""Models and their settings answer a right call rightly, and refuse a wrong one in words."""

import dataclasses

import pytest
import torch
from hypothesis import given
from torch import nn

from tests.bad_input import (
    JUNK,
    PROBABILITY,
    SEEDS,
    SETTINGS,
    WEIGHTS,
    Caches,
    Call,
    Numbers,
    One,
    above,
    is_whole,
    only,
    public,
    whole,
)
from tests.test_bad_input import fits_heads
from transformer_lab.feedforward import FeedForward
from transformer_lab.models import bert, glm, gpt, llama, t5, transformer

pytestmark = pytest.mark.usefixtures("as_a_user")

MODULES = ("bert", "common", "glm", "gpt", "llama", "t5", "transformer")
# What the models have in common is seen through them.
EXEMPT = {
    f"models.common.{name}"
    for name in (
        "Decoder",
        "EncoderDecoder",
        "init_normal_",
        "EncoderDecoder.encode",
        "EncoderDecoder.decode",
        "encoder_mask",
    )
}

SIZES = {"vocab_size": 7, "d_model": 4, "num_layers": 2, "num_heads": 2, "d_ff": 3}
CONFIGS = {
    "gpt": gpt.GPTConfig(**SIZES, max_positions=5),
    "llama": llama.LlamaConfig(**SIZES, num_kv_heads=1),
    "t5": t5.T5Config(**SIZES, d_head=2),
    "transformer": transformer.TransformerConfig(**SIZES, max_positions=5),
    "bert": bert.BertConfig(**SIZES, max_positions=3),
    "glm": glm.GLMConfig(**SIZES, max_positions=4, max_span=3),
}
GPT, LLAMA, GLM = gpt.GPT(CONFIGS["gpt"]), llama.Llama(CONFIGS["llama"]), glm.GLM(CONFIGS["glm"])
T5, TRANSFORMER = t5.T5(CONFIGS["t5"]), transformer.Transformer(CONFIGS["transformer"])
MODELS = {
    "gpt.GPT": GPT,
    "llama.Llama": LLAMA,
    "glm.GLM": GLM,
    "t5.T5": T5,
    "transformer.Transformer": TRANSFORMER,
    **{
        f"bert.{kind.__name__}": kind(CONFIGS["bert"])
        for kind in (
            bert.BertEncoder,
            bert.Bert,
            bert.BertForMaskedLM,
            bert.BertForPreTraining,
            bert.MaskedLMHead,
        )
    },
    "bert.BertForClassification": bert.BertForClassification(CONFIGS["bert"], 3),
}
for each in MODELS.values():
    each.eval()

TOKENS = Numbers("b q", "int", within=(0, 6), ids=True)
SOURCE = Numbers("b s", "int", within=(0, 6), ids=True)
IS_TOKEN, IS_SOURCE = Numbers("b t", "bool", none=True), Numbers("b s", "bool", none=True)
MEMORY = Numbers("b s d")
NOTHING = only(None, wrong=([], (), 3, "four"))
AXES = WEIGHTS | {"d": 4, "v": 7}
WORDS = {
    "caches": "cache|key|mask",
    "tokens": "is_token|cache|mask|key|one has",
    "is_token": "one has|mask",
    "target": "memory|is_token|cache|mask|key|one has",
}


def short_enough(tokens, is_token=None, caches=None, most=6, **rest) -> bool:
    """Tokens there are, and those of each sequence have a position; padding in front has none."""
    if tokens.shape[1] == 0:
        return False
    total = tokens.shape[1] + (caches[0].held if caches else 0)
    if is_token is None:
        return total <= most
    return is_token.is_meta or bool((is_token.sum(1) <= most).all())


def decoder_calls(name, model, most) -> dict[str, Call]:
    heads = CONFIGS[name.split(".")[0]]
    heads = getattr(heads, "num_kv_heads", heads.num_heads)
    kinds = {"tokens": TOKENS, "caches": Caches(heads, 2, layers=2), "is_token": IS_TOKEN}
    rule = lambda **given: short_enough(**given, most=most)  # noqa: E731
    return {f"models.{name}.forward": Call(model, kinds, "b q v", AXES, rule, WORDS)}


def encoder_decoder_calls(name, model, most) -> dict[str, Call]:
    caches = Caches(2, 2, layers=2, source=True, none=False)
    fits = lambda target, is_token, caches, **_: short_enough(target, is_token, caches, most)  # noqa: E731
    masks = {"memory_is_token": IS_SOURCE, "is_token": IS_TOKEN}
    words = WORDS | {"memory": "sequences|memory_is_token", "memory_is_token": "mask"}
    return {
        f"models.{name}.encode": Call(
            lambda source, **rest: model.encode(source, **rest),
            {"source": SOURCE, "is_token": IS_SOURCE},
            "b s d",
            AXES,
            lambda source, is_token: short_enough(source, is_token, most=most),
            WORDS | {"source": "is_token|one has"},
        ),
        f"models.{name}.decode memory": Call(
            model.decode,
            {
                "target": TOKENS,
                "caches": NOTHING,
                "memory": MEMORY,
                **masks,
                "is_token": Numbers("b q", "bool", none=True),
            },
            "b q v",
            AXES,
            fits,
            words,
        ),
        f"models.{name}.decode caches": Call(
            model.decode,
            {
                "target": TOKENS,
                "memory": only(None, wrong=(torch.ones(1, 2, 4), 3, "four")),
                "caches": caches,
                **masks,
            },
            "b q v",
            AXES,
            fits,
            words,
        ),
        f"models.common.EncoderDecoder.forward {name}": Call(
            model,
            {
                "source": SOURCE,
                "target": TOKENS,
                "source_is_token": IS_SOURCE,
                "is_token": Numbers("b q", "bool", none=True),
            },
            "b q v",
            AXES,
            lambda source, target, source_is_token, is_token: (
                short_enough(source, source_is_token, most=most)
                and short_enough(target, is_token, most=most)
            ),
            WORDS
            | {"source": "memory|is_token|one has", "source_is_token": "is_token of the source"},
        ),
        f"models.common.EncoderDecoder.new_caches {name}": Call(
            model.new_caches,
            {"memory": MEMORY, "max_len": whole(1, 2)},
            known=AXES,
            rule=lambda memory, max_len: len(memory) > 0,
            words={"memory": "batch"},
        ),
    }


def config_calls(name, kind, model) -> dict[str, Call]:
    """Settings and the model that is made of them, for either may refuse them."""
    config = CONFIGS[name]
    kinds = {
        field.name: whole(getattr(config, field.name), *([4] if "heads" not in field.name else []))
        for field in dataclasses.fields(config)
        if field.type is int
    }
    kinds |= {"norm_eps": above(1e-6, 1)} | (
        {"dropout": PROBABILITY} if hasattr(config, "dropout") else {}
    )
    kinds |= {"window": whole(None, 2)} if name == "llama" else {}
    makers = {
        "residual": gpt.PreNorm,
        "final_norm": nn.LayerNorm,
        "rotary": llama.rope,
        "feed_forward": FeedForward,
        "activation": nn.ReLU,
    }
    kinds |= {
        key: only(value, wrong=JUNK[:-1]) for key, value in makers.items() if hasattr(config, key)
    }

    def fits(d_model, num_heads, num_kv_heads=None, d_head=None, **rest) -> bool:
        even = (
            d_model % 2 == 0
            if name == "transformer"
            else name != "llama" or d_model // num_heads % 2 == 0
        )
        return fits_heads(d_model, num_heads, num_kv_heads, d_head) and even

    words = {"d_model": "d_rotary", "num_heads": "d_rotary"}
    return {
        f"models.{name}.{kind.__name__}": Call(
            lambda **given: model(kind(**given)), kinds, rule=fits, words=words
        ),
        f"models.{name}.{model.__name__}": Call(
            model, {"config": One((config,), lambda v: isinstance(v, kind), JUNK)}
        ),
    }


def bert_calls(name) -> Call:
    kinds = {
        "tokens": SOURCE,
        "segments": Numbers("b s", "int", none=True, ids=True),
        "is_token": IS_SOURCE,
    }
    fits = lambda tokens, **_: 1 <= tokens.shape[1] <= 3  # noqa: E731
    words = WORDS | {"tokens": "is_token|one has|segments"}
    return Call(
        MODELS[name],
        kinds,
        "b d" if name.endswith("Classification") else "b s v" if "For" in name else "b s d",
        WEIGHTS | {"v": 7, "d": 3 if name.endswith("Classification") else 4},
        fits,
        words,
    )


CALLS = {
    **decoder_calls("gpt.GPT", GPT, 5),
    **decoder_calls("llama.Llama", LLAMA, 99),
    **encoder_decoder_calls("t5.T5", T5, 99),
    **encoder_decoder_calls("transformer.Transformer", TRANSFORMER, 5),
    "models.glm.GLM.forward": Call(
        GLM,
        {
            "tokens": TOKENS,
            "positions": Numbers("b q", "int", within=(0, 3), ids=True),
            "span_positions": Numbers("b q", "int", within=(0, 3), ids=True),
            "prefix_lengths": Numbers("b", "int", within=(0, 1)),
            "caches": Caches(2, 2, layers=2),
            "is_token": IS_TOKEN,
        },
        "b q v",
        AXES,
        lambda tokens, prefix_lengths, caches, **_: (
            tokens.shape[1] > 0
            and (
                prefix_lengths.is_meta
                or all(
                    0 <= n <= tokens.shape[1] + (caches[0].held if caches else 0)
                    for n in prefix_lengths.tolist()
                )
            )
        ),
        WORDS
        | {"tokens": "is_token|cache|mask|key|positions|prefix", "prefix_lengths": "prefix length"},
    ),
    "models.common.Decoder.new_caches": Call(
        GPT.new_caches, {"batch": whole(1, 2), "max_len": whole(1, 2)}
    ),
    **config_calls("gpt", gpt.GPTConfig, gpt.GPT),
    **config_calls("llama", llama.LlamaConfig, llama.Llama),
    **config_calls("t5", t5.T5Config, t5.T5),
    **config_calls("bert", bert.BertConfig, bert.Bert),
    **config_calls("transformer", transformer.TransformerConfig, transformer.Transformer),
    **config_calls("glm", glm.GLMConfig, glm.GLM),
    "models.llama.rope": Call(
        llama.rope,
        {
            "d_head": One((2, 4), lambda v: is_whole(v, 2) and v % 2 == 0),
            "base": above(10.0, bound=1),
        },
        words={"d_head": "d_rotary"},
    ),
    "models.llama.llama_3_2_rope": Call(
        llama.llama_3_2_rope,
        {"d_head": One((2, 4), lambda v: is_whole(v, 2) and v % 2 == 0)},
        words={"d_head": "d_rotary"},
    ),
    **{
        f"models.{name}.forward": bert_calls(name)
        for name in MODELS
        if name.startswith("bert.") and not name.endswith("Head")
    },
    **{
        f"models.{name}": Call(
            type(MODELS[name]),
            {"config": One((CONFIGS["bert"],), lambda v: isinstance(v, bert.BertConfig), JUNK)},
        )
        for name in MODELS
        if name.startswith("bert.") and not name.endswith(("Classification", ".Bert"))
    },
    "models.bert.BertForClassification": Call(
        bert.BertForClassification,
        {
            "config": One((CONFIGS["bert"],), lambda v: isinstance(v, bert.BertConfig), JUNK),
            "num_classes": whole(1, 3),
        },
    ),
    "models.bert.MaskedLMHead.forward": Call(
        MODELS["bert.MaskedLMHead"],
        {"x": Numbers("* d"), "embedding": Numbers("v d")},
        "* v",
        AXES,
    ),
}


@pytest.mark.parametrize("name", CALLS)
@SETTINGS
@given(random=SEEDS)
def test_a_changed_call(name, random):
    CALLS[name].check(random)


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_left_out(name):
    assert set(public(f"models.{name}")) - EXEMPT <= {entry.split()[0] for entry in CALLS}
