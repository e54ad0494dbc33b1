"""Accounting, pictures and checkpoints answer a right call rightly, and refuse a wrong one in words."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from matplotlib import pyplot as plt
from torch import nn

from tests.bad_input import (
    FLAG,
    JUNK,
    NAN,
    PROBABILITY,
    SEEDS,
    SETTINGS,
    Call,
    Numbers,
    One,
    above,
    function,
    is_whole,
    module,
    only,
    public,
    whole,
)
from tests.test_bad_input import fits_heads
from tests.test_bad_input_models import CONFIGS, GPT, LLAMA, T5
from transformer_lab import accounting, convert, plots
from transformer_lab.models import bert, gpt, llama, t5

pytestmark = pytest.mark.usefixtures("as_a_user")

MODULES = ("accounting", "convert", "plots")
# `slider` makes the record of pictures; what reads files and folders is in tests/test_convert.py.
READERS = (
    "load_safetensors",
    "load_bert",
    "load_gpt2",
    "load_llama",
    "load_t5",
    "hub_folder",
    "minilm",
    "minilm_folder",
)
EXEMPT = {"plots.Slider", *(f"convert.{name}" for name in READERS)}

# --- accounting ----------------------------------------------------------------------------------

MODULE = {"model": module(nn.Linear(2, 3), nn.ReLU())}
FLOPS = dict.fromkeys(
    ("num_layers", "d_ff", "length", "feed_forward_matrices", "batch"), whole(1, 2, huge=True)
)
FLOPS |= {"d_model": whole(4, 8, huge=True), "num_heads": whole(2, 4, huge=True)}
FLOPS |= dict.fromkeys(("vocab_size", "memory_length", "past"), whole(0, 3, least=0, huge=True))
FLOPS |= {"num_kv_heads": whole(None, 1, 2, huge=True), "d_head": whole(None, 3, huge=True)}
COUNTS = ("num_layers", "num_kv_heads", "d_head", "length", "batch", "bytes_per_number")
ACCOUNTING = {
    "accounting.on_meta": Call(
        accounting.on_meta,
        {
            "make": One(
                (lambda: nn.Linear(2, 3),),
                lambda v: getattr(v, "__name__", "") == "<lambda>" and v.__defaults__ is None,
                (
                    *JUNK,
                    nn.ReLU(),
                    lambda wrong=3: wrong,
                    lambda wrong=0: nn.Linear(2, 3, device="cpu"),
                ),
            )
        },
        words={"make": "meta"},
    ),
    **{
        f"accounting.{name}": Call(getattr(accounting, name), MODULE)
        for name in ("count_parameters", "parameters_by_part")
    },
    **{
        f"accounting.{name}": Call(
            lambda model, name=name: getattr(accounting, name)(model, torch.ones(1, 2)), MODULE
        )
        for name in ("forward_flops", "training_flops", "activation_bytes")
    },
    "accounting.transformer_flops": Call(accounting.transformer_flops, FLOPS, rule=fits_heads),
    "accounting.six_n_d": Call(
        accounting.six_n_d,
        dict.fromkeys(("parameters", "tokens"), whole(1, 2, huge=True)),
        lambda parameters, tokens: 6 * parameters * tokens,
    ),
    "accounting.kv_cache_bytes": Call(
        accounting.kv_cache_bytes,
        dict.fromkeys(COUNTS, whole(1, 2, huge=True)),
        lambda **sizes: 2 * math.prod(sizes.values()),
    ),
    "accounting.training_bytes": Call(
        accounting.training_bytes,
        {
            "parameters": whole(1, 2, huge=True),
            "bytes_per_number": One(
                (2, 4), lambda v: is_whole(v) and v in (2, 4), (*JUNK, 1, 2.0, 4.0)
            ),
        },
    ),
}

# --- pictures ------------------------------------------------------------------------------------


def is_table(value) -> bool:
    """Whether it is real numbers in rows and columns; leading axes of size 1 are dropped."""
    try:
        numbers = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        return False
    shape = list(numbers.shape)
    while len(shape) > 2 and shape[0] == 1:
        shape.pop(0)
    return numbers.dtype.kind in "biuf" and len(shape) == 2 and 0 not in shape


def drawing(function):
    def draw(**given):
        try:
            function(**given)
        finally:
            plt.close("all")

    return draw


def labels(size, *, none=True) -> One:
    right = [f"word {i}" for i in range(size)]
    others = (None, 3, 2.5, True, ["one"] * 4, [], object)
    return One(
        (right, tuple(range(size)), *([None] if none else [])),
        lambda v: (v is None and none) or (isinstance(v, list | tuple) and len(v) == size),
        others,
    )


TABLES = (
    [[0.0, 0.5, 1.0], [1.0, 1, 0]],
    torch.rand(2, 3),
    np.ones((1, 2, 3)),
    torch.ones(2, 3, dtype=torch.bool),
)
WRONG_TABLES = (
    *JUNK,
    torch.ones(2, 2, 3),
    torch.ones(3),
    torch.ones(2, 0),
    [["a", "b", "c"]] * 2,
    [[1.0, 2.0], [1.0]],
    torch.ones(2, 3, dtype=torch.complex64),
    torch.ones(2, 3, device="meta"),
)
TABLE = One(TABLES, is_table, WRONG_TABLES)
PICTURE = plots.io.BytesIO()
plots.Image.new("RGB", (2, 2)).save(PICTURE, "PNG")
PLOTS = {
    "heatmap": (
        {
            "values": TABLE,
            "rows": labels(2),
            "columns": labels(3),
            "annotate": FLAG,
            "diverging": FLAG,
            "limits": only(None, (0.0, 1.0), wrong=(3, "four", (1.0,), (0.0, "four"), (0.0, NAN))),
        },
        {"values": "table", "rows": "row", "columns": "column"},
    ),
    "attention_map": (
        {"weights": TABLE, "queries": labels(2), "keys": labels(3)},
        {"weights": "table", "queries": "row", "keys": "column"},
    ),
    "mask_grid": (
        {"mask": TABLE, "queries": labels(2), "keys": labels(3), "legend": FLAG},
        {"mask": "table", "queries": "row", "keys": "column"},
    ),
    "positions": ({"table": TABLE}, {}),
    "probability_bars": (
        {
            "probs": One(
                ([0.5, 0.5], torch.rand(2)),
                lambda v: (
                    isinstance(v, list | np.ndarray | torch.Tensor)
                    and np.ndim(v) == 1
                    and len(v) == 2
                    and is_table([list(v)])
                    and not getattr(v, "is_meta", False)
                ),
                (
                    None,
                    "four",
                    True,
                    2.5,
                    [1.0],
                    {},
                    object,
                    torch.ones(3),
                    torch.ones(2, 1),
                    torch.ones(2, dtype=torch.complex64),
                    torch.ones(2, device="meta"),
                    ["a", "b"],
                ),
            ),
            "labels": labels(2, none=False),
        },
        {},
    ),
    "gradient_by_layer": (
        {
            "norms": only(
                [[0.5, 2.0], [1.0, 3.0]],
                wrong=(
                    None,
                    "four",
                    True,
                    2.5,
                    [1.0],
                    {},
                    [[1.0]],
                    [[1.0], []],
                    [[1.0], [0.0]],
                    [[1.0], [NAN]],
                    [[1.0], ["a"]],
                    [[1.0], None],
                ),
            ),
            "labels": labels(2, none=False),
        },
        {},
    ),
    "slider": (
        {
            "draw": function(lambda value: plt.figure(figsize=(1, 1))),
            "values": One(
                ([1, 2], (1,)),
                lambda v: isinstance(v, list | tuple) and len(v) > 0,
                (None, 3, True, [], 2.5),
            ),
            "label": One(("n",), lambda v: True, ("m",)),
            "alt": One(("a",), lambda v: True, ("b",)),
        },
        {},
    ),
    "palette_png": (
        {
            "png": only(PICTURE.getvalue(), wrong=(None, "four", 3, b"", b"no picture", [1.0])),
            "colours": One((2, 256), lambda v: is_whole(v, 1) and v <= 256, (*JUNK, 1, 257)),
        },
        {},
    ),
    "course_map": (
        {
            "parts": only({"I": ["one", "two"]}, wrong=(None, "four", 3, {}, [], {"I": 3})),
            "here": One(
                (["00"], {"01"}, ()),
                lambda v: isinstance(v, list | set | tuple),
                (None, 3, 2.5, True),
            ),
        },
        {},
    ),
}

# --- checkpoints ---------------------------------------------------------------------------------

RATE, EPS = PROBABILITY, above(1e-6, 1)
CONFIG_JSON = {
    "bert": {
        "vocab_size": whole(7),
        "max_position_embeddings": whole(6),
        "type_vocab_size": whole(2),
        "hidden_size": whole(4),
        "num_hidden_layers": whole(1),
        "num_attention_heads": whole(2),
        "intermediate_size": whole(3),
        "hidden_dropout_prob": RATE,
        "layer_norm_eps": EPS,
    },
    "gpt2": {
        "vocab_size": whole(7),
        "n_positions": whole(6),
        "n_embd": whole(4),
        "n_layer": whole(1),
        "n_head": whole(2),
        "n_inner": whole(None, 3),
        "resid_pdrop": RATE,
        "layer_norm_epsilon": EPS,
    },
    "llama": {
        "vocab_size": whole(7),
        "hidden_size": whole(4),
        "num_hidden_layers": whole(1),
        "num_attention_heads": whole(2),
        "num_key_value_heads": whole(None, 1, 2),
        "intermediate_size": whole(3),
        "rms_norm_eps": EPS,
        "sliding_window": whole(None, 2),
        "rope_theta": above(None, 10.0, 500_000, bound=1),
    },
    "t5": {
        "vocab_size": whole(7),
        "d_model": whole(4),
        "d_kv": whole(2),
        "num_layers": whole(1),
        "num_heads": whole(2),
        "d_ff": whole(3),
        "dropout_rate": RATE,
        "layer_norm_epsilon": EPS,
        "num_decoder_layers": whole(None, 1),
    },
}
OURS = {
    "max_position_embeddings": "max_positions",
    "type_vocab_size": "num_segments",
    "hidden_size": "d_model",
    "n_embd": "d_model",
    "num_hidden_layers": "num_layers",
    "n_layer": "num_layers",
    "num_attention_heads": "num_heads",
    "n_head": "num_heads",
    "intermediate_size": "d_ff",
    "n_inner": "d_ff",
    "hidden_dropout_prob": "dropout",
    "resid_pdrop": "dropout",
    "dropout_rate": "dropout",
    "layer_norm_eps": "norm_eps",
    "layer_norm_epsilon": "norm_eps",
    "rms_norm_eps": "norm_eps",
    "n_positions": "max_positions",
    "num_key_value_heads": "num_kv_heads",
    "sliding_window": "window",
    "d_kv": "d_head",
    "rope_theta": "base",
}
MAKES = {"bert": bert.BertEncoder, "gpt2": gpt.GPT, "llama": llama.Llama, "t5": t5.T5}


def settings_calls(name) -> dict[str, Call]:
    make = getattr(convert, f"{name}_config")

    def fits(**given) -> bool:
        width = given.get("hidden_size") or given.get("n_embd") or given["d_model"]
        heads = given.get("num_attention_heads") or given.get("n_head") or given["num_heads"]
        even = name != "llama" or width // heads % 2 == 0
        same = given.get("num_decoder_layers") in (None, given.get("num_layers"))
        return (
            fits_heads(width, heads, given.get("num_key_value_heads"), given.get("d_kv"))
            and even
            and same
        )

    base = {"bert": "bert", "gpt2": "gpt2", "llama": "llama", "t5": "t5"}[name]
    words = OURS | {
        "num_attention_heads": "num_heads|d_rotary",
        "hidden_size": "d_model|d_rotary",
        "num_layers": "num_decoder_layers",
        "d_model": "d_rotary",
    }
    return {
        f"convert.{name}_config": Call(
            lambda **given: MAKES[name](make({"model_type": base} | given)),
            CONFIG_JSON[name],
            rule=fits,
            words=words,
        ),
        f"convert.{name}_config itself": Call(
            make,
            {
                "settings": only(
                    {"model_type": base} | {k: v.values[-1] for k, v in CONFIG_JSON[name].items()},
                    wrong=JUNK,
                )
            },
        ),
    }


WTE = "transformer.wte.weight"
CONVERT = {
    "convert.from_hugging_face": Call(
        convert.from_hugging_face,
        {
            "model": module(GPT),
            "state_dict": only(convert.to_hugging_face(GPT), wrong=(None, 3, "four", [])),
        },
        rule=lambda model, state_dict: model is GPT,
        words={"state_dict": "checkpoint|tensor"},
    ),
    "convert.from_hugging_face tensor": Call(
        lambda tensor: convert.from_hugging_face(
            gpt.GPT(CONFIGS["gpt"]),
            {**convert.to_hugging_face(GPT), WTE: tensor, "lm_head.weight": tensor},
        ),
        {"tensor": Numbers("v d", any_dtype=True)},
        known={"v": 7, "d": 4, "device": torch.device("cpu")},
        words={"tensor": WTE},
    ),
    "convert.to_hugging_face": Call(
        convert.to_hugging_face, {"model": only(GPT, T5, LLAMA, wrong=(*JUNK, nn.ReLU()))}
    ),
}

CALLS = {
    **ACCOUNTING,
    **{
        f"plots.{name}": Call(drawing(getattr(plots, name)), kinds, words=words)
        for name, (kinds, words) in PLOTS.items()
    },
    **{key: call for name in CONFIG_JSON for key, call in settings_calls(name).items()},
    **CONVERT,
    **{
        f"convert.{name}": Call(
            getattr(convert, name),
            {"weight": Numbers("*"), "num_heads": whole(1, 2)},
            "*",
            {},
            lambda weight, num_heads: weight.dim() and weight.shape[0] % (2 * num_heads) == 0,
            {"num_heads": "heads"},
            lambda axes: {"*": (4 * axes["r"], axes["d"])[: axes["a"]]},
        )
        for name in ("interleaved_to_half", "half_to_interleaved")
    },
}


@pytest.mark.parametrize("name", CALLS)
@SETTINGS
@given(random=SEEDS)
def test_a_changed_call(name, random):
    CALLS[name].check(random)


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_left_out(name):
    assert set(public(name)) - EXEMPT <= {entry.split()[0] for entry in CALLS}
