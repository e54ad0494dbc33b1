"""First weights, dtypes, devices, dropout, the fused kernel: what holds for every model."""

import copy
import dataclasses
import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from tests.models.small import CONFIGS, DECODERS, MODELS, SIZES, call, ids
from transformer_lab.models.bert import (
    Bert,
    BertConfig,
    BertForClassification,
    BertForMaskedLM,
    BertForPreTraining,
)
from transformer_lab.models.glm import GLM, GLMConfig
from transformer_lab.models.gpt import GPT, GPTConfig
from transformer_lab.models.llama import Llama, LlamaConfig
from transformer_lab.models.t5 import T5, T5Config
from transformer_lab.models.transformer import Transformer, TransformerConfig
from transformer_lab.positions import RotaryEmbedding, rope_frequencies

WIDE = {"vocab_size": 400, "d_model": 128, "num_layers": 3, "num_heads": 4, "d_ff": 256}


def spreads(model):
    """Standard deviation of each kind of weight, over all layers; biases must be 0, norms 1."""
    found = {}
    for name, parameter in model.named_parameters():
        last = name.split(".")[-2]
        if "norm" in name:
            assert (parameter == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            found.setdefault(last, []).append(parameter.detach().flatten())
    return {last: torch.cat(all_of).std().item() for last, all_of in found.items()}


PROJECTIONS = ("query_proj", "key_proj", "value_proj", "out_proj", "up_proj", "down_proj")


def normal(**others):
    return dict.fromkeys(PROJECTIONS, 0.02) | {"token_embedding": 0.02} | others


def cut(std):
    """Of a normal distribution that is cut off at two standard deviations."""
    return std * math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))


ENDS = dict.fromkeys(("out_proj", "down_proj"), 0.02 / math.sqrt(6))  # three layers, six sublayers
FIRST = {
    "gpt": (lambda: GPT(GPTConfig(**WIDE)), normal(position_embedding=0.02, **ENDS)),
    "glm": (
        lambda: GLM(GLMConfig(**WIDE)),
        normal(position_embedding=0.02, span_embedding=0.02, **ENDS),
    ),
    "llama": (
        lambda: Llama(LlamaConfig(**WIDE, num_kv_heads=4)),
        normal(gate_proj=0.02, lm_head=0.02),
    ),
    "bert": (
        lambda: Bert(BertConfig(**WIDE, num_segments=50)),
        {name: cut(0.02) for name in normal(position_embedding=0, segment_embedding=0, pooler=0)},
    ),
    "t5": (
        lambda: T5(T5Config(**(WIDE | {"num_heads": 16}), d_head=16, tied=False)),
        {
            "token_embedding": 1.0,
            "query_proj": (128 * 16) ** -0.5,
            "key_proj": 128**-0.5,
            "value_proj": 128**-0.5,
            "out_proj": (16 * 16) ** -0.5,
            "up_proj": 128**-0.5,
            "down_proj": 256**-0.5,
            "table": 128**-0.5,
            "lm_head": 128**-0.5,
        },
    ),
    "transformer": (
        lambda: Transformer(TransformerConfig(**WIDE)),
        dict.fromkeys(PROJECTIONS, math.sqrt(2 / (128 + 128)))
        | dict.fromkeys(("up_proj", "down_proj"), math.sqrt(2 / (128 + 256)))
        | {"token_embedding": 128**-0.5},
    ),
}


@pytest.mark.parametrize("name", FIRST)
def test_first_weights(name):
    torch.manual_seed(0)
    make, expected = FIRST[name]
    model = make()
    assert spreads(model) == pytest.approx(expected, rel=0.04)
    largest = max(p.abs().max() for p in model.parameters() if p.dim() > 1)
    if name == "bert":
        assert largest <= 0.04
    if name == "transformer":  # a uniform distribution ends at √3 standard deviations
        ends = [p.abs().max() / p.std() for n, p in model.named_parameters() if "_proj.weight" in n]
        assert max(ends) < 1.8


