"""The accounts agree with counts made by hand, by torch's own counter and by what is really in memory."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from transformer_lab import accounting
from transformer_lab.attention import MultiHeadAttention
from transformer_lab.blocks import DecoderBlock, PreNorm, SandwichNorm, TransformerBlock
from transformer_lab.cache import KVCache
from transformer_lab.feedforward import FeedForward, GatedFeedForward
from transformer_lab.masks import causal_mask
from transformer_lab.models.bert import BertConfig, BertForPreTraining
from transformer_lab.models.gpt import GPT, GPTConfig
from transformer_lab.models.llama import Llama, LlamaConfig
from transformer_lab.models.t5 import T5, T5Config
from transformer_lab.norms import RMSNorm
from transformer_lab.positions import RelativePositionBias, RotaryEmbedding, rope_frequencies

VOCAB, WIDTH, HEADS, INNER, LAYERS = 31, 12, 6, 20, 3


class Decoder(nn.Module):
    """A small language model; with memory, each block attends to that too."""

    def __init__(self, *, kv_heads=HEADS, d_head=2, gated=False, cross=False, bias=True, head=True):
        super().__init__()
        attention = partial(
            MultiHeadAttention, WIDTH, HEADS, num_kv_heads=kv_heads, d_head=d_head, qkv_bias=bias,
            out_bias=bias,
        )  # fmt: skip
        residual = lambda: PreNorm(nn.LayerNorm(WIDTH), 0.1)  # noqa: E731
        feed_forward = GatedFeedForward if gated else FeedForward
        self.token_embedding = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(
            (partial(DecoderBlock, attention(), attention()) if cross
             else partial(TransformerBlock, attention()))(
                feed_forward(WIDTH, INNER, F.silu, bias=bias), residual=residual
            )
            for _ in range(LAYERS)
        )  # fmt: skip
        self.final_norm = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCAB, bias=False) if head else nn.Identity()

    def forward(self, tokens, memory=None, caches=None):
        x = self.token_embedding(tokens)
        past = caches[0].length if caches else 0
        mask = causal_mask(x.shape[1], past + x.shape[1], device=x.device)
        for i, block in enumerate(self.blocks):
            if memory is not None:
                x = block(x, memory, mask=mask)
            else:
                x = block(x, mask=mask, cache=caches[i] if caches else None)
        return self.lm_head(self.final_norm(x))


def tokens(batch=2, length=7, device=None):
    return torch.zeros(batch, length, dtype=torch.long, device=device)


# Parameters


def test_counts_the_parameters_of_torchs_own_transformer():
    model = accounting.on_meta(partial(nn.Transformer, batch_first=True))
    assert accounting.count_parameters(model) == 44_140_544
    parts = accounting.parameters_by_part(model)
    attention = 18 * 4 * (512 * 512 + 512)  # 6 encoder layers with one, 6 decoder layers with two
    feed_forward = 12 * (2 * 512 * 2048 + 2048 + 512)
    norms = (6 * 2 + 6 * 3 + 2) * 2 * 512
    assert parts == {
        "embeddings": 0, "attention": attention, "feed-forward": feed_forward, "norms": norms,
        "head": 0, "other": 0,
    }  # fmt: skip
    assert sum(parts.values()) == 44_140_544


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_parts_of_a_small_model_by_hand(device):
    with torch.device(device):
        model = Decoder(kv_heads=2, d_head=3, gated=True, cross=True)
    assert accounting.parameters_by_part(model) == {
        "embeddings": 31 * 12,
        # query and output 12 × 18, key and value 12 × 6, with biases; two such in each of 3 layers
        "attention": 3 * 2 * (2 * 12 * 18 + 18 + 12 + 2 * (12 * 6 + 6)),
        "feed-forward": 3 * (3 * 12 * 20 + 20 + 20 + 12),
        "norms": (3 * 3 + 1) * 2 * 12,
        "head": 12 * 31,
        "other": 0,
    }


def test_shared_weight_counts_once_as_embedding_whichever_comes_first():
    for first in ("embedding", "lm_head"):
        model = nn.ModuleDict()
        if first == "embedding":
            model["embedding"] = nn.Embedding(7, 5)
        model["lm_head"] = nn.Linear(5, 7)
        if first == "lm_head":
            model["embedding"] = nn.Embedding(7, 5)
        model["lm_head"].weight = model["embedding"].weight
        assert accounting.count_parameters(model) == 7 * 5 + 7
        parts = accounting.parameters_by_part(model)
        assert (parts["embeddings"], parts["head"]) == (35, 7)
        assert sum(parts.values()) == 42


def test_each_part_is_known_by_its_place():
    model = nn.Module()
    model.position_embedding = nn.Parameter(torch.zeros(2))
    model.embedding_norm = RMSNorm(3)
    model.encoder_bias = RelativePositionBias(4, num_buckets=8, bidirectional=True)
    model.encoder = nn.ModuleList([
        TransformerBlock(
            MultiHeadAttention(4, 2), FeedForward(4, 5, F.relu),
            lambda: SandwichNorm(nn.LayerNorm(4), nn.LayerNorm(4)),
        )
    ])  # fmt: skip
    model.mlm_head = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    model.pooler = nn.Linear(3, 3)
    model.gate = nn.Linear(1, 1)
    model.overhead = nn.Linear(2, 2)  # no head
    assert accounting.parameters_by_part(model) == {
        "embeddings": 2,
        "attention": 8 * 4 + 4 * 4 * 4,
        "feed-forward": 2 * 4 * 5,
        "norms": 3 + 2 * 2 * 2 * 4,
        "head": (2 * 3 + 3 + 2 * 3) + (3 * 3 + 3),
        "other": 2 + 2 * 2 + 2,
    }


def test_a_name_or_a_class_is_enough():
    one = nn.Linear(2, 2, bias=False)
    for name in ("attention", "cross_attention", "attn", "position_bias"):
        parts = accounting.parameters_by_part(nn.ModuleDict({name: nn.ModuleDict({"x": one})}))
        assert parts["attention"] == 4, name
    for name in ("feed_forward", "ffn", "mlp", "linear1", "linear2"):
        assert accounting.parameters_by_part(nn.ModuleDict({name: one}))["feed-forward"] == 4, name
    by_class = nn.ModuleDict({"x": MultiHeadAttention(2, 1), "y": FeedForward(2, 5, F.relu)})
    assert list(accounting.parameters_by_part(by_class).values()) == [0, 16, 20, 0, 0, 0]
    assert accounting.parameters_by_part(nn.ModuleDict({"attentive": one}))["other"] == 4


def test_on_meta_takes_no_memory():
    model = accounting.on_meta(lambda: nn.Linear(10**6, 10**7, bias=False))  # 40 TB
    assert model.weight.is_meta
    assert accounting.count_parameters(model) == 10**13


# Operations


@pytest.mark.parametrize(
    ("shape", "formula"),
    [
        ({}, {}),
        ({"kv_heads": 2}, {"num_kv_heads": 2}),
        ({"kv_heads": 1, "d_head": 5}, {"num_kv_heads": 1, "d_head": 5}),
        ({"gated": True, "bias": False}, {"feed_forward_matrices": 3}),
        ({"head": False}, {"vocab_size": 0}),
    ],
)
@pytest.mark.parametrize(("batch", "length"), [(2, 7), (1, 1), (3, 16)])
def test_formula_equals_torchs_count(shape, formula, batch, length):
    model = Decoder(**shape)
    formula = accounting.transformer_flops(**{
        "num_layers": LAYERS, "d_model": WIDTH, "num_heads": HEADS, "d_ff": INNER,
        "vocab_size": VOCAB, "length": length, "batch": batch, **formula,
    })  # fmt: skip
    assert accounting.forward_flops(model, tokens(batch, length)) == sum(formula.values())


def test_formula_with_cross_attention_equals_torchs_count():
    memory = torch.zeros(2, 5, WIDTH)
    formula = accounting.transformer_flops(
        num_layers=LAYERS, d_model=WIDTH, num_heads=HEADS, num_kv_heads=3, d_ff=INNER, length=7,
        vocab_size=VOCAB, memory_length=5, batch=2,
    )  # fmt: skip
    counted = accounting.forward_flops(Decoder(kv_heads=3, cross=True), tokens(), memory)
    by_name = accounting.forward_flops(
        Decoder(kv_heads=3, cross=True), tokens=tokens(), memory=memory
    )
    assert counted == by_name == sum(formula.values())


def test_formula_with_cache_equals_torchs_count():
    model = Decoder(kv_heads=2).to("meta")
    caches = [KVCache(2, 20, 2, 2, device="meta") for _ in range(LAYERS)]
    counts = [
        accounting.forward_flops(model, tokens(length=length, device="meta"), caches=caches)
        for length in (6, 1, 3)
    ]
    formula = partial(
        accounting.transformer_flops, num_layers=LAYERS, d_model=WIDTH, num_heads=HEADS,
        num_kv_heads=2, d_ff=INNER, vocab_size=VOCAB, batch=2,
    )  # fmt: skip
    assert counts == [
        sum(formula(length=6).values()),
        sum(formula(length=1, past=6).values()),
        sum(formula(length=3, past=7).values()),
    ]


def test_real_models_are_counted_at_full_size():
    flops = accounting.transformer_flops
    words = tokens(1, 9)

    def counted(model, *inputs):
        return accounting.forward_flops(accounting.on_meta(model), *inputs)

    gpt_2 = flops(
        num_layers=12, d_model=768, num_heads=12, d_ff=3072, length=9, vocab_size=50_257
    )  # fmt: skip
    assert counted(lambda: GPT(GPTConfig.gpt2_small()), words) == sum(gpt_2.values())
    llama_3 = flops(
        num_layers=32, d_model=4096, num_heads=32, num_kv_heads=8, d_ff=14_336, length=9,
        vocab_size=128_256, feed_forward_matrices=3,
    )  # fmt: skip
    assert counted(lambda: Llama(LlamaConfig.llama_3_8b()), words) == sum(llama_3.values())
    stack = partial(flops, num_layers=6, d_model=512, num_heads=8, d_ff=2048)
    encoder = stack(length=9)
    decoder = stack(length=4, memory_length=9, vocab_size=32_128)
    assert counted(lambda: T5(T5Config.small()), words, tokens(1, 4)) == sum(
        (*encoder.values(), *decoder.values())
    )


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (
            lambda: GPT(GPTConfig.gpt2_small()),
            (39_383_808, 12 * (4 * 768**2 + 4 * 768), 12 * (8 * 768**2 + 5 * 768), 25 * 1536, 0),
        ),
        (
            lambda: T5(T5Config.small()),
            (16_449_536, 18 * 4 * 512**2 + 2 * 32 * 8, 12 * 2 * 512 * 2048, 32 * 512, 0),
        ),
        (
            lambda: Llama(LlamaConfig.llama_2_70b()),
            (32_000 * 8192, 80 * (2 * 8192**2 + 2 * 8192 * 1024), 80 * 3 * 8192 * 28_672,
             161 * 8192, 32_000 * 8192),
        ),
        (
            lambda: BertForPreTraining(BertConfig.base()),
            ((30_522 + 512 + 2) * 768, 12 * (4 * 768**2 + 4 * 768), 12 * (8 * 768**2 + 5 * 768), 25 * 1536,
             2 * (768**2 + 768) + 1536 + 30_522 + 2 * 768 + 2),
        ),
    ],
    ids=["GPT-2", "T5-small", "LLaMA-2-70B", "BERT-base"],
)  # fmt: skip
def test_parts_of_real_models(make, parts):
    found = accounting.parameters_by_part(accounting.on_meta(make))
    assert tuple(found.values()) == (*parts, 0)


def test_each_part_of_the_formula_by_hand():
    assert accounting.transformer_flops(
        num_layers=2, d_model=8, num_heads=4, num_kv_heads=2, d_head=3, d_ff=10, length=5,
        vocab_size=11, feed_forward_matrices=3, batch=7,
    ) == {
        "projections": 7 * 2 * 5 * (2 * 8 * 12 + 2 * 8 * 12 + 2 * 8 * 6 + 2 * 8 * 6),
        "scores": 7 * 2 * 4 * 5 * 5 * 2 * 3,
        "values": 7 * 2 * 4 * 5 * 5 * 2 * 3,
        "feed-forward": 7 * 2 * 5 * 3 * 2 * 8 * 10,
        "head": 7 * 5 * 2 * 8 * 11,
    }  # fmt: skip


def test_count_leaves_the_model_as_it_is():
    model = Decoder()
    model.angles = torch.ones(3)  # a tensor that is no parameter and no buffer
    before = {name: (id(weight), weight.clone()) for name, weight in model.named_parameters()}
    assert accounting.forward_flops(model, tokens()) == accounting.forward_flops(
        model.train(False), tokens()
    )
    for name, weight in model.named_parameters():
        assert id(weight) == before[name][0]
        assert torch.equal(weight, before[name][1])
        assert weight.grad is None
    assert torch.equal(model.angles, torch.ones(3))


def test_counts_models_with_tensors_beside_parameters():
    rotary = RotaryEmbedding(rope_frequencies(2))
    attention = MultiHeadAttention(WIDTH, HEADS, rotary=rotary)
    x = torch.zeros(2, 7, WIDTH)
    counts = [
        accounting.forward_flops(each, x) for each in (attention, MultiHeadAttention(WIDTH, HEADS))
    ]
    assert counts[0] == counts[1] > 0  # turning a pair is no product of matrices
    assert rotary.frequencies.device.type == "cpu"


def test_training_is_three_times_the_forward_pass():
    with torch.device("meta"):
        model = Decoder(kv_heads=2, gated=True)
    with FlopCounterMode(display=False) as counter:
        model(tokens(device="meta")).sum().backward()
    assert accounting.training_flops(model, tokens()) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("sizes", "parameters", "length", "error"),
    [
        ({"num_layers": 12, "d_model": 768, "num_heads": 12, "d_ff": 3072, "vocab_size": 50_257},
         124_439_808, 1024, -0.126),
        ({"num_layers": 32, "d_model": 4096, "num_heads": 32, "d_ff": 11_008, "vocab_size": 32_000,
          "feed_forward_matrices": 3}, 6_738_415_616, 2048, -0.057),
        ({"num_layers": 32, "d_model": 4096, "num_heads": 32, "d_ff": 11_008, "vocab_size": 32_000,
          "feed_forward_matrices": 3}, 6_738_415_616, 32, +0.019),
    ],
)  # fmt: skip
def test_error_of_the_rule_is_as_stated(sizes, parameters, length, error):
    exact = 3 * sum(accounting.transformer_flops(**sizes, length=length).values())
    rule = accounting.six_n_d(parameters, length)
    assert rule / exact - 1 == pytest.approx(error, abs=5e-4)


def test_rule_misses_just_what_it_is_said_to_miss():
    exact = accounting.training_flops(Decoder(), tokens(2, 7))
    parameters = accounting.parameters_by_part(Decoder())
    biases = LAYERS * (4 * WIDTH + INNER + WIDTH)
    matrixless = parameters["embeddings"] + parameters["norms"] + biases
    products = accounting.count_parameters(Decoder()) - matrixless
    assert exact == accounting.six_n_d(products, 14) + 14 * 12 * LAYERS * HEADS * 2 * 7


# Memory


@pytest.mark.parametrize(
    ("sizes", "bytes_"),
    [((32, 32, 128), 524_288), ((80, 8, 128), 327_680), ((32, 8, 128), 131_072)],
    ids=["LLaMA-2-7B", "LLaMA-2-70B", "Llama-3-8B"],
)
def test_cache_of_real_models(sizes, bytes_):
    assert accounting.kv_cache_bytes(*sizes, length=1) == bytes_


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cache_takes_what_it_takes(dtype):
    caches = [KVCache(3, 11, 2, 5, dtype=dtype) for _ in range(4)]
    held = sum(t.nbytes for c in caches for t in vars(c).values() if isinstance(t, torch.Tensor))
    assert accounting.kv_cache_bytes(4, 2, 5, 11, 3, dtype.itemsize) == held


def test_activations_by_hand():
    inputs = torch.zeros(5, 3)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    # The inputs, and what the ReLU gives out: saved by it and by the layer behind it, held once.
    assert accounting.activation_bytes(model, inputs) == 4 * (5 * 3 + 5 * 8)
    assert accounting.activation_bytes(model.double(), inputs.double()) == 8 * (5 * 3 + 5 * 8)
    bare = accounting.activation_bytes(model.to("meta"), inputs.double().to("meta"))
    assert bare == 8 * (5 * 3 + 5 * 8)


def test_what_is_not_trained_keeps_nothing():
    model = nn.Linear(3, 8).requires_grad_(False)
    assert accounting.activation_bytes(model, torch.zeros(5, 3)) == 0


def test_buffers_are_not_activations():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))
            self.register_buffer("table", torch.ones(2, 6))

        def forward(self, x):
            return (x * self.weight) * self.table[1]  # saves x, weight and a row of the table

    assert accounting.activation_bytes(Scaled(), torch.zeros(6)) == 4 * 6


def test_dropout_keeps_its_mask_while_training():
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5))
    in_training = accounting.activation_bytes(model, torch.zeros(5, 3))
    assert accounting.activation_bytes(model.eval(), torch.zeros(5, 3)) == 4 * 15
    assert in_training in (60 + 40, 60 + 4 * 40)  # the mask's 40 numbers, of 1 byte or of 4


def test_activations_are_measured_without_gradients_too():
    model, inputs = nn.Linear(3, 8), torch.zeros(5, 3)
    with torch.no_grad():
        assert accounting.activation_bytes(model, inputs) == 60


def test_fused_attention_keeps_no_weights():
    attention = MultiHeadAttention(WIDTH, HEADS)

    def kept(n, device):
        x = torch.zeros(1, n, WIDTH, device=device)
        return accounting.activation_bytes(attention.to(device), x)

    fused = [kept(n, "cpu") for n in (64, 128, 256)]
    assert fused[2] - fused[1] == 2 * (fused[1] - fused[0])
    readable = [kept(n, "meta") for n in (64, 128, 256)]
    curvature = (readable[2] - readable[1]) - 2 * (readable[1] - readable[0])
    assert curvature % (4 * HEADS * (256**2 - 128**2 - 2 * (128**2 - 64**2))) == 0
    assert curvature > 0


def memory_of(*tensors):
    return sum(tensor.nbytes for tensor in tensors)


def moments(optimizer):
    return [
        [state[name] for state in optimizer.state.values()] for name in ("exp_avg", "exp_avg_sq")
    ]


def test_training_memory_is_that_of_adamw():
    model = Decoder()
    optimizer = torch.optim.AdamW(model.parameters())
    model(tokens()).sum().backward()
    optimizer.step()
    weights = list(model.parameters())
    first, second = moments(optimizer)
    assert accounting.training_bytes(accounting.count_parameters(model)) == {
        "weights": memory_of(*weights),
        "gradients": memory_of(*(weight.grad for weight in weights)),
        "first moment": memory_of(*first),
        "second moment": memory_of(*second),
        "master copy": 0,
    }


def test_training_memory_in_mixed_precision():
    model = Decoder().to(torch.bfloat16)
    masters = [nn.Parameter(weight.detach().float()) for weight in model.parameters()]
    optimizer = torch.optim.AdamW(masters)
    model(tokens()).sum().backward()
    for master, weight in zip(masters, model.parameters(), strict=True):
        master.grad = weight.grad.float()
    optimizer.step()
    first, second = moments(optimizer)
    assert accounting.training_bytes(accounting.count_parameters(model), 2) == {
        "weights": memory_of(*model.parameters()),
        "gradients": memory_of(*(weight.grad for weight in model.parameters())),
        "first moment": memory_of(*first),
        "second moment": memory_of(*second),
        "master copy": memory_of(*masters),
    }


# Bad input

SIZES = {"num_layers": 1, "d_model": 4, "num_heads": 2, "d_ff": 8, "length": 3}


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (
            lambda: accounting.on_meta(lambda: nn.Linear(2, 3, device="cpu")),
            "weight is elsewhere. Build the model inside make",
        ),
        (
            lambda: accounting.transformer_flops(**SIZES | {"length": 0}),
            "length must be at least 1; it is 0",
        ),
        (
            lambda: accounting.transformer_flops(**SIZES, past=-1),
            "past must be at least 0; it is -1",
        ),
        (lambda: accounting.transformer_flops(**SIZES, d_head=0), "d_head must be at least 1"),
        (
            lambda: accounting.transformer_flops(**SIZES, num_kv_heads=3),
            "multiple of num_kv_heads; they are 2 and 3",
        ),
        (
            lambda: accounting.transformer_flops(**SIZES | {"d_model": 5}),
            "d_model must be a multiple of num_heads; they are 5 and 2. Or give d_head",
        ),
        (lambda: accounting.six_n_d(0, 5), "parameters must be at least 1"),
        (lambda: accounting.six_n_d(5, 0), "tokens must be at least 1"),
        (lambda: accounting.kv_cache_bytes(1, 1, 1, 1, 0), "batch must be at least 1; it is 0"),
        (lambda: accounting.kv_cache_bytes(1, 1, 1, 1, 1, 0), "bytes_per_number must be at least"),
        (lambda: accounting.training_bytes(0), "parameters must be at least 1"),
        (lambda: accounting.training_bytes(5, 3), r"must be 4 \(float32\) or 2 .* it is 3"),
    ],
)
def test_bad_input_is_answered_in_words(use, says):
    with pytest.raises(ValueError, match=says):
        use()


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (
            lambda: accounting.on_meta(nn.Linear(2, 3)),
            "function that builds the model.* is a Linear",
        ),
        (
            lambda: accounting.on_meta(lambda: 3),
            "what make returns must be an nn.Module; it is a int",
        ),
        (lambda: accounting.count_parameters([]), "model must be an nn.Module; it is a list"),
        (lambda: accounting.parameters_by_part(nn.Linear), "model must be an nn.Module"),
        (lambda: accounting.forward_flops(F.relu, torch.ones(2)), "model must be an nn.Module"),
        (lambda: accounting.training_flops(F.relu, torch.ones(2)), "model must be an nn.Module"),
        (lambda: accounting.activation_bytes(F.relu, torch.ones(2)), "model must be an nn.Module"),
        (
            lambda: accounting.six_n_d(1e9, 5),
            r"parameters must be a whole number; it is 1.*\(float\)",
        ),
        (
            lambda: accounting.kv_cache_bytes(True, 1, 1, 1),
            r"num_layers must be a whole .*\(bool\)",
        ),
        (
            lambda: accounting.transformer_flops(**SIZES | {"d_ff": torch.tensor(4)}),
            "d_ff must be a whole number",
        ),
    ],
)
def test_wrong_kind_is_answered_in_words(use, says):
    with pytest.raises(TypeError, match=says):
        use()
