"""Exercises of lesson 19: parameters, operations and cache of a model, by formula."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from transformer_lab.checking.exercise import Answer, Exercise, Probe, Wrong, twice

LESSON = "19_comparison"


def _as_float(right: Answer) -> Wrong:
    return Wrong(
        "a float",
        lambda *args, **kwargs: float(right(*args, **kwargs)),
        "Your number is right, but it is a float; an int is asked for. A float holds 15 to 17 digits, and "
        "counts of operations have more. Use whole numbers all the way: `//` in place of `/`, 10**9 in place "
        "of 1e9.",
    )


def _as_tensor(right: Answer) -> Wrong:
    return Wrong(
        "a tensor",
        lambda *args, **kwargs: torch.tensor(right(*args, **kwargs)),
        "Your number is right, but it is a tensor; an int is asked for. No tensor is needed here; "
        "`int(...)` or `.item()` makes a number of it.",
    )


# ---------------------------------------------------------------------------- count_parameters


def _by_building(
    d_model: int,
    num_layers: int,
    d_ff: int,
    vocab_size: int,
    max_positions: int,
    bias: bool = True,
    tied: bool = True,
) -> int:
    """Makes every weight on the meta device, from torch's own modules, and counts its numbers."""
    with torch.device("meta"):
        parts: list[nn.Module] = [
            nn.Embedding(vocab_size, d_model),
            nn.Embedding(max_positions, d_model),
            nn.LayerNorm(d_model, bias=bias),
        ]
        for _ in range(num_layers):
            parts += [nn.Linear(d_model, d_model, bias=bias) for _ in range(4)]
            parts += [nn.Linear(d_model, d_ff, bias=bias), nn.Linear(d_ff, d_model, bias=bias)]
            parts += [nn.LayerNorm(d_model, bias=bias) for _ in range(2)]
        if not tied:
            parts.append(nn.Linear(d_model, vocab_size, bias=False))
    return sum(weight.numel() for part in parts for weight in part.parameters())


def _count(
    d: int,
    layers: int,
    d_ff: int,
    vocab: int,
    positions: int,
    bias: bool = True,
    tied: bool = True,
    **change: Any,
) -> int:
    """The formula with pieces that a wrong answer may change."""
    b = int(bias)
    piece: dict[str, int] = {
        "tables": vocab * d + positions * d,
        "attention": 4 * d * d + 4 * d * b,
        "feed_forward": 2 * d * d_ff + (d_ff + d) * b,
        "norm": d * (1 + b),
        "block_norms": 2,
        "final_norms": 1,
        "head": 0 if tied else d * vocab,
        "layers": layers,
    }
    for name, make in change.items():
        piece[name] = make(d, layers, d_ff, vocab, positions, b)
    block = piece["attention"] + piece["feed_forward"] + piece["block_norms"] * piece["norm"]
    return (
        piece["tables"]
        + piece["layers"] * block
        + piece["final_norms"] * piece["norm"]
        + piece["head"]
    )


Piece = Callable[[int, int, int, int, int, int], int]


def _with(**change: Piece) -> Answer:
    """The formula with some pieces changed, as an answer with the exercise's parameters."""

    def answer(
        d_model: int,
        num_layers: int,
        d_ff: int,
        vocab_size: int,
        max_positions: int,
        bias: bool = True,
        tied: bool = True,
    ) -> int:
        return _count(
            d_model, num_layers, d_ff, vocab_size, max_positions, bias, tied, **change
        )  # fmt: skip

    return answer


def _flag_ignored(name: str, value: bool) -> Answer:
    def answer(
        d_model: int,
        num_layers: int,
        d_ff: int,
        vocab_size: int,
        max_positions: int,
        bias: bool = True,
        tied: bool = True,
    ) -> int:
        flags = {"bias": bias, "tied": tied, name: value}
        return _count(d_model, num_layers, d_ff, vocab_size, max_positions, **flags)

    return answer


def _tied_inverted(
    d_model: int,
    num_layers: int,
    d_ff: int,
    vocab_size: int,
    max_positions: int,
    bias: bool = True,
    tied: bool = True,
) -> int:
    return _count(d_model, num_layers, d_ff, vocab_size, max_positions, bias, not tied)


