"""The drawn architecture shows what a model is made of, and its counts add up."""

import matplotlib
import pytest
import torch
from torch import nn
from torch.nn import functional as F

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch

from transformer_lab.architecture import draw_architecture
from transformer_lab.attention import MultiHeadAttention
from transformer_lab.blocks import DeepNorm, PostNorm, PreNorm, SandwichNorm, TransformerBlock
from transformer_lab.feedforward import FeedForward
from transformer_lab.models.bert import BertConfig, BertForMaskedLM, BertForPreTraining
from transformer_lab.models.glm import GLM, GLMConfig
from transformer_lab.models.gpt import GPT, GPTConfig
from transformer_lab.models.llama import Llama, LlamaConfig
from transformer_lab.models.t5 import T5, T5Config
from transformer_lab.models.transformer import Transformer, TransformerConfig


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_architecture_wants_a_model():
    with pytest.raises(TypeError, match=r"must be an nn\.Module; it is a function"):
        draw_architecture(F.relu)


class Wired(nn.Module):
    """A stack with blocks of several wirings, for drawing only."""

    def __init__(self, *residuals):
        super().__init__()
        self.token_embedding = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                MultiHeadAttention(8, 4, num_kv_heads=2), FeedForward(8, 20, F.relu), residual
            )
            for residual in residuals
        )


def upwards(ax, *, bold=True):
    """What is written in boxes, from below."""
    texts = [text for text in ax.texts if (text.get_fontweight() == "bold") == bold]
    texts = [text for text in texts if text.get_text()]
    return [text.get_text() for text in sorted(texts, key=lambda text: text.get_position()[1])]


def counts(ax, kind):
    found = [text.get_text() for text in ax.texts if text.get_gid() == kind]
    return [int(text.replace(",", "")) for text in found if text[0].isdigit()]


def arrow_ends(ax):
    """Where residual arrows begin and end: two heights for each."""
    bent = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 3]
    return [(round(line[0], 3), round(line[2], 3)) for line in bent]


@pytest.mark.parametrize(
    ("residual", "order"),
    [
        (PreNorm, ["LayerNorm", "self-attention", "LayerNorm", "feed-forward"]),
        (PostNorm, ["self-attention", "LayerNorm", "feed-forward", "LayerNorm"]),
        (
            lambda norm: DeepNorm(norm, 1.5),
            ["self-attention", "LayerNorm", "feed-forward", "LayerNorm"],
        ),
        (
            lambda norm: SandwichNorm(norm, nn.LayerNorm(8)),
            ["LayerNorm", "self-attention", "LayerNorm", "LayerNorm", "feed-forward", "LayerNorm"],
        ),
    ],
    ids=["PreNorm", "PostNorm", "DeepNorm", "SandwichNorm"],
)
def test_architecture_draws_each_wiring(residual, order):
    ax = draw_architecture(Wired(*[lambda: residual(nn.LayerNorm(8))] * 3))
    assert upwards(ax) == ["embedding", *order, "block × 3"]
    # The two lowest are the embedding and the frame around the block.
    boxes = sorted(patch.get_y() for patch in ax.patches if isinstance(patch, FancyBboxPatch))[2:]
    assert len(boxes) == len(order)
    attention = boxes[order.index("self-attention")]
    first, second = sorted(arrow_ends(ax))
    # The arrow leaves below all that changes x and ends above the sublayer; post-norm comes after it.
    assert first[0] < boxes[0] <= attention < first[1] < second[0]
    after = order[order.index("self-attention") + 1]
    norm_after_sum = first[1] < boxes[order.index("self-attention") + 1] < second[0]
    assert norm_after_sum == (after == "LayerNorm" and order[0] != "LayerNorm")
    assert ("× 1.50" in upwards(ax, bold=False)) == (
        order[0] != "LayerNorm" and residual is not PostNorm
    )


def test_architecture_draws_unlike_blocks_apart():
    pre, post = lambda: PreNorm(nn.LayerNorm(8)), lambda: PostNorm(nn.LayerNorm(8))
    ax = draw_architecture(Wired(pre, pre, post), title="mine")
    assert [text for text in upwards(ax) if "×" in text] == ["block × 2", "block × 1"]
    assert ax.get_title(loc="left") == "mine" or ax.get_title() == "mine"
    # query and output 8 × 8, key and value 8 × 4; 8 → 20 → 8; two norms
    block = 2 * 64 + 2 * 32 + 2 * 160 + 2 * 16
    assert counts(ax, "total") == [88, 2 * block, block]
    assert counts(ax, "each") == [16, 192, 16, 320, 192, 16, 320, 16]


