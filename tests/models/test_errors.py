"""Bad settings and bad input are refused in words, before anything is computed."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.small import CONFIGS, DECODERS, MODELS, call, ids
from transformer_lab.models.bert import BertForClassification
from transformer_lab.models.common import EncoderDecoder
from transformer_lab.models.llama import Llama, LlamaConfig
from transformer_lab.models.settings import ModelConfig, Preset

pytestmark = pytest.mark.usefixtures("as_a_user")


@pytest.mark.parametrize("name", CONFIGS)
def test_settings(name):
    config = CONFIGS[name]
    sizes = [f.name for f in dataclasses.fields(config) if f.type is int]
    assert {"vocab_size", "d_model", "num_layers", "num_heads", "d_ff"} <= set(sizes)
    for size in sizes:
        with pytest.raises(ValueError, match=f"{size} must be at least 1; it is 0"):
            dataclasses.replace(config, **{size: 0})
        with pytest.raises(TypeError, match=f"{size} must be a whole number; it is 2.0"):
            dataclasses.replace(config, **{size: 2.0})
        with pytest.raises(TypeError, match="must be a whole number; it is True"):
            dataclasses.replace(config, **{size: True})
    if hasattr(config, "dropout"):
        for wrong in (-0.1, 1.0, float("nan")):
            with pytest.raises(ValueError, match="dropout is a probability"):
                dataclasses.replace(config, dropout=wrong)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="norm_eps must be above 0"):
            dataclasses.replace(config, norm_eps=wrong)
    if name != "t5":
        with pytest.raises(
            ValueError, match=r"d_model must be a multiple of num_heads; .* 16 and 3"
        ):
            dataclasses.replace(config, num_heads=3)


@pytest.mark.parametrize("kind", [ModelConfig, *map(type, CONFIGS.values())])
def test_settings_are_given_by_name(kind):
    """In a row of numbers two sizes would be swapped in silence."""
    with pytest.raises(TypeError, match="positional argument"):
        kind(*[4] * 6)


def test_rotary_positions_of_another_kind():
    config = dataclasses.replace(CONFIGS["llama"], rotary=lambda _: torch.nn.Identity())
    with pytest.raises(TypeError, match="must be a RotaryEmbedding; it is a Identity"):
        Llama(config)


def test_a_window_of_nothing():
    with pytest.raises(ValueError, match="window must be at least 1; it is 0"):
        dataclasses.replace(CONFIGS["llama"], window=0)


def test_no_classes():
    with pytest.raises(ValueError, match="num_classes must be at least 1; it is 0"):
        BertForClassification(CONFIGS["bert"], 0)


@pytest.mark.parametrize("name", MODELS)
def test_tokens(name):
    model = MODELS[name]()
    tokens = "source" if name in ("transformer", "t5") else "tokens"
    with pytest.raises(
        ValueError, match=rf"^{tokens} must lie between 0 and 29; it goes from \d+ to 30"
    ):
        call(name, model, ids().clamp(max=12) + 18 * (ids() > 11))
    with pytest.raises(
        ValueError, match=f"^{tokens} must lie between 0 and 29; it goes from -1 to"
    ):
        call(name, model, ids() - 1)
    with pytest.raises(ValueError, match=r"int64 or int32; it holds torch\.float32"):
        call(name, model, ids().float())
    with pytest.raises(ValueError, match=r"must have the axes \(batch, seq\)"):
        call(name, model, ids()[:, :0])


@pytest.mark.parametrize("name", ["gpt", "llama", "bert"])
def test_tokens_of_another_kind(name):
    model = MODELS[name]()
    with pytest.raises(TypeError, match=r"tokens must be a torch\.Tensor; it is a list"):
        model([[1, 2]], **({"segments": ids()} if name == "bert" else {}))
    with pytest.raises(ValueError, match=r"axes \(batch, seq\).* its shape is \(7,\)"):
        model(ids()[0])


@pytest.mark.parametrize("name", [*DECODERS, "bert"])
@pytest.mark.parametrize("shape", [(1, 7), (2, 6), (2, 8), (3, 7)], ids=str)
def test_is_token_of_another_shape(name, shape):
    with pytest.raises(
        ValueError, match=r"is_token must be boolean and have the shape .*\(2, 7\);"
    ):
        call(name, MODELS[name](), ids(), is_token=torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize("name", [*DECODERS, "bert"])
def test_is_token_of_another_kind(name):
    with pytest.raises(ValueError, match="is_token must be boolean"):
        call(name, MODELS[name](), ids(), is_token=torch.ones(2, 7))


@pytest.mark.parametrize("name", ["transformer", "bert", "gpt"])
def test_too_long(name):
    model = MODELS[name]().eval()
    call(name, model, ids(2, 12))
    with pytest.raises(ValueError, match=r"may have 12 tokens at most .* one has 13"):
        call(name, model, ids(2, 13))


@pytest.mark.parametrize("name", ["transformer", "bert", "gpt", "llama", "t5"])
def test_no_sequences_are_no_mistake(name):
    is_token = torch.ones(0, 7, dtype=torch.bool)
    assert call(name, MODELS[name](), ids()[:0], is_token=is_token).numel() == 0


def test_padding_doesnt_count_as_length():
    is_token = torch.arange(15).expand(2, -1) >= 3
    MODELS["gpt"]()(ids(2, 15), is_token=is_token)


def test_too_long_for_a_cache():
    model = MODELS["gpt"]().eval()
    caches = model.new_caches(2, 13)
    model(ids(2, 12), caches=caches)
    with pytest.raises(ValueError, match="may have 12 tokens at most"):
        model(ids(2, 1), caches=caches)
    caches = model.new_caches(2, 5)
    with pytest.raises(ValueError, match="the cache holds 0 of 5 positions; 7 more"):
        model(ids(), caches=caches)


@pytest.mark.parametrize("name", DECODERS)
def test_caches_of_another_number(name):
    model = MODELS[name]()
    paired = name in ("transformer", "t5")
    caches = model.new_caches(model.encode(ids()) if paired else 2, 7)[:1]
    with pytest.raises(ValueError, match="one cache for each of the 2 layers; there are 1"):
        if paired:
            model.decode(ids(), caches=caches)
        else:
            call(name, model, ids(), caches=caches)


@pytest.mark.parametrize("name", ["transformer", "t5"])
def test_memory_of_another_shape(name):
    model = MODELS[name]()
    memory = model.encode(ids())
    for wrong in (memory[:1], memory[0], memory[..., :8]):
        with pytest.raises(ValueError, match=r"memory must have the shape .* \(2, source, 16\)"):
            model.decode(ids(), wrong)
    with pytest.raises(TypeError, match=r"memory must be a torch\.Tensor; it is a list"):
        model.decode(ids(), [1.0])
    with pytest.raises(ValueError, match="memory and target must be on one device"):
        model.decode(ids(), memory.to("meta"))
    with pytest.raises(ValueError, match=r"^target must lie between 0 and 29; it goes from -1 to"):
        model.decode(ids() - 1, memory)


@pytest.mark.parametrize("name", ["transformer", "t5"])
def test_memory_and_caches_are_told_apart(name):
    model = MODELS[name]()
    memory = model.encode(ids())
    caches = model.new_caches(memory, 7)
    with pytest.raises(ValueError, match=r"either memory or caches.* it got both"):
        model.decode(ids(), memory, caches=caches)
    with pytest.raises(ValueError, match=r"either memory or caches.* it got neither"):
        model.decode(ids())
    plain = MODELS["gpt"]().new_caches(2, 7)
    with pytest.raises(ValueError, match="these caches hold no memory"):
        model.decode(ids(), caches=plain)


def test_what_each_encoder_decoder_has_to_bring():
    class Unfinished(EncoderDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.token_embedding = torch.nn.Embedding(50, 16)
            self.encoder = self.decoder = torch.nn.ModuleList()

    with pytest.raises(NotImplementedError):
        Unfinished().encode(ids())
    with pytest.raises(NotImplementedError):
        Unfinished().decode(ids(), torch.ones(2, 7, 16))


def test_segments():
    model = MODELS["encoder"]()
    with pytest.raises(ValueError, match="segments must lie between 0 and 1"):
        model(ids(), segments=ids().clamp(max=2))
    with pytest.raises(ValueError, match=r"of shape \(2, 7\) on cpu; .* \(1, 7\), on cpu"):
        model(ids(), segments=torch.zeros(1, 7, dtype=torch.long))
    with pytest.raises(ValueError, match=r"^segments .* on cpu; its shape is \(2, 7\), on meta"):
        model(ids(), segments=torch.zeros(2, 7, dtype=torch.long, device="meta"))


def test_glm():
    model, places = MODELS["glm"](), torch.arange(7).expand(2, 7)
    zeros, prefix = torch.zeros_like(places), torch.tensor([3, 3])
    with pytest.raises(ValueError, match=r"^positions must lie between 0 and 11"):
        model(ids(), places + 8, zeros, prefix)
    with pytest.raises(ValueError, match="span_positions must lie between 0 and 4"):
        model(ids(), places, places, prefix)
    with pytest.raises(ValueError, match=r"^positions must go with the tokens"):
        model(ids(), places[:1], zeros, prefix)
    with pytest.raises(ValueError, match="span_positions must go with the tokens"):
        model(ids(), places, zeros[:1], prefix)
    with pytest.raises(
        ValueError,
        match="prefix_lengths must hold one number for each of the 2 sequences; it holds 1",
    ):
        model(ids(), places, zeros, prefix[:1])
    with pytest.raises(ValueError, match="prefix_lengths must lie between 0 and 7"):
        model(ids(), places, zeros, prefix + 5)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    shape=st.lists(st.integers(0, 4), max_size=4),
    dtype=st.sampled_from([torch.int64, torch.int32, torch.uint8, torch.float32, torch.bool]),
    mask_shape=st.none() | st.lists(st.integers(0, 4), max_size=3),
)
def test_any_shapes_and_kinds(name, shape, dtype, mask_shape):
    """Either all fits, or a ValueError or TypeError says what doesn't."""
    tokens = torch.ones(shape).to(dtype)
    is_token = None if mask_shape is None else torch.ones(mask_shape, dtype=torch.bool)
    fits = len(shape) == 2 and shape[1] > 0 and dtype in (torch.int64, torch.int32)
    if is_token is not None:
        fits = fits and list(mask_shape) == shape
    rest = {} if is_token is None or name in ("transformer", "t5") else {"is_token": is_token}
    if name in ("transformer", "t5") and is_token is not None:
        rest = {"is_token": is_token, "source_is_token": is_token}
    if name == "glm" and len(shape) != 2:
        return  # the places of `call` are made from two axes
    if name == "glm" and shape[0] > 0 and shape[1] < 3:
        fits = False  # each prefix has three
    if name in MODELS and fits:
        call(name, MODELS[name]().eval(), tokens, **rest)
    else:
        with pytest.raises((ValueError, TypeError)):
            call(name, MODELS[name]().eval(), tokens, **rest)


def test_a_preset_takes_another_preset_and_settings_of_its_class():
    with pytest.raises(TypeError, match="like must be another preset; it is a LlamaConfig"):
        Preset(LlamaConfig())
    with pytest.raises(TypeError, match="'wings'"):
        Preset(wings=2).__get__(None, LlamaConfig)()