def _in_parts(
    d_model: int,
    num_layers: int,
    d_ff: int,
    vocab_size: int,
    max_positions: int,
    bias: bool = True,
    tied: bool = True,
) -> int:
    def linear(inputs: int, outputs: int) -> int:
        return inputs * outputs + (outputs if bias else 0)

    norm = 2 * d_model if bias else d_model
    block = 4 * linear(d_model, d_model) + linear(d_model, d_ff) + linear(d_ff, d_model) + 2 * norm
    tables = vocab_size * (1 if tied else 2) + max_positions
    return num_layers * block + norm + d_model * tables


def _by_loop(
    d_model: int,
    num_layers: int,
    d_ff: int,
    vocab_size: int,
    max_positions: int,
    bias: bool = True,
    tied: bool = True,
) -> int:
    shapes = [(vocab_size, d_model), (max_positions, d_model), (d_model, 1 + bias)]
    for _ in range(num_layers):
        shapes += [(d_model, d_model + bias)] * 4
        shapes += [(d_model + bias, d_ff), (d_ff + bias, d_model), (d_model, 2 + 2 * bias)]
    shapes += [] if tied else [(d_model, vocab_size)]
    return sum(rows * columns for rows, columns in shapes)


_GPT2 = (768, 12, 3072, 50_257, 1024)