def test_first_weights_of_the_heads_of_bert():
    torch.manual_seed(0)
    config = BertConfig(**(WIDE | {"d_model": 512}))
    pre_training, classes = BertForPreTraining(config), BertForClassification(config, 3)
    heads = {
        "masked LM": pre_training.masked_lm_head.dense,
        "next sentence": pre_training.next_sentence_head,
        "classes": classes.classifier,
        "masked LM alone": BertForMaskedLM(config).masked_lm_head.dense,
    }
    for name, head in heads.items():
        assert head.weight.std().item() == pytest.approx(cut(0.02), rel=0.1), name
        assert head.weight.abs().max() <= 0.04, name
        assert (head.bias == 0).all(), name
    assert (pre_training.masked_lm_head.bias == 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_layers_start_with_different_weights(name):
    model = MODELS[name]()
    weights = [p for n, p in model.named_parameters() if n.endswith("_proj.weight")]
    for i, one in enumerate(weights):
        for other in weights[:i]:
            assert one.shape != other.shape or not torch.equal(one, other)


def test_the_first_loss_is_that_of_a_guess():
    """ln of the vocabulary's size, within a tenth: the first weights are of the right size."""
    torch.manual_seed(0)
    for make in (FIRST["gpt"][0], FIRST["llama"][0], FIRST["glm"][0]):
        model = make().eval()
        tokens = torch.randint(400, (4, 32))
        targets = torch.randint(400, (4, 32))
        logits = call("glm", model, tokens) if isinstance(model, GLM) else model(tokens)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        assert abs(loss.item() - math.log(400)) < 0.1


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(name, dtype):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    expected = call(name, model, ids())
    out = call(name, copy.deepcopy(model).to(dtype), ids())
    assert out.dtype == dtype
    within = 1e-5 if dtype == torch.float64 else 0.05
    assert_close(out.float(), expected, atol=within, rtol=within)


@pytest.mark.parametrize("name", MODELS)
def test_ids_of_32_bits_look_up_the_same(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    assert torch.equal(call(name, model, ids().int()), call(name, model, ids()))


@pytest.mark.parametrize("name", MODELS)
def test_the_meta_device(name):
    with torch.device("meta"):
        model = MODELS[name]()
        out = call(name, model, ids().to("meta"))
    assert out.is_meta
    assert out.shape == call(name, MODELS[name](), ids()).shape


@pytest.mark.parametrize("name", MODELS)
def test_what_is_made_on_the_way_is_made_where_the_tokens_are(name):
    """Here torch's own default stays cpu, and the tokens are elsewhere."""
    model, tokens, looked_up = MODELS[name]().to("meta"), ids().to("meta"), []
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.register_forward_pre_hook(lambda _, given: looked_up.append(given[0].is_meta))
    assert call(name, model, tokens).is_meta
    assert all(looked_up)
    is_token = torch.ones(2, 7, dtype=torch.bool, device="meta")
    assert call(name, model, tokens, is_token=is_token).is_meta


@pytest.mark.parametrize("name", MODELS)
def test_an_accelerator(name):
    if not torch.accelerator.is_available():
        pytest.skip("there is no cuda or mps device here")
    device = torch.accelerator.current_accelerator()
    model = MODELS[name]().eval()
    expected = call(name, model, ids())
    out = call(name, model.to(device), ids().to(device))
    assert_close(out.cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_dropout_acts_in_training_alone(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    if name == "llama":  # has none
        assert torch.equal(call(name, model, ids()), call(name, model, ids()))
        return
    assert not torch.equal(call(name, model, ids()), call(name, model, ids()))
    model.eval()
    assert torch.equal(call(name, model, ids()), call(name, model, ids()))


@pytest.mark.parametrize("name", ["bert", "gpt", "glm", "t5"])
def test_attention_weights_are_dropped_too(name):
    model = MODELS[name]()
    dropout = CONFIGS[name].dropout
    found = [m.dropout for m in model.modules() if hasattr(m, "query_proj")]
    assert found == [dropout] * len(found)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    out = call(name, model, ids())
    (out * torch.randn_like(out)).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        # A bias of the keys adds the same to all scores of a query, which the softmax takes away.
        if not parameter_name.endswith("key_proj.bias"):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize(
    "make",
    [
        MODELS["gpt"],
        MODELS["llama"],
        lambda: Llama(dataclasses.replace(CONFIGS["llama"], window=7)),  # which hides nothing here
    ],
    ids=["gpt", "llama", "llama with a window"],
)
def test_without_padding_the_fused_kernel_is_reached(make, monkeypatch):
    """The causal mask must reach torch as a word, not as n² numbers; with T5's bias it can't."""
    model, seen = make().eval(), []
    real = F.scaled_dot_product_attention

    def spy(query, key, value, mask, dropout, is_causal, **rest):
        seen.append((mask, is_causal))
        return real(query, key, value, mask, dropout, is_causal, **rest)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    model(ids())
    assert seen == [(None, True)] * 2
    seen.clear()
    caches = model.new_caches(2, 7)
    model(ids()[:, :6], caches=caches)
    model(ids()[:, 6:], caches=caches)  # a single new token sees all
    assert seen == [(None, True)] * 2 + [(None, False)] * 2


@pytest.mark.parametrize("name", ["transformer", "t5"])
def test_keys_and_values_of_the_memory_are_made_once(name):
    torch.manual_seed(0)
    model, made = MODELS[name]().eval(), []
    for block in model.decoder:
        block.cross_attention.key_proj.register_forward_hook(lambda *_: made.append("key"))
        block.cross_attention.value_proj.register_forward_hook(lambda *_: made.append("value"))
    caches = model.new_caches(model.encode(ids()), 7)
    for place in range(7):
        model.decode(ids()[:, place : place + 1], caches=caches)
    assert made == ["key", "value"] * 2


@pytest.mark.parametrize("name", ["transformer", "t5"])
def test_selected_rows_take_their_memory_along(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    memory, swapped = model.encode(ids()), torch.tensor([1, 0])
    caches = model.new_caches(memory, 7)
    model.decode(ids()[:, :6], caches=caches)
    for cache in caches:
        cache.select(swapped)
    last = model.decode(ids()[swapped, 6:], caches=caches)
    assert_close(last[swapped], model.decode(ids(), memory)[:, 6:], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(last, last[swapped])


@pytest.mark.parametrize("name", DECODERS)
def test_later_tokens_change_nothing_before_them(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    changed = ids().clone()
    changed[:, 5] = (changed[:, 5] + 7) % 30
    if name in ("transformer", "t5"):
        memory = model.encode(ids())
        before, after = model.decode(ids(), memory), model.decode(changed, memory)
    else:
        before, after = call(name, model, ids()), call(name, model, changed)
    assert_close(after[:, :5], before[:, :5])
    assert (after[:, 5:] - before[:, 5:]).abs().amax(-1).min() > 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_and_a_state_dict_hold_everything(name, tmp_path):
    model = MODELS[name]().eval()
    state = model.state_dict()
    assert set(state) == {n for n, _ in model.named_parameters()}  # nothing twice, no tables
    other = MODELS[name]().eval()
    other.load_state_dict(state)
    assert torch.equal(call(name, other, ids()), call(name, model, ids()))
    assert torch.equal(call(name, copy.deepcopy(model), ids()), call(name, model, ids()))


def test_a_tied_head_stays_tied():
    tied = Llama(LlamaConfig(**WIDE, num_kv_heads=4, tied=True))
    with torch.device("meta"):
        moved = Llama(LlamaConfig(**WIDE, num_kv_heads=4, tied=True))
    moved.to_empty(device="cpu").load_state_dict(tied.state_dict())
    assert torch.equal(moved.eval()(ids()), tied.eval()(ids()))
    assert not any(isinstance(m, nn.Linear) and m.out_features == 400 for m in moved.modules())


# Embeddings, each sublayer's output, T5's activations and ends of both stacks, the classifier's input.
DROPPED = {
    "transformer": (1 + 2 * 2) + (1 + 2 * 3),
    "encoder": 1 + 2 * 2,
    "bert": 1 + 2 * 2,
    "masked LM": 1 + 2 * 2,
    "pre-training": 1 + 2 * 2,
    "classes": 1 + 2 * 2 + 1,
    "gpt": 1 + 2 * 2,
    "llama": 0,
    "t5": (2 + 2 * 3) + (2 + 2 * 4),
    "glm": 1 + 2 * 2,
}


@pytest.mark.parametrize("name", MODELS)
def test_where_dropout_stands(name, monkeypatch):
    probabilities = []

    def spy(x, p, training, inplace):
        if p > 0:
            probabilities.append(p)
        return x

    monkeypatch.setattr(F, "dropout", spy)
    call(name, MODELS[name](), ids())
    assert probabilities == [0.1] * DROPPED[name]


def test_t5_drops_its_activations_not_what_goes_into_them():
    torch.manual_seed(0)
    gated = dataclasses.replace(T5Config.v1_1_base(), **SIZES)
    for config, activated in ((CONFIGS["t5"], 1.0), (gated, 0.841192)):  # ReLU and GELU of 1
        block = T5(config).encoder[0].feed_forward
        found = block.activation(torch.ones(1000)).unique(sorted=True)
        assert found.tolist() == pytest.approx([0, activated / 0.9], rel=1e-4)


def test_rotary_positions_are_counted_from_the_first_token():
    """No output shows it but by its rounding: what counts is how far query and key are apart."""
    seen = []

    class Recorder(RotaryEmbedding):
        def turns(self, positions):
            seen.append(positions.squeeze(1).tolist())
            return super().turns(positions)

    config = dataclasses.replace(
        CONFIGS["llama"], rotary=lambda d_head: Recorder(rope_frequencies(d_head))
    )
    model = Llama(config)
    is_token = torch.tensor([[False, False, True, True], [True] * 4])
    caches = model.new_caches(2, 4)
    model(ids(2, 3), is_token=is_token[:, :3], caches=caches)
    model(ids(2, 1), is_token=is_token, caches=caches)
    assert seen == [[[0, 0, 0], [0, 1, 2]], [[1], [3]]]  # once for all layers


@pytest.mark.parametrize("name", MODELS)
def test_autocast_computes_the_same_in_fewer_digits(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.autocast("cpu", torch.bfloat16):
        half = call(name, model, ids())
    whole = call(name, model, ids())
    assert not torch.equal(half.float(), whole)
    assert_close(half.float(), whole, atol=0.05 * whole.abs().max().item(), rtol=0)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        call(name, model, ids()).float().sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


def test_a_window_is_made_where_the_tokens_are():
    model = Llama(dataclasses.replace(CONFIGS["llama"], window=2)).to("meta")
    assert model(torch.empty(1, 5, dtype=torch.long, device="meta")).is_meta


def test_torch_compile_follows_every_kind_of_model():
    command = [sys.executable, "-m", "tests.models.compiled"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