TINY = {"d_model": 16, "num_heads": 4, "num_layers": 3, "d_ff": 24, "vocab_size": 50}


MODELS = {
    "Transformer": lambda: Transformer(TransformerConfig(**TINY)),
    "BertForPreTraining": lambda: BertForPreTraining(BertConfig(**TINY)),
    "BertForMaskedLM": lambda: BertForMaskedLM(BertConfig(**TINY)),
    "GPT": lambda: GPT(GPTConfig(**TINY)),
    "Llama": lambda: Llama(LlamaConfig(**TINY, num_kv_heads=2)),
    "T5": lambda: T5(T5Config(**TINY, d_head=5)),
    "GLM": lambda: GLM(GLMConfig(**TINY)),
}


@pytest.mark.parametrize("name", MODELS)
def test_counts_of_the_architecture_add_up_to_the_model(name):
    model = MODELS[name]()
    ax = draw_architecture(model)
    parameters = sum(weight.numel() for weight in model.parameters())
    assert sum(counts(ax, "total")) == parameters
    assert f"{name}: {parameters:,} parameters" in ax.get_title(loc="left") + ax.get_title()
    assert ax.figure.get_size_inches()[0] <= 8


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "Transformer",
            ["the encoder's output", "positions  512 × 16", "not trained", "16 → 24 → 16", "ReLU"],
        ),
        ("BertForPreTraining", ["sees both ways", "segment  2 × 16", "16 → 2", "× embeddingᵀ"]),
        ("BertForMaskedLM", ["sees both ways", "× embeddingᵀ"]),
        (
            "GPT",
            [
                "causal mask",
                "GELU (tanh form)",
                "the token embedding again",
                "position  1,024 × 16",
            ],
        ),
        ("Llama", ["causal mask, rotary positions", "keys and values: 2 heads", "16 → 50", "SiLU"]),
        ("T5", ["4 heads of 5", "position bias 32 × 4", "the encoder's output", "causal mask"]),
        ("GLM", ["prefix mask", "span  513 × 16"]),
    ],
)
def test_architecture_says_what_is_particular_to_a_model(name, says):
    ax = draw_architecture(MODELS[name]())
    texts = [text.get_text() for text in ax.texts]
    assert [word for word in says if word not in texts] == []
    assert ("causal mask" in texts or "causal mask, rotary positions" in texts) == (
        name in ("Transformer", "T5", "GPT", "Llama")
    )


def test_window_is_told_from_the_whole_triangle():
    ax = draw_architecture(Llama(LlamaConfig(**TINY, num_kv_heads=1, window=4096)))
    assert "window of 4,096, rotary positions" in upwards(ax, bold=False)
    assert "keys and values: 1 head" in upwards(ax, bold=False)


def test_untied_head_is_not_said_to_be_the_embedding():
    ax = draw_architecture(MODELS["Llama"]())
    assert not any("again" in text.get_text() for text in ax.texts)
    assert "LM head" in upwards(ax)
    tied = draw_architecture(Llama(LlamaConfig(**TINY, num_kv_heads=2, tied=True)))
    assert "the token embedding again" in upwards(tied, bold=False)


def test_encoder_and_decoder_stand_side_by_side():
    ax = draw_architecture(MODELS["T5"]())
    middle = ax.get_xlim()[1] / 2
    sides = [
        [text.get_text() for text in ax.texts
         if text.get_fontweight() == "bold" and (text.get_position()[0] > middle) == right]
        for right in (False, True)
    ]  # fmt: skip
    assert "cross-attention" not in sides[0] and "encoder × 3" in sides[0]
    assert "cross-attention" in sides[1] and "decoder × 3" in sides[1]
    assert sides[0].count("RMSNorm") == 2 and sides[1].count("RMSNorm") == 3
    assert "head" in sides[1]


def test_architecture_draws_where_it_is_told_and_leaves_the_model_alone():
    figure, (left, right) = plt.subplots(1, 2)
    model = MODELS["GPT"]()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert draw_architecture(model, ax=right) is right
    assert not left.texts
    assert plt.get_fignums() == [figure.number]
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: draw_architecture(nn.Linear(2, 2)), "no blocks in this Linear"),
        (
            lambda: draw_architecture(Wired(lambda: nn.ModuleDict())),
            "attention_residual is a ModuleDict",
        ),
    ],
)
def test_bad_input_is_answered_in_words(draw, says):
    with pytest.raises(ValueError, match=says):
        draw()