count_parameters = Exercise(
    name="count_parameters",
    lesson=LESSON,
    signature=(
        "count_parameters(d_model, num_layers, d_ff, vocab_size, max_positions, bias=True, tied=True)"
    ),
    reference=_by_building,
    probes=(
        Probe(
            "the example: width 3, two layers, feed-forward 5, 7 tokens, 4 positions",
            (3, 2, 5, 7, 4),
            explain="By hand: tables 33, two blocks of 98, the last LayerNorm 6; together 235.",
        ),
        Probe(
            "the same without any bias",
            (3, 2, 5, 7, 4),
            {"bias": False},
            explain="Tables 33, two blocks of 72, the last gain 3; together 180.",
        ),
        Probe(
            "the same with a head of its own",
            (3, 2, 5, 7, 4),
            {"tied": False},
            explain="235, and a head of 3 · 7 without a bias; together 256.",
        ),
        Probe(
            "three layers, all sizes different",
            (5, 3, 7, 11, 13),
            explain="Embeddings and the last LayerNorm are there once, everything in a block three times.",
        ),
        Probe(
            "three layers, without biases and with a head of its own",
            (5, 3, 7, 11, 13, False, False),
        ),
        Probe(
            "a feed-forward network narrower than the model",
            (9, 2, 4, 10, 6),
            explain="d_ff is a parameter of its own; it need not be 4 · d_model.",
        ),
        Probe("the sizes of GPT-2 small", _GPT2, explain="This one is known: 124,439,808."),
        Probe("GPT-2 small with a head of its own", _GPT2, {"tied": False}),
        Probe("GPT-2 small without any bias", _GPT2, {"bias": False}),
        twice(5, 3, 7, 11, 13),
    ),
    wrong_answers=(
        Wrong(
            "tables and matrices only",
            _with(
                attention=lambda d, *_: 4 * d * d,
                feed_forward=lambda d, n, f, *_: 2 * d * f,
                block_norms=lambda *_: 0,
                final_norms=lambda *_: 0,
            ),
            "Your number counts tables and matrices only. The LayerNorms are missing, two in a block and one at "
            "the end, and with bias=True the biases of the six matrices.",
        ),
        Wrong(
            "no biases at all",
            _flag_ignored("bias", False),
            "Your number has no bias at all. With bias=True the six matrices of a block have one each, and so "
            "does each LayerNorm, beside its gain.",
        ),
        Wrong(
            "no biases in the matrices",
            _with(attention=lambda d, *_: 4 * d * d, feed_forward=lambda d, n, f, *_: 2 * d * f),
            "Your number lacks the biases of the matrices: four of d_model in attention, one of d_ff and one "
            "of d_model in the feed-forward network. With bias=True all six matrices have one.",
        ),
        Wrong(
            "no biases in attention",
            _with(attention=lambda d, *_: 4 * d * d),
            "Your number lacks the four biases of attention, d_model numbers each. LLaMA has none, GPT-2 has "
            "them.",
        ),
        Wrong(
            "no biases in the feed-forward network",
            _with(feed_forward=lambda d, n, f, *_: 2 * d * f),
            "Your number lacks the biases of the feed-forward network: d_ff for the first matrix, d_model for "
            "the second.",
        ),
        Wrong(
            "one bias in attention",
            _with(attention=lambda d, n, f, v, p, b: 4 * d * d + d * b),
            "Your attention has one bias. Each of its four matrices has one, d_model numbers each.",
        ),
        Wrong(
            "matrices always with biases",
            _with(
                attention=lambda d, *_: 4 * d * d + 4 * d,
                feed_forward=lambda d, n, f, *_: 2 * d * f + f + d,
            ),
            "Your matrices keep their biases with bias=False. Then all biases are gone, those of the matrices "
            "and of the LayerNorms.",
        ),
        Wrong(
            "attention of one layer",
            _with(
                tables=lambda d, n, f, v, p, b: (v + p) * d + 4 * d * d + 4 * d * b,
                attention=lambda *_: 0,
            ),
            "Your attention is counted once. Each of the num_layers blocks has its own four matrices.",
        ),
        Wrong(
            "feed-forward network of one layer",
            _with(
                tables=lambda d, n, f, v, p, b: (v + p) * d + 2 * d * f + (f + d) * b,
                feed_forward=lambda *_: 0,
            ),
            "Your feed-forward network is counted once. Each of the num_layers blocks has its own.",
        ),
        Wrong(
            "norms of one layer",
            _with(block_norms=lambda *_: 0, final_norms=lambda *_: 3),
            "You count three LayerNorms whatever num_layers says. Two stand in each block; one is there once.",
        ),
        Wrong(
            "no output bias",
            _with(attention=lambda d, n, f, v, p, b: 4 * d * d + 3 * d * b),
            "Your attention has three biases. The output projection has one too: four in all.",
        ),
        Wrong(
            "no output projection",
            _with(attention=lambda d, n, f, v, p, b: 3 * (d * d + d * b)),
            "Your attention has three matrices. There are four: query, key, value and the output projection, "
            "which mixes the heads.",
        ),
        Wrong(
            "biases of d_model in the feed-forward network",
            _with(feed_forward=lambda d, n, f, v, p, b: 2 * d * f + 2 * d * b),
            "Both your biases of the feed-forward network have d_model numbers. A bias is as long as the output "
            "is wide: d_ff for the first matrix, d_model for the second.",
        ),
        Wrong(
            "biases of d_ff in the feed-forward network",
            _with(feed_forward=lambda d, n, f, v, p, b: 2 * d * f + 2 * f * b),
            "Both your biases of the feed-forward network have d_ff numbers. A bias is as long as the output is "
            "wide: d_ff for the first matrix, d_model for the second.",
        ),
        Wrong(
            "one matrix in the feed-forward network",
            _with(feed_forward=lambda d, n, f, v, p, b: d * f + (f + d) * b),
            "Your feed-forward network has one matrix. There are two: d_model to d_ff, and back.",
        ),
        Wrong(
            "three matrices in the feed-forward network",
            _with(feed_forward=lambda d, n, f, v, p, b: 3 * d * f + (f + d) * b),
            "Your feed-forward network has three matrices, as LLaMA's gated one. GPT's has two.",
        ),
        Wrong(
            "d_ff taken as four times d_model",
            _with(feed_forward=lambda d, n, f, v, p, b: 8 * d * d + 5 * d * b),
            "Your feed-forward network is 4 · d_model wide whatever d_ff says. That is usual, but d_ff is a "
            "parameter here: use it.",
        ),
        Wrong(
            "no final norm",
            _with(final_norms=lambda *_: 0),
            "Your number lacks the LayerNorm behind the last block: 2 · d_model with a bias, d_model without.",
        ),
        Wrong(
            "one norm in a block",
            _with(block_norms=lambda *_: 1),
            "Your blocks have one LayerNorm. There are two, one for each sublayer.",
        ),
        Wrong(
            "no norms",
            _with(block_norms=lambda *_: 0, final_norms=lambda *_: 0),
            "Your number lacks all LayerNorms. Each has a gain of d_model numbers and, with bias=True, as many "
            "again: two in a block and one at the end.",
        ),
        Wrong(
            "norms without biases",
            _with(norm=lambda d, *_: d),
            "Your LayerNorms have a gain and no bias. With bias=True each has both: 2 · d_model.",
        ),
        Wrong(
            "norms always with biases",
            _with(norm=lambda d, *_: 2 * d),
            "Your LayerNorms keep their bias with bias=False. There it goes as well; the gain stays.",
        ),
        Wrong(
            "norms gone without biases",
            _with(norm=lambda d, n, f, v, p, b: 2 * d * b),
            "Your LayerNorms vanish with bias=False. Only their bias goes; the gain, d_model numbers, stays.",
        ),
        Wrong(
            "norms of two numbers",
            _with(norm=lambda d, n, f, v, p, b: 1 + b),
            "Your LayerNorms have one gain and one bias for the whole vector. Each feature has its own: d_model "
            "gains and, with bias=True, d_model biases.",
        ),
        Wrong(
            "final norm in each block",
            _with(block_norms=lambda *_: 3, final_norms=lambda *_: 0),
            "Your blocks have three LayerNorms and there is none at the end. Two stand in each block; the third "
            "is there once.",
        ),
        Wrong(
            "no positions",
            _with(tables=lambda d, n, f, v, *_: v * d),
            "Your number lacks the table of positions, max_positions · d_model. GPT-2 learns it.",
        ),
        Wrong(
            "no token table",
            _with(tables=lambda d, n, f, v, p, b: p * d),
            "Your number lacks the table of tokens, vocab_size · d_model.",
        ),
        Wrong(
            "no tables",
            _with(tables=lambda *_: 0),
            "Your number lacks both tables, of tokens and of positions: (vocab_size + max_positions) · d_model.",
        ),
        Wrong(
            "a vector for each token at each position",
            _with(tables=lambda d, n, f, v, p, b: v * p * d),
            "Your tables are multiplied with each other. There are two, and they add up: one vector for each "
            "token, one for each position.",
        ),
        Wrong(
            "tables in each layer",
            _with(
                tables=lambda d, n, f, v, p, b: n * d * (v + p),
            ),
            "Your tables are counted once for each layer. There is one table of tokens and one of positions in "
            "the whole model.",
        ),
        Wrong(
            "one layer",
            _with(layers=lambda *_: 1),
            "Your number is that of a model with one layer. Multiply what stands in a block by num_layers.",
        ),
        Wrong(
            "tied ignored",
            _flag_ignored("tied", True),
            "Your number is the same for tied=False. A head of its own has d_model · vocab_size numbers more.",
        ),
        Wrong(
            "head always counted",
            _flag_ignored("tied", False),
            "Your number counts a head though it is tied. It is the token table again, and a shared weight "
            "counts once. (GPT-2 small would have 163,037,184.)",
        ),
        Wrong(
            "tied the wrong way round",
            _tied_inverted,
            "Your flag is the wrong way round: the head adds its own numbers when it is not tied.",
        ),
        Wrong(
            "bias ignored",
            _flag_ignored("bias", True),
            "Your number is the same for bias=False. Then the biases of matrices and LayerNorms are gone.",
        ),
        Wrong(
            "head with a bias",
            lambda *args, **kwargs: (
                _count(*args, **kwargs)
                + (args[3] if not (args[6:] or (kwargs.get("tied", True),))[0] else 0)
            ),
            "Your head has a bias of vocab_size numbers. It has none, tied or not.",
        ),
        Wrong(
            "head for positions too",
            lambda *args, **kwargs: (
                _count(*args, **kwargs)
                + (args[4] * args[0] if not (args[6:] or (kwargs.get("tied", True),))[0] else 0)
            ),
            "Your head of its own counts the positions as well. It chooses among tokens: d_model · vocab_size.",
        ),
        _as_float(_in_parts),
        _as_tensor(_in_parts),
    ),
    correct_alternatives=(
        _in_parts,
        _by_loop,
        _with(),
        lambda d_model, num_layers, d_ff, vocab_size, max_positions, bias=True, tied=True: (
            d_model * (vocab_size * (2 - tied) + max_positions + 1 + bias)
            + num_layers
            * (
                4 * d_model**2
                + 2 * d_model * d_ff
                + 2 * d_model
                + bias * (4 * d_model + d_ff + d_model + 2 * d_model)
            )
        ),
    ),
    hints=(
        "Write down the shape of every tensor of one block first. Which has a bias, and how long is it?",
        "A matrix from a to b has a · b numbers and, with a bias, b more. In a block: four matrices d_model to "
        "d_model, one d_model to d_ff, one back, and two LayerNorms of d_model (gain) or 2 · d_model.",
        "tables + num_layers · (attention + feed_forward + 2 · norm) + norm + head, with norm = 2 · d_model if "
        "bias else d_model, head = 0 if tied else d_model · vocab_size, and tables = (vocab_size + "
        "max_positions) · d_model.",
    ),
    parts=("number of parameters",),
)


# ---------------------------------------------------------------------------- training_flops


def _flops_added_up(
    parameters: int, tokens: int, num_layers: int, d_model: int, context: int
) -> int:
    """Products of matrices one by one: forward, and two more for each in the backward pass."""
    total = 0
    for _ in range(3):  # forward, gradient of the inputs, gradient of the weights
        total += 2 * parameters * tokens
        for _ in range(num_layers):
            for rows, inner, columns in ((tokens, d_model, context), (tokens, context, d_model)):
                total += 2 * rows * inner * columns
    return total


def _flops(parameters: int, tokens: int, num_layers: int, d_model: int, context: int) -> int:
    return tokens * (6 * parameters + 12 * num_layers * d_model * context)


training_flops = Exercise(
    name="training_flops",
    lesson=LESSON,
    signature="training_flops(parameters, tokens, num_layers, d_model, context)",
    reference=_flops_added_up,
    probes=(
        Probe(
            "the example: 100 parameters, 10 tokens, 7 layers of width 3, a context of 5",
            (100, 10, 7, 3, 5),
            explain="A token costs 2·100 + 7·(2·2·3·5) = 620 forward and 1,860 in training; ten tokens 18,600.",
        ),
        Probe(
            "one token, all sizes different",
            (1000, 1, 3, 5, 7),
            explain="2·1000 + 3·(4·5·7) = 2,420 forward, 7,260 in training.",
        ),
        Probe("a deep model", (50, 11, 6, 2, 3)),
        Probe("a long context and few parameters", (20, 4, 1, 8, 300)),
        Probe(
            "GPT-2 small on ten billion tokens",
            (123_653_376, 10**10, 12, 768, 1024),
            explain="Use whole numbers: a float has too few digits.",
        ),
        twice(1000, 13, 3, 5, 7),
    ),
    wrong_answers=(
        Wrong(
            "without attention",
            lambda parameters, tokens, num_layers, d_model, context: 6 * parameters * tokens,
            "Your number is 6 · parameters · tokens: the scores and the weighted values are missing. They "
            "multiply no parameter, but they are products of matrices: 12 · num_layers · d_model · context "
            "more for each token.",
        ),
        Wrong(
            "forward only",
            lambda p, t, n, d, c: t * (2 * p + 4 * n * d * c),
            "Your number is that of the forward pass alone. The backward pass costs twice as much again: "
            "multiply by 3.",
        ),
        Wrong(
            "backward only",
            lambda p, t, n, d, c: 2 * t * (2 * p + 4 * n * d * c),
            "Your number is two thirds of the right one: forward and backward pass are 1 + 2 = 3 times the "
            "forward pass, not 2 times.",
        ),
        Wrong(
            "multiply-adds counted once",
            lambda p, t, n, d, c: t * (3 * p + 6 * n * d * c),
            "Your number is half of the right one: a multiplication and its addition are 2 operations.",
        ),
        Wrong(
            "forward and three times forward",
            lambda p, t, n, d, c: 4 * t * (2 * p + 4 * n * d * c),
            "Your number is four thirds of the right one: training is three times the forward pass in all, that "
            "pass included.",
        ),
        Wrong(
            "half of attention",
            lambda p, t, n, d, c: t * (6 * p + 6 * n * d * c),
            "Your attention term is half of the right one. It has two products, scores and weights times values, "
            "2 operations for each multiplication, and all `context` keys (no half for the causal mask): "
            "4 · d_model · context a layer forward.",
        ),
        Wrong(
            "attention twice",
            lambda p, t, n, d, c: t * (6 * p + 24 * n * d * c),
            "Your attention term is twice the right one. 4 · d_model · context a layer forward has both products "
            "and both operations in it.",
        ),
        Wrong(
            "parameters counted once",
            lambda p, t, n, d, c: t * (3 * p + 12 * n * d * c),
            "Your parameters cost one operation each. Each has a multiplication and an addition: 2 for a token "
            "forward, 6 in training.",
        ),
        Wrong(
            "parameters once for all tokens",
            lambda p, t, n, d, c: 6 * p + 12 * n * d * c * t,
            "Your parameters are counted for one token. Each of the tokens goes through all of them.",
        ),
        Wrong(
            "parameters in each layer",
            lambda p, t, n, d, c: t * (6 * p * n + 12 * n * d * c),
            "Your parameters are multiplied by num_layers. `parameters` counts those of all layers already.",
        ),
        Wrong(
            "no context",
            lambda p, t, n, d, c: t * (6 * p + 12 * n * d),
            "Your attention term lacks the context: a token has a score and a weighted value for each of the "
            "`context` keys.",
        ),
        Wrong(
            "sequences",
            lambda p, t, n, d, c: t // c * (6 * p + 12 * n * d * c),
            "Your number is multiplied by tokens // context, the number of sequences. What you multiply is the "
            "cost of one token, so multiply by tokens.",
        ),
        Wrong(
            "attention forward only",
            lambda p, t, n, d, c: t * (6 * p + 4 * n * d * c),
            "Your attention term is counted in the forward pass only. It has a backward pass as well: "
            "12 · num_layers · d_model · context for each token, not 4.",
        ),
        Wrong(
            "parameters forward only",
            lambda p, t, n, d, c: t * (2 * p + 12 * n * d * c),
            "Your parameters are counted in the forward pass only. They have a backward pass as well: 6 for each "
            "parameter and token.",
        ),
        Wrong(
            "attention of one sequence",
            lambda p, t, n, d, c: 6 * p * t + 12 * n * d * c * c,
            "Your attention term is that of one sequence, context squared, whatever tokens says. Count it for "
            "each token: tokens · context.",
        ),
        Wrong(
            "attention of one layer",
            lambda p, t, n, d, c: t * (6 * p + 12 * d * c),
            "Your attention term is that of one layer. Each of the num_layers layers has one.",
        ),
        Wrong(
            "attention once",
            lambda p, t, n, d, c: 6 * p * t + 12 * n * d * c,
            "Your attention term is that of a single token. Every one of the tokens attends: multiply it by "
            "tokens as well.",
        ),
        Wrong(
            "attention quadratic in the tokens",
            lambda p, t, n, d, c: 6 * p * t + 12 * n * d * t * t,
            "Your attention term has tokens squared. A token attends to the keys of its own sequence, context "
            "of them, not to all tokens of the training.",
        ),
        Wrong(
            "context squared",
            lambda p, t, n, d, c: t * (6 * p + 12 * n * d * c * c),
            "Your attention term has context squared. That is a whole sequence; here it is counted for each "
            "token, and one token has context keys.",
        ),
        Wrong(
            "width forgotten",
            lambda p, t, n, d, c: t * (6 * p + 12 * n * c),
            "Your attention term lacks the width: each score is a dot product over d_model numbers (over all "
            "heads together).",
        ),
        Wrong(
            "width squared",
            lambda p, t, n, d, c: t * (6 * p + 12 * n * d * d),
            "Your second term has d_model squared and no context. The projections are parameters and counted "
            "already; what is missing are scores and weighted values, d_model · context.",
        ),
        Wrong(
            "causal half",
            lambda p, t, n, d, c: t * (6 * p + 6 * n * d * (c + 1)),
            "Your attention counts only the keys that a causal mask allows, half of them. That is what a good "
            "kernel computes; here all context keys are counted, as is usual.",
        ),
        Wrong(
            "causal half, rounded down",
            lambda p, t, n, d, c: t * (6 * p + 12 * n * d * (c // 2)),
            "Your attention counts half of the context. A causal mask blocks half of the scores, but here all "
            "context keys are counted, as is usual.",
        ),
        Wrong(
            "tokens forgotten",
            lambda p, t, n, d, c: 6 * p + 12 * n * d * c,
            "Your number is that of one token. Multiply by tokens.",
        ),
        Wrong(
            "tokens times context",
            lambda p, t, n, d, c: t * c * (6 * p + 12 * n * d * c),
            "Your number is `context` times too large: tokens counts all tokens of the training already, not "
            "sequences.",
        ),
        _as_float(_flops),
        _as_tensor(_flops),
    ),
    correct_alternatives=(
        _flops,
        lambda parameters, tokens, num_layers, d_model, context: (
            3 * tokens * (2 * parameters + num_layers * 2 * (2 * d_model * context))
        ),
        lambda parameters, tokens, num_layers, d_model, context: (
            6 * tokens * (parameters + 2 * num_layers * d_model * context)
        ),
    ),
    hints=(
        "Begin with one token in the forward pass. What does it meet, and what does each meeting cost?",
        "Forward: 2 · parameters, and in each layer 2 · d_model · context for the scores and as much for the "
        "weighted values. Then: how much is training, compared with that?",
        "forward = 2 · parameters + 4 · num_layers · d_model · context for each token; return 3 · forward · "
        "tokens.",
    ),
    parts=("number of operations",),
)


# ---------------------------------------------------------------------------- kv_cache_bytes


def _cache_by_storage(
    num_layers: int,
    num_kv_heads: int,
    d_head: int,
    length: int,
    batch: int = 1,
    bytes_per_number: int = 2,
) -> int:
    """Makes the tensors on the meta device and asks each how large its storage is."""
    dtype = {1: torch.int8, 2: torch.float16, 4: torch.float32, 8: torch.float64}[bytes_per_number]
    total = 0
    for _ in range(num_layers):
        for _ in ("key", "value"):
            kept = torch.empty(batch, num_kv_heads, length, d_head, dtype=dtype, device="meta")
            total += kept.untyped_storage().nbytes()
    return total


def _cache(
    num_layers: int,
    num_kv_heads: int,
    d_head: int,
    length: int,
    batch: int = 1,
    bytes_per_number: int = 2,
) -> int:
    return 2 * num_layers * num_kv_heads * d_head * length * batch * bytes_per_number


kv_cache_bytes = Exercise(
    name="kv_cache_bytes",
    lesson=LESSON,
    signature=(
        "kv_cache_bytes(num_layers, num_kv_heads, d_head, length, batch=1, bytes_per_number=2)"
    ),
    reference=_cache_by_storage,
    probes=(
        Probe(
            "one layer, one head of 3, one token, one text, 2 bytes a number",
            (1, 1, 3, 1),
            explain="A key of 3 numbers and a value of 3, 2 bytes each: 12.",
        ),
        Probe(
            "all sizes different",
            (3, 5, 7, 11),
            {"batch": 13, "bytes_per_number": 4},
            explain="2 · 3 · 5 · 7 · 11 · 13 · 4 = 120,120.",
        ),
        Probe("four texts, the default of 2 bytes", (3, 5, 7, 11, 4)),
        Probe("8-bit numbers", (3, 5, 7, 11), {"bytes_per_number": 1}),
        Probe("one token of LLaMA-2-7B", (32, 32, 128, 1), explain="This one is known: 524,288."),
        Probe(
            "one token of Llama-3-8B, with 8 heads of keys and values",
            (32, 8, 128, 1),
            explain="A quarter of LLaMA-2-7B's: 131,072.",
        ),
        twice(3, 5, 7, 11, 13, 4),
    ),
    wrong_answers=(
        Wrong(
            "keys only",
            lambda *args, **kwargs: _cache(*args, **kwargs) // 2,
            "Your number is half of the right one: keys and values are kept, two tensors for each layer.",
        ),
        Wrong(
            "queries too",
            lambda *args, **kwargs: _cache(*args, **kwargs) // 2 * 3,
            "Your number is one and a half times the right one: a query is used once and not kept. Only keys and "
            "values are.",
        ),
        Wrong(
            "numbers, not bytes",
            lambda n, h, d, t, batch=1, bytes_per_number=2: _cache(n, h, d, t, batch, 1),
            "Your number counts numbers. Bytes are asked for: multiply by bytes_per_number.",
        ),
        Wrong(
            "keys only, and no bytes",
            lambda n, h, d, t, batch=1, bytes_per_number=2: n * h * d * t * batch,
            "Your number counts the numbers in the keys. There are as many in the values, and each takes "
            "bytes_per_number bytes.",
        ),
        Wrong(
            "kilobytes",
            lambda *args, **kwargs: _cache(*args, **kwargs) / 1024,
            "Your number is in units of 1,024 bytes. Bytes are asked for, as a whole number.",
        ),
        Wrong(
            "always 2 bytes",
            lambda n, h, d, t, batch=1, bytes_per_number=2: _cache(n, h, d, t, batch, 2),
            "Your number takes 2 bytes for each number whatever bytes_per_number says.",
        ),
        Wrong(
            "kilobytes, rounded down",
            lambda *args, **kwargs: _cache(*args, **kwargs) // 1024,
            "Your number is divided by 1,024. Bytes are asked for: leave the division out.",
        ),
        Wrong(
            "megabytes",
            lambda *args, **kwargs: _cache(*args, **kwargs) / 2**20,
            "Your number is in units of 2**20 bytes. Bytes are asked for, as a whole number.",
        ),
        Wrong(
            "megabytes, rounded down",
            lambda *args, **kwargs: _cache(*args, **kwargs) // 2**20,
            "Your number is divided by 2**20. Bytes are asked for: leave the division out.",
        ),
        Wrong(
            "twice",
            lambda *args, **kwargs: 2 * _cache(*args, **kwargs),
            "Your number is twice the right one. One 2 stands for keys and values; the 2 bytes of a number are "
            "in bytes_per_number already.",
        ),
        Wrong(
            "one number a head",
            lambda n, h, d, t, batch=1, bytes_per_number=2: _cache(
                n, h, 1, t, batch, bytes_per_number
            ),
            "Your number lacks d_head: a key and a value have d_head numbers each, in each head.",
        ),
        Wrong(
            "default of 4 bytes",
            lambda n, h, d, t, batch=1, bytes_per_number=4: _cache(
                n, h, d, t, batch, bytes_per_number
            ),
            "Your default is 4 bytes a number. It should be 2: caches are kept in half precision.",
        ),
        Wrong(
            "bits",
            lambda *args, **kwargs: 8 * _cache(*args, **kwargs),
            "Your number is eight times the right one: it counts bits. Bytes are asked for.",
        ),
        Wrong(
            "one text",
            lambda n, h, d, t, batch=1, bytes_per_number=2: _cache(n, h, d, t, 1, bytes_per_number),
            "Your number is that of one text. Each text of the batch has a cache of its own.",
        ),
        Wrong(
            "one layer",
            lambda n, h, d, t, batch=1, bytes_per_number=2: _cache(
                1, h, d, t, batch, bytes_per_number
            ),
            "Your number is that of one layer. Every layer keeps its own keys and values.",
        ),
        Wrong(
            "one head",
            lambda n, h, d, t, batch=1, bytes_per_number=2: _cache(
                n, 1, d, t, batch, bytes_per_number
            ),
            "Your number is that of one head: num_kv_heads is missing. d_head is the width of one head only.",
        ),
        Wrong(
            "one token",
            lambda n, h, d, t, batch=1, bytes_per_number=2: _cache(
                n, h, d, 1, batch, bytes_per_number
            ),
            "Your number is that of one token. All tokens so far are kept.",
        ),
        Wrong(
            "tokens squared",
            lambda n, h, d, t, batch=1, bytes_per_number=2: _cache(
                n, h, d, t * t, batch, bytes_per_number
            ),
            "Your number grows with the square of the tokens. The table of scores does; the cache holds one key "
            "and one value for each token.",
        ),
        Wrong(
            "scores kept",
            lambda n, h, d, t, batch=1, bytes_per_number=2: (
                n * h * t * t * batch * bytes_per_number
            ),
            "Your number is that of the attention weights, tokens × tokens for each head. They are not kept: keys "
            "and values are, d_head numbers for each token.",
        ),
        Wrong(
            "width of one head squared",
            lambda n, h, d, t, batch=1, bytes_per_number=2: _cache(
                n, h, d * d, t, batch, bytes_per_number
            ),
            "Your number has d_head squared. A key has d_head numbers; the square belongs to a matrix of "
            "weights, which isn't part of the cache.",
        ),
        _as_float(_cache),
        _as_tensor(_cache),
    ),
    correct_alternatives=(
        _cache,
        lambda num_layers, num_kv_heads, d_head, length, batch=1, bytes_per_number=2: (
            torch.Size((2, num_layers, num_kv_heads, d_head, length, batch)).numel()
            * bytes_per_number
        ),
        lambda num_layers, num_kv_heads, d_head, length, batch=1, bytes_per_number=2: sum(
            2 * num_kv_heads * d_head * bytes_per_number * length * batch for _ in range(num_layers)
        ),
    ),
    hints=(
        "What is the shape of the keys that one layer keeps? And what else does it keep?",
        "One layer keeps two tensors of shape (batch, num_kv_heads, length, d_head).",
        "2 · num_layers · num_kv_heads · d_head · length · batch numbers, each of bytes_per_number bytes.",
    ),
    parts=("number of bytes",),
)

EXERCISES = (count_parameters, training_flops, kv_cache_bytes)
